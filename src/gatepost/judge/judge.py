"""The judge: asks SPF and DKIM, lets the scanner look, and gives one verdict with the fields to add."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from gatepost.base.address import ReversePath, fold_domain
from gatepost.base.clock import Instant
from gatepost.base.envelope import Client, Envelope
from gatepost.base.ports import Log
from gatepost.base.verdict import Action, Finding, Result, Verdict
from gatepost.codec.mail import authres
from gatepost.codec.mail.header import HeaderBlock
from gatepost.codec.spf import parse_ip
from gatepost.judge import dkim, spf
from gatepost.judge.content import Scanned, Scanner, spam_fields
from gatepost.judge.settings import JudgeSettings

_SPAM_FIELDS = frozenset(
    (b"x-spam-flag", b"x-spam-level", b"x-spam-status", b"x-spam-report", b"x-spam-checker-version")
)


class Names(spf.Names, dkim.KeyNames, Protocol):
    """The DNS as the judge needs it."""


class Judge:
    """Examines mail from strangers before it is answered; `authserv_id` is our name in Authentication-Results."""

    def __init__(
        self,
        settings: JudgeSettings,
        authserv_id: str,
        names: Names,
        scanner: Scanner | None,
        log: Log,
        *,
        ours: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Make it; `ours` tells who is another mail server of ours, whose address no sender's SPF can know."""
        self._ours = ours
        self._settings = settings
        self._authserv_id = authserv_id
        self._names = names
        self._scanner = scanner
        self._log = log

    def renew(self, settings: JudgeSettings, scanner: Scanner | None) -> None:
        """Take other settings; an examination that is under way keeps what it has read of the old ones."""
        self._settings = settings
        self._scanner = scanner

    async def examine(
        self, client: Client, envelope: Envelope, raw: bytes, header: HeaderBlock, now: Instant
    ) -> Verdict:
        """Return the verdict on one mail; never raises for what the mail or the DNS says."""
        trusted = bool(client.user)
        findings = (
            () if trusted or not self._settings.verify else await self._genuine(client, envelope, raw, header, now)
        )
        strip = list(authres.forged(header, raw, self._authserv_id))
        added = authres.render(self._authserv_id, findings) if findings else b""
        scanned = self._scan(raw, header, findings)
        action, score = Action.ACCEPT, 0.0
        reasons: tuple[str, ...] = ()
        if scanned is not None:
            added += spam_fields(scanned, self._settings.junk_score)
            strip += [(field.start, field.end) for field in header.fields if field.name.lower() in _SPAM_FIELDS]
            score, reasons = scanned.score, scanned.rules
            action = self._action(scanned.score, trusted=trusted)
        return Verdict(action, findings, score, reasons, added, tuple(sorted(set(strip))))

    def _action(self, score: float, *, trusted: bool) -> Action:
        if score >= self._settings.refuse_score:
            return Action.REFUSE
        return Action.JUNK if score >= self._settings.junk_score and not trusted else Action.ACCEPT

    def _scan(self, raw: bytes, header: HeaderBlock, findings: tuple[Finding, ...]) -> Scanned | None:
        if self._scanner is None or not self._settings.filter or len(raw) > self._settings.filter_max_size:
            return None
        return self._scanner.scan(raw, header, findings)

    async def _genuine(
        self, client: Client, envelope: Envelope, raw: bytes, header: HeaderBlock, now: Instant
    ) -> tuple[Finding, ...]:
        signed = b"dkim-signature" in header
        fields = raw_fields(raw, header) if signed else ()
        try:
            async with asyncio.timeout(self._settings.dns_time):
                sent = await self._spf(client, envelope.sender)
                body = raw[header.end :] if signed else b""
                return (sent, *await dkim.verify(fields, body, self._names, now))
        except TimeoutError:
            self._log.warning("judge_out_of_time", message=envelope.id, ip=client.ip)
            return (
                Finding("spf", Result.TEMPERROR, reason="out of time"),
                Finding("dkim", Result.TEMPERROR, reason="out of time"),
            )

    async def _spf(self, client: Client, sender: ReversePath) -> Finding:
        helo = fold_domain(client.helo)
        domain = fold_domain(sender.domain) if sender is not None else helo
        prop = ("smtp.mailfrom", str(sender)) if sender is not None else ("smtp.helo", helo)
        if client.loopback:
            return Finding("spf", Result.NONE, domain, (prop,), "the client is this machine")
        if self._ours(client.ip):
            return Finding("spf", Result.NONE, domain, (prop,), "the client is a mail server of ours")
        local = sender.local if sender is not None else "postmaster"
        outcome = await spf.check_host(self._names, parse_ip(client.ip), local, domain, helo)
        return Finding("spf", outcome.result, domain, (prop,), outcome.reason)


def raw_fields(raw: bytes, header: HeaderBlock) -> Sequence[tuple[bytes, bytes]]:
    """Return (lower-case name, raw octets) of each header field: what DKIM works on."""
    return [(field.name.lower(), raw[field.start : field.end]) for field in header.fields]
