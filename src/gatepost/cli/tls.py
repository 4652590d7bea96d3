"""`gatepost tls`: what the TLS of other domains' mail servers must prove."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final

import typer

from gatepost.aio.resolve import Resolver
from gatepost.aio.tls import client_context
from gatepost.base.address import fold_domain
from gatepost.cli.asking import SILENT, DnsOption, configuration_if_any, servers
from gatepost.cli.common import (
    CLOCK,
    ConfigOption,
    Failed,
    JsonOption,
    print_json,
    say,
)
from gatepost.codec.mtasts import VERSION, BadPolicy
from gatepost.codec.tlsrpt import LABEL as REPORTS_LABEL
from gatepost.codec.tlsrpt import read_record
from gatepost.config import Config, Kind
from gatepost.policy.action import Route
from gatepost.relay.assurance import Assurance, Assurer, Unsure
from gatepost.relay.deliver import TlsContexts
from gatepost.relay.mtasts import Finding, Known, Policies
from gatepost.relay.probe import Proof, probe
from gatepost.relay.route import Hop, NoRoute, Router
from gatepost.web.mtasts import HOST_LABEL, PATH, own_policy, policy_id

AT_ONCE: Final = 16  # servers that are spoken to

tls = typer.Typer(help="TLS to other mail servers.", no_args_is_help=True)

ConnectOption = Annotated[
    bool,
    typer.Option(
        "--connect", help="Speak with each server too: does its TLS prove what is asked? No mail is sent."
    ),
]


@dataclass(frozen=True, slots=True)
class _Row:
    """One machine, and what is asked of it; None: it would not be spoken to, `problem` says why.

    `proof`: what it proved, where it was spoken to.
    """

    hop: Hop
    assurance: Assurance | None
    policy: Finding
    reports: tuple[str, ...]
    """Where the domain wants TLS reports to go (RFC 8460)."""
    problem: str = ""
    proof: Proof | None = None

    def facts(self) -> dict[str, object]:
        asked = self.assurance
        return {
            "host": self.hop.name,
            "ip": self.hop.ip,
            "port": self.hop.port,
            "mx_validated": self.hop.secure,
            "asks": "delay" if asked is None else asked.level.value,
            "why": self.problem if asked is None else asked.why,
            "sni": "" if asked is None else asked.sni or self.hop.name,
            "names": [] if asked is None else list(asked.names),
            "tlsa": [] if asked is None else [str(record) for record in asked.records],
            "tls_reports": list(self.reports),
            "mta_sts": None if self.policy.known is None else _policy_facts(self.policy.known),
            "proof": None if self.proof is None else _proof_facts(self.proof),
        }


def _proof_facts(proof: Proof) -> dict[str, object]:
    tls = "" if proof.tls is None else f"{proof.tls.version} {proof.tls.cipher}"
    return {"good": proof.good, "tls": tls, "why": proof.why}


def _policy_facts(known: Known) -> dict[str, object]:
    policy = known.policy
    return {"mode": policy.mode.value, "id": known.id, "mx": list(policy.mx), "max_age": policy.max_age}


@tls.command("check")
def tls_check(
    domain: str,
    dns: DnsOption = "",
    connect: ConnectOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what a mail to DOMAIN would ask of each of its servers' TLS, and why.

    No server is spoken to without --connect; with it the status is 1 when one does not prove what is asked.
    """
    settings = configuration_if_any(config)
    try:
        rows = asyncio.run(_check(domain, settings, servers(dns, settings), connect=connect))
    except NoRoute as none:
        raise Failed(f"{domain}: {none.reply.text}") from none
    if as_json:
        print_json([row.facts() for row in rows])
    else:
        if rows:
            _tell_policy(domain, rows[0].policy)
            wanted = ", ".join(rows[0].reports)
            say(f"TLS reports go to {wanted}" if wanted else "nobody wants TLS reports")
        for row in rows:
            _tell(row)
    if connect and not all(row.proof is not None and row.proof.good for row in rows):
        raise typer.Exit(1)


