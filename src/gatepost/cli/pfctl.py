"""`gatepost pfctl`, and `pfctl` where the program is called by that name: pfctl(8)'s commands for tables.

    pfctl [-nqv] -t table -T command [address ...] [-f file]

Its options are getopt's and commands may be shortened; results go to standard error, what is shown to standard
output, and the exit status is pfctl's, which scripts rely on: 0, 1 for what cannot be done, 2 where a tested
address is not in the table. The tables are those of the server that GATEPOST_CONFIG (or `--config FILE`) names.
"""

import getopt
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from gatepost.base.clock import Instant, seconds
from gatepost.cli.common import now, with_databases
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.db.unit import Database
from gatepost.gate import verbs
from gatepost.gate.contents import declared, load_rules
from gatepost.gate.decide import GREYTRAP, WHITE
from gatepost.gate.parts import read_parts
from gatepost.gate.pfconf.lex import PfConfError
from gatepost.gate.prefix import Prefix
from gatepost.gate.scan import read_hosts
from gatepost.gate.settings import GateSettings
from gatepost.gate.table import NAME_MAX, BadEntry, Entry, Table, TableFull, parse_entry
from gatepost.gate.verbs import Done, GateRefusal, NoSuchTable

NAME: Final = "pfctl"
USAGE: Final = "usage: pfctl [-nqv] -t table -T command [address ...] [-f file]"
COMMANDS: Final = ("kill", "flush", "add", "delete", "load", "replace", "show", "test", "zero", "expire")
SECONDS_MAX: Final = (1 << 32) - 1
FAILED: Final = 1
NOT_ALL: Final = 2
_TAKES_ADDRESSES: Final = frozenset(("add", "delete", "replace", "test"))
_MAKES: Final = frozenset(("add", "replace"))
_CHANGES: Final = frozenset(("kill", "flush", "add", "delete", "replace", "expire", "zero"))
_GREYLISTS: Final = frozenset((WHITE, GREYTRAP))


@dataclass(frozen=True, slots=True)
class Request:
    """One call; `verbose` is how often -v was given."""

    table: str
    command: str
    words: tuple[str, ...]
    file: str = ""
    dummy: bool = False
    quiet: bool = False
    verbose: int = 0
    config: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What pfctl says of a call: lines for stderr without their full stop, addresses with letters, exit status."""

    results: tuple[str, ...]
    shown: tuple[str, ...] = ()
    status: int = 0


@dataclass(frozen=True, slots=True)
class Marked:
    """An address with its letter: A added, C changed, D deleted, M match, X duplicate, Y conflict, or a blank."""

    entry: Entry
    letter: str = " "
    by: str = ""
    """The entry that a tested address matched, as -vv shows it."""

    @property
    def line(self) -> str:
        """Return it as pfctl prints it."""
        return f"{self.letter} {'!' if self.entry.negated else ' '}{self.entry.text}{self.by}"


class Misused(Exception):
    """A call that cannot be done; its text is for stderr, and the status is 1."""


def register(app: typer.Typer) -> None:
    """Put `gatepost pfctl` beside the other commands; what stands behind it is read as pfctl reads it."""
    as_it_is = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(NAME, context_settings=as_it_is, add_help_option=False)
    def command(context: typer.Context) -> None:
        """Tables in pfctl's own words: [-nqv] -t table -T command [address ...] [-f file]."""
        raise typer.Exit(run(context.args))


def run(words: Sequence[str]) -> int:
    """Do what the words behind `pfctl` ask for; return the exit status."""
    try:
        request = read(words)
        addresses = _addresses(request)
        config = request.config or (Path(named) if (named := os.environ.get("GATEPOST_CONFIG")) else None)

        async def work(databases: Databases, settings: Config) -> Outcome:
            return await do(databases.gate, request, addresses, settings.gate)

        outcome = with_databases(config, work)
    except Misused as wrong:
        sys.stderr.write(f"{wrong}\n")
        return FAILED
    except TableFull:
        sys.stderr.write(f"{NAME}: Cannot allocate memory\n")
        return FAILED
    except (GateRefusal, BadEntry, PfConfError, OSError) as wrong:
        sys.stderr.write(f"{NAME}: {wrong}\n")
        return FAILED
    if not request.quiet:
        end = " (dummy)." if request.dummy else "."
        sys.stderr.write("".join(f"{line}{end}\n" for line in outcome.results))
    sys.stdout.write("".join(f"{line}\n" for line in outcome.shown))
    return outcome.status


