"""Mails of others: what mail-parser found in 64 of them, and what must be true of them all (conformance/mime).

mail-parser says of each part where its header, its body and its end are, each field's place and value, and the
decoded body. Everything must be the same here, but for DIFFERENT, in which each difference has its reason.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from gatepost.base.clock import Instant
from gatepost.codec.mail.address import Group, Mailbox, parse_addresses
from gatepost.codec.mail.charset import decode
from gatepost.codec.mail.date import parse_date_zone
from gatepost.codec.mail.header import unfold
from gatepost.codec.mail.imap import render_envelope, render_structure
from gatepost.codec.mail.params import parse_parameters
from gatepost.codec.mail.structure import Fault, Part, parse
from gatepost.codec.mail.words import decode_words
from gatepost.store.describe import describe
from gatepost.store.sections import unpack
from gatepost.store.text import undo_encoding
from tests.codec.mail.imap_lists import check_body, check_envelope, read
from tests.codec.mail.offsets import check_structure

DATA: Final = Path(__file__).parent / "mime"
MAILS: Final = sorted(DATA.rglob("*.eml"))
EXPECTED: Final = [mail for mail in MAILS if mail.with_suffix(".crlf.json").exists()]
NOW: Final = Instant(1_795_424_400_000_000)

NICOLAS: Final = "Nicolas Fouché has accepted your invitation to Gmail"

Json = Mapping[str, Any]

UTF_7 = "UTF-7 is not decoded: it hides markup"
RAW_8_BIT = "octets in no stated charset are shown as Windows-1252 where mail-parser shows U+FFFD"
NO_ADDRESS = "a lone word is a local part without a domain, where mail-parser takes it for a name"
ONLY_COMMENT = "a comment is no address"
COMMENT = "a comment beside a display name is not part of it"
NOT_A_DATE = "mail-parser has no value for it at all"
NO_SEMICOLON = "a parameter begins behind a semicolon, which is missing here"
NOT_BASE64 = "what is no base64 is decoded as far as it goes, where mail-parser shows it as text"
ENCODED_MESSAGE = "a message in base64 is a leaf and a fault (RFC 2046 §5.2.1), where mail-parser opens it"

DIFFERENT: Final[Mapping[tuple[str, str, str], str]] = {
    ("legacy/001", "", "to"): UTF_7,
    ("legacy/001", "", "subject"): UTF_7,
    ("legacy/001", "", "body"): UTF_7,
    ("legacy/005", "", "to"): UTF_7,
    ("legacy/005", "", "subject"): UTF_7,
    ("legacy/005", "", "body"): UTF_7,
    ("legacy/034", "", "body"): UTF_7,
    ("legacy/010", "", "to"): RAW_8_BIT,
    ("legacy/010", "", "subject"): RAW_8_BIT,
    ("legacy/016", "3", "content-type"): RAW_8_BIT,
    ("legacy/016", "3", "content-disposition"): RAW_8_BIT,
    ("legacy/017", "", "to"): RAW_8_BIT,
    ("legacy/020", "", "to"): RAW_8_BIT,
    ("legacy/020", "", "subject"): RAW_8_BIT,
    ("legacy/022", "", "to"): RAW_8_BIT,
    ("legacy/022", "", "subject"): RAW_8_BIT,
    ("legacy/023", "4", "content-disposition"): RAW_8_BIT,
    ("legacy/026", "2", "content-type"): RAW_8_BIT,
    ("legacy/026", "2", "content-disposition"): RAW_8_BIT,
    ("legacy/026", "2", "body"): RAW_8_BIT,
    ("legacy/027", "", "to"): RAW_8_BIT,
    ("legacy/027", "", "subject"): RAW_8_BIT,
    ("legacy/052", "", "to"): RAW_8_BIT,
    ("legacy/052", "", "subject"): RAW_8_BIT,
    ("legacy/052", "", "body"): RAW_8_BIT,
    ("rfc/000", "3.1", "body"): NOT_BASE64,
    ("rfc/000", "3.2", "body"): NOT_BASE64,
    ("rfc/000", "5.1", "from"): ONLY_COMMENT,
    ("rfc/000", "5.1", "to"): ONLY_COMMENT,
    ("rfc/001", "", "from"): NO_ADDRESS,
    ("rfc/001", "", "to"): NO_ADDRESS,
    ("rfc/001", "", "date"): NOT_A_DATE,
    ("rfc/001", "3", "content-type"): NO_SEMICOLON,
    ("rfc/002", "2.1", "to"): COMMENT,
    ("rfc/004", "", "from"): NO_ADDRESS,
    ("rfc/004", "", "to"): NO_ADDRESS,
    ("rfc/004", "2.1.1", "from"): NO_ADDRESS,
    ("rfc/004", "2.2.1", "from"): NO_ADDRESS,
    ("rfc/008", "2", "body"): ENCODED_MESSAGE,
    ("rfc/009", "2.1", "from"): NO_ADDRESS,
}
"""By mail, part (a message inside a part is its part 1) and field name or `body`."""


@pytest.mark.parametrize("mail", EXPECTED, ids=lambda mail: _name(mail))
def test_a_mail_has_the_parts_fields_and_texts_that_mail_parser_finds(mail: Path) -> None:
    raw = with_crlf(mail.read_bytes())
    told = json.loads(mail.with_suffix(".crlf.json").read_text("utf-8"))
    compared = Comparison(raw)
    compared.part(parse(raw), told["parts"][0], told["parts"], "")
    reasoned = {(part, what) for name, part, what in DIFFERENT if name == _name(mail)}
    unreasoned = {key: values for key, values in compared.different.items() if key not in reasoned}
    assert unreasoned == {}
    assert reasoned == compared.different.keys(), "a difference that is no more"


def test_every_difference_is_of_a_mail_there_is() -> None:
    assert {name for name, _, _ in DIFFERENT} <= {_name(mail) for mail in EXPECTED}
    assert len(EXPECTED) == 64


@pytest.mark.parametrize("mail", EXPECTED, ids=lambda mail: _name(mail))
def test_bare_line_feeds_change_no_part(mail: Path) -> None:
    raw = with_crlf(mail.read_bytes())
    bare = raw.replace(b"\r\n", b"\n")

    def shape(octets: bytes) -> list[object]:
        return [
            (
                part.content_type,
                part.encoding,
                part.lines,
                [field.name for field in part.header.fields],
                octets[part.start : part.body].replace(b"\r\n", b"\n"),
                octets[part.body : part.end].replace(b"\r\n", b"\n"),
            )
            for part in parse(octets).walk()
        ]

    assert shape(bare) == shape(raw)


@pytest.mark.parametrize("mail", MAILS, ids=lambda mail: _name(mail))
@pytest.mark.parametrize("ends", ["as they are", "crlf", "lf"])
def test_any_mail_is_tiled_by_its_parts_and_told_in_valid_imap(mail: Path, ends: str) -> None:
    raw = mail.read_bytes()
    if ends != "as they are":
        raw = with_crlf(raw) if ends == "crlf" else raw.replace(b"\r\n", b"\n")
    root = parse(raw)
    check_structure(raw, root)
    whole, short = render_structure(root)
    check_body(read(whole), extended=True)
    check_body(read(short), extended=False)
    check_envelope(read(render_envelope(root.header)))
    told = describe(raw, NOW)
    assert (told.body_structure, told.structure) in ((whole, short), (short, whole))
    assert unpack(told.sections).end == len(raw)
    for part in root.walk():
        part.filenames()
        undo_encoding(raw[part.body : part.end], part.encoding)
        for each in part.header.fields:
            value = unfold(part.header.value(each))
            decode_words(value)
            parse_addresses(value)
            parse_date_zone(value)


@pytest.mark.parametrize(
    ("mail", "subject"),
    [
        ("attachment_emails/attachment_pdf", "Another PDF with 🎉 Unicode chars in it 🍿"),
        ("attachment_emails/attachment_with_quoted_filename", "Eelanalüüsi päring"),
        ("error_emails/bad_encoded_subject", "=?NONE?B?VEVTVA=?="),  # no charset, no word
        ("error_emails/bad_subject", "MySurvey.com:  You have a survey waiting!  91123105"),
        ("mime_emails/raw_email_encoded_stack_level_too_deep", NICOLAS),
        ("multi_charset/japanese", "まみむめも"),
        ("multi_charset/japanese_attachment_long_name", "まみむめも" * 10),
        ("plain_emails/raw_email", "NOTE: 한국말로 하는 것"),
        ("plain_emails/raw_email_with_partially_quoted_subject", 'Re: Test: "漢字" mid "漢字" tail'),
        ("rfc2822/example14", "Re: TEST \tテストテスト"),
        ("rfc6532/utf8_headers", "Säying Hello"),
    ],
)
def test_subjects_of_many_charsets_are_read(mail: str, subject: str) -> None:
    header = parse(_mikel(mail)).header
    assert decode_words(header.first(b"subject") or b"") == subject


@pytest.mark.parametrize(
    ("mail", "names"),
    [
        ("attachment_emails/attachment_content_disposition", [("api.rb", "hello.rb")]),
        ("attachment_emails/attachment_message_rfc822_inline_image", [("img.png",), ("Testmail.eml",)]),
        ("attachment_emails/attachment_nonascii_filename", [("ciële.txt",)]),
        ("attachment_emails/attachment_with_base64_encoded_name", [("This is a test.pdf",)]),
        ("attachment_emails/attachment_with_quoted_filename", [("Eelanalüüsi päring.jpg",)]),
        ("attachment_emails/attachment_with_unquoted_name", [("This is a test.txt",)]),
        ("mime_emails/raw_email_with_nested_attachment", [("truncated.png", "byo-ror-cover.png"), ("smime.p7s",)]),
        ("multi_charset/japanese_attachment", [("てすと.txt",)]),
        ("multi_charset/japanese_attachment_long_name", [("かきくけこ" * 5 + ".txt",)]),
    ],
)
def test_attachments_have_every_name_that_is_given_to_them(mail: str, names: list[tuple[str, ...]]) -> None:
    assert [part.filenames() for part in parse(_mikel(mail)).walk() if part.filenames()] == names


@pytest.mark.parametrize(
    ("mail", "fault"),
    [
        ("content_transfer_encoding_7-bit", Fault.UNKNOWN_ENCODING),
        ("content_transfer_encoding_plain", Fault.UNKNOWN_ENCODING),
        ("content_transfer_encoding_qp_with_space", Fault.UNKNOWN_ENCODING),
        ("content_transfer_encoding_spam", Fault.UNKNOWN_ENCODING),
        ("content_transfer_encoding_text-html", Fault.UNKNOWN_ENCODING),
        ("content_transfer_encoding_with_8bits", Fault.UNKNOWN_ENCODING),
        ("content_transfer_encoding_with_semi_colon", Fault.ODD_ENCODING),
        ("content_transfer_encoding_x_uuencode", Fault.UNKNOWN_ENCODING),
        ("missing_body", Fault.NO_BOUNDARY),
        ("multiple_content_types", Fault.TWO_TYPES),
    ],
)
def test_what_is_broken_in_a_mail_is_a_fault(mail: str, fault: Fault) -> None:
    assert parse(_mikel(f"error_emails/{mail}")).all_faults() == {fault}


# --- the comparison -----------------------------------------------------------------------------------------


def with_crlf(raw: bytes) -> bytes:
    """Return a mail as mail-parser's test reads it: every line end CRLF."""
    return raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


