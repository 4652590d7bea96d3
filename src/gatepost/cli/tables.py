"""`gatepost rules tables`: what the tables of [policy] hold, as the server reads and asks them."""

import asyncio
import os
import signal
from typing import Annotated, Final

import typer

from gatepost.aio.process import find_supervisor
from gatepost.base.address import fold
from gatepost.base.reply import Refusal
from gatepost.base.settings import BadSetting
from gatepost.cli.common import ConfigOption, Failed, JsonOption, config_file, print_json, say, show
from gatepost.config import load, located
from gatepost.policy.rules import kinds_of, load_tables
from gatepost.policy.settings import PolicySettings
from gatepost.policy.table import Table, TableSettings
from gatepost.policy.tables.kind import Kind
from gatepost.policy.tables.queried import SqlTable

tables = typer.Typer(help="The tables of [policy].", no_args_is_help=True)

_HIDDEN: Final = frozenset((Kind.CREDENTIALS,))


@tables.command("list")
def tables_list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the tables: where each comes from, what it is used as, how many entries it has."""
    settings, found = _read(config)
    kinds = kinds_of(settings)
    rows = [
        (
            name,
            _source(settings.tables[name]),
            ", ".join(sorted(kind.value for kind in {*kinds.get(name, ()), settings.tables[name].kind} if kind)),
            len(table.items) if isinstance(table, Table) else "asked",
        )
        for name, table in found.items()
    ]
    show(rows, ("Table", "Source", "Used as", "Entries"), as_json=as_json, nothing="no tables")


@tables.command("lookup")
def tables_lookup(
    name: str,
    keys: list[str],
    kind: Annotated[Kind, typer.Option("--as", help="A database is asked with its query for this.")] = Kind.VIRTUAL,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look up KEYS as they stand, one after the other, and tell what is there; 1 when nothing is."""
    settings, found = _read(config)
    if name not in found:
        raise Failed(f"there is no table {name!r}; known: {', '.join(sorted(found)) or 'none'}")
    if kind in _HIDDEN or settings.tables[name].kind in _HIDDEN:
        raise Failed("passwords are not shown")
    answers = {key: _lookup(found[name], kind, key) for key in keys}
    if as_json:
        print_json(answers)
    else:
        for key, values in answers.items():
            say(f"{key}: {'nothing' if values is None else ', '.join(values) or 'it is there'}")
    if all(values is None for values in answers.values()):
        raise typer.Exit(1)


@tables.command("update")
def tables_update(names: Annotated[list[str] | None, typer.Argument()] = None, config: ConfigOption = None) -> None:
    """Check the tables and let the running server read them anew; a wrong one changes nothing."""
    _, found = _read(config)
    for name in names or ():
        if name not in found:
            raise Failed(f"there is no table {name!r}; known: {', '.join(sorted(found)) or 'none'}")
    pid = find_supervisor(load(config_file(config)).data_dir)
    if pid is None:
        raise Failed("the tables are good, but no server runs here")
    os.kill(pid, signal.SIGHUP)
    say(f"{', '.join(names or found)}: good; the server reads them now")


def _read(config: ConfigOption) -> tuple[PolicySettings, dict[str, Table | SqlTable]]:
    """Return the settings of the policy and its tables; a mistake is told with its place."""
    file = config_file(config)
    settings = load(file).policy
    try:
        return settings, dict(load_tables(settings))
    except BadSetting as wrong:
        raise located(wrong, file.read_text("utf-8"), file) from wrong


def _lookup(table: Table | SqlTable, kind: Kind, key: str) -> tuple[str, ...] | None:
    """Return the values of a key, none at all in a list; None where it is not there."""
    if isinstance(table, Table):
        values = tuple(value for each, value in table.items if fold(each) == fold(key))
        return tuple(filter(None, values)) if values else None
    if not table.answers(kind):
        raise Failed(f"the table has no query for {kind.value}: name another with --as")
    try:
        return asyncio.run(table.values(kind, (key,)))
    except Refusal as refused:
        raise Failed(refused.detail) from refused
    finally:
        table.close()


def _source(settings: TableSettings) -> str:
    """Say where a table comes from, without the password of a database."""
    if settings.sql:
        scheme, _, rest = settings.sql.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
    return settings.file or settings.db or "the configuration"
