"""Checks beyond records: what others hold against our addresses, the way out, the clock, certificates."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from gatepost.aio.resolve import Resolver
from gatepost.codec import sntp
from gatepost.codec.dnslist import complaint, listed, query_name
from gatepost.codec.mail.build import printable
from gatepost.codec.tlsa import matches_name
from gatepost.watch.finding import Finding, ok, problem, unknown, warning
from gatepost.watch.house import House, Unreadable

Server = tuple[str, int]

CONNECT_S: Final = 15.0
GREETING_S: Final = 30.0
TIME_S: Final = 5.0
CLOCK_WARNING: Final = 2.0  # s
CLOCK_PROBLEM: Final = 60.0
LAST_DAYS: Final = 7
TEXT_MAX: Final = 200


async def lists(resolver: Resolver, zones: Iterable[str], ips: Iterable[str]) -> AsyncIterator[Finding]:
    """Look whether our addresses stand on DNS lists; a list that serves us not says nothing (RFC 5782)."""
    ips = tuple(ips)
    for zone in zones:
        bad = silent = refused = False
        for ip in ips:
            name = query_name(ip, zone)
            answer = await resolver.a(name)
            silent = silent or answer.temporary
            refused = (
                refused or any(map(complaint, answer.records)) or bool(answer and not _listing(answer.records))
            )
            if _listing(answer.records):
                bad = True
                yield problem("lists", zone, f"{ip} is on it: {await _reason(resolver, name)}")
        if refused and not bad:
            yield unknown("lists", zone, "it answers only to a resolver of one's own: [resolver] servers")
        elif silent and not bad:
            yield unknown("lists", zone, "it does not answer")
        elif not bad:
            yield ok("lists", zone, "none of our addresses is on it")


async def way_out(resolver: Resolver, server: Server) -> AsyncIterator[Finding]:
    """Look whether mail gets out by port 25: many who rent machines out close it."""
    subject = f"{server[0]}:{server[1]}"
    ip = await _address(resolver, server[0])
    if not ip:
        yield unknown("port 25", subject, "it has no address, or the DNS does not answer")
        return
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(ip, server[1])
    except OSError as wrong:  # TimeoutError is one
        why = "no answer" if isinstance(wrong, TimeoutError) else wrong.strerror or str(wrong)
        text = f"{why}: port 25 outwards seems closed; ask whom you rent the machine of, or set a smarthost"
        yield problem("port 25", subject, text)
        return
    try:
        async with asyncio.timeout(GREETING_S):
            greeted = await reader.readline()
            writer.write(b"QUIT\r\n")
            await reader.read(1000)
    except (OSError, ValueError):
        greeted = b""
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    if greeted.startswith(b"220"):
        yield ok("port 25", subject, "mail gets out")
    elif greeted:
        said = printable(greeted.decode("latin-1").strip(), TEXT_MAX)
        yield warning("port 25", subject, f"it does not want to talk to us: {said}")
    else:
        yield warning("port 25", subject, "a connection, but no greeting: something between swallows it")


async def clock(resolver: Resolver, server: Server) -> AsyncIterator[Finding]:
    """Compare the clock with a time server's: signatures and certificates depend on it."""
    subject = server[0]
    ip = await _address(resolver, server[0])
    if not ip:
        yield unknown("clock", subject, "the time server has no address, or the DNS does not answer")
        return
    try:
        async with asyncio.timeout(TIME_S):
            told = await _time((ip, server[1]))
    except (OSError, sntp.BadAnswer) as wrong:
        yield unknown("clock", subject, f"no time from it: {str(wrong) or 'no answer'}")
        return
    off = abs(told.offset)
    text = f"the clock is {off:.1f} s {'behind' if told.offset > 0 else 'ahead'}"
    if off >= CLOCK_PROBLEM:
        yield problem("clock", subject, f"{text}: let chrony or systemd-timesyncd set it")
    elif off >= CLOCK_WARNING + told.delay:
        yield warning("clock", subject, f"{text}: let chrony or systemd-timesyncd set it")
    else:
        yield ok("clock", subject, f"right to {max(off, told.delay / 2):.2f} s")


def certificates(house: House, now: datetime, days: int) -> Iterable[Finding]:
    """Look at how long the certificates last, and whether one is for the server's name."""
    for each in house.certificates:
        subject = str(each.file)
        if isinstance(each, Unreadable):
            yield unknown("certificate", subject, f"it cannot be read: {each.why}")
            continue
        left = each.ends - now
        until = f"{each.ends:%Y-%m-%d}"
        if left <= timedelta():
            yield problem("certificate", subject, f"it ended at {until}: programs refuse to connect")
        elif each.begins > now:
            yield problem("certificate", subject, f"it begins at {each.begins:%Y-%m-%d %H:%M} UTC")
        elif left < timedelta(days=LAST_DAYS):
            yield problem("certificate", subject, f"it ends at {until}, in {left.days} days: renew it now")
        elif left < timedelta(days=days):
            yield warning("certificate", subject, f"it ends at {until}, in {left.days} days")
        elif each.self_signed:
            yield warning(
                "certificate", subject, "it is signed by itself: mail programs warn of it. Get a real one"
            )
        else:
            yield ok("certificate", subject, f"for {', '.join(each.names[:4])}, until {until}")
    names = [name for each in house.certificates if not isinstance(each, Unreadable) for name in each.names]
    if names and not any(matches_name(name, house.hostname) for name in names):
        yield problem("certificate", house.hostname, f"no certificate is for the server's name, but for {names[0]}")


async def _address(resolver: Resolver, host: str) -> str:
    """Return an address of a server, IPv4 before IPv6; empty for none."""
    try:
        return str(ip_address(host))
    except ValueError:
        return next(iter((await resolver.addresses(host)).records), "")


async def _reason(resolver: Resolver, name: str) -> str:
    answer = await resolver.txt(name)
    text = answer.records[0].decode("utf-8", "replace") if answer else ""
    return printable(text, TEXT_MAX) or "it does not say why"


def _listing(records: Iterable[str]) -> bool:
    return any(map(listed, records))


class _Answered(asyncio.DatagramProtocol):
    """Hands over the first datagram."""

    def __init__(self, heard: asyncio.Future[bytes]) -> None:
        self._heard = heard

    def datagram_received(self, octets: bytes, _source: object) -> None:
        """Take it."""
        if not self._heard.done():
            self._heard.set_result(octets)

    def error_received(self, wrong: Exception) -> None:
        """Nobody is there."""
        if not self._heard.done():
            self._heard.set_exception(wrong)


async def _time(server: Server) -> sntp.Told:
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Answered(heard), remote_addr=server)
    try:
        asked = time.time()
        transport.sendto(sntp.question(asked))
        octets = await heard
        return sntp.answer(octets, asked, time.time())
    finally:
        transport.close()
