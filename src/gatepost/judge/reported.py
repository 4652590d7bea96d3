"""What is told to a domain of a mail that its DMARC policy was asked about (RFC 9990 §3.1.4)."""

from collections.abc import Iterator, Sequence
from typing import Final

from gatepost.base.address import ReversePath, fold_domain
from gatepost.base.verdict import Finding, Result
from gatepost.codec.dmarc import Request
from gatepost.codec.dmarcreport import Proof, Row
from gatepost.codec.mail.build import printable
from gatepost.judge.dmarc import Outcome
from gatepost.judge.override import Decision, Override

NAME_MAX: Final = 255


def row_of(
    ip: str,
    sender: ReversePath,
    outcome: Outcome,
    decision: Decision,
    findings: Sequence[Finding],
    *,
    honoured: bool,
) -> Row:
    """Return a mail as a line of the report; `honoured` tells whether what the policy asks for is done at all."""
    request, reasons = decision.request, _reasons(decision)
    if not honoured and request is not Request.NONE:
        request, reasons = Request.NONE, (f"{Override.LOCAL_POLICY.value}: only reported",)
    passed = outcome.result is Result.PASS
    return Row(
        ip,
        1,
        "pass" if passed else request.word,
        _word(outcome.dkim),
        _word(outcome.spf),
        outcome.domain,
        fold_domain(sender.domain) if sender is not None else "",
        reasons,
        tuple(_proofs(findings)),
    )


def _reasons(decision: Decision) -> tuple[str, ...]:
    if decision.override is None:
        return ()
    return (f"{decision.override.value}: {decision.comment}" if decision.comment else decision.override.value,)


def _proofs(findings: Sequence[Finding]) -> Iterator[Proof]:
    for each in findings:
        if each.method in ("dkim", "spf") and each.domain:
            selector = dict(each.properties).get("header.s", "") if each.method == "dkim" else ""
            domain = printable(each.domain, NAME_MAX)
            yield Proof(each.method, domain, each.result.value, printable(selector, NAME_MAX))


def _word(passed: bool) -> str:
    return "pass" if passed else "fail"