def read(words: Sequence[str]) -> Request:
    """Read the command line; raises Misused."""
    table = command = file = ""
    flags, config = {"-n": 0, "-q": 0, "-v": 0}, None
    try:
        options, rest = getopt.getopt(list(words), "nqvt:T:f:c:", ["config="])
    except getopt.GetoptError as wrong:
        raise Misused(f"{NAME}: {wrong}\n{USAGE}") from wrong
    for option, value in options:
        match option:
            case "-t":
                table = value
            case "-T":
                command = next((each for each in COMMANDS if value and each.startswith(value)), "")
                if not command:
                    raise Misused(f"{NAME}: Unknown table command '{value}'\n{USAGE}")
            case "-f":
                file = value
            case "-c" | "--config":
                config = Path(value)
            case _:
                flags[option] += 1
    if not command or not 0 < len(table) <= NAME_MAX:
        raise Misused(USAGE)
    if command == "load":
        raise Misused(f"{NAME}: load: a running server reads its rules and their tables anew with: gatepost reload")
    if command not in _TAKES_ADDRESSES and (file or len(rest) != (command == "expire")):
        raise Misused(USAGE)
    return Request(table, command, tuple(rest), file, bool(flags["-n"]), bool(flags["-q"]), flags["-v"], config)


async def do(database: Database, request: Request, addresses: Sequence[Entry], settings: GateSettings) -> Outcome:
    """Do it; raises what the verbs raise, and Misused."""
    name, command = request.table, request.command
    if command in _CHANGES and name in _GREYLISTS:
        raise Misused(f"{NAME}: the greylist fills {name}: use gatepost grey add, or spamdb")
    if command in ("show", "test"):
        entries = await _all(database, name, settings)
        return _show(entries, request) if command == "show" else _test(entries, addresses, request)
    if not await _exists(database, name, settings):
        if command not in _MAKES:
            raise NoSuchTable
        if request.dummy:
            return Outcome(("1 table created",))
    moment = now()
    marks, results = _planned(request, await _own(database, name), addresses, moment)
    if not request.dummy:
        done = await _change(database, request, addresses, moment, settings)
        results = tuple(line.removesuffix(".") for line in done.text.split("\n"))
    return Outcome(results, _lines(marks, request))


def _planned(
    request: Request, known: dict[Prefix, Entry], asked: Sequence[Entry], moment: Instant
) -> tuple[list[Marked], tuple[str, ...]]:
    """Return what a command is to change, and pfctl's words for it."""
    match request.command:
        case "add":
            marks = _added(known, asked)
            return marks, (f"{_count(marks, 'A')}/{len(asked)} addresses added",)
        case "delete":
            marks = _deleted(known, asked)
            return marks, (f"{_count(marks, 'D')}/{len(asked)} addresses deleted",)
        case "replace":
            marks = _replaced(known, asked)
            words = (("A", "added"), ("D", "deleted"), ("C", "changed"))
            counts = ((_count(marks, letter), word) for letter, word in words)
            return marks, tuple(f"{count} addresses {word}" for count, word in counts if count) or ("no changes",)
        case "expire":
            age = seconds(_age(request.words[0]))
            marks = [Marked(each, "D") for each in known.values() if each.since + age < moment]
            return marks, (f"{len(marks)}/{len(known)} addresses expired",)
        case "flush":
            return [], (f"{len(known)} addresses deleted",)
        case "kill":
            return [], ("1 table deleted",)
        case _:
            return [], ("1 table/stats cleared",)


async def _change(
    database: Database, request: Request, addresses: Sequence[Entry], moment: Instant, settings: GateSettings
) -> Done:
    """Change a table by the verb of that name."""
    name, most = request.table, settings.tables_max
    texts = [("!" if each.negated else "") + each.text for each in addresses]
    match request.command:
        case "add":
            return await verbs.add_entries(database, name, texts, moment, tables_max=most)
        case "delete":
            return await verbs.delete_entries(database, name, texts)
        case "replace":
            return await verbs.replace_entries(database, name, texts, moment, tables_max=most)
        case "expire":
            return await verbs.expire_entries(database, name, _age(request.words[0]), moment)
        case "flush":
            return await verbs.flush_table(database, name)
        case "kill":
            return await verbs.kill_table(database, name)
        case _:
            return await verbs.zero_table(database, name, moment)


def _count(marks: Sequence[Marked], letter: str) -> int:
    return sum(mark.letter == letter for mark in marks)


def _lines(marks: Sequence[Marked], request: Request) -> tuple[str, ...]:
    """Return what -v shows: addresses with a letter; -vv shows all."""
    if not request.verbose:
        return ()
    return tuple(mark.line for mark in marks if mark.letter != " " or request.verbose > 1)


def _show(entries: Sequence[Entry], request: Request) -> Outcome:
    return Outcome((), tuple(verbs.shown(each, verbose=request.verbose > 0) for each in entries))


