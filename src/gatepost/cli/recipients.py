"""`gatepost recipients`: whom a backup MX knows that its primary has mail for."""

import asyncio
import os
from dataclasses import asdict
from typing import Annotated

import typer

from gatepost.accounts.verbs import parse_address
from gatepost.backupmx.kept import KeyUnusable, folder_of, read_key, read_list, read_notes
from gatepost.backupmx.pull import Pulled, Puller
from gatepost.base.clock import MICROSECONDS
from gatepost.cli.common import CLOCK, ConfigOption, Failed, JsonOption, configuration, moment, print_json, say
from gatepost.codec.recipients import BadList, Keys, Known, RecipientList
from gatepost.config import Config
from gatepost.logs import configure

recipients = typer.Typer(help="Whom a backup MX knows that its primary has mail for.", no_args_is_help=True)

_SAYS = {
    Known.YES: "it is taken",
    Known.NO: "it is refused with 550 5.1.1",
    Known.OPEN: "the list does not tell: the primary is asked, and where that does not answer it is taken",
}


@recipients.command("show")
def recipients_show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell how old the list is, what it has, and why the last attempt to renew it failed; status 1 where it did."""
    settings = configuration(config)
    _, listed = _kept(settings)
    notes = read_notes(folder_of(settings.data_dir))
    facts: dict[str, object] = {
        "primary": settings.backup.primary,
        "recipients": settings.backup.recipients.value,
        "addresses": listed.addresses if listed is not None else 0,
        "domains": sorted(listed.domains) if listed is not None else [],
        "catch_alls": sorted(listed.catch_alls) if listed is not None else [],
        "complete": listed is not None and listed.complete,
        "made": moment(listed.serial) if listed is not None else "",
        "confirmed": moment(notes.confirmed) if notes.confirmed else "",
        "age_seconds": (CLOCK.now() - notes.confirmed) // MICROSECONDS if notes.confirmed else None,
        "problem": notes.problem,
    }
    if as_json:
        print_json(facts)
    else:
        for name, value in facts.items():
            say(f"{name:12} {', '.join(value) if isinstance(value, list) else value}".rstrip())
    if notes.problem or listed is None:
        raise typer.Exit(1)


@recipients.command("pull")
def recipients_pull(
    config: ConfigOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Believe a list that is older, or has far fewer addresses.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask the primary for its list now; a running server takes it up within a second."""
    settings = configuration(config)
    keys, _ = _kept(settings)
    if os.geteuid() != settings.data_dir.stat().st_uid:
        raise Failed(f"{settings.data_dir} is another user's: run this as the server's user")
    pulled = asyncio.run(_pull(settings, keys, force=force))
    facts = {**asdict(pulled), "listed": None, "addresses": pulled.listed.addresses if pulled.listed else 0}
    del facts["listed"]
    if as_json:
        print_json(facts)
    elif not pulled.problem:
        say(f"{facts['addresses']} addresses, {'a new list' if pulled.changed else 'as before'}")
    if pulled.problem:
        raise Failed(pulled.problem)


@recipients.command("check")
def recipients_check(address: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell what the list says of an ADDRESS; status 1 where it would be refused."""
    settings = configuration(config)
    keys, listed = _kept(settings)
    asked = parse_address(address)
    known = listed.knows(asked, keys) if listed is not None else Known.OPEN
    if as_json:
        print_json({"address": str(asked), "known": known.value})
    else:
        say(f"{asked}: {_SAYS[known]}")
    if known is Known.NO:
        raise typer.Exit(1)


async def _pull(settings: Config, keys: Keys, *, force: bool) -> Pulled:
    puller = Puller(
        settings.backup,
        settings.backup.name or settings.hostname,
        folder_of(settings.data_dir),
        keys,
        clock=CLOCK,
        log=configure(None, form=settings.server.log, level="error", worker="recipients"),
    )
    return await puller.pull(force=force)


def _kept(settings: Config) -> tuple[Keys, RecipientList | None]:
    if not settings.backup.primary:
        raise Failed("this server is no backup that pulls a list: [backup] names no primary (gatepost join)")
    try:
        keys = Keys.derive(read_key(settings.backup.key_file))
        return keys, read_list(folder_of(settings.data_dir), keys)
    except KeyUnusable as wrong:
        raise Failed(str(wrong)) from wrong
    except BadList as wrong:
        raise Failed(f"{folder_of(settings.data_dir)}: {wrong}") from wrong