@dataclass
class Comparison:
    """What differs between a part here and one in mail-parser's JSON, by part and field: (here, there)."""

    raw: bytes
    different: dict[tuple[str, str], tuple[object, object]] = field(default_factory=dict)

    def part(self, part: Part, told: Json, parts: list[Json], path: str) -> None:
        """Compare a part and all below it."""
        there = (told["offset_header"], told["offset_body"], told["offset_end"])
        self.same(path, "offsets", (part.start, part.body, part.end), there)
        header = part.header
        here = [(each.name.decode(), each.start, each.colon + 1, each.end) for each in header.fields]
        self.same(path, "fields", here, [_place(each) for each in told["headers"]])
        for each, other in zip(header.fields, told["headers"], strict=True):
            name = each.name.decode()
            self.same(path, name, *_values(name, unfold(header.value(each)), other["value"]))
        self.body(part, told["body"], parts, path)

    def body(self, part: Part, told: Json, parts: list[Json], path: str) -> None:
        """Compare what a part holds; a text's type too, for mail-parser tells text/html from all others."""
        ((kind, value),) = told.items()
        octets = undo_encoding(self.raw[part.body : part.end], part.encoding)
        match kind:
            case "Multipart":
                self.same(path, "body", (part.multipart, len(part.children)), (True, len(value)))
                for number, (child, index) in enumerate(zip(part.children, value, strict=True), 1):
                    self.part(child, parts[index], parts, f"{path}.{number}".lstrip("."))
            case "Message" if part.message:
                self.part(part.children[0], value["parts"][0], value["parts"], f"{path}.1".lstrip("."))
            case "Message":
                self.same(path, "body", "a leaf", "a message")
            case "Text" | "Html":
                charset = (part.content_type.get(b"charset") or b"").decode()
                self.same(path, "body", decode(octets, charset), value)
                self.same(path, "type", part.content_type.value == b"text/html", kind == "Html")
            case _:
                self.same(path, "body", octets, bytes(value))

    def same(self, path: str, what: str, here: object, there: object) -> None:
        """Note a difference."""
        if here != there:
            self.different[path, what] = (here, there)