def _test(entries: Sequence[Entry], addresses: Sequence[Entry], request: Request) -> Outcome:
    table = Table(request.table, entries)
    marks = []
    for asked in addresses:
        if asked.negated or not asked.network.host:
            raise Misused(f"{NAME}: illegal test address")
        found = table.match(asked.text)
        letter = "M" if found is not None and not found.negated else " "
        by = "\t nomatch" if found is None else f"\t{'!' if found.negated else ' '}{found.text}"
        marks.append(Marked(asked, letter, by if request.verbose > 1 else ""))
    matched = _count(marks, "M")
    results = (f"{matched}/{len(marks)} addresses match",)
    return Outcome(results, _lines(marks, request), 0 if matched == len(marks) else NOT_ALL)


# --- letters --------------------------------------------------------------------------------------------------


def _added(known: dict[Prefix, Entry], asked: Sequence[Entry]) -> list[Marked]:
    marks, seen = [], set[Prefix]()
    for each in asked:
        old = known.get(each.network)
        if each.network in seen:
            letter = "X"
        elif old is None:
            letter = "A"
        else:
            letter = " " if old.negated == each.negated else "Y"
        seen.add(each.network)
        marks.append(Marked(each, letter))
    return marks


def _deleted(known: dict[Prefix, Entry], asked: Sequence[Entry]) -> list[Marked]:
    marks, seen = [], set[Prefix]()
    for each in asked:
        old = known.get(each.network)
        if each.network in seen:
            letter = "X"
        elif old is None:
            letter = " "
        else:
            letter = "D" if old.negated == each.negated else "Y"
        seen.add(each.network)
        marks.append(Marked(each, letter))
    return marks


def _replaced(known: dict[Prefix, Entry], asked: Sequence[Entry]) -> list[Marked]:
    """Mark the new addresses, and behind them those that go."""
    marks = [Marked(mark.entry, "C" if mark.letter == "Y" else mark.letter) for mark in _added(known, asked)]
    kept = {each.network for each in asked}
    return marks + [Marked(old, "D") for network, old in known.items() if network not in kept]


# --- tables ---------------------------------------------------------------------------------------------------


async def _all(database: Database, name: str, settings: GateSettings) -> list[Entry]:
    """Return everything that a table holds: its own, of files, of feeds, of the greylist; NoSuchTable for none."""
    if name in _GREYLISTS:
        hosts = await read_hosts(database, now())
        return list(hosts.white if name == WHITE else hosts.trapped)
    found = {each.network: each for each in _of_rules(name, settings)}
    found |= {each.network: each for each in await verbs.show_table(database, name, settings)}
    if not found and not await _exists(database, name, settings):
        raise NoSuchTable
    return sorted(found.values(), key=lambda each: (each.network.version, each.network.number, each.network.length))


async def _own(database: Database, name: str) -> dict[Prefix, Entry]:
    """Return the entries that verbs change: none of feeds or files."""
    feeds = {part.source for part in await read_parts(database) if part.table == name}
    entries = await verbs.show_table(database, name)
    return {each.network: each for each in entries if not each.note or each.note not in feeds}


def _of_rules(name: str, settings: GateSettings) -> Sequence[Entry]:
    """Return what the pf.conf in force gives a table."""
    rules = load_rules(settings)
    table = rules.tables.get(name) if rules is not None else None
    return declared([table], now()).get(name, []) if table is not None else []


async def _exists(database: Database, name: str, settings: GateSettings) -> bool:
    if name in dict(await verbs.list_tables(database, settings)):
        return True
    rules = load_rules(settings)
    return rules is not None and (name in rules.tables or name in rules.used_tables)


# --- words ----------------------------------------------------------------------------------------------------


def _addresses(request: Request) -> list[Entry]:
    """Return the addresses of the command line and of the file."""
    if request.command not in _TAKES_ADDRESSES:
        return []
    words = list(request.words)
    if request.file:
        try:
            text = sys.stdin.read() if request.file == "-" else Path(request.file).read_text("utf-8")
        except OSError as wrong:
            raise Misused(f"{NAME}: {request.file}: {wrong.strerror}") from wrong
        except UnicodeDecodeError as wrong:
            raise Misused(f"{NAME}: {request.file}: {wrong}") from wrong
        words += re.findall(r"[^\s#]\S*", re.sub(r"(?m)(^|(?<=\s))#.*$", "", text))
    return [_entry(word) for word in words]


def _entry(word: str) -> Entry:
    bare = word.lstrip("!")
    sign = "!" if (len(word) - len(bare)) % 2 else ""
    try:
        return parse_entry(sign + bare)
    except BadEntry as wrong:
        raise Misused(f"no IP address found for {bare}") from wrong


def _age(word: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,20}", word):
        raise Misused(f"{NAME}: expiry time: invalid")
    age = int(word)
    if not 0 <= age <= SECONDS_MAX:
        raise Misused(f"{NAME}: expiry time: too {'small' if age < 0 else 'large'}")
    return age
