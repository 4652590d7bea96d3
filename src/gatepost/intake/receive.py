"""The one durable step: a whole mail becomes one unit, and only what was committed is acknowledged.

    body whole -> header checked -> judged -> prepared -> unit: bodies + mailboxes + queue + story -> COMMIT -> 250

There are at most two bodies: one with Return-Path for our mailboxes, one without for the queue (RFC 5321 §4.4).
Mailboxes are taken in the order of their ids, which keeps PostgreSQL from deadlocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gatepost.accounts.model import AccountId
from gatepost.aio.offload import offload
from gatepost.allowance.allowance import Ruling
from gatepost.base.address import Address, fold_domain
from gatepost.base.clock import Instant
from gatepost.base.envelope import Client, Envelope, Notify, Privacy, Recipient
from gatepost.base.ids import MailId, id_text
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.base.verdict import Action, Finding, Result, Verdict
from gatepost.codec.mail.date import format_date
from gatepost.codec.mail.header import Buffer, HeaderBlock
from gatepost.codec.mail.received import received_field
from gatepost.db.unit import NoRoom, NotCommitted, Notice, Step, Unit, Unmet
from gatepost.diary.story import Story, add
from gatepost.gate.friendly import Say, Standing
from gatepost.intake import author, content
from gatepost.intake.introduced import introduction_of
from gatepost.intake.ports import Services
from gatepost.intake.transaction import Accepted, Transaction
from gatepost.policy.action import Delivery, RouteKind, ToMailbox, ToRelay
from gatepost.queue import home, submit
from gatepost.queue.bounce import Filed
from gatepost.store import flags, sql
from gatepost.store.describe import describe
from gatepost.store.message import append_notice, append_steps
from gatepost.store.model import INBOX, MailboxId, NoSuchMailbox

DESCRIBE_HERE_OCTETS: Final = 32 * 1024
"""Larger mails are parsed in a thread."""

JUNK_MAILBOX: Final = "Junk"

NO_ROOM: Final = Reply(Code.NO_STORAGE, "4.3.1", "Insufficient system storage")
NOT_NOW: Final = Reply(Code.LOCAL_ERROR, "4.3.0", "Temporary error, try again later")
MAILBOX_FULL: Final = Reply(Code.NO_STORAGE, "4.2.2", "Mailbox full")


@dataclass(frozen=True, slots=True)
class Whole:
    """A mail whose body is complete. `judged`: it comes from somebody whose mail is examined."""

    client: Client
    account: AccountId | None
    envelope: Envelope
    accepted: Sequence[Accepted]
    raw: Buffer
    judged: bool
    answers: Sequence[Standing] = ()
    """What the gate said of its recipients."""


_GRANTED: Final = Ruling(())
TOO_MUCH_HELD: Final = Reply(
    Code.NO_STORAGE, "4.7.1", "You have sent very much, and much of it is held already: ask the postmaster"
)
_LIMIT_TEXT: Final = """\
{user} has sent more mail than an account here usually may:

    {why}.

What is more is kept and not sent, until the postmaster looks at it. Nothing is
lost, and mail to people of this server goes on as ever.

If you did not send so much yourself, somebody else has your password: change
it now, and tell the postmaster.

For the postmaster:
    gatepost user limits {user}            how much it sent, and what is held
    gatepost queue list --sender {user}    what that is
    gatepost user limits {user} --release  send it
    gatepost user passwd {user}            if it was somebody else
"""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A mail that is taken, but for its storing. `trace` is what goes on top, without Return-Path."""

    whole: Whole
    trace: bytes
    content: Buffer
    verdict: Verdict
    now: Instant


async def receive(services: Services, whole: Whole) -> Reply:
    """Store a mail for all its recipients; return the 250, or raise Refusal or NotCommitted."""
    ready = await _judge(services, whole)
    await _store(services, ready, ready.whole.envelope, whole.accepted)
    _tell_gate(services, ready)
    return _taken(services, ready, whole.envelope)


async def receive_each(services: Services, whole: Whole) -> list[Reply]:
    """Store a mail for each recipient that can have it; return one reply for each (LMTP, RFC 2033 §4.2)."""
    ready = await _judge(services, whole)
    try:
        await _store(services, ready, ready.whole.envelope, whole.accepted)
    except Unmet:
        if len(whole.accepted) > 1:
            return [await _store_alone(services, ready, each) for each in whole.accepted]
        raise
    return [_taken(services, ready, whole.envelope)] * len(whole.accepted)


