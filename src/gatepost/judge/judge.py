"""The judge: asks SPF, DKIM, ARC and DMARC, lets the scanner look, and gives one verdict with the fields to add."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gatepost.base.address import ReversePath, fold_domain
from gatepost.base.clock import Instant
from gatepost.base.envelope import Client, Envelope
from gatepost.base.ports import Log
from gatepost.base.verdict import Action, Custody, Finding, Result, Verdict
from gatepost.codec.dmarc import Policy, Request
from gatepost.codec.dmarcreport import Row
from gatepost.codec.mail import authres
from gatepost.codec.mail.address import mailboxes
from gatepost.codec.mail.header import HeaderBlock, unfold
from gatepost.codec.spf import parse_ip
from gatepost.judge import arc, dkim, dmarc, spf
from gatepost.judge.content import Scanned, Scanner, spam_fields
from gatepost.judge.override import Decision, Trust, decide, list_identifier
from gatepost.judge.reported import row_of
from gatepost.judge.settings import Dmarc, JudgeSettings

_SPAM_FIELDS: Final = frozenset(
    (b"x-spam-flag", b"x-spam-level", b"x-spam-status", b"x-spam-report", b"x-spam-checker-version")
)
_NOTHING_ASKED: Final = Decision(Request.NONE)


class Names(spf.Names, dkim.KeyNames, dmarc.Names, Protocol):
    """The DNS as the judge needs it."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of a mail's origin: `findings` in the order of Authentication-Results."""

    findings: tuple[Finding, ...] = ()
    outcome: dmarc.Outcome | None = None
    decision: Decision = _NOTHING_ASKED
    chain: arc.Chain | None = None


