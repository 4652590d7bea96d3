"""A mail that waits and its recipients, and how both are packed into their rows.

Packed rows are MessagePack arrays read into typed values; a later version may add fields at the end, which an
earlier one ignores.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgspec

from gatepost.base.address import Address, ReversePath
from gatepost.base.clock import Instant
from gatepost.base.envelope import NO_WISHES, DeliverBy, Envelope, Notify, Privacy, Recipient, Wishes
from gatepost.base.ids import MailId
from gatepost.codec.smtp.xforward import Forwarded, Source
from gatepost.policy.action import RelayTls, Route, RouteKind


class Kind(IntEnum):
    """What a waiting mail is."""

    MAIL = 0
    BOUNCE = 1


@dataclass(frozen=True, slots=True)
class QueuedMail:
    """A mail that waits. `returnable`: its sender may be told of failures, because it is surely the sender."""

    id: MailId
    body: MailId
    created: Instant
    kind: Kind
    recipients: int
    """How many it had at first."""
    sender: ReversePath
    eight_bit: bool
    smtputf8: bool
    ret: str
    envid: str
    returnable: bool
    size: int = 0
    """Octets of the body, 0 when not known."""
    client: Forwarded | None = None
    """Who gave it to us; kept where a route has `xforward`."""
    wishes: Wishes = NO_WISHES

    @property
    def begins(self) -> Instant:
        """Return from when its lifetime counts: its release, where its sender had it held back."""
        return max(self.created, self.wishes.not_before)


@dataclass(frozen=True, slots=True)
class QueuedRecipient:
    """One recipient of a waiting mail. `attempts` were made before; `suspect`: an earlier worker died at it."""

    mail: MailId
    position: int
    recipient: Recipient
    route: Route
    attempts: int = 0
    suspect: bool = False
    warned: bool = False
    urgency: int = 0
    """The mail's priority with its sign turned: what is lower goes first."""


class _Wishes(msgspec.Struct, array_like=True):
    privacy: str
    priority: int = 0
    by: tuple[int, bool, bool] | None = None
    not_before: int = 0


class _Mail(msgspec.Struct, array_like=True):
    sender: tuple[str, str] | None
    eight_bit: bool
    smtputf8: bool
    ret: str
    envid: str
    returnable: bool
    size: int
    client: tuple[str, str, int, str, str, str, str] | None = None
    wishes: _Wishes | None = None


class _Recipient(msgspec.Struct, array_like=True):
    local: str
    domain: str
    notify: list[str] | None
    orcpt: str
    route: tuple[str, str, int, str, bool, str, str, str, bool]
    xforward: bool = False
    srs: bool = False
    lifetime: int = 0


_ENCODER: Final = msgspec.msgpack.Encoder()
_MAIL: Final = msgspec.msgpack.Decoder(_Mail)
_RECIPIENT: Final = msgspec.msgpack.Decoder(_Recipient)


def pack_mail(envelope: Envelope, *, returnable: bool, size: int, client: Forwarded | None = None) -> bytes:
    """Pack what the row's columns do not say."""
    sender = None if envelope.sender is None else (envelope.sender.local, envelope.sender.domain)
    e, shown = envelope, None
    if client is not None:
        shown = (client.name, client.ip, client.port, client.proto, client.helo, client.ident, client.source.value)
    wishes = _packed_wishes(envelope.wishes)
    return _ENCODER.encode(_Mail(sender, e.eight_bit, e.smtputf8, e.ret, e.envid, returnable, size, shown, wishes))


def unpack_mail(mail: MailId, body: int, created: int, kind: int, recipients: int, packed: bytes) -> QueuedMail:
    """Read a row of queue_mail."""
    found = _MAIL.decode(packed)
    sender = None if found.sender is None else Address(*found.sender)
    return QueuedMail(
        mail,
        MailId(body),
        Instant(created),
        Kind(kind),
        recipients,
        sender,
        found.eight_bit,
        found.smtputf8,
        found.ret,
        found.envid,
        found.returnable,
        found.size,
        None if found.client is None else Forwarded(*found.client[:6], Source(found.client[6])),
        NO_WISHES if found.wishes is None else _wishes(found.wishes),
    )


def _packed_wishes(wishes: Wishes) -> _Wishes | None:
    if wishes is NO_WISHES:
        return None
    by = None if wishes.by is None else (wishes.by.at, wishes.by.returns, wishes.by.trace)
    return _Wishes(wishes.privacy.value, wishes.priority, by, wishes.not_before)


def _wishes(packed: _Wishes) -> Wishes:
    by = None if packed.by is None else DeliverBy(Instant(packed.by[0]), *packed.by[1:])
    return Wishes(Privacy(packed.privacy), packed.priority, by, Instant(packed.not_before))


def pack_recipient(recipient: Recipient, route: Route) -> bytes:
    """Pack a recipient and its route."""
    notify = None if recipient.notify is None else sorted(each.value for each in recipient.notify)
    way = (
        route.kind.value,
        route.host,
        route.port,
        route.tls.value,
        route.implicit_tls,
        route.auth,
        route.helo,
        route.source,
        route.lmtp,
    )
    address = recipient.address
    tail = (route.xforward, route.srs, route.lifetime)
    return _ENCODER.encode(_Recipient(address.local, address.domain, notify, recipient.orcpt, way, *tail))


def unpack_recipient(packed: bytes) -> tuple[Recipient, Route]:
    """Read what pack_recipient wrote."""
    found = _RECIPIENT.decode(packed)
    notify = None if found.notify is None else frozenset(Notify(each) for each in found.notify)
    kind, host, port, tls, implicit, auth, helo, source, lmtp = found.route
    tail = (found.xforward, found.srs, found.lifetime)
    route = Route(RouteKind(kind), host, port, RelayTls(tls), implicit, auth, helo, source, lmtp, *tail)
    return Recipient(Address(found.local, found.domain), notify, found.orcpt), route
