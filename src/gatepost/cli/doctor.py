"""`gatepost doctor`, `gatepost dns zone`: whether the world can reach us and believes us, and what to publish."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from textwrap import wrap
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from gatepost.accounts.verbs import list_domains
from gatepost.aio.resolve import Resolver
from gatepost.base.address import fold_domain
from gatepost.cli.alarm import Alarm
from gatepost.cli.asking import SILENT, DnsOption, resolver
from gatepost.cli.common import CLOCK, ConfigOption, Failed, JsonOption, now, print_json, say, with_databases
from gatepost.config import PORTS, TIME_PORT, Config, Kind, WatchSettings, server_of
from gatepost.databases import Databases
from gatepost.relay.mtasts import Policies
from gatepost.watch import records
from gatepost.watch.doctor import Doctor
from gatepost.watch.finding import Finding, State
from gatepost.watch.house import House, house_of

MARKS: Final = {
    State.OK: "[green]ok[/green]      ",
    State.WARNING: "[yellow]warning[/yellow] ",
    State.PROBLEM: "[bold red]problem[/bold red] ",
    State.UNKNOWN: "[dim]unknown[/dim] ",
}
WIDTH: Final = 100

Found = dict[str, list[Finding]]
"""What was found of the server and of each domain, by name."""

zones = typer.Typer(help="The DNS of our domains.", no_args_is_help=True)

AddressOption = Annotated[
    list[str] | None,
    typer.Option("--address", help="A public address of this server, behind NAT; again for another."),
]


class Format(Enum):
    """How a zone is printed."""

    BIND = "bind"
    JSON = "json"
    NSUPDATE = "nsupdate"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("doctor")(doctor)
    app.add_typer(zones, name="dns")


def doctor(
    domains: Annotated[list[str] | None, typer.Argument(help="Domains to look at; else all of ours.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep looking, tell what changes, write to the postmaster.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Ask the DNS alone: no mail server, no time.")] = False,
    address: AddressOption = None,
    dns: DnsOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at our domains and this server as the world sees them, and say what to publish.

    The status is 1 where there is a problem: mail does not come, or is not believed.
    """

    tell = _tell_json if as_json else _tell

    async def work(databases: Databases, settings: Config) -> Found:
        chosen = [fold_domain(each) for each in domains or ()]
        if quick:
            settings = replace(settings, watch=replace(settings.watch, outside="", time=""))
        async with resolver(dns, settings) as asked:
            found = await _look(databases, settings, asked, chosen, address or ())
            if watch:
                look = partial(_look, databases, settings, asked, chosen, address or ())
                await _keep_looking(look, Alarm(databases.mail, settings), settings.watch.every, found, tell)
        return found

    try:
        found = with_databases(config, work)
    except KeyboardInterrupt:
        return
    tell(found)
    if any(finding.state is State.PROBLEM for each in found.values() for finding in each):
        raise typer.Exit(1)


@zones.command("zone")
def dns_zone(
    domain: str,
    form: Annotated[Format, typer.Option("--format", help="How it is printed.")] = Format.BIND,
    address: AddressOption = None,
    config: ConfigOption = None,
) -> None:
    """Print all records that DOMAIN wants: for a zone file, as JSON, or for nsupdate."""

    async def work(databases: Databases, settings: Config) -> House:
        return await house_of(settings, databases.mail, _addresses(settings, address or ()))

    house, name = with_databases(config, work), fold_domain(domain)
    wanted = records.wanted(house, name)
    match form:
        case Format.JSON:
            print_json([record.facts() for record in wanted])
        case Format.NSUPDATE:
            say("\n".join(records.nsupdate(wanted, name)))
        case Format.BIND:
            say("\n".join((*records.bind(wanted), *_beside(house, name))))


def _beside(house: House, domain: str) -> list[str]:
    """Return what does not stand in the zone, as comments."""
    lines = list(records.pointers(house))
    if not records.within(house.hostname, domain):
        lines.append(f"; {house.hostname} has its addresses in another zone: gatepost dns zone of that domain")
    elif not house.addresses:
        lines.append(
            f"; {house.hostname} needs its A and AAAA records: give --address IP, or set [watch] addresses"
        )
    if not house.keys_of(domain):
        lines.append(f"; no DKIM key signs its mail yet: gatepost dkim new {domain}")
    return lines


async def _look(
    databases: Databases, settings: Config, asked: Resolver, chosen: Sequence[str], addresses: Sequence[str]
) -> Found:
    """Look at the server and each domain once, all side by side."""
    house = await house_of(settings, databases.mail, _addresses(settings, addresses))
    names = list(chosen) or [each.name for each in await list_domains(databases.mail)]
    if not names:
        raise Failed("no domain yet: gatepost domain add example.org, or name one")
    policies = Policies(asked, None, clock=CLOCK, log=SILENT, allow_loopback=settings.relay.allow_loopback)
    watch: WatchSettings = settings.watch
    seer = Doctor(
        house,
        asked,
        watch,
        policy=policies.document,
        outside=server_of(watch.outside, PORTS[Kind.MX]) if watch.outside else None,
        time=server_of(watch.time, TIME_PORT) if watch.time else None,
    )
    try:
        found = await asyncio.gather(seer.server(now()), *(seer.domain(name) for name in names))
    finally:
        await policies.close()
    return dict(zip((house.hostname, *names), found, strict=True))


async def _keep_looking(
    look: Callable[[], Awaitable[Found]], alarm: Alarm, every: float, found: Found, tell: Callable[[Found], None]
) -> None:
    """Look again and again; print what changes, and write to the postmaster once of each thing to mend."""
    known: set[Finding] = set()
    while True:
        news = {of: [each for each in findings if each not in known] for of, findings in found.items()}
        tell({of: findings for of, findings in news.items() if findings})
        known = {each for findings in found.values() for each in findings}
        for line in await alarm.hear(list(known), now()):
            Console(stderr=True).print(f"[dim]{escape(line)}[/dim]", highlight=False)
        await asyncio.sleep(every)
        found = await look()


def _addresses(settings: Config, given: Sequence[str]) -> Sequence[str]:
    return tuple(given) or settings.watch.addresses


def _tell_json(found: Found) -> None:
    print_json([{"of": of, **finding.facts()} for of, each in found.items() for finding in each])


def _tell(found: Found) -> None:
    console = Console()
    for of, findings in found.items():
        console.print(f"[bold]{escape(of)}[/bold]", highlight=False)
        for finding in findings:
            subject = "" if finding.subject == of else f"{finding.subject}: "
            first, *more = wrap(f"{subject}{finding.text}", WIDTH - 24) or [""]
            console.print(
                f"  {MARKS[finding.state]}{finding.check:<12} {escape(first)}", highlight=False, soft_wrap=True
            )
            for line in more:
                console.print(f"{'':<23}{escape(line)}", highlight=False, soft_wrap=True)
            for record in finding.add:
                console.print(f"{'':<12}{escape(record.line)}", style="cyan", highlight=False, soft_wrap=True)
    counts = {state: sum(f.state is state for each in found.values() for f in each) for state in State}
    if any(counts.values()):
        say(", ".join(f"{count} {state.value}" for state, count in counts.items() if count))