def reply_for(problem: NotCommitted) -> Reply:
    """Return what is said when a unit was not committed: always temporary, nothing is lost."""
    match problem:
        case NoRoom():
            return NO_ROOM
        case Unmet(statement=sql.KEEP_QUOTA.name):
            return MAILBOX_FULL
        case _:
            return NOT_NOW


def whole_of(transaction: Transaction, client: Client, account: AccountId | None, *, judged: bool) -> Whole:
    """Return the mail of a transaction whose body has ended."""
    assert transaction.spool is not None
    envelope, answers = transaction.envelope(), tuple(transaction.answers)
    return Whole(client, account, envelope, transaction.accepted, transaction.spool.view(), judged, answers)


async def _judge(services: Services, whole: Whole) -> _Ready:
    now = services.clock.now()
    header = HeaderBlock.parse(whole.raw)
    if whole.account is not None:
        await author.check_header(services, whole.account, whole.client.user, header)
    content.check_header(header, max_hops=services.settings.max_hops)
    if content.TLS_REQUIRED in header:
        whole = _with_tls_wish(whole, header)
    if whole.judged and not (whole.account is not None and whole.envelope.sender and b"from" not in header):
        content.check_author(header)
    verdict = await _verdict(services, whole, header, now)
    if not services.gate.excused(whole.answers, verdict.findings, whole.client):
        answer = next(each for each in whole.answers if each.say is Say.CONTENT)
        raise Refusal(answer.reply(whole.envelope.id), detail=f"greylist: no signature excuses {answer.identity}")
    trace = verdict.header + received_field(whole.client, services.hostname, whole.envelope, now)
    if whole.account is None and not whole.client.local_user:
        taken = content.prepare_received(whole.raw, header, verdict.strip)
        custody = await _vouched(services, whole, header, verdict, now)
        return _Ready(whole, custody + trace, taken, verdict, now)
    origin = content.Origin(whole.envelope.id, services.hostname, whole.envelope.sender)
    prepared = content.prepare_submitted(whole.raw, header, verdict.strip, origin, now)
    if len(prepared.content) > DESCRIBE_HERE_OCTETS:
        prepared = await offload(content.in_short_lines, prepared)
    else:
        prepared = content.in_short_lines(prepared)
    seal = await _sealed(services, prepared, now)
    return _Ready(whole, seal + trace, prepared.content, verdict, now)


def _with_tls_wish(whole: Whole, header: HeaderBlock) -> Whole:
    """Note what a TLS-Required field says, which REQUIRETLS goes before (RFC 8689 §4.1)."""
    wishes = whole.envelope.wishes
    if wishes.privacy is Privacy.REQUIRED or not content.waives_tls(header):
        return whole
    return replace(whole, envelope=replace(whole.envelope, wishes=replace(wishes, privacy=Privacy.WAIVED)))


def _tell_gate(services: Services, ready: _Ready) -> None:
    """Tell the gate who had a wanted mail accepted, and whom our users wrote to."""
    whole = ready.whole
    if whole.answers and ready.verdict.action is Action.ACCEPT:
        services.gate.accepted(whole.answers, ready.verdict.findings)
    if whole.account is not None:
        relays = (each for accepted in whole.accepted for each in accepted.deliveries if isinstance(each, ToRelay))
        services.gate.wrote([each.recipient for each in relays])


async def _verdict(services: Services, whole: Whole, header: HeaderBlock, now: Instant) -> Verdict:
    if not whole.judged:
        return Verdict(Action.ACCEPT)
    raw = bytes(whole.raw) if not isinstance(whole.raw, bytes) else whole.raw
    verdict = await services.judge.examine(whole.client, whole.envelope, raw, header, now)
    if verdict.action is Action.DEFER:
        name = id_text(whole.envelope.id)
        raise Refusal(Reply(Code.LOCAL_ERROR, "4.7.1", f"{name} cannot be judged now, try again later"))
    if verdict.action is Action.REFUSE and not all(each.role for each in whole.accepted):
        name = id_text(whole.envelope.id)
        if verdict.refusal:
            raise Refusal(Reply(Code.NO_SUCH_MAILBOX, "5.7.1", f"{name} refused: {verdict.refusal}"))
        detail = f"score {verdict.score:.1f}: " + " ".join(verdict.reasons)
        raise Refusal(Reply(Code.NO_SUCH_MAILBOX, "5.7.1", f"{name} refused as unwanted"), detail=detail)
    return verdict


