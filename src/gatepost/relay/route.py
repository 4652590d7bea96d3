"""Find the machines that take a mail: MX records and all that replaces them (RFC 5321 §5.1).

    domain ->  MX records            hosts by preference, equal ones in random order; those from our own preference
                                     on are dropped (a backup only hands on to better ones)
               none (NODATA)         the domain's own addresses (implicit MX); without any, 550 5.1.2
               null MX               556 5.1.10 (RFC 7505)
               NXDOMAIN              550 5.1.2
               SERVFAIL, silence     451 4.4.3: the mail waits

A next hop that is ourselves is "mail loops back to myself": 5.4.6. Loopback, unspecified and multicast addresses
are nobody's mail server and are refused where a stranger's DNS names them, never where our own settings do.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, Protocol

from gatepost.aio.dns import Mx
from gatepost.aio.resolve import Answer, Status
from gatepost.base.address import fold_domain
from gatepost.base.reply import Code, Reply
from gatepost.policy.action import Route, RouteKind
from gatepost.relay.connect import in_turn, sendable
from gatepost.relay.settings import RelaySettings

ADDRESSES_MAX: Final = 6  # of one host in one run

NULL_MX: Final = Reply(Code.NULL_MX, "5.1.10", "Domain does not accept mail (null MX)")  # RFC 7505 §4.2
NO_DOMAIN: Final = Reply(Code.NO_SUCH_MAILBOX, "5.1.2", "Domain does not exist")
NO_HOST: Final = Reply(Code.LOCAL_ERROR, "4.4.4", "No mail server of the domain has an address")
BAD_LITERAL: Final = Reply(Code.NO_SUCH_MAILBOX, "5.1.2", "Malformed address literal")
DNS_FAILED: Final = Reply(Code.LOCAL_ERROR, "4.4.3", "Temporary failure in MX lookup")
NO_SERVER: Final = Reply(Code.NO_SUCH_MAILBOX, "5.1.2", "Domain has neither mail servers nor an address")
NO_SOURCE: Final = Reply(Code.LOCAL_ERROR, "4.4.4", "No source address of the family of its mail servers")
LOOPS: Final = Reply(Code.FAILED, "5.4.6", "Mail loops back to myself")


class Resolver(Protocol):
    """What the routes ask the DNS."""

    async def mx(self, name: str) -> Answer[Mx]:
        """Return MX records by preference; a null MX is one with host ""."""
        ...

    async def a(self, name: str) -> Answer[str]:
        """Return IPv4 addresses."""
        ...

    async def aaaa(self, name: str) -> Answer[str]:
        """Return IPv6 addresses."""
        ...


@dataclass(frozen=True, slots=True)
class Hop:
    """One machine to try: `name` is what its certificate must say, `ip` an address or a Unix socket's path.

    `others` are more addresses of it, in the order in which they are tried. `secure`: DNSSEC-validated MX records
    led here; `domain` is then the name they stand under, aliases followed.
    """

    name: str
    ip: str
    port: int
    secure: bool = False
    domain: str = ""
    others: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return all its addresses."""
        return self.ip, *self.others

    def at(self, addresses: Sequence[str]) -> "Hop":
        """Return the same machine with these addresses, at least one."""
        return replace(self, ip=addresses[0], others=tuple(addresses[1:]))


@dataclass(frozen=True, slots=True)
class _Hosts:
    names: Sequence[str]
    secure: bool = False
    domain: str = ""


