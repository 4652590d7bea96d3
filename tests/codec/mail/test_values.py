"""Addresses, dates, parameters and encoded words: any octets have a value, and sane ones the right one."""

from datetime import UTC, datetime, timedelta, timezone
from email.header import Header, decode_header, make_header
from email.message import Message
from email.utils import format_datetime, formataddr, getaddresses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.clock import Instant
from gatepost.codec.mail import address as address_codec
from gatepost.codec.mail.address import Group, Mailbox, mailboxes, parse_addresses
from gatepost.codec.mail.charset import CODECS, decode
from gatepost.codec.mail.date import format_date, parse_date, parse_date_zone
from gatepost.codec.mail.params import PARAMS_MAX, ParameterFlaw, parse_parameters, without_comments
from gatepost.codec.mail.subject import base_subject
from gatepost.codec.mail.words import WORD_MAX, decode_words, encode_words
from tests.codec.mail.soup import VALUE_PIECES, soup

SOUP = soup(VALUE_PIECES)
ATOMS = st.text(alphabet="abcXYZ019!#$%&'*+-/=?^_{|}~", min_size=1, max_size=12)
LOCALS = st.lists(ATOMS, min_size=1, max_size=3).map(".".join)
DOMAINS = st.lists(st.text(alphabet="abc019", min_size=1, max_size=8), min_size=1, max_size=3).map(".".join)
NAMES = st.one_of(st.just(""), st.text(alphabet='Ann O,(<@>:;)."\\', max_size=16).map(str.strip))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)
PRINTED = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- addresses ----------------------------------------------------------------------------------------------


@given(SOUP)
@settings(max_examples=500, deadline=None)
def test_any_octets_are_an_address_list(value: bytes) -> None:
    found = parse_addresses(value)
    assert sum(isinstance(entry, Group) for entry in found) <= value.count(b":")
    assert len(mailboxes(value)) <= value.count(b",") + value.count(b";") + 1
    for each in mailboxes(value):
        assert b"@" not in each.domain or b'"' in value or b"[" in value


@given(st.lists(st.tuples(NAMES, LOCALS, DOMAINS), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_well_formed_addresses_are_those_of_the_standard_library(people: list[tuple[str, str, str]]) -> None:
    value = ", ".join(formataddr((name, f"{local}@{domain}")) for name, local, domain in people)
    found = mailboxes(value.encode())
    assert [(each.local.decode(), each.domain.decode()) for each in found] == [(b, c) for _, b, c in people]
    assert [(each.name or b"").decode() for each in found] == [name for name, _ in getaddresses([value])]
    assert [(each.name or b"").decode() for each in found] == [name for name, _, _ in people]


@given(
    st.lists(
        st.sampled_from((b"Ann", b" ", b"<", b">", b"a@b", b"a", b"@", b"b.c", b"'", b",", b"\r\n\t")), max_size=9
    )
)
@settings(max_examples=500, deadline=None)
def test_the_quick_way_to_addresses_finds_what_the_other_finds(pieces: list[bytes]) -> None:
    value = b"".join(pieces)
    assert parse_addresses(value) == address_codec._any_list(value)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"a@b", [Mailbox(None, b"a", b"b")]),
        (b"a@b (Ann (the elder))", [Mailbox(b"Ann (the elder)", b"a", b"b")]),
        (b'"Ann \\"O\\"" <a@b>', [Mailbox(b'Ann "O"', b"a", b"b")]),
        (b"Ann <@one,@two:a@b>", [Mailbox(b"Ann", b"a", b"b")]),
        (b'"a b"@c', [Mailbox(None, b"a b", b"c")]),
        (b"a@[192.0.2.1]", [Mailbox(None, b"a", b"[192.0.2.1]")]),
        (b"all: a@b, c@d;, e@f", [Group(b"all", (Mailbox(None, b"a", b"b"), Mailbox(None, b"c", b"d"))),
                                  Mailbox(None, b"e", b"f")]),
        (b"nobody:;", [Group(b"nobody", ())]),
        (b"(nothing)", []),
        (b"", []),
    ],
)  # fmt: skip
def test_forms_of_addresses(value: bytes, found: list[Mailbox | Group]) -> None:
    assert parse_addresses(value) == found


# --- dates --------------------------------------------------------------------------------------------------


@given(SOUP)
@settings(max_examples=500, deadline=None)
def test_any_octets_are_a_date_or_none(value: bytes) -> None:
    found = parse_date_zone(value)
    assert parse_date(value) == (None if found is None else found[0])
    if found is not None:
        assert abs(found[1]) <= 99 * 60 + 99