async def _sealed(services: Services, prepared: content.Prepared, now: Instant) -> bytes:
    writer = next((each for each in content.authors(prepared.header) if each is not None), None)
    if writer is None:
        return b""
    octets, header = prepared.content, prepared.header
    fields = [(field.name, octets[field.start : field.end]) for field in header.fields]
    return await services.seal.seal(fields, octets[header.end :], writer.domain, now)


async def _vouched(services: Services, whole: Whole, header: HeaderBlock, verdict: Verdict, now: Instant) -> bytes:
    """Return the ARC set of a stranger's mail that one of our addresses sends on (RFC 8617)."""
    going_on = (each for each in whole.accepted if any(isinstance(where, ToRelay) for where in each.deliveries))
    forwarder = next(going_on, None)
    if forwarder is None or verdict.custody is None:
        return b""
    raw = bytes(whole.raw)
    fields = [(field.name.lower(), raw[field.start : field.end]) for field in header.fields]
    domain = forwarder.recipient.address.domain
    return await services.seal.vouch(fields, raw[header.end :], domain, verdict.custody, now)


async def _store_alone(services: Services, ready: _Ready, accepted: Accepted) -> Reply:
    """Store the mail for one recipient under an id of its own."""
    whole = ready.whole.envelope
    envelope = replace(whole, id=services.minter.mint(ready.now), recipients=(accepted.recipient,))
    try:
        await _store(services, ready, envelope, (accepted,))
    except NotCommitted as problem:
        return reply_for(problem)
    return _taken(services, ready, envelope)


async def _store(services: Services, ready: _Ready, envelope: Envelope, accepted: Sequence[Accepted]) -> None:
    """Commit the unit of one mail; raises NotCommitted."""
    junk = ready.verdict.action in (Action.JUNK, Action.REFUSE)
    waits = envelope.wishes.not_before > ready.now
    local, relays, origins = _split([_waiting(each, junk=junk) for each in accepted] if waits else accepted)
    steps: list[Step] = []
    notices: list[Notice] = []
    if local:
        boxes = {await _mailbox(services, each, junk=junk): each for each in local}
        body = services.minter.mint(ready.now) if relays else envelope.id
        stored = b"".join((content.return_path(envelope.sender), ready.trace, ready.content))
        steps += await services.bodies.put(body, stored, len(boxes))
        steps += await _append(stored, body, boxes, ready, envelope.id, junk=junk)
        notices += [append_notice(mailbox) for mailbox in boxes]
        told = await _delivered(services, ready, envelope, accepted)
        steps += told.steps
        notices += told.notices
    steps += _story(ready, envelope, accepted).steps()
    if relays:
        await _queue(services, ready, envelope, relays, origins, steps, notices)
    else:
        await services.database.commit(Unit(tuple(steps), tuple(notices)))


async def _queue(
    services: Services,
    ready: _Ready,
    envelope: Envelope,
    relays: Sequence[ToRelay],
    origins: Sequence[Recipient],
    steps: Sequence[Step],
    notices: Sequence[Notice],
) -> None:
    """Commit a unit and the queue's rows in it; the worker here sends at once what it has offered a place."""
    sent = ready.trace + ready.content
    stored = await services.bodies.put(envelope.id, sent, len(relays))
    queue = services.queue
    where = [relay.route.destination(relay.recipient) for relay in relays]
    waits = envelope.wishes.not_before > ready.now
    ruling = await _ruling(services, ready, envelope, relays)
    offer = queue.offer(where, len(sent)) if queue is not None and not waits and not ruling.why else None
    returnable = _known_sender(ready)
    rows = submit.submit_steps(
        envelope,
        envelope.id,
        relays,
        ready.now,
        origins=origins,
        returnable=returnable,
        offer=offer,
        client=introduction_of(ready.whole.client, envelope.id),
    )
    unit = (*steps, *stored, *rows, *ruling.steps)
    if ruling.why:
        held = (submit.hold_step(envelope.id, f"held: {ruling.why}"), _held_line(envelope, ruling, ready.now))
        await services.database.commit(Unit((*unit, *held), (*notices, submit.NOTICE)))
        await _tell_of_limit(services, ready, ruling)
        return
    if queue is None or offer is None:
        await services.database.commit(Unit(unit, (*notices, submit.NOTICE)))
        return
    try:
        await services.database.commit(Unit(unit, tuple(notices)))
    except BaseException:
        queue.withdraw(offer)
        raise
    await queue.take(offer, rows, sent)


