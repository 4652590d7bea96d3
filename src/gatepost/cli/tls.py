"""`gatepost tls`: what the TLS of other domains' mail servers must prove."""

import asyncio
import random
from dataclasses import dataclass, replace

import typer

from gatepost.aio.resolve import Resolver
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
from gatepost.config import Config, Kind
from gatepost.policy.action import Route
from gatepost.relay.assurance import Assurance, Assurer, Unsure
from gatepost.relay.mtasts import Finding, Known, Policies
from gatepost.relay.route import Hop, NoRoute, Router
from gatepost.web.mtasts import HOST_LABEL, PATH, own_policy, policy_id

tls = typer.Typer(help="TLS to other mail servers.", no_args_is_help=True)


@dataclass(frozen=True, slots=True)
class _Row:
    """One machine, and what is asked of it; None: it would not be spoken to, `problem` says why."""

    hop: Hop
    assurance: Assurance | None
    policy: Finding
    problem: str = ""

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
            "mta_sts": None if self.policy.known is None else _policy_facts(self.policy.known),
        }


def _policy_facts(known: Known) -> dict[str, object]:
    policy = known.policy
    return {"mode": policy.mode.value, "id": known.id, "mx": list(policy.mx), "max_age": policy.max_age}


@tls.command("check")
def tls_check(domain: str, dns: DnsOption = "", config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell what a mail to DOMAIN would ask of each of its servers' TLS, and why; no server is spoken to."""
    settings = configuration_if_any(config)
    try:
        rows = asyncio.run(_check(domain, settings, servers(dns, settings)))
    except NoRoute as none:
        raise Failed(f"{domain}: {none.reply.text}") from none
    if as_json:
        print_json([row.facts() for row in rows])
        return
    if rows:
        _tell_policy(domain, rows[0].policy)
    for row in rows:
        _tell(row)


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


def _list(row: _Row) -> str:
    return ", ".join(row.assurance.names) if row.assurance is not None else ""


async def _check(domain: str, config: Config, servers: tuple[tuple[str, int], ...]) -> list[_Row]:
    resolver = Resolver(servers, clock=CLOCK, trusted=config.resolver.trusted)
    # Ours and loopback are shown like the others: nothing is sent.
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
        async for hop in router.hops(route, domain):
            asked, problem = None, ""
            try:
                asked = await assurer.assure(hop, route, domain)
            except Unsure as unsure:
                problem = f"the mail waits: {unsure}"
            rows += [_Row(hop.at((ip,)), asked, policy, problem) for ip in hop.addresses]
    finally:
        await policies.close()
        await resolver.close()
    return rows
