"""`gatepost lists`: spamd-setup's work when somebody wants it now, and what is known of each list."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from gatepost.cli.common import (
    CLOCK,
    ConfigOption,
    Failed,
    JsonOption,
    configuration,
    moment,
    print_json,
    say,
    show,
    with_databases,
)
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.feeds.bgp.door import Refused
from gatepost.feeds.lists.feed import ListFeed, ListStatus, known, tell_server
from gatepost.feeds.lists.source import write_whole
from gatepost.feeds.lists.spamdconf import SpamdConfError
from gatepost.feeds.lists.stored import StoredTables

lists = typer.Typer(help="spamd's lists: what spamd-setup does, on demand.", no_args_is_help=True)
_FORCE = typer.Option("--force", help="Believe a list that shrank too much or covers too much.")


class _Errors:
    """A log for commands: mistakes go to standard error, news nowhere."""

    def debug(self, event: str, **fields: object) -> None:
        """Write nothing."""

    def info(self, event: str, **fields: object) -> None:
        """Write nothing."""

    def warning(self, event: str, **fields: object) -> None:
        """Write a line."""
        sys.stderr.write(" ".join((event, *(f"{name}={value}" for name, value in fields.items()))) + "\n")

    error = exception = warning


@lists.command("show")
def lists_show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all lists, how many lines with addresses each has, and when it was read."""
    settings = configuration(config)
    try:
        found = asyncio.run(known(settings.feeds.lists, settings.data_dir))
    except SpamdConfError as wrong:
        raise Failed(str(wrong)) from wrong
    _print(found, as_json=as_json)


@lists.command("update")
def lists_update(
    force: Annotated[bool, _FORCE] = False, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Read all lists now, in the running server, or here where none runs; exit status 1 where one failed."""
    settings = configuration(config)
    try:
        found = asyncio.run(tell_server(settings.data_dir, force=force))
        if found is None:
            found = with_databases(config, lambda databases, _: _feed(databases, settings).update(force=force))
    except (SpamdConfError, Refused) as wrong:
        raise Failed(str(wrong)) from wrong
    _finish(found, as_json=as_json)


@lists.command("check")
def lists_check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Read all lists and change nothing; exit status 1 where one failed."""
    settings = configuration(config)
    try:
        found = with_databases(config, lambda databases, _: _feed(databases, settings).check())
    except SpamdConfError as wrong:
        raise Failed(str(wrong)) from wrong
    _finish(found, as_json=as_json)


@lists.command("export")
def lists_export(
    table: str,
    file: Annotated[Path | None, typer.Argument(help="Where to write it; else standard output.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a table as spamd-setup reads lists: an IPv4 address or network a line."""
    settings = configuration(config)
    found = with_databases(
        config, lambda databases, _: StoredTables(databases.gate, settings.gate, CLOCK).export(table)
    )
    if found.left_out:
        sys.stderr.write(f"{found.left_out} IPv6 networks were left out: these lists have no place for them\n")
    if file is not None:
        try:
            write_whole(file, found.octets)
        except OSError as error:
            raise Failed(f"{file}: {error.strerror}") from error
    if as_json:
        entries = [] if file is not None else found.octets.decode().split()
        print_json({"table": table, "entries": found.lines, "ipv6_left_out": found.left_out, "lines": entries})
    elif file is None:
        sys.stdout.write(found.octets.decode())


def _feed(databases: Databases, settings: Config) -> ListFeed:
    stored = StoredTables(databases.gate, settings.gate, CLOCK)
    return ListFeed(settings.feeds.lists, settings.data_dir, stored, stored, clock=CLOCK, log=_Errors())


def _finish(found: list[ListStatus], *, as_json: bool) -> None:
    _print(found, as_json=as_json)
    if any(each.error for each in found):
        raise typer.Exit(1)


def _print(found: list[ListStatus], *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "name": each.name,
                    "kind": each.kind,
                    "method": each.method,
                    "source": each.source,
                    "entries": each.entries,
                    "read": moment(each.used) if each.used else "",
                    "error": each.error,
                    "remarks": list(each.remarks),
                }
                for each in found
            ]
        )
        return
    rows = [
        (each.name, each.kind, each.source, each.entries, moment(each.used) if each.used else "never", each.error)
        for each in found
    ]
    show(rows, ("List", "Kind", "Source", "Entries", "Read", "Error"), as_json=False, nothing="no lists are set")
    for each in found:
        for remark in each.remarks:
            say(f"{each.name}: {remark}")