Counted = Callable[[str, Policy, Row], None]
"""Takes a domain, its policy, and a mail that the policy was asked about, for the domain's report."""


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
        counted: Counted = lambda *_: None,
    ) -> None:
        """Make it; `ours` tells who is another mail server of ours, whose address no sender's SPF can know."""
        self._ours = ours
        self._counted = counted
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
        asked = self._settings.verify and not trusted
        ours = client.loopback or self._ours(client.ip)  # what such a client sends, SPF cannot prove
        dmarc_too = self._settings.dmarc is not Dmarc.OFF and not ours
        proof = await self.prove(client, envelope, raw, header, now, dmarc=dmarc_too) if asked else Proof()
        self._count(client, envelope, proof)
        strip = list(authres.forged(header, raw, self._authserv_id))
        added = authres.render(self._authserv_id, proof.findings) if proof.findings else b""
        scanned = self._scan(raw, header, proof.findings)
        action, refusal = self._honoured(proof)
        score = 0.0
        reasons: tuple[str, ...] = ()
        if scanned is not None:
            added += spam_fields(scanned, self._settings.junk_score)
            strip += [(field.start, field.end) for field in header.fields if field.name.lower() in _SPAM_FIELDS]
            score, reasons = scanned.score, scanned.rules
            content = self._action(scanned.score, trusted=trusted)
            action, refusal = (content, "") if _HARSHNESS[content] > _HARSHNESS[action] else (action, refusal)
        custody = self._custody(proof)
        return Verdict(action, proof.findings, score, reasons, added, refusal, custody, tuple(sorted(set(strip))))

    async def prove(
        self, client: Client, envelope: Envelope, raw: bytes, header: HeaderBlock, now: Instant, *, dmarc: bool
    ) -> Proof:
        """Ask who a mail is from, within the time that all its DNS questions may take."""
        try:
            async with asyncio.timeout(self._settings.dns_time):
                return await self._proof(client, envelope, raw, header, now, dmarc)
        except TimeoutError:
            self._log.warning("judge_out_of_time", message=envelope.id, ip=client.ip)
            late = [Finding(method, Result.TEMPERROR, reason="out of time") for method in ("spf", "dkim")]
            return Proof(tuple(late))

    async def _proof(
        self, client: Client, envelope: Envelope, raw: bytes, header: HeaderBlock, now: Instant, with_dmarc: bool
    ) -> Proof:
        signed, sealed = b"dkim-signature" in header, b"arc-seal" in header
        fields = raw_fields(raw, header) if signed or sealed else ()
        body = raw[header.end :] if signed or sealed else b""
        findings = (
            await self._spf(client, envelope.sender),
            *await dkim.verify(fields, body, self._names, now),
        )
        chain = await arc.verify(fields, body, self._names, now) if sealed else None
        if chain is not None:
            findings = (*findings, chain.finding())
        if not with_dmarc:
            return Proof(findings, chain=chain)
        outcome = await dmarc.evaluate(self._names, author_domains(header), findings)
        list_id = list_identifier(next(iter(header.get(b"list-id")), b""))
        decision = decide(outcome, chain or arc.NO_CHAIN, list_id, findings, self._trust())
        return Proof((*findings, outcome.finding()), outcome, decision, chain)

    def _count(self, client: Client, envelope: Envelope, proof: Proof) -> None:
        """Count it where its author's domain asks for reports; what could not be decided comes again."""
        outcome = proof.outcome
        if outcome is None or outcome.published is None or outcome.result is Result.TEMPERROR:
            return
        if outcome.published.reports_to:
            honoured = self._settings.dmarc is Dmarc.HONOUR
            row = row_of(client.ip, envelope.sender, outcome, proof.decision, proof.findings, honoured=honoured)
            self._counted(outcome.published_at, outcome.published, row)

    def _honoured(self, proof: Proof) -> tuple[Action, str]:
        """Return what DMARC alone makes of a mail, and the words of a refusal."""
        if self._settings.dmarc is not Dmarc.HONOUR or proof.outcome is None:
            return Action.ACCEPT, ""
        outcome = proof.outcome
        match proof.decision.request:
            case Request.REJECT:
                return Action.REFUSE, f"{outcome.published_at} asks to refuse mail that it does not prove (DMARC)"
            case Request.QUARANTINE:
                return Action.JUNK, ""
            case _:
                return Action.DEFER if _would_refuse(outcome) else Action.ACCEPT, ""

    def _custody(self, proof: Proof) -> Custody | None:
        chain = proof.chain or arc.NO_CHAIN
        if not proof.findings or chain.result not in (Result.NONE, Result.PASS):
            return None
        value = authres.render(self._authserv_id, proof.findings).partition(b":")[2]
        return Custody(value, tuple((each.results, each.message, each.seal) for each in chain.sets))

    def _trust(self) -> Trust:
        return Trust(frozenset(self._settings.sealers), frozenset(self._settings.lists))

    def _action(self, score: float, *, trusted: bool) -> Action:
        if score >= self._settings.refuse_score:
            return Action.REFUSE
        return Action.JUNK if score >= self._settings.junk_score and not trusted else Action.ACCEPT

    def _scan(self, raw: bytes, header: HeaderBlock, findings: tuple[Finding, ...]) -> Scanned | None:
        if self._scanner is None or not self._settings.filter or len(raw) > self._settings.filter_max_size:
            return None
        return self._scanner.scan(raw, header, findings)

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


_HARSHNESS: Final = {Action.ACCEPT: 0, Action.JUNK: 1, Action.DEFER: 2, Action.REFUSE: 3}


def raw_fields(raw: bytes, header: HeaderBlock) -> Sequence[tuple[bytes, bytes]]:
    """Return (lower-case name, raw octets) of each header field: what DKIM works on."""
    return [(field.name.lower(), raw[field.start : field.end]) for field in header.fields]


def author_domains(header: HeaderBlock) -> list[str]:
    """Return each domain that From names, folded, in order; every From field counts (P5)."""
    values = header.get(b"from")
    domains = [each.domain for value in values for each in mailboxes(unfold(value)) if each.domain]
    return list(dict.fromkeys(fold_domain(domain.decode("utf-8", "replace")) for domain in domains))


def _would_refuse(outcome: dmarc.Outcome) -> bool:
    """Tell whether a mail is to be refused unless what the DNS did not answer proves it: ask again later."""
    policy = outcome.published
    return (
        outcome.result is Result.TEMPERROR
        and policy is not None
        and not policy.testing
        and outcome.wanted is Request.REJECT
    )
