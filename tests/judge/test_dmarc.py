"""DMARC evaluated (RFC 9989 §5.3): who stands behind a mail, and what is asked for if nobody does."""

from collections.abc import Sequence

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.aio.resolve import Resolver
from gatepost.base.verdict import Finding, Result
from gatepost.codec.dmarc import Request
from gatepost.judge import dmarc
from gatepost.judge.dmarc import Outcome
from gatepost.judge.names import ResolvedNames
from gatepost.judge.spf import Trouble
from tests.support.loop import run
from tests.support.zone import Zone as DnsZone
from tests.support.zone import txt

REJECT = "v=DMARC1; p=reject"


class Zone:
    """TXT records of `_dmarc` names by domain; `down` are domains whose question is not answered."""

    def __init__(self, records: dict[str, str], down: Sequence[str] = (), missing: Sequence[str] = ()) -> None:
        self._records = records
        self._down = down
        self._missing = missing
        self.asked: list[str] = []

    async def txt(self, name: str) -> Sequence[bytes]:
        """Return the record of a domain's `_dmarc`."""
        domain = name.removeprefix("_dmarc.")
        self.asked.append(domain)
        if domain in self._down:
            raise Trouble(f"the DNS does not answer for {name}")
        return [self._records[domain].encode()] if domain in self._records else []

    async def exists(self, name: str) -> bool:
        """Tell whether the name exists."""
        return name not in self._missing


def spf(result: Result, domain: str) -> Finding:
    """Return what SPF found."""
    return Finding("spf", result, domain)


def dkim(result: Result, domain: str) -> Finding:
    """Return what one signature gave."""
    return Finding("dkim", result, domain)


def judged(zone: Zone, author: str, *findings: Finding) -> Outcome:
    """Evaluate a mail of one author."""
    return run(dmarc.evaluate(zone, [author], findings))


def test_same_domain_passes_after_one_question() -> None:
    zone = Zone({"x.example": REJECT})
    outcome = judged(zone, "x.example", spf(Result.PASS, "x.example"))
    assert (outcome.result, outcome.spf, outcome.dkim, outcome.request) == (Result.PASS, True, False, Request.NONE)
    assert zone.asked == ["x.example", "example"]


@pytest.mark.parametrize(
    ("record", "domain", "passes"),
    [
        (REJECT, "mail.x.example", True),
        (REJECT + "; adkim=s", "mail.x.example", False),
        (REJECT + "; adkim=s", "x.example", True),
        (REJECT, "y.example", False),
        (REJECT, "notx.example", False),
        (REJECT, "example", False),
    ],
)
def test_alignment_of_a_signature(record: str, domain: str, passes: bool) -> None:
    outcome = judged(Zone({"x.example": record}), "x.example", dkim(Result.PASS, domain))
    assert (outcome.result is Result.PASS) is passes
    assert outcome.dkim is passes


def test_subdomains_of_a_public_suffix_do_not_stand_for_each_other() -> None:
    zone = Zone({"co.example": "v=DMARC1; p=none; psd=y", "x.co.example": REJECT})
    outcome = judged(zone, "x.co.example", dkim(Result.PASS, "y.co.example"))
    assert (outcome.result, outcome.request) == (Result.FAIL, Request.REJECT)


def test_failing_mail_gets_what_its_domain_asks_for() -> None:
    outcome = judged(Zone({"x.example": REJECT}), "x.example", spf(Result.FAIL, "x.example"))
    assert (outcome.result, outcome.request) == (Result.FAIL, Request.REJECT)
    assert outcome.reason == "x.example asks for reject"
    assert outcome.finding().properties == (("header.from", "x.example"), ("policy.dmarc", "reject"))


@pytest.mark.row("AUTHN-20")
def test_subdomain_without_a_record_has_that_of_its_organization() -> None:
    zone = Zone({"legit.example": "v=DMARC1; p=reject; sp=quarantine; np=reject"}, missing=["gone.legit.example"])
    there = judged(zone, "sub.legit.example", spf(Result.NONE, "a.example"))
    gone = judged(zone, "gone.legit.example", spf(Result.NONE, "a.example"))
    assert (there.request, there.published_at) == (Request.QUARANTINE, "legit.example")
    assert (gone.request, gone.published_at) == (Request.REJECT, "legit.example")


