"""DKIM on the wire: canonical forms, tag lists, what a signature covers (RFC 6376)."""

import hashlib
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.codec.dkim import (
    BadKey,
    BadSignature,
    canonical_body,
    canonical_field,
    chosen_fields,
    parse_key,
    parse_signature,
    parse_tags,
    without_value,
)

SIGNATURE = (
    b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d=Example.org; s=gp;\r\n"
    b"\th=from : to; bh=MTIzNA==; i=@mail.example.org; b=QUJD\r\n RA==\r\n"
)


@pytest.mark.row("AUTHN-14")
def test_body_hash_of_an_empty_body_is_the_published_one() -> None:
    digest = hashlib.sha256(canonical_body(b"", relaxed=False)).digest()
    assert b64encode(digest) == b"frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY="
    digest = hashlib.sha256(canonical_body(b"", relaxed=True)).digest()
    assert b64encode(digest) == b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@pytest.mark.row("AUTHN-14")
def test_rfc_6376_section_3_4_5_examples() -> None:
    fields, body = [b"A: X\r\n", b"B : Y\t\r\n\tZ  \r\n"], b" C \r\nD \t E\r\n\r\n\r\n"
    assert [canonical_field(field, relaxed=True) for field in fields] == [b"a:X\r\n", b"b:Y Z\r\n"]
    assert [canonical_field(field, relaxed=False) for field in fields] == fields
    assert canonical_body(body, relaxed=True) == b" C\r\nD E\r\n"
    assert canonical_body(body, relaxed=False) == b" C \r\nD \t E\r\n"


@given(st.binary(max_size=200), st.booleans())
def test_canonical_bodies_stay_as_they_are(body: bytes, relaxed: bool) -> None:
    body = body.replace(b"\r", b"").replace(b"\n", b"\r\n")
    once = canonical_body(body, relaxed=relaxed)
    assert canonical_body(once, relaxed=relaxed) == once


def test_fields_are_chosen_from_the_bottom_up_and_absent_ones_sign_nothing() -> None:
    fields = [(b"from", b"From: a\r\n"), (b"to", b"To: x\r\n"), (b"from", b"From: b\r\n")]
    assert chosen_fields(fields, (b"from", b"from", b"from", b"cc")) == [b"From: b\r\n", b"From: a\r\n"]


def test_a_signature_reads_with_its_folds() -> None:
    signature = parse_signature(SIGNATURE)
    assert (signature.domain, signature.selector, signature.signed) == ("example.org", "gp", (b"from", b"to"))
    assert (signature.header_relaxed, signature.body_relaxed) == (True, False)
    assert (signature.body_hash, signature.value) == (b"1234", b"ABCD")
    assert signature.key_name == "gp._domainkey.example.org"


def test_only_the_b_tag_is_emptied() -> None:
    field = b"DKIM-Signature: v=1; bh=AAAA; z=Subject: b=no; b = QUJD\r\n\tRA==; t=5\r\n"
    assert without_value(field) == b"DKIM-Signature: v=1; bh=AAAA; z=Subject: b=no; b =; t=5\r\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"v=1", b"v=2", "version"),
        (b"h=from : to", b"h=to:cc", "From is not signed"),
        (b"h=from : to", b"h=from::to", "empty field"),
        (b"d=Example.org", b"d=", "tag d is missing"),
        (b"d=Example.org", b"d=exa mple", "d= is not a name"),
        (b"d=Example.org", b"d=org\x00.x", "d= is not a name"),
        (b"c=relaxed/simple", b"c=nowsp", "canonicalisation"),
        (b"i=@mail.example.org", b"i=@example.com", "i= is not within d="),
        (b"i=@mail.example.org", b"i=@badexample.org", "i= is not within d="),
        (b"bh=MTIzNA==", b"bh=*", "bh= is not base64"),
        (b"s=gp", b"s=gp; s=gp", "stands twice"),
        (b"s=gp", b"s=gp; t=1_0", "t= is not a number"),
        (b"s=gp", b"s=gp; t=20; x=10", "expires before"),
        (b"s=gp", b"s=gp; junk", "no name or no ="),
    ],
)
@pytest.mark.row("AUTHN-03")
def test_a_broken_signature_says_why(old: bytes, new: bytes, words: str) -> None:
    with pytest.raises(BadSignature, match=words):
        parse_signature(SIGNATURE.replace(old, new))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"k=rsa; v=DKIM1; p=AAAA", "first place"),
        (b"v=DKIM2; p=AAAA", "first place"),
        (b"v=DKIM1; k=rsa", "p= is missing"),
        (b"v=DKIM1; p=@@@@", "not base64"),
    ],
)
def test_a_broken_key_says_why(record: bytes, words: str) -> None:
    with pytest.raises(BadKey, match=words):
        parse_key(record)


def test_a_key_reads_with_its_flags() -> None:
    key = parse_key(b"v=DKIM1; h=sha256:sha1; k=rsa; s=email; t=y:s; g=*; p=AAAA")
    assert (key.kind, key.key, key.testing, key.strict) == ("rsa", b"\0\0\0", True, True)
    assert key.hashes == frozenset({"sha256", "sha1"})
    assert key.services == frozenset({"email"})


@given(st.binary(max_size=300))
def test_any_octets_are_read_or_refused(octets: bytes) -> None:
    for read, refusal in ((parse_signature, BadSignature), (parse_key, BadKey), (parse_tags, ValueError)):
        try:
            read(octets)
        except refusal:
            pass