@given(st.datetimes(datetime(1900, 1, 1), datetime(9998, 12, 31)), st.integers(-12 * 60, 14 * 60))  # noqa: DTZ001
@settings(max_examples=300, deadline=None)
def test_dates_are_those_of_the_standard_library_both_ways(moment: datetime, zone: int) -> None:
    aware = moment.replace(microsecond=0, tzinfo=UTC)
    local = format_datetime(aware.astimezone(timezone(timedelta(minutes=zone))))
    instant = Instant((aware - EPOCH) // timedelta(microseconds=1))
    assert parse_date_zone(local.encode()) == (instant, zone)
    assert format_date(instant, zone) == local


@pytest.mark.parametrize(
    ("value", "moment", "zone"),
    [
        (b"Mon, 23 Nov 2026 08:00:00 +0100 (CET)", "2026-11-23T07:00:00+00:00", 60),
        (b"23 Nov 26 08:00 GMT", "2026-11-23T08:00:00+00:00", 0),
        (b"Mon 23-Nov-2026 08.00.00 EST", "2026-11-23T13:00:00+00:00", -300),
        (b"23 November 2026 08:00:60 Z", "2026-11-23T08:00:59+00:00", 0),
        (b"23 Nov 126 08:00:00 -0000", "2026-11-23T08:00:00+00:00", 0),
    ],
)
def test_dates_as_old_programs_write_them(value: bytes, moment: str, zone: int) -> None:
    instant = (datetime.fromisoformat(moment) - EPOCH) // timedelta(microseconds=1)
    assert parse_date_zone(value) == (instant, zone)


@pytest.mark.parametrize("value", [b"", b"Whenever", b"31 Feb 2026 08:00:00 +0000", b"1 Jan 0000 00:00:00 +0000",
                                   b"1 Jan 2026 24:00:00 +0000", b"1 Foo 2026 00:00:00 +0000"])  # fmt: skip
def test_what_is_no_date_is_none(value: bytes) -> None:
    assert parse_date(value) is None


# --- encoded words ------------------------------------------------------------------------------------------


@given(SOUP)
@settings(max_examples=500, deadline=None)
def test_any_octets_have_a_text(value: bytes) -> None:
    text = decode_words(value)
    text.encode("utf-8", "replace")
    base_subject(value)


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_a_text_comes_back_from_the_words_it_is_written_in(text: str) -> None:
    words = encode_words(text)
    assert decode_words(words) == text
    assert words.isascii()
    assert not set(words) & set(b"\r\n\0")
    assert text in (words.decode(), str(make_header(decode_header(words.decode()))))
    if words.decode() != text:
        assert all(len(word) <= WORD_MAX for word in words.split(b" "))


@given(PRINTED, st.sampled_from(["utf-8", "iso-8859-1", "koi8-r"]))
@settings(max_examples=300, deadline=None)
def test_words_of_the_standard_library_are_read(text: str, charset: str) -> None:
    text = text.encode(charset, "ignore").decode(charset)
    words = Header(text.encode(charset), charset, maxlinelen=75).encode().replace("\n", "")
    assert decode_words(words.encode()) == str(make_header(decode_header(words)))


@given(st.sampled_from(sorted(CODECS)), st.binary(max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_octets_are_text_in_every_charset(charset: str, octets: bytes) -> None:
    assert isinstance(decode(octets, charset), str)
    assert isinstance(decode_words(b"=?" + charset.encode() + b"?q?" + octets + b"?="), str)


# --- parameters ---------------------------------------------------------------------------------------------


@given(SOUP)
@settings(max_examples=500, deadline=None)
def test_any_octets_are_a_value_with_parameters(value: bytes) -> None:
    found = parse_parameters(value)
    assert len(found.params) <= PARAMS_MAX
    assert (ParameterFlaw.NUL in found.flaws) == (b"\0" in value)
    assert found.value == found.value.lower()
    for name, _ in found.params:
        assert name == name.lower()
        assert isinstance(found.text(name), str) or found.get(name) is not None
        found.all_texts(name)
    assert b"(" not in without_comments(value) or b'"' in value or b"\\" in value


@given(st.text(alphabet="abc äöü'\"\\;=()%*", min_size=1, max_size=30).map(str.strip).filter(bool), st.booleans())
@settings(max_examples=300, deadline=None)
def test_names_of_files_are_those_that_the_standard_library_writes(name: str, plain: bool) -> None:
    mail = Message()
    if name.isascii() and plain:
        mail.add_header("Content-Disposition", "attachment", filename=name)
    else:
        mail.add_header("Content-Disposition", "attachment", filename=("utf-8", "", name))
    value = mail["Content-Disposition"].encode()
    found = parse_parameters(value)
    assert found.value == b"attachment"
    assert found.text(b"filename") == name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"a; filename*0=one; filename*1=two", "onetwo"),
        (b"a; filename*1=two; filename*0=one", "onetwo"),
        (b"a; filename*0=one; filename*2=three", "one"),
        (b"a; filename*0*=utf-8'de'%C3%A4; filename*1=b", "äb"),
        (b"a; filename==?utf-8?q?=C3=A4?=", "ä"),
        (b'a; filename="never ends', "never ends"),
        (b"a; filename=two words ; x=y", "two words"),
        (b"a; filename(c)=b", "b"),
    ],
)
def test_forms_of_a_files_name(value: bytes, name: str) -> None:
    assert parse_parameters(value).text(b"filename") == name
