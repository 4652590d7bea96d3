"""`mailq` and `newaliases` as other servers have them, for people's fingers and the scripts of monitoring."""

import asyncio
import getopt
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer

from gatepost.accounts.verbs import list_aliases
from gatepost.aio.process import find_supervisor
from gatepost.base.clock import MICROSECONDS
from gatepost.base.ids import id_text
from gatepost.base.settings import BadSetting
from gatepost.cli.common import (
    ConfigOption,
    JsonOption,
    configuration,
    moment,
    print_json,
    say,
    with_databases,
)
from gatepost.config import Config, ConfigError
from gatepost.databases import Databases
from gatepost.policy.rules import Ruleset
from gatepost.policy.rules import load as load_rules
from gatepost.policy.table import Table
from gatepost.queue import verbs
from gatepost.queue.verbs import Waiting

MAILQ: Final = "mailq"
NEWALIASES: Final = "newaliases"
USAGE: Final = 64
CONFIG: Final = 78
PAGE: Final = 1_000
HEAD: Final = "-Queue ID---- ----Arrival Time--- -Sender/Recipient-----------\n"


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command(MAILQ)
    def mailq(config: ConfigOption = None, as_json: JsonOption = False) -> None:
        """List the queue as mailq does: each mail with its sender and recipients, a count at the end."""
        raise typer.Exit(_mailq(config, as_json=as_json))

    @app.command(NEWALIASES)
    def newaliases(config: ConfigOption = None) -> None:
        """Check the alias tables, let the running server read them anew, and tell how many there are."""
        raise typer.Exit(_newaliases(config))


def run(words: Sequence[str], config: Path | None = None) -> int:
    """Do what the words behind `mailq` ask for; return the exit status."""
    try:
        options, _ = getopt.gnu_getopt(list(words), "ACv", ["json"])
    except getopt.GetoptError as wrong:
        sys.stderr.write(f"{MAILQ}: {wrong}\nusage: mailq [--json]\n")
        return USAGE
    return _mailq(config or _named(), as_json=("--json", "") in options)


def run_newaliases(words: Sequence[str], config: Path | None = None) -> int:
    """Do what `newaliases` asks for, whatever options stand behind it; return the exit status."""
    return _newaliases(config or _named())


def _mailq(config: Path | None, *, as_json: bool) -> int:
    """Print the whole queue page by page; a million mails are never in memory."""
    if as_json:
        print_json([_entry(each) for each in with_databases(config, _everything)])
        return 0
    total = with_databases(config, _print)
    sys.stdout.write(f"\t\tTotal requests: {total}\n" if total else "Mail queue is empty\n")
    return 0


async def _everything(databases: Databases, settings: Config) -> list[Waiting]:
    found: list[Waiting] = []
    while page := await verbs.list_queue(databases.mail, after=_after(found[-1] if found else None), most=PAGE):
        found += page
    return found


async def _print(databases: Databases, settings: Config) -> int:
    last: Waiting | None = None
    mails = 0
    while page := await verbs.list_queue(databases.mail, after=_after(last), most=PAGE):
        for each in page:
            if last is None:
                sys.stdout.write(HEAD)
            if last is None or last.mail != each.mail:
                mails += 1
                sys.stdout.write(_head(each))
            sys.stdout.write(_line(each))
            last = each
    return mails


def _after(last: Waiting | None) -> tuple[int, int]:
    return (0, -1) if last is None else (last.mail, last.position)


def _head(each: Waiting) -> str:
    """Return a mail's first line; `*` is being sent, `!` held, as Postfix marks them."""
    mark = "*" if each.under_way else "!" if each.held else " "
    at = datetime.fromtimestamp(each.created / MICROSECONDS, UTC).strftime("%a %b %e %H:%M:%S")
    return f"{id_text(each.mail)}{mark} {at} {each.sender or '<>'}\n"


def _line(each: Waiting) -> str:
    why = f"\t({each.last_error})\n" if each.last_error else ""
    return f"{why}{' ' * 34}{each.recipient}\n"


def _entry(each: Waiting) -> dict[str, object]:
    return {
        "id": id_text(each.mail),
        "sender": each.sender,
        "recipient": each.recipient,
        "arrived": moment(each.created),
        "state": "held" if each.held else "paused" if each.paused else "active" if each.under_way else "deferred",
        "attempts": each.attempts,
        "reason": each.last_error,
    }


def _newaliases(config: Path | None) -> int:
    settings = configuration(config)
    try:
        ruleset = asyncio.run(asyncio.to_thread(load_rules, settings.policy))
    except (BadSetting, ConfigError, ValueError) as wrong:
        sys.stderr.write(f"{NEWALIASES}: {wrong}\nThe server goes on with what it has read before.\n")
        return CONFIG

    async def accounts(databases: Databases, _: Config) -> int:
        return len(await list_aliases(databases.mail))

    count = with_databases(config, accounts)
    pid = find_supervisor(settings.data_dir)
    if pid is not None:
        os.kill(pid, signal.SIGHUP)
    read = "the server reads them anew" if pid is not None else "the server does not run"
    tables = ", ".join(_size(name, ruleset) for name in sorted(ruleset.aliases)) or "none"
    say(f"alias tables: {tables}; {count} aliases of accounts; {read}")
    return 0


def _size(name: str, ruleset: Ruleset) -> str:
    """Return a table's name and how much is in it; a database that is asked at each mail is not counted."""
    table = ruleset.tables.get(name)
    return f"{name} ({len(table.items)} names)" if isinstance(table, Table) else f"{name} (asked)"


def _named() -> Path | None:
    named = os.environ.get("GATEPOST_CONFIG")
    return Path(named) if named else None
