"""`gatepost spf` and `gatepost verify`: what the judge finds out about a sender or a mail, and why."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from gatepost.base.address import Address, ReversePath, fold_domain
from gatepost.base.clock import MICROSECONDS
from gatepost.base.envelope import Client, Envelope
from gatepost.base.ids import MailId
from gatepost.base.verdict import Finding, Result
from gatepost.cli.asking import SILENT, DnsOption, configuration_if_any, resolver
from gatepost.cli.care import verify_data
from gatepost.cli.common import ConfigOption, Failed, JsonOption, now, print_json, say
from gatepost.codec.mail.build import printable
from gatepost.codec.mail.header import HeaderBlock
from gatepost.codec.smtp.grammar import BadAddress, parse_mailbox
from gatepost.codec.spf import parse_ip
from gatepost.config import Config
from gatepost.judge import spf
from gatepost.judge.judge import Judge, Proof
from gatepost.judge.names import ResolvedNames

FILE_MAX: Final = 256 * 1024 * 1024
_NO_ADDRESS: Final = "127.0.0.1"

IpOption = Annotated[str, typer.Option("--ip", help="The address that the mail came from; without it SPF is none.")]
HeloOption = Annotated[str, typer.Option("--helo", help="The name that its server greeted with.")]
FromOption = Annotated[str, typer.Option("--mail-from", help="Its envelope sender; empty: a bounce.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("spf")(spf_command)
    app.command("verify")(verify_command)


def spf_command(
    ip: str,
    helo: str,
    mail_from: str,
    dns: DnsOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether IP may send mail from MAIL_FROM when it says HELO (SPF, RFC 7208), and why."""
    settings = configuration_if_any(config)
    sender = _sender(mail_from)
    domain = fold_domain(sender.domain if sender is not None else helo)
    local = sender.local if sender is not None else "postmaster"

    async def ask() -> spf.Outcome:
        async with resolver(dns, settings) as asked, asyncio.timeout(settings.judge.dns_time):
            us = (settings.hostname, now() // MICROSECONDS)
            names = ResolvedNames(asked)
            return await spf.check_host(names, parse_ip(ip), local, domain, fold_domain(helo), explain_as=us)

    try:
        outcome = asyncio.run(ask())
    except TimeoutError:
        outcome = spf.Outcome(Result.TEMPERROR, f"no answer in {settings.judge.dns_time} s")
    except ValueError as wrong:
        raise Failed(f"{ip!r} is no IP address") from wrong
    if as_json:
        facts = {"domain": domain, "reason": outcome.reason, "by": outcome.by, "explanation": outcome.explanation}
        print_json({"result": outcome.result.value, **facts})
        return
    say(f"{outcome.result.value}: {outcome.reason}")
    if outcome.explanation:
        say(f"{domain} says: {printable(outcome.explanation, 300)}")


def verify_command(
    what: Annotated[
        Path | None,
        typer.Argument(help="A mail, - is standard input; or a backup's folder, else the server's own data."),
    ] = None,
    ip: IpOption = "",
    helo: HeloOption = "",
    mail_from: FromOption = "",
    dns: DnsOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a mail is genuine, or a folder of data whole.

    Of a mail: SPF, each DKIM signature, the ARC chain, DMARC, each with its reason. Of a backup, or of the server's
    own data while it is stopped: every page of the databases and every body is read, and what is damaged is named.
    """
    if what is None or what.is_dir():
        verify_data(what, config)
        return
    settings = configuration_if_any(config)
    raw = _mail(what)
    header = HeaderBlock.parse(raw)
    try:
        address = str(parse_ip(ip)) if ip else _NO_ADDRESS
    except ValueError as wrong:
        raise Failed(f"{ip!r} is no IP address") from wrong
    client = Client(address, 0, "", 0, "", helo=helo)
    envelope = Envelope(MailId(0), now(), _sender(mail_from), ())

    async def ask() -> Proof:
        async with resolver(dns, settings) as asked:
            judge = Judge(settings.judge, settings.hostname, ResolvedNames(asked), None, SILENT)
            return await judge.prove(client, envelope, raw, header, now(), dmarc=True)

    proof = asyncio.run(ask())
    findings = [_without_address(each) if not ip else each for each in proof.findings]
    if as_json:
        print_json(_facts(findings, proof, settings))
        return
    for each in findings:
        domain = f" ({each.domain})" if each.domain else ""
        say(f"{each.method}={each.result.value}{domain}" + (f": {each.reason}" if each.reason else ""))
    if proof.outcome is not None:
        say(_consequence(proof))


def _consequence(proof: Proof) -> str:
    decision = proof.decision
    because = f" ({decision.override.value}: {decision.comment})" if decision.override and decision.comment else ""
    return f"DMARC asks this server: {decision.request.word}{because}"


def _facts(findings: list[Finding], proof: Proof, settings: Config) -> dict[str, object]:
    by_method: dict[str, list[dict[str, object]]] = {"spf": [], "dkim": [], "arc": [], "dmarc": []}
    for each in findings:
        by_method[each.method].append(
            {
                "result": each.result.value,
                "domain": each.domain,
                "reason": each.reason,
                "properties": dict(each.properties),
            }
        )
    override = proof.decision.override
    nothing = {"result": "none", "domain": "", "reason": "not asked", "properties": {}}
    return {
        "spf": next(iter(by_method["spf"]), nothing),
        "dkim": by_method["dkim"],
        "arc": next(iter(by_method["arc"]), {**nothing, "reason": "no chain"}),
        "dmarc": next(iter(by_method["dmarc"]), nothing),
        "request": proof.decision.request.word,
        "override": None if override is None else override.value,
        "mode": settings.judge.dmarc.value,
    }


def _without_address(finding: Finding) -> Finding:
    return replace(finding, reason="no --ip was given") if finding.method == "spf" else finding


def _mail(file: Path) -> bytes:
    """Read a mail; one with the line ends of Unix gets those of the wire."""
    try:
        raw = sys.stdin.buffer.read(FILE_MAX + 1) if str(file) == "-" else file.read_bytes()
    except OSError as wrong:
        raise Failed(f"{file}: {wrong.strerror}") from wrong
    if len(raw) > FILE_MAX:
        raise Failed(f"{file} is larger than {FILE_MAX >> 20} MiB")
    return raw if b"\r\n" in raw else raw.replace(b"\n", b"\r\n")


def _sender(text: str) -> ReversePath:
    if text in ("", "<>"):
        return None
    text = text.removeprefix("<").removesuffix(">")
    local, _, domain = text.rpartition("@")
    if not local or not domain:
        raise Failed(f"{text!r} is no address")
    try:
        return parse_mailbox(text.encode())
    except BadAddress:  # what no server of ours takes may be asked about all the same
        return Address(local, domain)
