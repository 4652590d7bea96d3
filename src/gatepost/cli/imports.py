"""`gatepost import`: configurations of the programs we replace become TOML, with a report of what could not."""

from typing import Final

import typer

imports = typer.Typer(
    name="import",
    help="Turn another program's configuration into TOML for this server; nothing is changed.",
    no_args_is_help=True,
)
REMARK: Final = "# "


def remarks(lines: list[str]) -> str:
    """Return a report as TOML comments, so that output can go to a file as it is."""
    return "".join(f"{REMARK}{line}\n" for line in lines)
