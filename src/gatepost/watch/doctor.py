"""The doctor: all checks of a server and a domain, side by side, each within its time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Final

from gatepost.aio.resolve import Resolver
from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.config import WatchSettings
from gatepost.watch import names, proofs, reach
from gatepost.watch.finding import Finding, unknown
from gatepost.watch.house import House
from gatepost.watch.proofs import Fetched
from gatepost.watch.reach import Server

CHECK_S: Final = 60.0


class Doctor:
    """Looks at a server as the world sees it."""

    def __init__(
        self,
        house: House,
        resolver: Resolver,
        settings: WatchSettings,
        *,
        policy: Fetched,
        outside: Server | None,
        time: Server | None,
    ) -> None:
        """Make one; `outside` and `time` are the servers of the settings, None where those name none."""
        self._house = house
        self._resolver = resolver
        self._settings = settings
        self._policy = policy
        self._outside = outside
        self._time = time

    async def server(self, now: Instant) -> list[Finding]:
        """Look at the server: its name, addresses, certificates, clock, its way out."""
        ips = await self._addresses()
        checks = {
            "address": names.addresses(self._resolver, self._house),
            "pointer": names.pointers(self._resolver, self._house, ips),
            "spf": proofs.greeting(self._resolver, self._house, ips),
            "dane": proofs.dane(self._resolver, self._house),
            "lists": reach.lists(self._resolver, self._settings.lists, ips),
        }
        if self._outside is not None:
            checks["port 25"] = reach.way_out(self._resolver, self._outside)
        if self._time is not None:
            checks["clock"] = reach.clock(self._resolver, self._time)
        found = await self._all(checks, self._house.hostname)
        moment = datetime.fromtimestamp(now / MICROSECONDS, UTC)
        return [*found, *reach.certificates(self._house, moment, self._settings.certificate_days)]

    async def domain(self, domain: str) -> list[Finding]:
        """Look at what the DNS says of a domain."""
        ips = await self._addresses()
        checks = {
            "mx": names.exchanges(self._resolver, self._house, domain),
            "spf": proofs.spf(self._resolver, self._house, domain, ips),
            "dkim": proofs.dkim(self._resolver, self._house, domain),
            "dmarc": proofs.dmarc(self._resolver, domain),
            "mta-sts": proofs.sts(self._resolver, self._house, domain, self._policy),
            "tls-rpt": proofs.tls_reports(self._resolver, domain),
            "services": names.services(self._resolver, self._house, domain),
        }
        return await self._all(checks, domain)

    async def _addresses(self) -> Sequence[str]:
        """Return our public addresses: those that the machine knows, else those that the DNS knows."""
        return self._house.addresses or (await self._resolver.addresses(self._house.hostname)).records

    async def _all(self, checks: dict[str, AsyncIterator[Finding]], subject: str) -> list[Finding]:
        each = await asyncio.gather(*(_taken(check, name, subject) for name, check in checks.items()))
        return [finding for found in each for finding in found]


async def _taken(check: AsyncIterator[Finding], name: str, subject: str) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with asyncio.timeout(CHECK_S):
            async for finding in check:
                found.append(finding)
    except TimeoutError:
        found.append(unknown(name, subject, f"not looked at to the end within {CHECK_S:g} s"))
    return found