@pytest.mark.parametrize("tag", ["t=y", "pct=0", "pct=99"])
def test_test_mode_asks_for_nothing_and_says_what_it_would(tag: str) -> None:
    outcome = judged(Zone({"x.example": f"{REJECT}; {tag}"}), "x.example")
    assert (outcome.result, outcome.request, outcome.wanted) == (Result.FAIL, Request.NONE, Request.REJECT)
    assert "only tests" in outcome.reason


def test_no_record_is_none() -> None:
    assert judged(Zone({}), "x.example").result is Result.NONE


@pytest.mark.row("AUTHN-25")
@pytest.mark.parametrize("down", ["x.example", "example"])
def test_dns_that_does_not_answer_is_never_a_failure(down: str) -> None:
    outcome = judged(Zone({"x.example": REJECT}, [down]), "x.example", dkim(Result.PASS, "y.example"))
    assert (outcome.result, outcome.request) == (Result.TEMPERROR, Request.NONE)


@pytest.mark.row("AUTHN-25")
def test_a_key_that_could_not_be_asked_for_leaves_the_result_open() -> None:
    findings = (spf(Result.FAIL, "x.example"), dkim(Result.TEMPERROR, "x.example"))
    outcome = judged(Zone({"x.example": REJECT}), "x.example", *findings)
    assert (outcome.result, outcome.request, outcome.wanted) == (Result.TEMPERROR, Request.NONE, Request.REJECT)
    assert outcome.reason == "dkim could not be checked"


def test_what_passes_counts_although_something_else_was_not_answered() -> None:
    findings = (spf(Result.PASS, "x.example"), dkim(Result.TEMPERROR, "x.example"))
    assert judged(Zone({"x.example": REJECT}), "x.example", *findings).result is Result.PASS


@pytest.mark.row("HDR-07", "HDR-11")
@pytest.mark.parametrize("authors", [["legit.example", "attack.example"], ["attack.example", "legit.example"]])
def test_of_several_authors_the_worst_result_counts(authors: list[str]) -> None:
    zone = Zone({"legit.example": REJECT, "attack.example": "v=DMARC1; p=none"})
    outcome = run(dmarc.evaluate(zone, authors, [dkim(Result.PASS, "attack.example")]))
    assert (outcome.domain, outcome.result, outcome.request) == ("legit.example", Result.FAIL, Request.REJECT)


def test_a_mail_without_an_author_or_with_a_crowd_is_an_error() -> None:
    assert run(dmarc.evaluate(Zone({}), [], [])).result is Result.PERMERROR
    assert run(dmarc.evaluate(Zone({}), [f"d{n}.example" for n in range(6)], [])).result is Result.PERMERROR


def test_a_long_name_costs_eight_questions() -> None:
    zone = Zone({})
    judged(zone, ".".join("abcdefghijklmnop") + ".example")
    assert len(zone.asked) == 8


@pytest.mark.row("AUTHN-20")
def test_an_alias_leads_to_the_record_through_the_resolver() -> None:
    async def play() -> Outcome:
        records = {
            "_dmarc.x.example": {"CNAME": ["policies.provider.example."]},
            "policies.provider.example": {"TXT": [txt("v=DMARC1; p=reject; np=quarantine")]},
            "there.x.example": {"A": ["192.0.2.1"]},
        }
        async with DnsZone(records) as zone:
            resolver = Resolver([zone.address], clock=SystemClock())
            try:
                names = ResolvedNames(resolver)
                there = await dmarc.evaluate(names, ["there.x.example"], [])
                gone = await dmarc.evaluate(names, ["gone.x.example"], [])
                assert (there.request, gone.request) == (Request.REJECT, Request.QUARANTINE)
                return await dmarc.evaluate(names, ["x.example"], [])
            finally:
                await resolver.close()

    assert run(play()).request is Request.REJECT
