"""`gatepost dkim`: the keys that sign our mail, from making them to letting them go."""

import asyncio
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from gatepost.cli.asking import DnsOption, resolver
from gatepost.cli.common import ConfigOption, Failed, JsonOption, fail, moment, now, say, show, with_databases
from gatepost.cli.people import key_file
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.judge import keys, verbs
from gatepost.judge.layouts import BadLayout, FoundKey, find_keys
from gatepost.judge.names import ResolvedNames
from gatepost.judge.published import Seen, look
from gatepost.judge.verbs import PublishedKey, Turn

dkim = typer.Typer(help="Keys that sign outgoing mail.", no_args_is_help=True)
COLUMNS = ("Domain", "Selector", "Algorithm", "State", "Since", "Name", "Record")
Waits = Annotated[bool, typer.Option("--wait", help="Sign with it only once the DNS shows it.")]


class Made(Enum):
    """What `gatepost dkim new` makes."""

    RSA = "rsa"
    ED25519 = "ed25519"
    BOTH = "both"


@dkim.command("new")
def dkim_new(
    domain: str,
    selector: Annotated[str, typer.Option(help="Its name in the DNS; else one with today's date.")] = "",
    algorithm: Annotated[Made, typer.Option(help="What to make.")] = Made.BOTH,
    bits: Annotated[int, typer.Option(min=1024, max=4096, help="Of the RSA key.")] = keys.RSA_BITS,
    wait: Waits = False,
    config: ConfigOption = None,
) -> None:
    """Make keys for DOMAIN and print the records to publish."""
    kinds = {Made.RSA: ("rsa",), Made.ED25519: ("ed",), Made.BOTH: ("rsa", "ed")}[algorithm]

    async def work(databases: Databases, settings: Config) -> list[PublishedKey]:
        made = []
        for kind in kinds:
            known = await verbs.list_keys(databases.mail, domain)
            name = selector if len(kinds) == 1 else f"{selector}-{kind}"
            name = name if selector else verbs.dated_selector(known, kind, now())
            private = keys.generate(verbs.ALGORITHMS[kind], bits)
            made.append(
                await verbs.add_key(databases.mail, key_file(settings), domain, name, private, now(), waits=wait)
            )
        return made

    _print_zone(with_databases(config, work))


@dkim.command("list")
def dkim_list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the keys, what each is doing, and the records that publish them."""
    found = with_databases(config, lambda databases, _: verbs.list_keys(databases.mail))
    rows = [
        (key.domain, key.selector, key.algorithm, key.turn.value, moment(_since(key)), key.name, key.record)
        for key in found
    ]
    show(rows, COLUMNS, as_json=as_json, nothing="no keys: gatepost dkim new example.org")


@dkim.command("show")
def dkim_show(domain: str, config: ConfigOption = None) -> None:
    """Print a domain's records as a zone file has them."""
    _print_zone(with_databases(config, lambda databases, _: verbs.list_keys(databases.mail, domain)))


@dkim.command("import")
def dkim_import(domain: str, selector: str, file: Path, wait: Waits = False, config: ConfigOption = None) -> None:
    """Take over an existing private key (PEM), such as dkimproxy's default.private."""
    _print_zone(_take_in(config, [FoundKey(domain, selector, file)], wait=wait))


@dkim.command("adopt")
def dkim_adopt(
    source: Path,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be taken over.")] = False,
    wait: Waits = False,
    config: ConfigOption = None,
) -> None:
    """Take over all keys of dkimproxy_out.conf, opendkim.conf, a KeyTable, or a folder of keys."""
    try:
        found = find_keys(source)
    except (OSError, BadLayout) as wrong:
        fail(str(wrong))
    if dry_run:
        for each in found:
            private = _read(each.file)
            say(f"{each.selector}._domainkey.{each.domain}  {keys.algorithm_of(private)}  {each.file}")
        return
    _print_zone(_take_in(config, found, wait=wait))


