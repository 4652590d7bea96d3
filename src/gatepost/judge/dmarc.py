"""DMARC's verdict (RFC 9989): whether the author's domain stands behind a mail, and what it asks for if not.

SPF and DKIM say which domains a mail proves; DMARC asks whether one of them belongs to the organization that the
reader sees in From. Nothing but the DNS is asked, and what the DNS does not answer is never a failure.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gatepost.base.verdict import Finding, Result
from gatepost.codec.dmarc import Policy, Request, applicable, ends, only_policy, organizational, walk
from gatepost.judge.spf import Trouble

AUTHORS_MAX: Final = 5  # domains in one From; more make no sense and would only cost questions


class Names(Protocol):
    """The DNS as DMARC needs it: an empty answer where there is nothing, Trouble where nobody knows."""

    def txt(self, name: str) -> Awaitable[Sequence[bytes]]: ...
    def exists(self, name: str) -> Awaitable[bool]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """DMARC's result for the author `domain`, and what it asks for (NONE when the mail passes).

    `published` is the policy that counts and `published_at` the domain that has it, None and empty where there is
    none. `spf` and `dkim` tell which of them proved the author. `wanted` is what the record asks for mail that
    fails, before its test mode and our own reasons soften it.
    """

    domain: str
    result: Result
    request: Request = Request.NONE
    reason: str = ""
    published_at: str = ""
    published: Policy | None = None
    spf: bool = False
    dkim: bool = False
    wanted: Request = Request.NONE

    def finding(self) -> Finding:
        """Return it as a result for Authentication-Results (RFC 8601 §2.7, RFC 9989 §9)."""
        properties = [("header.from", self.domain)]
        if self.published is not None:
            properties.append(("policy.dmarc", self.wanted.word))
        return Finding("dmarc", self.result, self.domain, tuple(properties), self.reason)


async def evaluate(names: Names, authors: Sequence[str], findings: Sequence[Finding]) -> Outcome:
    """Judge a mail whose From names `authors` (domains, A-labels, lower case), by what SPF and DKIM found.

    Several domains are each judged and the worst result counts: whoever reads may be shown any of them.
    """
    if not authors:
        return Outcome("", Result.PERMERROR, reason="no author that can be named")
    if len(authors) > AUTHORS_MAX:
        return Outcome(authors[0], Result.PERMERROR, reason=f"{len(authors)} domains in From")
    outcomes = [await _Evaluation(names, author, findings).run() for author in authors]
    return max(outcomes, key=_badness)


async def organization_of(names: Names, domain: str) -> str:
    """Return the organizational domain of a domain (RFC 9989 §4.10.2); raises Trouble."""
    return organizational(domain, await _walk(names, domain))


async def _walk(names: Names, start: str) -> list[tuple[str, Policy]]:
    """Ask for policies up the tree; raises Trouble."""
    found: list[tuple[str, Policy]] = []
    for domain in walk(start):
        texts = [text.decode("latin-1") for text in await names.txt(f"_dmarc.{domain}")]
        policy = only_policy(texts)
        if policy is not None:
            found.append((domain, policy))
        if ends(policy, first=domain == start):
            break
    return found


class _Evaluation:
    """One author domain's evaluation; the walks that it makes are remembered."""

    def __init__(self, names: Names, author: str, findings: Sequence[Finding]) -> None:
        self._names = names
        self._author = author
        self._findings = findings
        self._walked: dict[str, list[tuple[str, Policy]]] = {}

    async def run(self) -> Outcome:
        """Find the policy, then whether something aligned passed."""
        try:
            found = await self._walk(self._author)
        except Trouble as trouble:
            return Outcome(self._author, Result.TEMPERROR, reason=str(trouble))
        policy = applicable(self._author, found)
        if policy is None:
            return Outcome(self._author, Result.NONE, reason="no policy")
        published_at, published = policy
        unsure = ""
        try:
            spf = await self._aligned("spf", strict=published.strict_spf)
            dkim = await self._aligned("dkim", strict=published.strict_dkim)
            if spf or dkim:
                return Outcome(
                    self._author,
                    Result.PASS,
                    published_at=published_at,
                    published=published,
                    spf=spf,
                    dkim=dkim,
                    wanted=await self._wish(published_at, published),
                )
            wanted = await self._wish(published_at, published)
        except Trouble as trouble:
            unsure, wanted = str(trouble), published.request
        if not unsure and (failed := self._unanswered()):
            unsure = f"{failed} could not be checked"
        if unsure:
            return Outcome(
                self._author,
                Result.TEMPERROR,
                reason=unsure,
                published_at=published_at,
                published=published,
                wanted=wanted,
            )
        request = Request.NONE if published.testing else wanted
        reason = f"{published_at} asks for {wanted.word}" + (", but only tests it" if published.testing else "")
        return Outcome(self._author, Result.FAIL, request, reason, published_at, published, wanted=wanted)

    async def _walk(self, start: str) -> list[tuple[str, Policy]]:
        if start not in self._walked:
            self._walked[start] = await _walk(self._names, start)
        return self._walked[start]

    async def _aligned(self, method: str, *, strict: bool) -> bool:
        """Tell whether a pass of `method` is for the author's domain or, unless `strict`, its organization."""
        passed = {each.domain.lower() for each in self._findings if _passed(each, method)}
        if self._author in passed:
            return True
        if strict or not passed:
            return False
        ours = organizational(self._author, await self._walk(self._author))
        related = [each for each in passed if ("." + each).endswith("." + ours)]
        return any([organizational(each, await self._walk(each)) == ours for each in related])

    async def _wish(self, published_at: str, published: Policy) -> Request:
        own = published_at == self._author
        needs_asking = not own and published.missing is not None
        exists = await self._names.exists(self._author) if needs_asking else True
        return published.wish(own=own, exists=exists)

    def _unanswered(self) -> str:
        """Return the methods whose temporary trouble leaves it open whether they would have passed (§5.3.2)."""
        methods = [each.method for each in self._findings if each.result is Result.TEMPERROR]
        return " and ".join(dict.fromkeys(methods))


def _passed(finding: Finding, method: str) -> bool:
    return finding.method == method and finding.result is Result.PASS and bool(finding.domain)


_ORDER: Final = (Result.PASS, Result.NONE, Result.PERMERROR, Result.TEMPERROR, Result.FAIL)


def _badness(outcome: Outcome) -> tuple[int, int]:
    return _ORDER.index(outcome.result), outcome.request