async def _ruling(services: Services, ready: _Ready, envelope: Envelope, relays: Sequence[ToRelay]) -> Ruling:
    """Return what the account's allowance says of a mail; raises Refusal where nothing more is even held."""
    account, elsewhere = ready.whole.account, sum(not each.route.quick for each in relays)
    if account is None or not elsewhere or services.allowance is None:
        return _GRANTED
    ruling = await services.allowance.rule(account, envelope.id, elsewhere, ready.now)
    if ruling.full:
        raise Refusal(TOO_MUCH_HELD, detail=ruling.why)
    return ruling


def _held_line(envelope: Envelope, ruling: Ruling, now: Instant) -> Step:
    return add(envelope.id, "intake", "held", at=now, why=ruling.why)


async def _tell_of_limit(services: Services, ready: _Ready, ruling: Ruling) -> None:
    """Tell the user and the postmaster, once until somebody has let the mail go."""
    user, account = ready.whole.client.user, ready.whole.account
    services.log.warning("sending_limit", user=user, message=id_text(ready.whole.envelope.id), why=ruling.why)
    if services.letters is not None:
        local, _, domain = user.rpartition("@")
        text = _LIMIT_TEXT.format(user=user, why=ruling.why)
        subject = f"{user} has sent very much: mail is held"
        await services.letters.begin(f"sending:{account}", subject, text, [Address(local, domain)])


async def _delivered(services: Services, ready: _Ready, envelope: Envelope, accepted: Sequence[Accepted]) -> Filed:
    """Return the report to a sender that wished to hear of success; nothing for one that may be forged.

    Who was expanded to somebody elsewhere is reported by the queue.
    """
    reached = [
        each.recipient
        for each in accepted
        if each.recipient.notify is not None
        and Notify.SUCCESS in each.recipient.notify
        and all(isinstance(delivery, ToMailbox) for delivery in each.deliveries)
    ]
    if not reached or services.reports is None or envelope.sender is None or not _known_sender(ready):
        return Filed(())
    header = bytes(ready.content[: HeaderBlock.parse(ready.content).fields_end])
    return await services.reports.delivered(envelope, reached, header, ready.now)


def _split(accepted: Sequence[Accepted]) -> tuple[list[ToMailbox], list[ToRelay], list[Recipient]]:
    """Part the deliveries of all recipients, each place once; each relay with the recipient it comes from."""
    local: dict[tuple[AccountId, str], ToMailbox] = {}
    relays: dict[object, tuple[ToRelay, Recipient]] = {}
    for each in accepted:
        for delivery in each.deliveries:
            match delivery:
                case ToMailbox(account=account, mailbox_name=name):
                    local.setdefault((account, name), delivery)
                case ToRelay(recipient=recipient, route=route):
                    who = "" if route.kind is RouteKind.MAILBOX else recipient.key
                    relays.setdefault((who, route), (delivery, each.recipient))
    return list(local.values()), [relay for relay, _ in relays.values()], [origin for _, origin in relays.values()]


def _waiting(accepted: Accepted, *, junk: bool) -> Accepted:
    """Return a recipient whose mail has to wait: also what is for mailboxes here goes through the queue."""
    deliveries = (
        home.waiting(each, _name(each, junk=junk)) if isinstance(each, ToMailbox) else each
        for each in accepted.deliveries
    )
    return replace(accepted, deliveries=tuple(deliveries))


def _name(delivery: ToMailbox, *, junk: bool) -> str:
    return JUNK_MAILBOX if junk and delivery.mailbox_name == INBOX else delivery.mailbox_name


async def _mailbox(services: Services, delivery: ToMailbox, *, junk: bool) -> MailboxId:
    """Return where a delivery goes: what the policy named where there is one, else the INBOX."""
    name = _name(delivery, junk=junk)
    if name != INBOX:
        try:
            return (await services.mailboxes.find(delivery.account, name)).id
        except NoSuchMailbox:
            pass
    try:
        return await services.mailboxes.inbox(delivery.account)
    except NoSuchMailbox as gone:
        raise Refusal(NOT_NOW, detail=f"account {delivery.account} has no INBOX") from gone


