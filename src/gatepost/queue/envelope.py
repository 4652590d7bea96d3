"""The envelope of a waiting mail for people: a block a recipient, `key: value` lines as smtpd's envelope files."""

from collections.abc import Sequence

from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.base.envelope import DeliverBy, Notify, Privacy
from gatepost.base.ids import MailId, id_text
from gatepost.db.unit import Database, Row
from gatepost.policy.action import Route
from gatepost.queue.bounce import gives_up_at
from gatepost.queue.model import Kind, QueuedMail, unpack_mail, unpack_recipient
from gatepost.queue.settings import QueueSettings
from gatepost.queue.sql import ENVELOPE
from gatepost.queue.verbs import NotThere

Lines = tuple[tuple[str, str], ...]
UNREADABLE = "it cannot be read: damaged, or its key is missing"


async def envelopes(database: Database, mail: MailId, settings: QueueSettings) -> Sequence[Lines]:
    """Return the envelope of each waiting recipient of a mail, in order; raises NotThere.

    Times are seconds since 1970, as in smtpd's files; 0 is never. What does not apply is left out.
    """
    rows = await database.read(ENVELOPE, {"mail": mail})
    if not rows:
        raise NotThere(mail)
    return [_lines(mail, row, settings) for row in rows]


def _lines(mail: MailId, row: Row, settings: QueueSettings) -> Lines:
    body, created, kind, recipients, packed_mail, position, state, owner, due, attempts, suspect, warned, *rest = (
        row
    )
    last_try, lane, error, packed = rest
    lines: list[tuple[str, object]] = [("evpid", f"{id_text(mail)}/{_int(position)}")]
    queued = _unpacked(mail, body, created, kind, recipients, packed_mail)
    lines += _mail_lines(queued)
    lines += _recipient_lines(packed, queued, settings)
    held = _int(state) == 1
    flags = {"held": held, "under-way": bool(owner), "suspect": bool(suspect), "warned": bool(warned)}
    lines += [
        ("relay", lane),
        ("last-try", _when(last_try)),
        ("next-try", 0 if held else _when(due)),
        ("retry", attempts),
        ("flags", " ".join(name for name, is_set in flags.items() if is_set)),
        ("errorline", error),
    ]
    return tuple((name, str(value)) for name, value in lines if value != "")


def _mail_lines(mail: QueuedMail | None) -> list[tuple[str, object]]:
    if mail is None:
        return [("unreadable", UNREADABLE)]
    return [
        ("type", "bounce" if mail.kind is Kind.BOUNCE else "mta"),
        ("sender", "<>" if mail.sender is None else str(mail.sender)),
        ("ctime", _when(mail.created)),
        ("hold-until", _when(mail.wishes.not_before) or ""),
        ("size", mail.size or ""),
        ("body", "8bitmime" if mail.eight_bit else ""),
        ("smtputf8", "yes" if mail.smtputf8 else ""),
        ("dsn-envid", mail.envid),
        ("dsn-ret", mail.ret),
        ("deliver-by", _deliver_by(mail.wishes.by)),
        ("priority", mail.wishes.priority or ""),
        ("privacy", "" if mail.wishes.privacy is Privacy.USUAL else mail.wishes.privacy.value),
    ]


def _deliver_by(by: DeliverBy | None) -> str:
    return "" if by is None else f"{_when(by.at)};{'R' if by.returns else 'N'}{'T' if by.trace else ''}"


def _recipient_lines(packed: object, mail: QueuedMail | None, settings: QueueSettings) -> list[tuple[str, object]]:
    try:
        assert isinstance(packed, bytes)
        recipient, route = unpack_recipient(packed)
    except ValueError:
        return [("unreadable", UNREADABLE)]
    notify = recipient.notify
    expires = "" if mail is None else _when(gives_up_at(mail, _lifetime(mail, route, settings)))
    return [
        ("rcpt", str(recipient.address)),
        ("dsn-notify", "" if notify is None else ",".join(each.value for each in Notify if each in notify)),
        ("dsn-orcpt", recipient.orcpt),
        ("expire", expires),
        ("tls", route.tls.value),
    ]


def _lifetime(mail: QueuedMail, route: Route, settings: QueueSettings) -> int:
    return settings.lifetime_of(bounce=mail.kind is Kind.BOUNCE, route=route)


def _unpacked(mail: MailId, *columns: object) -> QueuedMail | None:
    body, created, kind, recipients, packed = columns
    assert isinstance(packed, bytes)
    try:
        return unpack_mail(mail, _int(body), _int(created), _int(kind), _int(recipients), packed)
    except ValueError:
        return None


def _when(instant: object) -> int:
    return Instant(_int(instant)) // MICROSECONDS


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
