"""Our ARC sets: before our own verifier and before dkimpy's."""

import re
import time
from collections.abc import Callable, Sequence

import dkim as dkimpy
import pytest

from gatepost.base.clock import Instant
from gatepost.base.verdict import Result
from gatepost.codec.mail.header import HeaderBlock
from gatepost.judge import arc
from gatepost.judge.judge import raw_fields
from gatepost.judge.keys import generate, record_text
from gatepost.judge.seal import SigningKey, arc_set
from tests.support.loop import run

KEY = SigningKey("forward.example", "s1", "rsa-sha256", generate("rsa-sha256"))
NOW = Instant(int(time.time()) * 1_000_000)
MAIL = (
    b"From: Joe <joe@x.example>\r\nTo: ann@y.example\r\nSubject: a  folded\r\n\tsubject\r\n"
    b"Date: Tue, 24 Nov 2026 03:00:00 +0000\r\nMessage-ID: <1@x.example>\r\n\r\nHello  you\r\n\r\n\r\n"
)
FOUND = b"mx.forward.example;\r\n\tspf=pass smtp.mailfrom=joe@x.example;\r\n\tdmarc=pass header.from=x.example"


class Keys:
    """The sealer's key in the DNS."""

    async def txt(self, name: str) -> Sequence[bytes]:
        """Return the key."""
        return [record_text(KEY.private).encode()] if name == "s1._domainkey.forward.example" else []


def evaluated(raw: bytes) -> arc.Chain:
    """Verify a mail's chain."""
    header = HeaderBlock.parse(raw)
    return run(arc.verify(raw_fields(raw, header), raw[header.end :], Keys(), NOW))


def sealed(raw: bytes) -> bytes:
    """Add a set of ours on top of a mail whose chain is valid."""
    header = HeaderBlock.parse(raw)
    return arc_set(KEY, raw_fields(raw, header), raw[header.end :], evaluated(raw).sets, FOUND, NOW) + raw


def test_chains_of_ours_hold_for_us_and_for_dkimpy() -> None:
    raw = MAIL
    for instance in range(1, 5):
        raw = sealed(raw)
        chain = evaluated(raw)
        assert (chain.result, len(chain.sets), chain.oldest_pass) == (Result.PASS, instance, 0), chain.reason
        result, _, reason = dkimpy.arc_verify(raw, dnsfunc=lambda _, timeout=5: record_text(KEY.private).encode())
        assert result == b"pass", reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Hello", b"Hallo"),
        (b"Subject: a", b"Subject: b"),
        (b"dmarc=pass", b"dmarc=none"),
        (b"cv=pass", b"cv=none"),
    ],
)
def test_a_change_breaks_the_chain(old: bytes, new: bytes) -> None:
    assert evaluated(sealed(sealed(MAIL)).replace(old, new, 1)).result is Result.FAIL


def test_what_a_list_changed_before_the_last_hand_shows_in_oldest_pass() -> None:
    changed = sealed(MAIL).replace(b"Hello", b"Hallo")
    header = HeaderBlock.parse(changed)
    first = evaluated(sealed(MAIL)).sets  # who changes a mail vouches for what it was
    raw = arc_set(KEY, raw_fields(changed, header), changed[header.end :], first, FOUND, NOW) + changed
    assert evaluated(raw).result is Result.PASS
    assert evaluated(raw).oldest_pass == 2


@pytest.mark.row("AUTHN-23")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw.replace(b"i=2;", b"i=3;"), "a set is missing"),
        (lambda raw: raw.replace(b"i=1;", b"i=0;"), "no instance"),
        (lambda raw: raw.replace(b"i=2;", b"i=51;"), "no instance from 1 to 50"),
        (lambda raw: raw.replace(b"i=2;", b"i=1;"), "stands twice"),
        (
            lambda raw: re.sub(rb"(ARC-Message-Signature: i=2;.*?t=)", rb"\g<1>9", raw, flags=re.DOTALL),
            "message signature 2",
        ),
        (lambda raw: re.sub(rb"(ARC-Seal: i=1;.*?b=\s*).{5}", rb"\g<1>AAAAA", raw, flags=re.DOTALL), "seal"),
    ],
)
def test_a_chain_that_was_tampered_with_fails(change: Callable[[bytes], bytes], reason: str) -> None:
    raw = sealed(sealed(MAIL))
    changed = change(raw)
    assert changed != raw
    chain = evaluated(changed)
    assert chain.result is Result.FAIL
    assert reason in chain.reason


@pytest.mark.row("AUTHN-23")
def test_fifty_sets_are_the_most() -> None:
    raw = b"".join(
        b"ARC-Seal: i=%d; cv=pass; a=x; b=; d=x.example; s=s\r\nARC-Message-Signature: i=%d\r\n"
        b"ARC-Authentication-Results: i=%d; mx\r\n" % (at, at, at)
        for at in range(1, 52)
    )
    chain = evaluated(raw + MAIL)
    assert (chain.result, chain.reason) == (Result.FAIL, "arc-seal has no instance from 1 to 50")
