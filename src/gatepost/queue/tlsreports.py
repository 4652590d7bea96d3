"""Tell other domains once a day how TLS to their mail servers went, those that ask for it (RFC 8460 §3, §5).

    day is over, and some hours at random     TXT _smtp._tls.DOMAIN: who wants the report?
    nobody                                    nothing more for this day
    mailto:                                   a mail into our own queue, which needs no TLS that holds on its way
    https:                                    a POST; the certificate must hold

What was taken is noted for each address, so a report that one of two addresses did not take is tried again there
alone, each round until the day is `send_days` old. A server that is killed between a report and its note sends it
twice, with the same Report-ID.
"""

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

from gatepost.aio.fetch import FetchFailed
from gatepost.aio.offload import offload
from gatepost.aio.resolve import Answer
from gatepost.base.clock import DAY, MICROSECONDS, Clock
from gatepost.base.ports import Log
from gatepost.codec.mail.reportmail import Parcel
from gatepost.codec.tlsrpt import LABEL, Report, filename, mail_address, read_record
from gatepost.db.unit import Database, Step, Unit
from gatepost.queue.reporting import A_ROUND, Identity, Mailer, keep, mail_parcel
from gatepost.tlsrpt import sql
from gatepost.tlsrpt.results import report
from gatepost.tlsrpt.settings import ReportSettings

CONTENT_TYPE: Final = "application/tlsrpt+gzip"


class Names(Protocol):
    """What is asked of the DNS."""

    async def txt(self, name: str) -> Answer[bytes]:
        """Return TXT records."""
        ...

    async def a(self, name: str) -> Answer[str]:
        """Return IPv4 addresses."""
        ...

    async def aaaa(self, name: str) -> Answer[str]:
        """Return IPv6 addresses."""
        ...


Post = Callable[[str, bytes, str, str], Awaitable[None]]
"""POST octets of a type to a URL at `ip:port`; raises FetchFailed."""


class TlsReporter:
    """Sends the reports of the days that are over. One process of all does."""

    def __init__(
        self,
        mail: Database,
        gate: Database,
        names: Names,
        mailer: Mailer,
        post: Post,
        *,
        identity: Callable[[], Identity],
        settings: Callable[[], ReportSettings],
        clock: Clock,
        log: Log,
        delay: int,
        allow_loopback: bool = False,
    ) -> None:
        """Make it; `delay` in microseconds is how long after midnight it begins, at random below SPREAD."""
        self._mail = mail
        self._gate = gate
        self._names = names
        self._mailer = mailer
        self._post = post
        self._identity = identity
        self._settings = settings
        self._clock = clock
        self._log = log
        self._delay = delay
        self._allow_loopback = allow_loopback

    async def run(self) -> None:
        """Send what is due, for ever."""
        await keep(self.round, self._log, "tls_reports_failed")

    async def round(self) -> None:
        """Send what is due now; raises NotCommitted."""
        settings = self._settings()
        if not settings.send:
            return
        today = (self._clock.now() - self._delay) // DAY
        params = {"today": today, "oldest": today - settings.send_days, "most": A_ROUND}
        for row in await self._gate.read_long(sql.DUE, params):
            day, domain = cast(int, row[0]), cast(str, row[1])
            if await self._send(domain, day):
                await self._note(day, domain, "")

    async def _send(self, domain: str, day: int) -> bool:
        """Send the report of a day; True when nothing is left to do for it."""
        answer = await self._names.txt(f"{LABEL}{domain}")
        if answer.temporary:
            return False
        receivers = read_record(answer.records)
        if not receivers:
            return True
        taken = {row[0] for row in await self._gate.read(sql.SENT, {"day": day, "domain": domain})}
        identity = self._identity()
        told = await report(self._gate, domain, day, organization=identity.organization, contact=identity.contact)
        packed = await offload(told.packed)
        done = True
        for uri in receivers:
            if uri in taken:
                continue
            try:
                if uri.startswith("mailto:"):
                    await self._by_mail(uri, domain, day, told, packed)
                else:
                    await self._by_post(uri, packed)
            except (FetchFailed, ValueError) as problem:
                self._log.warning("tls_report_not_sent", domain=domain, to=uri, problem=str(problem))
                done = False
                continue
            await self._note(day, domain, uri)
            self._log.info("tls_report_sent", domain=domain, to=uri, report=told.id)
        return done

    async def _by_mail(self, uri: str, domain: str, day: int, told: Report, packed: bytes) -> None:
        """Queue a mail; raises ValueError for what is no address."""
        identity = self._identity()
        begin, submitter = day * DAY // MICROSECONDS, identity.submitter
        parcel = Parcel(
            told.id,
            domain,
            submitter,
            f"This is the TLS report of {submitter} on {domain}\r\nfrom {told.start} to {told.end}.",
            CONTENT_TYPE,
            filename(submitter, domain, begin, begin + DAY // MICROSECONDS - 1),
            packed,
            'multipart/report; report-type="tlsrpt"',
            (
                (b"TLS-Report-Domain", domain.encode()),
                (b"TLS-Report-Submitter", submitter.encode()),
                (b"TLS-Required", b"No"),  # RFC 8689 §3: bad TLS is what it may tell of
            ),
        )
        now = self._clock.now()
        await mail_parcel(self._mail, self._mailer, parcel, identity.sender, mail_address(uri), now)

    async def _by_post(self, uri: str, packed: bytes) -> None:
        """POST it; raises FetchFailed. A stranger chose the URL: it leads to no address inside our house."""
        url = urlsplit(uri)
        host, port = url.hostname or "", url.port or 443
        for ip in await self._addresses(host):
            if self._allow_loopback or ip_address(ip).is_global:
                await self._post(uri, packed, CONTENT_TYPE, f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}")
                return
        raise FetchFailed(f"{host} has no address that may be asked")

    async def _addresses(self, host: str) -> list[str]:
        four, six = await self._names.a(host), await self._names.aaaa(host)
        return [*four.records, *six.records]

    async def _note(self, day: int, domain: str, uri: str) -> None:
        await self._gate.commit(Unit((Step(sql.ADD_SENT, {"day": day, "domain": domain, "uri": uri}),)))
