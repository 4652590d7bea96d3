"""What every command shares: the configuration, the databases, tables or JSON out, mistakes in words."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gatepost.accounts.model import AccountRefusal
from gatepost.aio.clock import SystemClock
from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.base.ids import SLOTS, Minter
from gatepost.base.settings import BadSetting
from gatepost.blobs.known import in_force
from gatepost.config import Config, ConfigError, load
from gatepost.databases import Databases, reached
from gatepost.db.unit import NotCommitted
from gatepost.queue.atrest import AtRest, keys_of

T = TypeVar("T")
Work = Callable[[Databases, Config], Coroutine[Any, Any, T]]

CONFIG_FILES: Final = ("gatepost.toml", "/etc/gatepost/gatepost.toml")
CLOCK: Final = SystemClock()

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="GATEPOST_CONFIG", help="The configuration; else ./gatepost.toml, then /etc."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Failed(Exception):
    """A command that did not do what was asked; the text is for the operator."""


def configuration(path: Path | None) -> Config:
    """Return the configuration of this command; ends the process with a message where there is none."""
    return load(config_file(path))


def config_file(path: Path | None) -> Path:
    """Return the file in force."""
    if path is not None:
        return path
    found = next((Path(name) for name in CONFIG_FILES if Path(name).exists()), None)
    if found is None:
        raise Failed("no configuration: give one with -c FILE (examples/home/gatepost.toml is one to begin with)")
    return found


def with_databases(config_path: Path | None, work: Work[T]) -> T:
    """Run `work` with both databases, through the running server's keeper where there is one."""
    config = configuration(config_path)

    async def run() -> T:
        async with reached(config.data_dir) as databases:
            return await work(await _readable(databases, config), config)

    return asyncio.run(run())


async def _readable(databases: Databases, config: Config) -> Databases:
    """Let a command read and write the queue as the server does, also where it is encrypted."""
    try:
        keys = await asyncio.to_thread(keys_of, config.queue)
    except BadSetting as wrong:
        fail(str(wrong))
    if keys.first is not None:
        keys = await in_force(databases.mail, keys)
    return Databases(AtRest(databases.mail, keys), databases.gate)


def minter() -> Minter:
    """Return a maker of ids for this process, in the upper slots: workers have the lower ones."""
    return Minter(SLOTS // 2 + CLOCK.now() // 997 % (SLOTS // 2))


def show(
    rows: Iterable[Sequence[object]], columns: Sequence[str], *, as_json: bool, nothing: str = "nothing"
) -> None:
    """Print rows as a table, or as a JSON list of objects with the columns' names as keys."""
    listed = list(rows)
    if as_json:
        keys = [column.lower().replace(" ", "_") for column in columns]
        print_json([dict(zip(keys, row, strict=True)) for row in listed])
        return
    if not listed:
        Console().print(f"[dim]{nothing}[/dim]")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in listed:
        table.add_row(*(_cell(value) for value in row))
    console = Console()
    console.print(table, soft_wrap=not console.is_terminal)


def print_json(value: object) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """Print one line for people."""
    sys.stdout.write(text + "\n")


def moment(instant: int) -> str:
    """Return a time as people write it, in UTC."""
    return datetime.fromtimestamp(instant / MICROSECONDS, UTC).strftime("%Y-%m-%d %H:%M:%S")


def now() -> Instant:
    """Return the wall clock."""
    return CLOCK.now()


def guarded(command: Callable[[], int]) -> int:
    """Run the command line and return its status; an operator's mistake becomes one line."""
    try:
        return command()
    except (ConfigError, AccountRefusal, Failed) as wrong:
        return _complain(str(wrong))
    except NotCommitted as wrong:
        return _complain(f"nothing was changed: {type(wrong).__name__}: {wrong}")
    except PermissionError as wrong:
        return _complain(f"{wrong.filename}: {wrong.strerror}; run this as the server's user")


def fail(text: str) -> NoReturn:
    """End the command with a message and status 1."""
    raise Failed(text)


def _complain(text: str) -> int:
    Console(stderr=True).print(f"[bold red]gatepost:[/bold red] {escape(text)}", highlight=False, soft_wrap=True)
    return 1


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