def _values(name: str, value: bytes, told: Any) -> tuple[object, object]:
    """Return a field's value as the codec reads it and as mail-parser does, in one form."""
    kind, there = (told, {}) if isinstance(told, str) else next(iter(told.items()))
    match kind:
        case "Text" if name in ("message-id", "content-id", "return-path"):
            return decode_words(value).strip("<>"), there
        case "Text":
            return decode_words(value), there
        case "Address":
            return [_entry(each) for each in parse_addresses(value)], there.get("List") or there.get("Group")
        case "DateTime":
            return parse_date_zone(value), _moment(there)
        case "ContentType":
            return _parametrised(value, there)
        case "Received":  # the codec counts and writes this field, and does not read it
            return None, None
        case _:
            return value, there


def _parametrised(value: bytes, told: Json) -> tuple[object, object]:
    here = parse_parameters(value)
    names = sorted({name.partition(b"*")[0].decode() for name, _ in here.params})
    kind = told["c_type"] + (f"/{told['c_subtype']}" if told["c_subtype"] else "")
    there = {each["name"]: each["value"] for each in told["attributes"] or ()}
    return (here.value.decode(), {name: here.text(name.encode()) for name in names}), (kind.lower(), there)


def _entry(entry: Mailbox | Group) -> Json:
    if isinstance(entry, Group):
        return {"name": decode_words(entry.name), "addresses": [_entry(member) for member in entry.members]}
    address = entry.local + b"@" + entry.domain if entry.domain else entry.local
    return {"name": decode_words(entry.name) if entry.name else None, "address": address.decode()}


def _moment(told: Json) -> tuple[int, int]:
    zone = (told["tz_hour"] * 60 + told["tz_minute"]) * (-1 if told["tz_before_gmt"] else 1)
    day = datetime(told["year"], told["month"], told["day"], tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    since = day + timedelta(hours=told["hour"], minutes=told["minute"] - zone, seconds=told["second"])
    return since // timedelta(microseconds=1), zone


def _place(told: Json) -> tuple[str, int, int, int]:
    name = told["name"]["other"] if isinstance(told["name"], dict) else told["name"].replace("_", "-")
    return name.lower(), told["offset_field"], told["offset_start"], told["offset_end"]


def _mikel(mail: str) -> bytes:
    return (DATA / "mikel" / f"{mail}.eml").read_bytes()


def _name(mail: Path) -> str:
    return f"{mail.parent.name}/{mail.stem}"