async def _append(
    stored: bytes,
    body: MailId,
    boxes: Mapping[MailboxId, ToMailbox],
    ready: _Ready,
    message: MailId,
    *,
    junk: bool,
) -> list[Step]:
    if len(stored) > DESCRIBE_HERE_OCTETS:
        listing = await offload(describe, stored, ready.now)
    else:
        listing = describe(stored, ready.now)
    mask = flags.JUNK if junk else 0
    steps: list[Step] = []
    for mailbox in sorted(boxes):
        steps += append_steps(mailbox, body, listing, mask, ready.now, message, boxes[mailbox].quota)
    return steps


def _known_sender(ready: _Ready) -> bool:
    """Tell whether a report of failure would reach the one who wrote, not somebody who was forged."""
    client = ready.whole.client
    if client.user or client.loopback:
        return True
    sender = ready.whole.envelope.sender
    domain = "" if sender is None else fold_domain(sender.domain)
    return any(_proves(each, domain) for each in ready.verdict.findings)


def _proves(finding: Finding, domain: str) -> bool:
    """Tell whether a result speaks for the domain of the sender: SPF does, DKIM for what it signed as."""
    if finding.result is not Result.PASS:
        return False
    signer = fold_domain(finding.domain)
    return finding.method == "spf" or (signer != "" and (domain == signer or domain.endswith(f".{signer}")))


def _story(ready: _Ready, envelope: Envelope, accepted: Sequence[Accepted]) -> Story:
    story = begin_story(ready.whole.client, envelope)
    for each in accepted:
        story.for_recipient(each.recipient.address)
        for delivery in each.deliveries:
            story.tell("policy", _way(delivery), recipient=str(each.recipient.address))
    verdict = ready.verdict
    results = " ".join(f"{each.method}={each.result.value}" for each in verdict.findings)
    if ready.whole.judged:
        score = f"{verdict.score:.1f}"
        story.tell("judge", verdict.action.value, results=results, score=score, rules=" ".join(verdict.reasons))
    story.tell("intake", "accepted", at=ready.now, size=len(ready.whole.raw))
    return story


def begin_story(client: Client, envelope: Envelope) -> Story:
    """Return the story of a mail with its first line: who brought it."""
    story = Story(envelope.id, envelope.sender)
    fields = {"ip": client.ip, "helo": client.helo, "listener": client.listener}
    if client.rdns:
        fields["rdns"] = client.rdns
    if client.user:
        fields["user"] = client.user
    if client.local_user:
        fields["local_user"] = client.local_user
    if client.via:
        fields["via"] = client.via
    if client.ident:
        fields["ident"] = client.ident
    if client.tls is not None:
        fields["tls"] = f"{client.tls.version} {client.tls.cipher}"
        if client.tls.client_name:
            fields["certificate"] = client.tls.client_name
    if envelope.wishes.privacy is not Privacy.USUAL:
        fields["privacy"] = envelope.wishes.privacy.value
    if envelope.wishes.not_before:
        fields["not_before"] = format_date(envelope.wishes.not_before)
    if envelope.wishes.by is not None:
        fields["deliver_by"] = format_date(envelope.wishes.by.at)
    if envelope.wishes.priority:
        fields["priority"] = str(envelope.wishes.priority)
    sender = "<>" if envelope.sender is None else str(envelope.sender)
    story.tell("intake", "mail", at=envelope.received_at, sender=sender, **fields)
    return story


def _way(delivery: Delivery) -> str:
    match delivery:
        case ToMailbox():
            return "mailbox"
        case ToRelay():
            return "relay"


def _taken(services: Services, ready: _Ready, envelope: Envelope) -> Reply:
    name = id_text(envelope.id)
    whole = ready.whole
    sender = "<>" if envelope.sender is None else str(envelope.sender)
    services.log.info(
        "mail_accepted",
        message=name,
        sender=sender,
        recipients=len(envelope.recipients),
        size=len(whole.raw),
        ip=whole.client.ip,
    )
    return Reply(Code.OK, "2.0.0", f"{name} accepted")
