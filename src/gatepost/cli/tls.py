"""`gatepost tls`: what the TLS of other domains' mail servers must prove."""

import asyncio
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import typer

from gatepost.aio.resolve import Resolver, system_servers
from gatepost.base.settings import BadSetting
from gatepost.cli.common import (
    CLOCK,
    CONFIG_FILES,
    ConfigOption,
    Failed,
    JsonOption,
    configuration,
    print_json,
    say,
)
from gatepost.config import Config, split_address
from gatepost.policy.action import Route
from gatepost.relay.assurance import Assurance, Assurer, Unsure
from gatepost.relay.route import Hop, NoRoute, Router

DNS_PORT: Final = 53

tls = typer.Typer(help="TLS to other mail servers.", no_args_is_help=True)

DnsOption = Annotated[str, typer.Option("--dns", metavar="HOST:PORT", help="Ask this resolver instead.")]


@dataclass(frozen=True, slots=True)
class _Row:
    """One machine, and what is asked of it; None: it would not be spoken to, `problem` says why."""

    hop: Hop
    assurance: Assurance | None
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
        }


@tls.command("check")
def tls_check(domain: str, dns: DnsOption = "", config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell what a mail to DOMAIN would ask of each of its servers' TLS, and why; no server is spoken to."""
    settings = _configuration(config)
    try:
        rows = asyncio.run(_check(domain, settings, _servers(dns, settings)))
    except NoRoute as none:
        raise Failed(f"{domain}: {none.reply.text}") from none
    if as_json:
        print_json([row.facts() for row in rows])
        return
    for row in rows:
        _tell(row)


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
    assurer = Assurer(config.relay, resolver)
    route, rows = Route(), []
    try:
        async for hop in router.hops(route, domain):
            try:
                rows.append(_Row(hop, await assurer.assure(hop, route, domain)))
            except Unsure as unsure:
                rows.append(_Row(hop, None, f"the mail waits: {unsure}"))
    finally:
        await resolver.close()
    return rows


def _configuration(path: Path | None) -> Config:
    """Return the configuration in force; the defaults where there is none."""
    if path is None and not any(Path(name).exists() for name in CONFIG_FILES):
        return Config()
    return configuration(path)


def _servers(dns: str, config: Config) -> tuple[tuple[str, int], ...]:
    texts = (dns,) if dns else config.resolver.servers
    try:
        return tuple(split_address(text, DNS_PORT, ("dns",)) for text in texts) or system_servers()
    except BadSetting as wrong:
        raise Failed(f"{dns!r} is no resolver: write 127.0.0.1:53") from wrong
