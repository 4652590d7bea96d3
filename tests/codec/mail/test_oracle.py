"""Whole mails that the standard library writes are read as it reads them."""

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.headerregistry import Address
from email.message import EmailMessage

from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.mail.address import mailboxes
from gatepost.codec.mail.charset import decode
from gatepost.codec.mail.date import parse_date_zone
from gatepost.codec.mail.structure import Part, parse
from gatepost.codec.mail.words import decode_words
from gatepost.store.text import undo_encoding
from tests.codec.mail.offsets import check_structure

WORDS = (
    st.text(alphabet="abcäöüжя漢 ", min_size=1, max_size=30).map(lambda text: " ".join(text.split())).filter(bool)
)
NAMES = st.text(alphabet="abcäöüжя漢", min_size=1, max_size=8)  # one word: of more the library joins some wrongly
LOCALS = st.text(alphabet="abc.xyz", min_size=1, max_size=10).map(lambda text: text.replace(".", "") or "a")
TEXTS = st.lists(st.text(alphabet="abc äжя=-.", max_size=90), max_size=6).map(lambda lines: "\n".join(lines) + "\n")
BLOBS = st.binary(max_size=300)


@st.composite
def mails(draw: st.DrawFn, level: int = 0) -> EmailMessage:
    """Return a well-formed mail: text, perhaps HTML beside it, files, and mails inside."""
    mail = EmailMessage(policy=policy.SMTP)
    mail["From"] = Address(draw(NAMES), draw(LOCALS), "sender.example")
    mail["To"] = [Address(draw(st.one_of(st.just(""), NAMES)), draw(LOCALS), "b.example") for _ in range(2)]
    mail["Subject"] = draw(WORDS)
    mail["Date"] = draw(st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1))).replace(tzinfo=UTC)  # noqa: DTZ001
    mail.set_content(draw(TEXTS))
    if draw(st.booleans()):
        mail.add_alternative(f"<p>{draw(TEXTS)}</p>\n", subtype="html")
    for _ in range(draw(st.integers(0, 2))):
        mail.add_attachment(draw(BLOBS), "application", "octet-stream", filename=draw(WORDS))
    if level < 2 and draw(st.booleans()):
        mail.add_attachment(draw(mails(level=level + 1)))
    return mail


@given(mails())
@settings(max_examples=60, deadline=None)
def test_a_mail_is_read_as_the_standard_library_reads_it(mail: EmailMessage) -> None:
    raw = mail.as_bytes()
    root = parse(raw)
    check_structure(raw, root)
    assert root.all_faults() == frozenset()
    told = message_from_bytes(raw, policy=policy.SMTP)
    compare(raw, root, told)
    assert len(list(root.walk())) == len(list(told.walk()))


def compare(raw: bytes, part: Part, told: EmailMessage) -> None:
    """Assert that a part and all below it are what the standard library finds."""
    assert part.content_type.value.decode() == told.get_content_type()
    assert part.filenames()[:1] == (() if told.get_filename() is None else (told.get_filename(),))
    header = part.header
    assert [field.name.decode() for field in header.fields] == [name.lower() for name in told.keys()]  # noqa: SIM118
    if told["subject"] is not None:
        assert decode_words(header.first(b"subject") or b"") == str(told["subject"])
        assert parse_date_zone(header.first(b"date") or b"") == (
            int(told["date"].datetime.timestamp()) * 1_000_000,
            0,
        )
        for name in ("from", "to"):
            found = mailboxes(header.first(name.encode()) or b"")
            people = told[name].addresses
            assert [(decode_words(each.name or b""), each.local + b"@" + each.domain) for each in found] == [
                (each.display_name, each.addr_spec.encode()) for each in people
            ]
    if part.children:
        for child, other in zip(
            part.children, told.iter_parts() if part.multipart else told.get_payload(), strict=True
        ):
            compare(raw, child, other)
        return
    octets = undo_encoding(raw[part.body : part.end], part.encoding)
    if part.maintype == b"text":
        charset = (part.content_type.get(b"charset") or b"").decode()
        assert decode(octets, charset).replace("\r\n", "\n") == told.get_content().replace("\r\n", "\n")
    else:
        assert octets == told.get_payload(decode=True)
