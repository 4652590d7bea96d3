"""When DMARC's wish is not carried out: whom the operator believes."""

import pytest

from gatepost.base.verdict import Finding, Result
from gatepost.codec.arc import ArcSet
from gatepost.codec.dmarc import Policy, Request
from gatepost.judge.arc import NO_CHAIN, Chain
from gatepost.judge.dmarc import Outcome
from gatepost.judge.override import Decision, Override, Trust, decide, list_identifier

FAILED = Outcome("x.example", Result.FAIL, Request.REJECT, wanted=Request.REJECT, published=Policy(Request.REJECT))
SAW_IT_PASS = b"ARC-Authentication-Results: i=1; mx.list.example; dmarc=pass (p=reject) header.from=X.Example\r\n"
SAW_NOTHING = b"ARC-Authentication-Results: i=2; mx.fwd.example; dmarc=fail header.from=x.example\r\n"


def chain(*results: bytes, sealers: tuple[str, ...], result: Result = Result.PASS) -> Chain:
    """Return a chain of sets that report `results`, the oldest first."""
    return Chain(result, "", tuple(ArcSet(at, each, b"", b"") for at, each in enumerate(results, 1)), sealers)


def request(found: Chain, *sealers: str) -> Request:
    """Decide on the failed mail with such a chain, when `sealers` are believed."""
    return decide(FAILED, found, "", (), Trust(sealers=frozenset(sealers))).request


def test_a_trusted_hand_that_saw_it_pass_is_believed() -> None:
    found = chain(SAW_IT_PASS, sealers=("list.example",))
    decision = decide(FAILED, found, "", (), Trust(sealers=frozenset(("list.example",))))
    assert decision == Decision(Request.NONE, Override.TRUSTED_FORWARDER, "list.example saw it pass")


@pytest.mark.parametrize("trusted", [(), ("other.example",)])
def test_a_hand_that_nobody_trusts_is_not(trusted: tuple[str, ...]) -> None:
    assert request(chain(SAW_IT_PASS, sealers=("list.example",)), *trusted) is Request.REJECT


def test_every_hand_since_must_be_trusted() -> None:
    found = chain(SAW_IT_PASS, SAW_NOTHING, sealers=("list.example", "fwd.example"))
    assert request(found, "list.example", "fwd.example") is Request.NONE
    assert request(found, "list.example") is Request.REJECT
    assert request(found, "fwd.example") is Request.REJECT


def test_a_broken_chain_says_nothing() -> None:
    found = chain(SAW_IT_PASS, sealers=("list.example",), result=Result.FAIL)
    assert request(found, "list.example") is Request.REJECT


@pytest.mark.parametrize(
    "results",
    [
        b"ARC-Authentication-Results: i=1; mx; dmarc=pass header.from=y.example\r\n",
        b"ARC-Authentication-Results: i=1; mx; dmarc=fail header.from=x.example\r\n",
        b"ARC-Authentication-Results: i=1; mx; dmarc=pass\r\n",
        b'ARC-Authentication-Results: i=1; mx; spf=fail reason="; dmarc=pass header.from=x.example"\r\n',
        b"ARC-Authentication-Results: i=1; mx; spf=fail (dmarc=pass header.from=x.example)\r\n",
    ],
)
def test_a_report_of_something_else_is_no_word_for_it(results: bytes) -> None:
    assert request(chain(results, sealers=("list.example",)), "list.example") is Request.REJECT


@pytest.mark.parametrize(
    ("list_id", "signer", "lists", "expected"),
    [
        ("users.list.example", "list.example", ("users.list.example",), Request.NONE),
        ("users.list.example", "users.list.example", ("users.list.example",), Request.NONE),
        ("users.list.example", "other.example", ("users.list.example",), Request.REJECT),
        ("users.list.example", "example", ("users.list.example",), Request.REJECT),
        ("users.list.example", "list.example", (), Request.REJECT),
    ],
)
def test_a_list_is_believed_when_it_is_known_and_proves_itself(
    list_id: str, signer: str, lists: tuple[str, ...], expected: Request
) -> None:
    findings = (Finding("dkim", Result.PASS, signer),)
    assert decide(FAILED, NO_CHAIN, list_id, findings, Trust(lists=frozenset(lists))).request is expected


def test_test_mode_is_told_apart() -> None:
    trying = Outcome("x.example", Result.FAIL, Request.NONE, wanted=Request.REJECT)
    assert decide(trying, NO_CHAIN, "", (), Trust()) == Decision(Request.NONE, Override.TEST_MODE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Users of peas <Users.List.Example>", "users.list.example"),
        (b"<users.list.example>", "users.list.example"),
        (b"users.list.example", ""),
        (b"<nodot>", ""),
        (b"<a.b", ""),
        (b"", ""),
        (b"<" + b"a." * 200 + b">", ""),
    ],
)
def test_list_identifier(value: bytes, expected: str) -> None:
    assert list_identifier(value) == expected
