"""Checks of what makes our mail believed (SPF, DKIM, DMARC) and its way private (MTA-STS, DANE, TLS-RPT)."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

from gatepost.aio.fetch import FetchFailed
from gatepost.aio.resolve import Resolver
from gatepost.base.verdict import Result
from gatepost.codec import mtasts, tlsrpt
from gatepost.codec.dmarc import Request, only_policy
from gatepost.codec.spf import parse_ip
from gatepost.judge.dmarc import organization_of
from gatepost.judge.names import ResolvedNames
from gatepost.judge.published import Seen, look
from gatepost.judge.spf import Trouble, check_host
from gatepost.judge.verbs import Turn
from gatepost.queue.dmarcreports import receivers
from gatepost.watch import records
from gatepost.watch.finding import Finding, ok, problem, unknown, warning
from gatepost.watch.house import Certificate, House
from gatepost.watch.names import SILENT
from gatepost.web.mtasts import policy_id

STRANGER: Final = "192.0.2.1"
"""An address that is nobody's (RFC 5737): who lets it send lets everybody."""

Fetched = Callable[[str], Awaitable[bytes]]
"""Fetches a domain's MTA-STS policy as others do; raises FetchFailed."""


async def spf(resolver: Resolver, house: House, domain: str, ips: Iterable[str]) -> AsyncIterator[Finding]:
    """Look whether the domain's SPF lets this server send, and not everybody."""
    names, line = ResolvedNames(resolver), records.spf(house, domain)
    for ip in ips:
        outcome = await check_host(names, parse_ip(ip), "postmaster", domain, house.helo or house.hostname)
        match outcome.result:
            case Result.PASS:
                yield ok("spf", domain, f"{ip} may send")
            case Result.NONE:
                yield problem("spf", domain, "it does not say who may send in its name", line)
                return
            case Result.TEMPERROR:
                yield unknown("spf", domain, SILENT)
                return
            case Result.PERMERROR:
                yield problem("spf", domain, f"its record cannot be used: {outcome.reason}", line)
                return
            case _:
                text = f"{ip} may not send in its name ({outcome.result.value}): add ip{_version(ip)}:{ip} or mx"
                yield problem("spf", domain, text, line)
    stranger = await check_host(names, parse_ip(STRANGER), "postmaster", domain, domain)
    if stranger.result is Result.PASS:
        yield problem("spf", domain, "it lets everybody send in its name", line)
    elif stranger.result is Result.NEUTRAL:
        yield warning("spf", domain, "it does not forbid others to send in its name: end it with -all", line)


async def greeting(resolver: Resolver, house: House, ips: Iterable[str]) -> AsyncIterator[Finding]:
    """Look at SPF of the server's own name, which counts for mail without a reverse-path."""
    name, names = house.helo or house.hostname, ResolvedNames(resolver)
    for ip in ips:
        outcome = await check_host(names, parse_ip(ip), "postmaster", name, name)
        match outcome.result:
            case Result.PASS:
                yield ok("spf", name, f"{ip} may send")
            case Result.TEMPERROR:
                yield unknown("spf", name, SILENT)
            case Result.NONE:
                yield warning("spf", name, "it does not say who may greet with it", *records.helo_spf(house))
                return
            case _:
                yield problem("spf", name, f"{ip} may not greet with it: {outcome.reason or outcome.result.value}")


async def dkim(resolver: Resolver, house: House, domain: str) -> AsyncIterator[Finding]:
    """Compare the DNS with the domain's keys."""
    keys, names = house.keys_of(domain), ResolvedNames(resolver)
    if not keys:
        yield problem("dkim", domain, f"it has no key, so its mail goes unsigned: gatepost dkim new {domain}")
        return
    lines = {record.name: record for record in records.dkim(house, domain)}
    for key in keys:
        seen = await look(names, key)
        match seen:
            case Seen.MATCHES:
                yield ok("dkim", key.name, f"{key.algorithm}, {key.turn.value}")
            case Seen.UNKNOWN:
                yield unknown("dkim", key.name, SILENT)
            case _ if key.turn is Turn.WAITS:
                yield warning(
                    "dkim", key.name, f"a key waits for the DNS, which shows: {seen.value}", lines[key.name]
                )
            case _:
                text = f"mail is signed with it, but the DNS shows: {seen.value}"
                yield problem("dkim", key.name, text, lines[key.name])


