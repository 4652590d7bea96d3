"""`gatepost import`: configurations of the programs we replace become TOML, with a report of what could not."""

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from gatepost.cli.common import fail
from gatepost.feeds.bgp import conf as bgpd_conf
from gatepost.feeds.bgp import toml as bgp_toml
from gatepost.feeds.bgp.words import BgpdConfError
from gatepost.feeds.lists import spamdconf
from gatepost.feeds.lists.spamdconf import SpamdConfError

imports = typer.Typer(
    name="import",
    help="Turn another program's configuration into TOML for this server; nothing is changed.",
    no_args_is_help=True,
)
REMARK: Final = "# "


@imports.callback()
def _each_program_by_its_file() -> None:
    """Keep the name of the file a word of the command, also while there is only one."""


def remarks(lines: list[str]) -> str:
    """Return a report as TOML comments, so that output can go to a file as it is."""
    return "".join(f"{REMARK}{line}\n" for line in lines)


@imports.command("bgpd.conf")
def import_bgpd(file: Annotated[Path, typer.Argument(help="OpenBGPD's configuration.")]) -> None:
    """Print a bgpd.conf as TOML for this server; what was left out stands above it as comments.

    This is not needed: `conf = "/etc/bgpd.conf"` in [feeds.bgp] reads the file itself.
    """
    try:
        found = bgpd_conf.read(file)
    except BgpdConfError as wrong:
        fail(str(wrong))
    sys.stdout.write(remarks(bgp_toml.report(found)) + bgp_toml.as_toml(found))


@imports.command("spamd.conf")
def import_spamd(file: Annotated[Path, typer.Argument(help="spamd-setup's configuration.")]) -> None:
    """Print a spamd.conf as TOML for this server, its lists in the order of `all`.

    This is not needed: `conf = "/etc/mail/spamd.conf"` in [feeds.lists] reads the file itself.
    """
    try:
        found = spamdconf.read(file)
    except SpamdConfError as wrong:
        fail(str(wrong))
    sys.stdout.write(spamdconf.as_toml(found))