def _tell_policy(domain: str, finding: Finding) -> None:
    known = finding.known
    if known is None:
        say(finding.why or f"no MTA-STS: _mta-sts.{domain} has no MTA-STS record")
        return
    policy = known.policy
    say(f"{finding.why}: id {known.id}, max_age {policy.max_age} s, mx {', '.join(policy.mx) or '-'}")


@tls.command("policy")
def tls_policy(domain: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the DNS records that announce our own MTA-STS policy for DOMAIN, and the policy."""
    settings = configuration_if_any(config)
    try:
        policy = own_policy(settings.tls.mta_sts, settings.hostname)
    except BadPolicy as wrong:
        raise Failed(f"tls.mta_sts: {wrong}") from wrong
    if policy is None:
        raise Failed('there is no policy: set [tls.mta_sts] mode = "testing"')
    domain = fold_domain(domain)
    records = [
        f'_mta-sts.{domain}. IN TXT "v={VERSION}; id={policy_id(policy)};"',
        f"{HOST_LABEL}{domain}. IN CNAME {settings.hostname}.",
    ]
    served = any(listener.kind is Kind.HTTPS for listener in settings.listeners.values())
    if as_json:
        facts = {"records": records, "policy": policy.document().decode("ascii"), "served": served}
        print_json({"domain": domain, **facts})
        return
    for record in records:
        say(record)
    say("")
    say(f"https://{HOST_LABEL}{domain}{PATH} says, once {domain} is a domain of this server:")
    say(policy.document().decode("ascii").replace("\r\n", "\n").rstrip("\n"))
    if not served:
        say("")
        say('Nobody serves it yet: add [listen.web] with kind = "https".')


def _tell(row: _Row) -> None:
    facts = row.facts()
    say(f"{facts['host']} [{facts['ip']}]:{facts['port']}  {facts['asks']}")
    say(f"    {facts['why']}")
    if row.assurance is not None and row.assurance.records:
        say(f"    name asked for: {facts['sni']}; names a certificate under usage 2 may bear: {_list(row)}")
        for record in row.assurance.records:
            say(f"    TLSA {record}")
    if row.proof is not None:
        told = _proof_facts(row.proof)
        say(f"    {'good' if row.proof.good else 'NOT good'}: {told['why'] or told['tls']}")


def _list(row: _Row) -> str:
    return ", ".join(row.assurance.names) if row.assurance is not None else ""


async def _check(domain: str, config: Config, servers: tuple[tuple[str, int], ...], *, connect: bool) -> list[_Row]:
    resolver = Resolver(servers, clock=CLOCK, trusted=config.resolver.trusted)
    # Ours and loopback are shown like the others: no mail is sent.
    router = Router(replace(config.relay, allow_loopback=True), resolver, shuffle=random.SystemRandom().shuffle)
    policies = Policies(
        resolver,
        None,
        clock=CLOCK,
        log=SILENT,
        allow_loopback=config.relay.allow_loopback,
    )
    assurer = Assurer(config.relay, resolver, policies)
    route, rows = Route(), []
    try:
        policy = await policies.find(domain) if config.relay.mta_sts else Finding(None, "MTA-STS is switched off")
        reports = read_record((await resolver.txt(f"{REPORTS_LABEL}{domain}")).records)
        async for hop in router.hops(route, domain):
            asked, problem = None, ""
            try:
                asked = await assurer.assure(hop, route, domain)
            except Unsure as unsure:
                problem = f"the mail waits: {unsure}"
            rows += [_Row(hop.at((ip,)), asked, policy, reports, problem) for ip in hop.addresses]
        if connect:
            rows = await _proved(rows, config)
    finally:
        await policies.close()
        await resolver.close()
    return rows


async def _proved(rows: Sequence[_Row], config: Config) -> list[_Row]:
    """Speak with the servers, a few at once."""
    contexts = TlsContexts(client_context(verify=False), client_context(verify=True))
    room = asyncio.Semaphore(AT_ONCE)

    async def prove(row: _Row) -> _Row:
        if row.assurance is None:
            return row
        async with room:
            proof = await probe(row.hop, row.assurance, contexts, config.relay, config.hostname, CLOCK)
        return replace(row, proof=proof)

    return list(await asyncio.gather(*(prove(row) for row in rows)))
