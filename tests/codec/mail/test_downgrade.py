"""A mail is recoded for servers that take less, and says the same as before."""

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.mail.downgrade import (
    Unrecodable,
    header_needs_utf8,
    needs_short_lines,
    recode,
    signed,
)
from tests.codec.mail.soup import MIME_PIECES, soup

HEAD = b"From: a@b.example\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
WORDS = st.sampled_from(
    (
        b"f\xc3\xbcnf",
        b"plain",
        b"=",
        b"=3D",
        b" ",
        b"\t",
        b".",
        b"\xff\xfe",
        b"y" * 80,
        b"z" * 1_200,
        b"--",
        b"From ",
    )
)
LINES = st.lists(st.lists(WORDS, max_size=9).map(b"".join), max_size=6).map(b"\r\n".join)
BODIES = st.tuples(LINES, st.sampled_from((b"", b"\r\n", b" \r\n\r\n"))).map(b"".join)
TYPES = st.sampled_from(
    (b"", b"Content-Type: text/plain; charset=utf-8\r\n", b"Content-Type: application/pdf\r\n",
     b"Content-Type: text/html\r\n", b"content-type: image/png; name=x\r\n")
)  # fmt: skip
LABELS = st.sampled_from(
    (b"", b"Content-Transfer-Encoding: 8bit\r\n", b"content-transfer-encoding:binary\r\n",
     b"Content-Transfer-Encoding: 7bit\r\n")
)  # fmt: skip
QUOTED = st.tuples(LINES, st.just(b"\r\n")).map(b"".join)


@st.composite
def entities(draw: st.DrawFn, level: int = 0) -> bytes:
    """Return MIME fields, the blank line and a body."""
    match draw(st.integers(0, 5 if level < 3 else 2)):
        case 0 | 1:
            return draw(TYPES) + draw(LABELS) + b"\r\n" + draw(BODIES)
        case 2:
            label = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: Quoted-Printable\r\n\r\n"
            return label + draw(QUOTED)
        case 3:
            label = draw(st.sampled_from((b"", b"Content-Transfer-Encoding: 8bit\r\n")))
            mail = b"Subject: inner\r\n" + draw(st.sampled_from((b"", b"MIME-Version: 1.0\r\n")))
            return b"Content-Type: message/rfc822\r\n" + label + b"\r\n" + mail + draw(entities(level=level + 1))
        case _:
            boundary = b"=_%d" % level
            parts = draw(st.lists(entities(level=level + 1), min_size=1, max_size=3))
            body = draw(st.sampled_from((b"", b"preamble\r\n")))
            body += b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts)
            body += b"--%b--\r\n" % boundary
            label = draw(st.sampled_from((b"", b"Content-Transfer-Encoding: 8bit\r\n")))
            return b'Content-Type: multipart/mixed; boundary="%b"\r\n%b\r\n%b' % (boundary, label, body)


def decoded(mail: bytes) -> list[tuple[str, object]]:
    """Return what the standard library reads: the type and octets of each leaf."""
    told = message_from_bytes(mail)
    return [
        (part.get_content_type(), part.get_payload(decode=True)) for part in told.walk() if not part.is_multipart()
    ]


@given(entities())
@settings(max_examples=200, deadline=None)
def test_what_is_recoded_decodes_to_the_same(entity: bytes) -> None:
    mail = HEAD + entity
    recoded = recode(mail, seven_bit=True)
    assert decoded(recoded) == decoded(mail)
    assert recoded.isascii()
    assert not needs_short_lines(recoded)
    assert recoded.count(b"\r") == recoded.count(b"\n") == recoded.count(b"\r\n")
    assert recode(recoded, seven_bit=True) == recoded
    if mail.isascii() and not needs_short_lines(mail) and b"8bit" not in mail and b"binary" not in mail:
        assert recoded == mail


@given(entities())
@settings(max_examples=100, deadline=None)
def test_short_lines_alone_leave_8_bit_octets_where_they_are(entity: bytes) -> None:
    mail = HEAD + entity
    recoded = recode(mail, seven_bit=False)
    assert decoded(recoded) == decoded(mail)
    assert not needs_short_lines(recoded)
    if not needs_short_lines(mail):
        assert recoded == mail


@given(soup(MIME_PIECES))
@settings(max_examples=200, deadline=None)
def test_any_octets_are_recoded_or_refused(mail: bytes) -> None:
    for seven_bit in (True, False):
        try:
            recoded = recode(mail, seven_bit=seven_bit)
        except Unrecodable:
            continue
        assert not seven_bit or recoded.isascii()
        assert recoded.count(b"\r") == recoded.count(b"\n") == recoded.count(b"\r\n")


@pytest.mark.parametrize("body", ["fünf\r\n", "größer\r\n.\r\n" * 5, "ж" * 400 + "\r\n"])
def test_lines_of_quoted_printable_and_base64_have_76_octets_at_most(body: str) -> None:
    recoded = recode(HEAD + b"\r\n" + body.encode() * 30, seven_bit=True)
    assert max(map(len, recoded.split(b"\r\n"))) <= 76


def test_a_blank_at_the_end_of_a_full_line_stays_within_76_octets() -> None:
    for width in range(70, 80):
        recoded = recode(HEAD + b"\r\n\xff" + b"x" * width + b" \r\n", seven_bit=True)
        assert max(map(len, recoded.split(b"\r\n"))) <= 76
        assert decoded(recoded)[0][1] == b"\xff" + b"x" * width + b" \r\n"


