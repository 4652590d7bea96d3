"""Tell other domains once a day how mail in their names fared here, those that ask for it (RFC 9990 §3, §4).

    day is over, and some hours at random     TXT _dmarc.DOMAIN: who wants the report?
    nobody                                    nothing more for this day
    mailto: within the same organization      a mail into our own queue
    mailto: elsewhere                         only if TXT DOMAIN._report._dmarc.ELSEWHERE says that it is wanted

Nothing is told of single mails (ruf). What was queued is noted for each address; a server that is killed between a
report and its note sends it twice, with the same Report-ID.
"""

from collections.abc import Callable, Sequence
from typing import Final, cast

from gatepost.aio.offload import offload
from gatepost.base.address import fold_domain
from gatepost.base.clock import DAY, Clock
from gatepost.base.ports import Log
from gatepost.codec.dmarc import only_policy
from gatepost.codec.dmarcreport import Report
from gatepost.codec.dmarcwrite import filename, packed
from gatepost.codec.mail.reportmail import Parcel
from gatepost.db.unit import Database, Params, Step, Unit
from gatepost.dmarcrpt import sql
from gatepost.dmarcrpt.results import date_of, reports
from gatepost.dmarcrpt.settings import DmarcReportSettings
from gatepost.judge.dmarc import Names, organization_of
from gatepost.judge.spf import Trouble
from gatepost.queue.reporting import A_ROUND, Identity, Mailer, keep, mail_parcel

MAILTO: Final = "mailto:"


class DmarcReporter:
    """Sends the reports of the days that are over. One process of all does."""

    def __init__(
        self,
        mail: Database,
        gate: Database,
        names: Names,
        mailer: Mailer,
        *,
        identity: Callable[[], Identity],
        settings: Callable[[], DmarcReportSettings],
        clock: Clock,
        log: Log,
        delay: int,
    ) -> None:
        """Make it; `delay` in microseconds is how long after midnight it begins, at random below SPREAD."""
        self._mail = mail
        self._gate = gate
        self._names = names
        self._mailer = mailer
        self._identity = identity
        self._settings = settings
        self._clock = clock
        self._log = log
        self._delay = delay

    async def run(self) -> None:
        """Send what is due, for ever."""
        await keep(self.round, self._log, "dmarc_reports_failed")

    async def round(self) -> None:
        """Send what is due now; raises NotCommitted."""
        settings = self._settings()
        if not settings.send:
            return
        today = (self._clock.now() - self._delay) // DAY
        params = {"today": today, "oldest": today - settings.send_days, "most": A_ROUND}
        for day, domain, policy in cast("list[tuple[int, str, str]]", await self._gate.read_long(sql.DUE, params)):
            try:
                done = await self._send(day, domain, policy)
            except Trouble as trouble:
                self._log.warning("dmarc_report_not_sent", domain=domain, problem=str(trouble))
                continue
            if done:
                await self._note(day, domain, policy, "")

    async def _send(self, day: int, domain: str, policy: str) -> bool:
        """Send the report of a day; True when nothing is left to do for it, Trouble when the DNS is silent."""
        wanted = await receivers(self._names, domain)
        which: Params = {"day": day, "domain": domain, "policy": policy}
        taken = {row[0] for row in await self._gate.read(sql.SENT, which)}
        if not wanted - taken:
            return True
        identity = self._identity()
        told = await reports(
            self._gate, domain, day, organization=identity.organization, contact=identity.contact, only=policy
        )
        if policy not in told:
            return True
        report = told[policy]
        octets = await offload(packed, report)
        done = True
        for uri in sorted(wanted - taken):
            try:
                await self._queue(uri, report, octets, identity)
            except ValueError as problem:
                self._log.warning("dmarc_report_not_sent", domain=domain, to=uri, problem=str(problem))
                done = False
                continue
            await self._note(day, domain, policy, uri)
            self._log.info("dmarc_report_sent", domain=domain, to=uri, report=report.id)
        return done

    async def _queue(self, uri: str, report: Report, octets: bytes, identity: Identity) -> None:
        parcel = Parcel(
            report.id,
            report.domain,
            identity.submitter,
            f"This is the DMARC aggregate report of {identity.submitter} on {report.domain}\r\n"
            f"for {date_of(report)}, from midnight to midnight in UTC.",
            "application/gzip",
            filename(identity.submitter, report),
            octets,
        )
        now = self._clock.now()
        await mail_parcel(self._mail, self._mailer, parcel, identity.sender, uri.removeprefix(MAILTO), now)

    async def _note(self, day: int, domain: str, policy: str, uri: str) -> None:
        step = Step(sql.ADD_SENT, {"day": day, "domain": domain, "policy": policy, "uri": uri})
        await self._gate.commit(Unit((step,)))


async def receivers(names: Names, domain: str) -> set[str]:
    """Return the `mailto:` URIs that want the reports of a domain, each with its consent; raises Trouble."""
    policy = only_policy(_texts(await names.txt(f"_dmarc.{domain}")))
    found: set[str] = set()
    ours = ""
    for uri in policy.reports_to if policy is not None else ():
        host = _host(uri)
        if not host:
            continue
        if host != domain:
            ours = ours or await organization_of(names, domain)
            if await organization_of(names, host) != ours:
                found |= await _consent(names, domain, uri, host)
                continue
        found.add(uri)
    return found


async def _consent(names: Names, domain: str, uri: str, host: str) -> set[str]:
    """Return where a receiver elsewhere wants the reports of `domain`; nothing without its word (§4)."""
    consent = only_policy(_texts(await names.txt(f"{domain}._report._dmarc.{host}")))
    if consent is None:
        return set()
    other = {each for each in consent.reports_to if _host(each) == host}  # §4 step 7: nobody else may be named
    return other or {uri}


def _host(uri: str) -> str:
    return fold_domain(uri.rpartition("@")[2]) if uri.startswith(MAILTO) else ""


def _texts(records: Sequence[bytes]) -> list[str]:
    return [record.decode("latin-1") for record in records]
