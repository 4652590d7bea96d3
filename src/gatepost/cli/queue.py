"""`gatepost queue`: mail that waits to be sent."""

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Final, TypeVar

import typer

from gatepost.accounts.directory import Directory
from gatepost.accounts.password import Hasher
from gatepost.accounts.verbs import parse_address
from gatepost.base.ids import MailId, id_text, parse_id
from gatepost.base.reply import Refusal
from gatepost.blobs.bodies import Blobs
from gatepost.cli import queuekey
from gatepost.cli.common import (
    CLOCK,
    ConfigOption,
    JsonOption,
    fail,
    moment,
    now,
    say,
    show,
    with_databases,
)
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load as load_rules
from gatepost.queue import destinations, verbs
from gatepost.queue.destinations import Destination, Pause
from gatepost.queue.redirect import Ambiguous, NotOne, Redirected, redirect
from gatepost.queue.sql import EVERYTHING
from gatepost.queue.verbs import Choice, Counts, NotThere, Untold, Waiting

T = TypeVar("T")

queue = typer.Typer(help="Mail that waits to be sent.", no_args_is_help=True)
queuekey.register(queue)
COLUMNS = ("Id", "From", "To", "Destination", "Since", "Next try", "Tries", "State", "Last error")
DESTINATION_COLUMNS: Final = (
    "Destination",
    "Waiting",
    "Held",
    "Oldest",
    "Next try",
    "Rests until",
    "Paused",
    "Last error",
)

MailArgument = Annotated[str, typer.Argument(help="The mail's id.")]
DestinationOption = Annotated[
    str, typer.Option("--destination", help="A destination, as `queue destinations` names it.")
]
SenderOption = Annotated[str | None, typer.Option("--sender", help="Its sender; <> is the null sender.")]
AllOption = Annotated[bool, typer.Option("--all", help="All outbound mail.")]


@queue.command("list")
def queue_list(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    most: Annotated[int, typer.Option("--most", help="Rows at the most, up to 1000.")] = 100,
    destination: DestinationOption = "",
    sender: SenderOption = None,
    after: Annotated[str, typer.Option("--after", help="Go on after this mail (the oldest come first).")] = "",
) -> None:
    """List waiting recipients, the oldest first; those of one destination, the soonest due first."""
    choice = _choice(destination, sender)
    if choice is not None and after:
        fail("--after goes on in the whole list: leave --destination and --sender away, or raise --most")
    last = (mail_id(after), 1 << 62) if after else (0, -1)

    async def work(databases: Databases, settings: Config) -> tuple[Waiting, ...]:
        if choice is not None:
            return await verbs.list_chosen(databases.mail, choice, most=most)
        return await verbs.list_queue(databases.mail, after=last, most=most)

    show(
        (_row(each) for each in with_databases(config, work)),
        COLUMNS,
        as_json=as_json,
        nothing="the queue is empty" if choice is None and not after else "nothing of that waits",
    )


