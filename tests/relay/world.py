"""The relay's surroundings for tests: a log that remembers, names without a DNS, a relay that talks to one hop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gatepost.aio.clock import SystemClock
from gatepost.aio.dns import Mx
from gatepost.aio.resolve import Answer, Status
from gatepost.aio.tls import client_context
from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.envelope import Recipient
from gatepost.base.ids import MailId
from gatepost.base.units import Seconds
from gatepost.policy.action import Route
from gatepost.relay.client import Login
from gatepost.relay.deliver import Logins, Relay, TlsContexts
from gatepost.relay.model import Consignment
from gatepost.relay.route import Router
from gatepost.relay.settings import RelaySettings

MAIL = b"Subject: hello\r\nFrom: <ann@here.example>\r\n\r\n.dots\r\nbody\r\n"
QUICK = RelaySettings(
    allow_loopback=True,
    idle=Seconds(0),
    connect_time=Seconds(2),
    greeting_time=Seconds(2),
    command_time=Seconds(2),
    tls_time=Seconds(2),
    data_time=Seconds(2),
    block_time=Seconds(2),
    end_time=Seconds(2),
)


@dataclass
class Journal:
    """A log that remembers."""

    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def _note(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    debug = info = warning = error = exception = _note

    def words(self) -> list[str]:
        """Return the event words."""
        return [event for event, _ in self.events]


@dataclass
class Names:
    """A DNS made of a table: name -> {"mx": [(preference, host)], "a": [...], "aaaa": [...]} or a Status."""

    table: Mapping[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def _answer(self, name: str, kind: str) -> Answer[Any]:
        self.asked.append(f"{kind} {name}")
        known = self.table.get(name, Status.NXDOMAIN)
        if isinstance(known, Status):
            return Answer((), False, known)
        records = known.get(kind, ())
        if isinstance(records, Status):
            return Answer((), False, records)
        return Answer(tuple(records), False, Status.OK if records else Status.NODATA)

    async def mx(self, name: str) -> Answer[Mx]:
        answer = self._answer(name, "mx")
        records = tuple(sorted((Mx(*each) for each in answer.records), key=lambda mx: mx.preference))
        return replace(answer, records=records)

    async def a(self, name: str) -> Answer[str]:
        return self._answer(name, "a")

    async def aaaa(self, name: str) -> Answer[str]:
        return self._answer(name, "aaaa")


@dataclass
class Contacts:
    """Remembers whom we mailed."""

    ips: list[str] = field(default_factory=list)

    def contacted(self, ip: str) -> None:
        self.ips.append(ip)


def router(
    names: Names, settings: RelaySettings = QUICK, *, own_names: Sequence[str] = (), own_ips: Sequence[str] = ()
) -> Router:
    """A router whose hosts of equal preference keep their order."""
    return Router(settings, names, own_names=own_names, own_ips=own_ips, shuffle=lambda _: None)


def relay(
    port: int,
    names: Names | None = None,
    settings: RelaySettings = QUICK,
    *,
    log: Journal | None = None,
    contacts: Contacts | None = None,
    logins: Mapping[str, Login] | None = None,
    contexts: TlsContexts | None = None,
    operator: Logins | None = None,
    shown: Callable[[Address, Instant], Address] | None = None,
) -> Relay:
    """A relay that finds there.example on loopback."""
    names = names or Names({"there.example": {"mx": [(10, "mx.there.example")]}, "mx.there.example": LOOPBACK})
    return Relay(
        replace(settings, port=port),
        router(names, replace(settings, port=port)),
        contexts or TlsContexts(any=client_context(False), verify=client_context(True)),
        hostname="here.example",
        clock=SystemClock(),
        log=log or Journal(),
        contacts=contacts,
        logins=logins,
        operator=operator,
        shown=shown,
    )


LOOPBACK = {"a": ["127.0.0.1"]}


def consignment(
    *to: str,
    content: bytes = MAIL,
    sender: str | None = "ann@here.example",
    route: Route | None = None,
    **more: Any,
) -> Consignment:
    """A mail from ann@here.example; a consignment's other fields by name."""

    async def load() -> bytes:
        return content

    recipients = tuple(Recipient(address(each)) for each in to or ("bob@there.example",))
    recipients = more.pop("recipients", recipients)
    return Consignment(
        MailId(1), None if sender is None else address(sender), recipients, route or Route(), load, **more
    )


def address(text: str) -> Address:
    """Read local@domain."""
    local, _, domain = text.rpartition("@")
    return Address(local, domain)