@pytest.mark.parametrize(
    ("body", "charset"), [("fünf\r\n".encode(), "utf-8"), ("fünf\r\n".encode("latin-1"), "unknown-8bit")]
)
def test_a_mail_without_mime_gets_it(body: bytes, charset: str) -> None:
    """RFC 1428 §3."""
    recoded = recode(b"From: a@b.example\r\nSubject: x\r\n\r\n" + body, seven_bit=True)
    told = message_from_bytes(recoded, policy=policy.SMTP)
    assert isinstance(told, EmailMessage)
    assert (told["MIME-Version"], told.get_content_charset()) == ("1.0", charset)
    assert told["Content-Transfer-Encoding"] == "quoted-printable"
    assert recoded.startswith(b"From: a@b.example\r\nSubject: x\r\n")


def test_a_file_with_many_8_bit_octets_becomes_base64() -> None:
    octets = bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"") * 1_000
    label = b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    recoded = recode(HEAD + label + octets, seven_bit=True)
    assert b"Content-Transfer-Encoding: base64\r\n" in recoded
    assert decoded(recoded) == [("application/pdf", octets)]
    assert len(recoded) < 1.4 * len(octets)


def test_large_parts_are_recoded_in_pieces_that_fit_together() -> None:
    text = ("zwölf Boxkämpfer " * 6 + "\r\n").encode() * 3_000
    for label in (b"Content-Type: text/plain; charset=utf-8\r\n", b"Content-Type: application/x\r\n"):
        recoded = recode(HEAD + label + b"\r\n" + text, seven_bit=True)
        assert decoded(recoded)[0][1] == text


def test_broken_base64_is_mended_as_readers_read_it() -> None:
    label = b"Content-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    recoded = recode(HEAD + label + b"aGVs\xffbG8gd29y\r\nbGQh\r\n" + b"QUJD" * 300 + b"\r\n", seven_bit=True)
    assert decoded(recoded) == [("application/x", b"hello world!" + b"ABC" * 300)]
    assert not needs_short_lines(recoded)


SIGNED = (
    b'Content-Type: multipart/signed; boundary=s; protocol="application/pgp-signature"; micalg=pgp-sha256\r\n\r\n'
    b"--s\r\nContent-Type: text/plain; charset=utf-8\r\n%b\r\nhello %b\r\n--s\r\n"
    b"Content-Type: application/pgp-signature\r\n\r\nxxx\r\n--s--\r\n"
)


@pytest.mark.parametrize(
    ("entity", "why"),
    [
        (SIGNED % (b"Content-Transfer-Encoding: 8bit\r\n", "fünf".encode()), "multipart/signed"),
        (b"Content-Type: message/partial; id=a; number=1\r\n\r\nf\xc3\xbcnf\r\n", "message/partial"),
        (b"Subject: f\xc3\xbcnf\r\n\r\nx\r\n", "header"),
        (b"Content-Transfer-Encoding: x-uuencode\r\n\r\nf\xc3\xbcnf\r\n", "encoding"),
        (b"Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\xff\r\n", "two encodings"),
        (b"Content-Type: text/plain\r\nContent-Type: text/html\r\n\r\n\xff\r\n", "two Content-Types"),
        (b"Content-Type: multipart/mixed\r\n\r\nf\xc3\xbcnf\r\n", "boundary"),
        (b"no field\r\n\r\nf\xc3\xbcnf\r\n", "no field"),
    ],
)
def test_what_must_not_or_cannot_be_recoded_is_refused_with_its_reason(entity: bytes, why: str) -> None:
    with pytest.raises(Unrecodable, match=why):
        recode(HEAD + entity, seven_bit=True)


def test_a_signed_part_of_7_bit_octets_is_left_alone_beside_one_that_is_recoded() -> None:
    signed_part = SIGNED % (b"", b"world")
    mail = (
        b"Content-Type: multipart/mixed; boundary=m\r\nContent-Transfer-Encoding: 8bit\r\n\r\n--m\r\n" + signed_part
    )
    mail += b"\r\n--m\r\n\r\nabout f\xc3\xbcnf\r\n--m--\r\n"
    recoded = recode(HEAD + mail, seven_bit=True)
    assert signed_part in recoded
    assert b"Content-Transfer-Encoding: 8bit" not in recoded
    assert b"about f=C3=BCnf" in recoded


def test_an_embedded_message_of_other_letters_is_encoded_as_a_whole() -> None:
    """RFC 6532 §3.7."""
    inner = "Subject: fünf\r\n\r\nfünf\r\n".encode()
    recoded = recode(HEAD + b"Content-Type: message/global\r\n\r\n" + inner, seven_bit=True)
    assert recoded.isascii()
    assert b"Subject: f=C3=BCnf" in recoded


def test_what_needs_smtputf8_and_what_is_signed_is_seen() -> None:
    assert not header_needs_utf8(HEAD + "\r\nfünf\r\n".encode())
    assert header_needs_utf8("Subject: fünf\r\n\r\nx\r\n".encode())
    name = 'Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\nContent-Disposition: x; filename="ü"\r\n\r\n'
    assert header_needs_utf8(HEAD + name.encode() + b"x\r\n--m--\r\n")
    assert signed(b"DKIM-Signature: v=1\r\n" + HEAD + b"\r\nx")
    assert not signed(HEAD + b"\r\nDKIM-Signature: v=1\r\n")
