"""`gatepost tables` (pfctl -T's verbs), `gatepost grey` (spamdb's) and `gatepost gate`."""

import sys
from collections.abc import Awaitable
from typing import Annotated, Final, TypeVar

import typer

from gatepost.accounts import verbs as accounts
from gatepost.base.clock import Instant
from gatepost.base.units import parse_seconds
from gatepost.cli.common import ConfigOption, Failed, JsonOption, moment, now, print_json, say, show, with_databases
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.gate import verbs
from gatepost.gate.grey import Record
from gatepost.gate.table import BadEntry, TableFull
from gatepost.gate.verbs import Done, GateRefusal

T = TypeVar("T")
EXPECT_MAX: Final = 86_400  # s

tables = typer.Typer(help="Tables of addresses that the gate decides by.", no_args_is_help=True)
gate = typer.Typer(help="The gate: why it decides as it does, and who need not wait.", no_args_is_help=True)
grey = typer.Typer(help="The greylist: grey, white and trapped senders, and spamtraps.", no_args_is_help=True)
_TRAPPED = typer.Option("-t", help="Trapped hosts, not white ones.")
_SPAMTRAP = typer.Option("-T", help="Spamtrap addresses.")


@tables.command("list")
def tables_list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all tables and how many entries each has."""
    found = with_databases(
        config, lambda databases, settings: _checked(verbs.list_tables(databases.gate, settings.gate))
    )
    show(found, ("Table", "Entries"), as_json=as_json)


@tables.command("show")
def tables_show(table: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print a table's entries as pfctl does."""
    found = with_databases(
        config, lambda databases, settings: _checked(verbs.show_table(databases.gate, table, settings.gate, now()))
    )
    if as_json:
        print_json([{"entry": each.text, "negated": each.negated, "since": moment(each.since)} for each in found])
        return
    for each in found:
        say(f"  {'!' if each.negated else ' '}{each.text}")


@tables.command("add")
def tables_add(table: str, addresses: list[str], config: ConfigOption = None) -> None:
    """Add addresses or networks; a leading ! makes a hole."""
    _report(
        with_databases(
            config,
            lambda databases, settings: _checked(
                verbs.add_entries(databases.gate, table, addresses, now(), tables_max=settings.gate.tables_max)
            ),
        )
    )


@tables.command("del")
def tables_del(table: str, addresses: list[str], config: ConfigOption = None) -> None:
    """Delete entries: exactly these networks."""
    _report(
        with_databases(
            config, lambda databases, _: _checked(verbs.delete_entries(databases.gate, table, addresses))
        )
    )


@tables.command("replace")
def tables_replace(table: str, addresses: list[str], config: ConfigOption = None) -> None:
    """Give a table exactly these entries."""
    _report(
        with_databases(
            config,
            lambda databases, settings: _checked(
                verbs.replace_entries(databases.gate, table, addresses, now(), tables_max=settings.gate.tables_max)
            ),
        )
    )


@tables.command("flush")
def tables_flush(table: str, config: ConfigOption = None) -> None:
    """Empty a table."""
    _report(with_databases(config, lambda databases, _: _checked(verbs.flush_table(databases.gate, table))))


@tables.command("expire")
def tables_expire(table: str, seconds: int, config: ConfigOption = None) -> None:
    """Delete entries that are older than SECONDS."""
    _report(
        with_databases(
            config, lambda databases, _: _checked(verbs.expire_entries(databases.gate, table, seconds, now()))
        )
    )


@tables.command("zero")
def tables_zero(table: str, config: ConfigOption = None) -> None:
    """Begin the ages of a table's entries anew."""
    _report(with_databases(config, lambda databases, _: _checked(verbs.zero_table(databases.gate, table, now()))))


@tables.command("test")
def tables_test(table: str, addresses: list[str], config: ConfigOption = None) -> None:
    """Tell whether hosts are in a table: exit status 0 when all of them are, else 2."""
    done = with_databases(
        config,
        lambda databases, settings: _checked(
            verbs.test_entries(databases.gate, table, addresses, settings.gate, now())
        ),
    )
    _report(done)
    if done.done < done.asked:
        raise typer.Exit(2)


@gate.command("expect")
def gate_expect(user: str, length: Annotated[str, typer.Argument()] = "10m", config: ConfigOption = None) -> None:
    """Let every sender through to USER at once for a while: "I'm expecting a code"."""
    try:
        wanted = parse_seconds(length)
    except ValueError as wrong:
        raise Failed(f"{length!r} is no length of time: {wrong}. Write 10m or 1h.") from wrong
    if not 0 < wanted <= EXPECT_MAX:
        raise Failed("A mail can be expected for a day at most.")

    async def work(databases: Databases, settings: Config) -> Instant:
        account = await accounts.find_user(databases.mail, user)
        return await verbs.expect(databases.gate, account.id, wanted, now())

    until = with_databases(config, work)
    say(f"Until {moment(until)} no sender waits that writes to {user}.")


@grey.command("list")
def grey_list(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    friendly: Annotated[bool, typer.Option("--friendly", help="The records of friendly mode.")] = False,
) -> None:
    """Print the greylist as spamdb does; with --friendly what friendly mode remembers."""
    found = with_databases(config, lambda databases, _: verbs.grey_records(databases.gate, friendly=friendly))
    if as_json:
        print_json([_fields(each) for each in found])
        return
    if friendly:
        rows = [
            (each.state.value, each.ip, moment(each.first), moment(each.expires), each.blocked) for each in found
        ]
        show(rows, ("Record", "Who", "Since", "Until", "Times"), as_json=False)
        return
    for each in found:
        say(verbs.spamdb_line(each))


@grey.command("add")
def grey_add(
    keys: list[str],
    config: ConfigOption = None,
    trapped: Annotated[bool, _TRAPPED] = False,
    spamtrap: Annotated[bool, _SPAMTRAP] = False,
) -> None:
    """Add white hosts; with -t trapped hosts, with -T spamtrap addresses."""

    async def work(databases: Databases, settings: Config) -> None:
        if spamtrap:
            await _checked(verbs.add_spamtraps(databases.gate, keys, now()))
        elif trapped:
            await _checked(verbs.add_trapped(databases.gate, keys, now(), settings.gate))
        else:
            await _checked(verbs.add_white(databases.gate, keys, now(), settings.gate))

    with_databases(config, work)


@grey.command("del")
def grey_del(keys: list[str], config: ConfigOption = None) -> None:
    """Delete hosts and spamtraps by their address; the exit status is how many were not there."""
    missing = with_databases(config, lambda databases, _: verbs.delete_records(databases.gate, keys))
    for key in missing:
        sys.stderr.write(f"no entry for {key}\n")
    if missing:
        raise typer.Exit(len(missing))


async def _checked(work: Awaitable[T]) -> T:
    """Pass a verb's answer through; its refusals are for the operator."""
    try:
        return await work
    except (GateRefusal, BadEntry, TableFull) as wrong:
        raise Failed(str(wrong)) from wrong


def _report(done: Done) -> None:
    """Print pfctl's line where pfctl prints it, and what a verb shows where that goes."""
    for line in done.lines:
        say(line)
    sys.stderr.write(done.text + "\n")


def _fields(record: Record) -> dict[str, object]:
    return {
        "state": record.state.value,
        "key": record.key.decode("utf-8", "replace"),
        "ip": record.ip,
        "first": moment(record.first),
        "pass": moment(min(record.passes, 1 << 60)) if record.ip else "",
        "expire": moment(min(record.expires, 1 << 60)) if record.ip else "never",
        "blocked": record.blocked,
        "passed": record.passed,
    }
