"""`gatepost spamdb`, and `spamdb` where the program is called by that name: spamdb(8), word for word.

    spamdb [-adGTt] [keys ...]

Its options are getopt's: `-Ta`, `-T -a` and `-a -T` are the same, of two actions or types the last counts. What it
prints, what it warns of and its exit status are those of the original, which scripts rely on; the database is
the greylist of the server that GATEPOST_CONFIG (or, behind `gatepost spamdb`, `--config FILE`) names.
"""

import getopt
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import typer

from gatepost.cli.common import ConfigOption, now, with_databases
from gatepost.db.unit import Database
from gatepost.gate import verbs
from gatepost.gate.settings import GateSettings
from gatepost.gate.verbs import GateRefusal

NAME: Final = "spamdb"
USAGE: Final = "usage: spamdb [-adGTt] [keys ...]"
USAGE_STATUS: Final = 1
MISUSE_STATUS: Final = 2
FATAL_STATUS: Final = 255  # errx(-1)
STATUS_MAX: Final = 255


class Action(Enum):
    """What is done with the keys."""

    LIST = "list"
    ADD = "a"
    DELETE = "d"


class Type(Enum):
    """What the keys are."""

    WHITE = "white"
    GREY = "G"
    SPAMTRAP = "T"
    TRAPPED = "t"


@dataclass(frozen=True, slots=True)
class Request:
    """One call."""

    action: Action
    type: Type
    keys: tuple[str, ...]


class Misused(Exception):
    """A call that cannot be meant; its text for stderr, with its exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def register(app: typer.Typer) -> None:
    """Put `gatepost spamdb` beside the other commands; what stands behind it is read as spamdb reads it."""
    as_it_is = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(NAME, context_settings=as_it_is, add_help_option=False)
    def command(context: typer.Context, config: ConfigOption = None) -> None:
        """The greylist in spamdb's own words: [-adGTt] [keys ...]."""
        raise typer.Exit(run(context.args, config))


def run(words: Sequence[str], config: Path | None = None) -> int:
    """Do what the words behind `spamdb` ask for; return the exit status."""
    try:
        request = read(words)
        if config is None and (named := os.environ.get("GATEPOST_CONFIG")):
            config = Path(named)
        return with_databases(config, lambda databases, settings: do(databases.gate, request, settings.gate))
    except Misused as wrong:
        sys.stderr.write(f"{wrong}\n")
        return wrong.status


def read(words: Sequence[str]) -> Request:
    """Read the command line; raises Misused."""
    action, kind = Action.LIST, Type.WHITE
    try:
        options, keys = getopt.getopt(list(words), "adGTt")
    except getopt.GetoptError as wrong:
        raise Misused(f"{NAME}: {wrong}\n{USAGE}", USAGE_STATUS) from wrong
    for option, _ in options:
        match option:
            case "-a" | "-d":
                action = Action(option[1])
            case _:
                kind = Type(option[1])
    if action is Action.LIST:
        if kind is not Type.WHITE:
            raise Misused(USAGE, USAGE_STATUS)
    elif action is Action.ADD and kind is Type.GREY:
        raise Misused(f"{NAME}: cannot add GREY entries", MISUSE_STATUS)
    elif not keys:
        raise Misused(f"{NAME}: no addresses specified", MISUSE_STATUS)
    return Request(action, kind, tuple(keys))


async def do(database: Database, request: Request, settings: GateSettings) -> int:
    """Do it; return the exit status: how many keys it could not be done for. Raises Misused."""
    match request.action:
        case Action.LIST:
            return await _list(database, request.keys)
        case Action.ADD:
            return await _each(request.keys, lambda key: _add(database, key, request.type, settings))
        case Action.DELETE:
            return await _each(request.keys, lambda key: _delete(database, key, request.type))


async def _list(database: Database, keys: Sequence[str]) -> int:
    """Print all records, or those of the keys; return how many keys have none."""
    missing = 0
    for chunk in [[key] for key in keys] or [[]]:
        found = await verbs.grey_records(database, chunk)
        missing += bool(chunk) and not found
        sys.stdout.buffer.write(verbs.spamdb_lines(found))
    sys.stdout.buffer.flush()
    return min(missing, STATUS_MAX)


async def _each(keys: Sequence[str], work: Callable[[str], Awaitable[str]]) -> int:
    """Do it for each key, whatever becomes of the others; `work` returns a warning, or nothing."""
    failed = 0
    for key in keys:
        warning = await work(key)
        if warning:
            failed += 1
            sys.stderr.write(f"{NAME}: {warning}\n")
    return min(failed, STATUS_MAX)


async def _add(database: Database, key: str, kind: Type, settings: GateSettings) -> str:
    try:
        match kind:
            case Type.SPAMTRAP:
                await verbs.add_spamtraps(database, [key], now())
            case Type.TRAPPED:
                await verbs.add_trapped(database, [key], now(), settings)
            case _:
                await verbs.add_white(database, [key], now(), settings)
    except GateRefusal as refusal:
        if kind is Type.SPAMTRAP:  # ends the original at once
            raise Misused(f"{NAME}: {refusal}", FATAL_STATUS) from refusal
        return str(refusal)
    return ""


async def _delete(database: Database, key: str, kind: Type) -> str:
    try:
        delete = verbs.delete_grey if kind is Type.GREY else verbs.delete_records
        missing = await delete(database, [key])
    except GateRefusal:
        missing = [key]
    return f"no entry for {key}" if missing else ""