@dkim.command("rotate")
def dkim_rotate(
    domain: str,
    at_once: Annotated[
        bool, typer.Option("--now", help="Sign with the successors before the DNS shows them.")
    ] = False,
    dns: DnsOption = "",
    config: ConfigOption = None,
) -> None:
    """Make successors of DOMAIN's keys; said again, let those sign that the DNS shows. So does the server."""

    async def work(databases: Databases, settings: Config) -> None:
        known = await verbs.list_keys(databases.mail, domain)
        if not known:
            raise Failed(f"{domain} has no keys: gatepost dkim new {domain}")
        if not any(key.turn is Turn.WAITS for key in known):
            for key in verbs.successors(known):
                await verbs.make_successor(databases.mail, key_file(settings), key, known, now())
            known = await verbs.list_keys(databases.mail, domain)
        async with resolver(dns, settings) as asked:
            for key in known:
                if key.turn is not Turn.WAITS:
                    continue
                seen = Seen.MATCHES if at_once else await look(ResolvedNames(asked), key)
                if seen is not Seen.MATCHES:
                    say(f"; {key.name}: {seen.value}. Publish this; it signs as soon as the DNS shows it:")
                    say(key.zone_line())
                    continue
                for before in await verbs.take_over(databases.mail, key, known, now()):
                    say(f"; {before.name} is retired; leave its record in the zone for 14 days")
                say(f"; {key.name} signs")
                if at_once:
                    say(key.zone_line())

    with_databases(config, work)


@dkim.command("retire")
def dkim_retire(domain: str, selector: str, config: ConfigOption = None) -> None:
    """Sign no more with a key; mail under way can be verified as long as its record stands."""
    with_databases(config, lambda databases, _: verbs.retire(databases.mail, domain, selector, now()))
    say(f"{selector}._domainkey.{domain} signs no more; leave its record in the zone for 14 days")


@dkim.command("check")
def dkim_check(domain: str, dns: DnsOption = "", config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Compare the DNS with DOMAIN's keys; the status is 1 where mail that is signed now cannot be verified."""

    async def work(databases: Databases, settings: Config) -> list[tuple[PublishedKey, Seen]]:
        known = await verbs.list_keys(databases.mail, domain)
        async with resolver(dns, settings) as asked:
            names = ResolvedNames(asked)
            seen = await asyncio.gather(*(look(names, key) for key in known))
        return list(zip(known, seen, strict=True))

    found = with_databases(config, work)
    rows = [(key.name, key.algorithm, key.turn.value, seen.value) for key, seen in found]
    show(rows, ("Name", "Algorithm", "State", "DNS"), as_json=as_json, nothing=f"{domain} has no keys")
    wrong = [key for key, seen in found if key.turn is Turn.SIGNS and seen is not Seen.MATCHES]
    if wrong and not as_json:
        say("\nPublish:")
        _print_zone(wrong)
    if wrong or not found:
        raise typer.Exit(1)


@dkim.command("del")
def dkim_del(domain: str, selector: str, config: ConfigOption = None) -> None:
    """Forget a key."""
    with_databases(config, lambda databases, _: verbs.drop_key(databases.mail, domain, selector))
    say(f"{selector}._domainkey.{domain} signs no more")


def _take_in(config: Path | None, found: Sequence[FoundKey], *, wait: bool) -> list[PublishedKey]:
    read = [(each, _read(each.file)) for each in found]

    async def work(databases: Databases, settings: Config) -> list[PublishedKey]:
        secret = key_file(settings)
        return [
            await verbs.add_key(databases.mail, secret, each.domain, each.selector, private, now(), waits=wait)
            for each, private in read
        ]

    return with_databases(config, work)


def _read(file: Path) -> keys.PrivateKey:
    try:
        return keys.read_pem(file.read_bytes())
    except (OSError, ValueError) as wrong:
        fail(f"{file}: {wrong}")


def _since(key: PublishedKey) -> int:
    return key.ends_at or key.begins_at or key.made_at


def _print_zone(listed: Sequence[PublishedKey]) -> None:
    for key in listed:
        say(key.zone_line())