async def dmarc(resolver: Resolver, domain: str) -> AsyncIterator[Finding]:
    """Look whether the domain says what becomes of mail that only pretends to be its own."""
    names, line = ResolvedNames(resolver), records.dmarc(domain)
    try:
        at = domain
        texts = [text.decode("latin-1") for text in await names.txt(f"_dmarc.{at}")]
        if not texts:
            at = await organization_of(names, domain)
            texts = [text.decode("latin-1") for text in await names.txt(f"_dmarc.{at}")]
        policy = only_policy(texts)
        if policy is None:
            found = "several records, which count as none" if len(texts) > 1 else "no usable record"
            yield problem(
                "dmarc", domain, f"it has {found if texts else 'no policy'}: big providers want one", line
            )
            return
        wanted = await receivers(names, at)
    except Trouble:
        yield unknown("dmarc", domain, SILENT)
        return
    said = policy.wish(own=at == domain, exists=True)
    if said is Request.NONE or policy.testing:
        text = (
            f"{at} only watches{'' if wanted else ', and has no reports sent'}: others may still pretend to be it"
        )
        yield warning("dmarc", domain, text, line)
    elif not wanted:
        why = "those that it names have not agreed to get them" if policy.reports_to else "nobody is named"
        yield warning("dmarc", domain, f"{said.word}, but no reports come: {why}")
    else:
        yield ok("dmarc", domain, f"{said.word}; reports go to {_addresses(wanted)}")


async def sts(resolver: Resolver, house: House, domain: str, fetched: Fetched) -> AsyncIterator[Finding]:
    """Look whether MTA-STS is announced as it is served, and can be fetched as others fetch it."""
    answer = await resolver.txt(f"_mta-sts.{domain}")
    if answer.temporary:
        yield unknown("mta-sts", domain, SILENT)
        return
    announced = mtasts.read_record(answer.records)
    if house.policy is None:
        if announced:
            yield problem(
                "mta-sts", domain, "a policy is announced, but this server serves none: [tls.mta_sts] mode"
            )
        else:
            text = "nobody is told that mail must come by TLS: set [tls.mta_sts] mode"
            yield warning("mta-sts", domain, text)
        return
    lines = tuple(records.sts(house, domain, house.policy))
    if announced != policy_id(house.policy):
        what = "another policy is announced than the one in force" if announced else "the policy is not announced"
        yield warning("mta-sts", domain, what, lines[0])
    try:
        if mtasts.read_policy(await fetched(domain)) != house.policy:
            yield problem("mta-sts", domain, "others fetch another policy than this server has", lines[1])
        elif announced == policy_id(house.policy):
            yield ok("mta-sts", domain, house.policy.mode.value)
    except (FetchFailed, mtasts.BadPolicy) as wrong:
        yield problem("mta-sts", domain, f"the policy cannot be fetched: {wrong}", lines[1])


async def dane(resolver: Resolver, house: House) -> AsyncIterator[Finding]:
    """Look whether the DNS shows the certificate's key, and no other alone (RFC 7672)."""
    name = house.hostname
    answer = await resolver.tlsa(f"_25._tcp.{name}")
    if answer.temporary:
        yield unknown("dane", name, SILENT)
        return
    certificates = [each for each in house.certificates if isinstance(each, Certificate)]
    lines = [records.tlsa(name, each) for each in certificates]
    shown = {f"{r.usage} {r.selector} {r.matching} {r.data.hex()}" for r in answer.records}
    if not shown:
        here = await resolver.a(name)
        if here.temporary:
            yield unknown("dane", name, SILENT)
            return
        missing = warning("dane", name, "the zone is signed, but shows no key of the server (DANE)", *lines)
        yield missing if here.secure else ok("dane", name, "not used: the zone is not signed by DNSSEC")
    elif not answer.secure:
        yield warning("dane", name, "TLSA records, but the zone is not signed by DNSSEC: nobody looks at them")
    elif not any(each.startswith("3 1 1 ") for each in shown):
        yield unknown(
            "dane", name, "only TLSA records that are not 3 1 1: gatepost tls check tells whether they hold"
        )
    elif any(record.value in shown for record in lines):
        yield ok("dane", name, "the DNS shows the certificate's key")
    else:
        text = "the DNS shows another key than the certificate has: mail from those who check it does not come"
        yield problem("dane", name, text, *lines)


async def tls_reports(resolver: Resolver, domain: str) -> AsyncIterator[Finding]:
    """Look whether others tell us of TLS that fails."""
    answer = await resolver.txt(f"{tlsrpt.LABEL}{domain}")
    if answer.temporary:
        yield unknown("tls-rpt", domain, SILENT)
    elif found := tlsrpt.read_record(answer.records):
        yield ok("tls-rpt", domain, f"reports go to {_addresses(found)}")
    else:
        yield warning("tls-rpt", domain, "nobody is told when TLS to the server fails", records.tlsrpt(domain))


def _addresses(uris: Iterable[str]) -> str:
    return ", ".join(sorted(uri.removeprefix("mailto:") for uri in uris))


def _version(ip: str) -> int:
    return 6 if ":" in ip else 4
