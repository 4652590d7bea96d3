"""What is read from a message at delivery."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.clock import Instant
from gatepost.codec.mail.address import mailboxes
from gatepost.store.describe import describe, first_local
from gatepost.store.sections import Section, part_at, unpack
from gatepost.store.thread import unpack_ids
from tests.store.world import MAIL, NOW

MIXED = (
    b"Subject: two\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\none\r\n"
    b"--a\r\nContent-Type: message/rfc822\r\n\r\n"
    b"Subject: inner\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"t=E4g"
    b"\r\n--b\r\nContent-Type: text/html\r\n\r\n<b>x</b>\r\n--b--\r\n\r\n--a--\r\n"
)


def test_a_listing_tells_what_readers_ask() -> None:
    told = describe(MAIL, NOW)
    assert told.size == len(MAIL)
    assert MAIL[told.header_end :] == b"The peas are in.\r\n"
    assert told.sent_at == Instant(1_795_424_400_000_000)
    assert told.sent_zone == 60
    assert (told.subject_key, told.from_key, told.to_key, told.cc_key) == (b"PEAS", b"ANN", b"JOE", b"")
    ids = unpack_ids(told.thread)
    assert (ids.message_id, ids.references, ids.reply) == (b"two@sender.example", (b"one@sender.example",), True)
    assert told.envelope.startswith(b"(")
    assert told.body_structure != told.structure


def test_without_a_date_the_internal_date_counts() -> None:
    told = describe(b"Subject: x\r\n\r\n", NOW)
    assert (told.sent_at, told.sent_zone) == (NOW, 0)


def test_sections_are_found_as_imap_numbers_them() -> None:
    root = unpack(describe(MIXED, NOW).sections)

    def text(*path: int) -> bytes | None:
        part = part_at(root, path)
        return None if part is None else MIXED[part.body : part.end]

    assert text() == MIXED[root.body :]
    assert text(1) == b"one"
    assert text(2, 1) == b"t=E4g"
    assert text(2, 2) == b"<b>x</b>"
    embedded = part_at(root, (2,))
    assert embedded is not None
    assert embedded.message
    assert MIXED[embedded.body :].startswith(b"Subject: inner")
    charset = part_at(root, (2, 1))
    assert charset is not None
    assert (charset.kind, charset.charset, charset.encoding) == (b"text/plain", b"iso-8859-1", b"quoted-printable")
    for missing in ((0,), (3,), (1, 1), (2, 3), (2, 1, 1)):
        assert text(*missing) is None, missing


def test_a_message_of_one_part_is_its_own_part_one() -> None:
    root = unpack(describe(MAIL, NOW).sections)
    assert part_at(root, (1,)) is root
    assert part_at(root, (2,)) is None
    assert part_at(root, (1, 1)) is None


@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_octets_have_a_listing(octets: bytes) -> None:
    told = describe(octets, NOW)
    assert told.size == len(octets)
    assert isinstance(unpack(told.sections), Section)


NAMES = st.text(alphabet='Ann .-,<>@"(ä:;', max_size=12).map(lambda text: text.encode())
LOCALS = st.text(alphabet="ann.o'b+x @\"", max_size=8).map(lambda text: text.encode())


@given(NAMES, LOCALS, st.sampled_from([b"", b", next@example.org", b" (x)"]))
@settings(max_examples=200, deadline=None)
def test_the_quick_reading_of_an_address_is_the_parsers(name: bytes, local: bytes, rest: bytes) -> None:
    value = name + b"<" + local + b"@a.example>" + rest
    found = mailboxes(value)
    assert first_local(value) == (found[0].local if found else b"")
