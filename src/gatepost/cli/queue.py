"""`gatepost queue`: mail that waits to be sent."""

from typing import Annotated

import typer

from gatepost.base.ids import MailId, id_text, parse_id
from gatepost.blobs.bodies import Blobs
from gatepost.cli.common import ConfigOption, JsonOption, fail, moment, now, say, show, with_databases
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.queue import verbs
from gatepost.queue.verbs import NotThere, Waiting

queue = typer.Typer(help="Mail that waits to be sent.", no_args_is_help=True)
COLUMNS = ("Id", "From", "To", "Destination", "Since", "Next try", "Tries", "State", "Last error")


@queue.command("list")
def queue_list(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    most: Annotated[int, typer.Option("--most", help="Rows at the most.")] = 100,
) -> None:
    """List waiting recipients, the soonest due first."""

    async def work(databases: Databases, settings: Config) -> tuple[Waiting, ...]:
        return await verbs.list_queue(databases.mail, most=most)

    show(
        (_row(each) for each in with_databases(config, work)),
        COLUMNS,
        as_json=as_json,
        nothing="the queue is empty",
    )


@queue.command("show")
def queue_show(mail: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show all recipients of one mail."""
    key = mail_id(mail)
    found = with_databases(config, lambda databases, _: verbs.show(databases.mail, key))
    if not found:
        fail(f"{mail} is not in the queue")
    show((_row(each) for each in found), COLUMNS, as_json=as_json)


@queue.command("retry")
def queue_retry(mail: Annotated[str, typer.Argument()] = "", config: ConfigOption = None) -> None:
    """Try a mail now; without an id, all."""
    if mail:
        key = mail_id(mail)
        count = with_databases(config, lambda databases, _: verbs.retry(databases.mail, key, now()))
    else:
        count = with_databases(config, lambda databases, _: verbs.retry_all(databases.mail, now()))
    say(f"{count} recipients are due now")


@queue.command("hold")
def queue_hold(mail: str, config: ConfigOption = None) -> None:
    """Keep a mail until it is released."""
    key = mail_id(mail)
    say(f"{with_databases(config, lambda databases, _: verbs.hold(databases.mail, key))} recipients held")


@queue.command("release")
def queue_release(mail: str, config: ConfigOption = None) -> None:
    """Let a held mail go."""
    key = mail_id(mail)
    count = with_databases(config, lambda databases, _: verbs.release(databases.mail, key, now()))
    say(f"{count} recipients released")


@queue.command("remove")
def queue_remove(mail: str, config: ConfigOption = None) -> None:
    """Delete a mail from the queue; nobody is told."""
    key = mail_id(mail)

    async def work(databases: Databases, settings: Config) -> int:
        blobs = Blobs(databases.mail, settings.data_dir / "bodies")
        try:
            return await verbs.remove(databases.mail, blobs, key, now())
        except NotThere:
            fail(f"{mail} is not in the queue")

    say(f"{with_databases(config, work)} recipients removed")


def mail_id(text: str) -> MailId:
    """Read an id that an operator typed."""
    try:
        return parse_id(text)
    except ValueError as wrong:
        fail(str(wrong))


def _row(each: Waiting) -> tuple[object, ...]:
    state = "held" if each.held else "under way" if each.under_way else "waiting"
    due = "" if each.held else moment(each.due)
    sender = each.sender or "<>"
    created = moment(each.created)
    return (
        id_text(each.mail),
        sender,
        each.recipient,
        each.destination,
        created,
        due,
        each.attempts,
        state,
        each.last_error,
    )