@queue.command("show")
def queue_show(mail: MailArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show all recipients of one mail."""
    key = mail_id(mail)
    found = with_databases(config, lambda databases, _: _there(mail, verbs.show(databases.mail, key)))
    show((_row(each) for each in found), COLUMNS, as_json=as_json)


@queue.command("count")
def queue_count(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    destination: DestinationOption = "",
    sender: SenderOption = None,
) -> None:
    """Count what waits, or what of it goes to a destination or comes from a sender."""
    choice = _choice(destination, sender)
    found = with_databases(config, lambda databases, _: _count(databases, choice))
    row = (found.recipients, found.mails, found.held, found.under_way)
    show([row], ("Recipients", "Mails", "Held", "Under way"), as_json=as_json)


@queue.command("destinations")
def queue_destinations(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    most: Annotated[int, typer.Option("--most", help="Destinations at the most.")] = 100,
) -> None:
    """List where the waiting mail goes, the largest heap first."""

    async def work(databases: Databases, settings: Config) -> tuple[tuple[Destination, ...], tuple[Pause, ...]]:
        found = await destinations.destinations(databases.mail, now(), most=most)
        return found, await destinations.pauses(databases.mail)

    found, paused = with_databases(config, work)
    if not as_json:
        for each in paused:
            what = "all outbound mail" if each.destination == EVERYTHING else each.destination
            say(f"paused since {moment(each.since)}: {what}" + (f" ({each.why})" if each.why else ""))
    show(map(_destination, found), DESTINATION_COLUMNS, as_json=as_json, nothing="the queue is empty")


@queue.command("retry")
def queue_retry(
    mail: Annotated[str, typer.Argument(help="The mail's id; without one, all.")] = "",
    config: ConfigOption = None,
    destination: DestinationOption = "",
    everything: AllOption = False,
) -> None:
    """Try now: one mail, all for one destination, or all that waits."""
    if bool(mail) + bool(destination) + everything > 1:
        fail("give an id, --destination or --all: one of them")
    key = mail_id(mail) if mail else None

    async def work(databases: Databases, settings: Config) -> int:
        if key is not None:
            return await verbs.retry(databases.mail, key, now())
        if destination:
            return await verbs.retry_destination(databases.mail, destination, now())
        return await verbs.retry_all(databases.mail, now())

    say(f"{with_databases(config, work)} recipients are due now")


@queue.command("hold")
def queue_hold(
    mail: Annotated[str, typer.Argument(help="The mail's id.")] = "",
    config: ConfigOption = None,
    destination: DestinationOption = "",
    sender: SenderOption = None,
) -> None:
    """Keep a mail, or all of a destination or a sender that waits now, until it is released."""
    key, choice = _one_of(mail, destination, sender)

    async def work(databases: Databases, settings: Config) -> int:
        if choice is not None:
            return await verbs.hold_chosen(databases.mail, choice)
        return await verbs.hold(databases.mail, key)

    say(f"{with_databases(config, work)} recipients held")


@queue.command("release")
def queue_release(
    mail: Annotated[str, typer.Argument(help="The mail's id.")] = "",
    config: ConfigOption = None,
    destination: DestinationOption = "",
    sender: SenderOption = None,
) -> None:
    """Let mail go that is held, or waits for the time its sender gave; or all held of a destination or a sender."""
    key, choice = _one_of(mail, destination, sender)

    async def work(databases: Databases, settings: Config) -> int:
        if choice is not None:
            return await verbs.release_chosen(databases.mail, choice, now())
        return await verbs.release(databases.mail, key, now())

    say(f"{with_databases(config, work)} recipients released")


@queue.command("pause")
def queue_pause(
    destination: Annotated[str, typer.Argument(help="A destination, as `queue destinations` names it.")] = "",
    config: ConfigOption = None,
    everything: AllOption = False,
    why: Annotated[str, typer.Option("--why", help="A word for whoever finds it paused.")] = "",
) -> None:
    """Try nothing for a destination until it is resumed; what is being sent ends. Outlives a restart."""
    name = _paused_name(destination, everything)
    with_databases(config, lambda databases, _: destinations.pause(databases.mail, name, now(), why))
    say(f"{'all outbound mail' if everything else name} is paused")


@queue.command("resume")
def queue_resume(
    destination: Annotated[str, typer.Argument(help="A destination that is paused.")] = "",
    config: ConfigOption = None,
    everything: AllOption = False,
) -> None:
    """End a pause; what fell due in it is tried at once."""
    name = _paused_name(destination, everything)
    what = "all outbound mail" if everything else name
    if not with_databases(config, lambda databases, _: destinations.resume(databases.mail, name, now())):
        fail(f"{what} was not paused")
    say(f"{what} goes on")


@queue.command("redirect")
def queue_redirect(
    mail: MailArgument,
    address: Annotated[str, typer.Argument(help="The address that shall have it.")],
    config: ConfigOption = None,
    recipient: Annotated[
        str, typer.Option("--recipient", help="Which of the mail's recipients, where it has several.")
    ] = "",
) -> None:
    """Send what waits for one recipient to another address, as the rules route it."""
    key, new = mail_id(mail), parse_address(address)

    async def work(databases: Databases, settings: Config) -> Redirected:
        ruleset = await asyncio.to_thread(load_rules, settings.policy)
        policy = Policy(settings.policy, ruleset, own_names=(settings.hostname,))
        hasher = await asyncio.to_thread(Hasher, settings.accounts)
        directory = Directory(databases.mail, hasher, CLOCK, settings.accounts)
        try:
            return await redirect(databases.mail, policy, directory, key, new, now(), old=recipient)
        except NotThere:
            fail(f"{recipient or mail} is not in the queue, or is being sent at this moment")
        except Ambiguous as several:
            fail(f"{mail} waits for several: say which with --recipient ({several})")
        except NotOne as wrong:
            fail(str(wrong))
        except Refusal as refused:
            fail(f"{new} is refused by the rules: {refused.reply.text} ({refused.detail})")

    done = with_databases(config, work)
    say(f"{done.old} is {done.new} now, by {done.destination}")


@queue.command("bounce")
def queue_bounce(mail: MailArgument, config: ConfigOption = None) -> None:
    """Return a mail to its sender as undeliverable, now."""
    key = mail_id(mail)

    async def work(databases: Databases, settings: Config) -> int:
        try:
            return await verbs.give_back(databases.mail, key, now())
        except Untold:
            fail(f"{mail} has no sender who could be told: gatepost queue remove deletes it")

    count = with_databases(config, lambda databases, settings: _there(mail, work(databases, settings)))
    say(f"{count} recipients are returned to the sender")


@queue.command("remove")
def queue_remove(
    mail: Annotated[str, typer.Argument(help="The mail's id.")] = "",
    config: ConfigOption = None,
    destination: DestinationOption = "",
    sender: SenderOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a mail, or all of a destination or a sender, from the queue; nobody is told."""
    key, choice = _one_of(mail, destination, sender)

    async def work(databases: Databases, settings: Config) -> int:
        blobs = Blobs(databases.mail, settings.data_dir / "bodies")
        if choice is not None:
            return await verbs.remove_chosen(databases.mail, blobs, choice, now())
        return await verbs.remove(databases.mail, blobs, key, now())

    if choice is not None or dry_run:
        found = with_databases(config, lambda databases, _: _count_either(databases, mail, key, choice))
        say(f"{found.recipients} recipients of {found.mails} mails, {found.under_way} of them being sent now")
        if dry_run or not found.recipients:
            return
        if not yes:
            typer.confirm("Delete them, and tell nobody?", abort=True)
    removed = with_databases(config, lambda databases, settings: _there(mail, work(databases, settings)))
    say(f"{removed} recipients removed")


def mail_id(text: str) -> MailId:
    """Read an id that an operator typed."""
    try:
        return parse_id(text)
    except ValueError as wrong:
        fail(str(wrong))


def _choice(destination: str, sender: str | None) -> Choice | None:
    if not destination and sender is None:
        return None
    found = "" if sender in (None, "<>") else str(parse_address(str(sender)).key)
    return Choice(destination, None if sender is None else found)


def _one_of(mail: str, destination: str, sender: str | None) -> tuple[MailId, Choice | None]:
    """Read what is to be changed: a mail by its id, or a choice."""
    choice = _choice(destination, sender)
    if bool(mail) is (choice is not None):
        fail("give either an id, or --destination, --sender or both")
    return mail_id(mail) if mail else MailId(0), choice


def _paused_name(destination: str, everything: bool) -> str:
    if bool(destination) is everything:
        fail("name a destination, or say --all")
    return EVERYTHING if everything else destination


async def _there(mail: str, work: Awaitable[T]) -> T:
    try:
        return await work
    except NotThere:
        fail(f"{mail} is not in the queue")


async def _count(databases: Databases, choice: Choice | None) -> Counts:
    if choice is None:
        return await verbs.count(databases.mail)
    return await verbs.count_chosen(databases.mail, choice)


async def _count_either(databases: Databases, mail: str, key: MailId, choice: Choice | None) -> Counts:
    if choice is not None:
        return await verbs.count_chosen(databases.mail, choice)
    rows = await _there(mail, verbs.show(databases.mail, key))
    return Counts(len(rows), 1, sum(row.held for row in rows), sum(row.under_way for row in rows))


def _destination(each: Destination) -> tuple[object, ...]:
    return (
        each.name,
        each.waiting,
        each.held,
        moment(each.oldest),
        "" if each.next_due is None else moment(each.next_due),
        "" if each.rests_until is None else moment(each.rests_until),
        each.paused,
        each.last_error,
    )


def _waits(each: Waiting) -> str:
    return "for its time" if each.not_before and each.due == each.not_before else "waiting"


def _row(each: Waiting) -> tuple[object, ...]:
    waits = "paused" if each.paused else "under way" if each.under_way else _waits(each)
    state = "held" if each.held else waits
    due = "" if each.held or each.paused else moment(each.due)
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