class NoRoute(Exception):
    """There is nowhere to send it to, now or ever; `reply` says which."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


class Router:
    """Find next hops. `own_names` and `own_ips` are this machine's: it never sends to itself."""

    def __init__(
        self,
        settings: RelaySettings,
        resolver: Resolver,
        *,
        own_names: Sequence[str] = (),
        own_ips: Sequence[str] = (),
        shuffle: Callable[[list[Mx]], None],
    ) -> None:
        """Make a router; `shuffle` orders hosts of equal preference (RFC 5321 §5.1: "MUST randomize")."""
        self._settings = settings
        self._resolver = resolver
        self._own_names = frozenset(fold_domain(name) for name in own_names)
        self._own_ips = frozenset(own_ips)
        self._shuffle = shuffle

    async def hops(self, route: Route, destination: str) -> AsyncGenerator[Hop, None]:
        """Yield the machines to try, best first; raises NoRoute, before the first or when none was any good."""
        if route.kind is RouteKind.HOST:
            hosts, port, ours = _Hosts([route.host]), route.port or _usual_port(route), True
        else:
            hosts, port, ours = await self._mail_hosts(destination), self._settings.port, False
        found, looped, failed, unfit = False, False, False, False
        for host in hosts.names:
            addresses, broken = await self._addresses(host)
            failed |= broken
            usable = [ip for ip in addresses if ours or not self._is_own(ip)]
            looped |= len(usable) < len(addresses)
            fitting = usable if host.startswith("/") else sendable(usable, route.sources or self._settings.source)
            unfit |= len(fitting) < len(usable)
            if fitting:
                found = True
                ip, *others = fitting[:ADDRESSES_MAX]
                yield Hop(host, ip, port, hosts.secure, hosts.domain, tuple(others))
        if not found:
            implicit = not ours and list(hosts.names) == [destination]
            raise NoRoute(
                DNS_FAILED
                if failed
                else NO_SOURCE
                if unfit
                else LOOPS
                if looped
                else NO_SERVER
                if implicit
                else NO_HOST
            )

    async def _mail_hosts(self, domain: str) -> _Hosts:
        if domain.startswith("["):
            return _Hosts([_literal(domain)])
        answer = await self._resolver.mx(domain)
        match answer.status:
            case Status.SERVFAIL:
                raise NoRoute(DNS_FAILED)
            case Status.NXDOMAIN:
                raise NoRoute(NO_DOMAIN)
            case Status.NODATA:
                return _Hosts([domain])
            case Status.OK:
                return _Hosts(self._best_hosts(answer.records), answer.secure, answer.name if answer.secure else "")

    def _best_hosts(self, records: Sequence[Mx]) -> list[str]:
        if all(mx.host in ("", ".") for mx in records):
            raise NoRoute(NULL_MX)
        own = min((mx.preference for mx in records if fold_domain(mx.host) in self._own_names), default=None)
        better = [mx for mx in records if mx.host not in ("", ".") and (own is None or mx.preference < own)]
        if not better:
            raise NoRoute(LOOPS)
        self._shuffle(better)
        better.sort(key=lambda mx: mx.preference)  # stable: equal ones keep their random order
        return [mx.host for mx in better[: self._settings.hosts]]

    async def _addresses(self, host: str) -> tuple[list[str], bool]:
        """Return a host's addresses, both families in turn, and whether a question failed."""
        if host.startswith("/"):
            return [host], False
        try:
            return [str(ip_address(host))], False
        except ValueError:
            pass
        six, four = await asyncio.gather(self._resolver.aaaa(host), self._resolver.a(host))
        return in_turn(six.records, four.records), six.temporary or four.temporary

    def _is_own(self, text: str) -> bool:
        """Tell whether an address is this machine, or nobody's."""
        if text in self._own_ips:
            return True
        ip = ip_address(text)
        mapped = getattr(ip, "ipv4_mapped", None)
        ip = mapped or ip
        if ip.is_loopback:
            return not self._settings.allow_loopback
        return ip.is_unspecified or ip.is_multicast or str(ip) in self._own_ips


def _usual_port(route: Route) -> int:
    if route.lmtp:
        return 24  # RFC 2033 §5 forbids 25
    return 465 if route.implicit_tls else 25  # RFC 8314 §3.3


def _literal(domain: str) -> str:
    text = domain.strip("[]")
    if text[:5].lower() == "ipv6:":
        text = text[5:]
    try:
        return str(ip_address(text))
    except ValueError:
        raise NoRoute(BAD_LITERAL) from None
