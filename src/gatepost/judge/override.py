"""When a domain's wish about failed mail is not carried out (RFC 9989 §7.4, RFC 9990's PolicyOverride).

A mailing list changes what it sends on, so DMARC fails for honest mail. Two kinds of knowledge tell such mail from
a forgery: a hand that is trusted saw it pass (ARC), or a list that is known proves itself by its own signature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from gatepost.base.address import fold, fold_domain
from gatepost.base.verdict import Finding, Result
from gatepost.codec.arc import results_of
from gatepost.codec.dmarc import Request
from gatepost.codec.mail import authres
from gatepost.judge.arc import Chain
from gatepost.judge.dmarc import Outcome


class Override(Enum):
    """Why a wish was not carried out; the words of the aggregate report."""

    TEST_MODE = "policy_test_mode"
    TRUSTED_FORWARDER = "trusted_forwarder"
    MAILING_LIST = "mailing_list"
    LOCAL_POLICY = "local_policy"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done with a mail on DMARC's account, and why that is not what its domain asks for."""

    request: Request
    override: Override | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom the operator believes: `sealers` are domains whose ARC seals count, `lists` are List-Ids."""

    sealers: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()


def decide(outcome: Outcome, chain: Chain, list_id: str, findings: Sequence[Finding], trust: Trust) -> Decision:
    """Decide on a mail that `outcome` judged; `list_id` is its List-Id's identifier, empty for none."""
    if outcome.result is not Result.FAIL:
        return Decision(Request.NONE)
    if outcome.request < outcome.wanted:
        return Decision(outcome.request, Override.TEST_MODE)
    if outcome.request is Request.NONE:
        return Decision(Request.NONE)
    sealer = _vouching(outcome.domain, chain, trust)
    if sealer:
        return Decision(Request.NONE, Override.TRUSTED_FORWARDER, f"{sealer} saw it pass")
    if list_id in trust.lists and _proves_itself(list_id, findings):
        return Decision(Request.NONE, Override.MAILING_LIST, f"of the list {list_id}")
    return Decision(outcome.request)


def list_identifier(value: bytes) -> str:
    """Return what stands between the last angle brackets of a List-Id (RFC 2919 §3), folded; empty for none."""
    inside = value.rpartition(b"<")[2].partition(b">")
    text = fold(inside[0].strip().decode("utf-8", "replace")) if b"<" in value and inside[1] else ""
    return text if "." in text and len(text) <= 255 else ""


def _vouching(author: str, chain: Chain, trust: Trust) -> str:
    """Return the trusted sealer who reports that the author passed, with only trusted hands after it."""
    if chain.result is not Result.PASS:
        return ""
    for each, sealer in zip(reversed(chain.sets), reversed(chain.sealers), strict=True):
        if sealer not in trust.sealers:
            return ""
        passed = (found for found in authres.parse(results_of(each)) if found.method == "dmarc")
        if any(found.result == "pass" and _speaks_of(found, author) for found in passed):
            return sealer
    return ""


def _speaks_of(found: authres.Reported, author: str) -> bool:
    return fold_domain(found.properties.get("header.from", "")) == author


def _proves_itself(list_id: str, findings: Sequence[Finding]) -> bool:
    """Tell whether a signature of the list's own domain holds: List-Id is anybody's word."""
    passed = (each.domain for each in findings if each.method == "dkim" and each.result is Result.PASS)
    return any(("." + list_id).endswith("." + domain) and "." in domain for domain in passed)
