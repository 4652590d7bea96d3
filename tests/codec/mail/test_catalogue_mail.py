"""Mails that are made to be misread or to be costly (hardening catalogue: HDR and MIME)."""

import resource
import time
from collections.abc import Callable
from email import message_from_bytes, policy

import pytest

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.verdict import Finding, Result
from gatepost.codec.mail import authres, dsn
from gatepost.codec.mail.address import Group, Mailbox, mailboxes, parse_addresses
from gatepost.codec.mail.build import Unwritable, field
from gatepost.codec.mail.charset import decode
from gatepost.codec.mail.header import HeaderBlock
from gatepost.codec.mail.imap import render_envelope, render_structure
from gatepost.codec.mail.params import PARAMS_MAX, ParameterFlaw, parse_parameters
from gatepost.codec.mail.structure import AMBIGUOUS_STRUCTURE, DEPTH_MAX, PARTS_MAX, Fault, parse
from gatepost.codec.mail.words import decode_words, encode_words
from gatepost.codec.smtp.grammar import Mail, parse_command
from gatepost.judge.content import SimpleScanner
from gatepost.store.describe import describe
from gatepost.store.text import Message
from tests.codec.mail.imap_lists import check_body, check_envelope, read
from tests.codec.mail.offsets import check_structure, depth
from tests.intake.world import world
from tests.support.loop import run
from tests.view import world as view

NOW = Instant(1_795_424_400_000_000)
FROM = b"From: a@b.example\r\n"
PROGRAM = (
    b'Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename="x.exe"\r\n\r\nMZ\r\n'
)


def seconds(action: Callable[[], object]) -> float:
    """Return the processor time of an action: the best of three, for a busy machine is slow with all it does."""
    times = []
    for _ in range(3):
        before = time.process_time()
        action()
        times.append(time.process_time() - before)
    return min(times)


def rules(raw: bytes) -> tuple[str, ...]:
    """Return what the built-in scanner finds in a mail."""
    return SimpleScanner().scan(raw, HeaderBlock.parse(raw), ()).rules


# --- header -------------------------------------------------------------------------------------------------


@pytest.mark.row("HDR-17")
def test_a_sender_with_two_domains_is_refused_or_shown_as_the_one_it_has() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.say(
                "MAIL FROM:<any@legit.example(a.attack.example>",
                "MAIL FROM:<any@legit.example'@any.attack.example>",
            ) == ["501 5.1.7", "501 5.1.7"]
            assert here.log.events("intake_failed") == []

    run(scene())
    routed = parse_command(b"MAIL FROM:<@legit.example,@any.com:'any@attack.example>")
    assert isinstance(routed, Mail)
    assert routed.sender == Address("'any", "attack.example")


@pytest.mark.row("HDR-17")
@pytest.mark.parametrize(
    ("sender", "shown"),
    [
        ("'any@attack.example", b"smtp.mailfrom='any@attack.example"),
        ("any@legit.example(a.attack.example", b'smtp.mailfrom="any@legit.example(a.attack.example"'),
        ("any@legit.example'@any.attack.example", b'smtp.mailfrom="any@legit.example\'@any.attack.example"'),
        ('a b"\\@attack.example', b'smtp.mailfrom="a b\\"\\\\@attack.example"'),
        ("a; dkim=pass@attack.example", b'smtp.mailfrom="a; dkim=pass@attack.example"'),
        ("a\r\nX: y@attack.example", b'smtp.mailfrom="a??X: y@attack.example"'),
    ],
)
def test_a_value_in_our_results_reads_as_one_word(sender: str, shown: bytes) -> None:
    written = authres.render("mx.example", [Finding("spf", Result.PASS, properties=(("smtp.mailfrom", sender),))])
    assert written == b"Authentication-Results: mx.example;\r\n\tspf=pass\r\n\t\t" + shown + b"\r\n"
    assert len(HeaderBlock.parse(written).fields) == 1


@pytest.mark.row("HDR-18")
@pytest.mark.parametrize(
    "value",
    [
        b"mx.example; dkim=pass",
        b"MX.Example 1; dkim=pass",
        b'"mx.example"; dkim=pass',
        b'"mx\\.example"; dkim=pass',
        b"(a) mx.example (b) 1; dkim=pass",
        b"(a (b (c) d) e) mx.example; dkim=pass",
        b"(a\\) (;) b) mx.example; dkim=pass",
        b"\r\n mx.example\r\n ; dkim=pass",
        b"(never ends mx.example; dkim=pass",
        b"(" * 20 + b"; dkim=pass",
        b"sub.mx.example; dkim=pass",
        b"",
    ],
)
def test_results_in_our_name_are_found_however_they_are_written(value: bytes) -> None:
    raw = FROM + b"Authentication-Results: " + value + b"\r\nSubject: x\r\n\r\n"
    header = HeaderBlock.parse(raw)
    ((start, end),) = authres.forged(header, raw, "mx.example")
    assert raw[:start] + raw[end:] == FROM + b"Subject: x\r\n\r\n"


@pytest.mark.parametrize("value", [b"other.example; dkim=pass", b"other.example (mx.example); dkim=pass"])
def test_results_of_others_stay(value: bytes) -> None:
    raw = b"Authentication-Results: " + value + b"\r\n" + FROM + b"\r\n"
    assert authres.forged(HeaderBlock.parse(raw), raw, "mx.example") == ()


@pytest.mark.row("HDR-20")
def test_thousands_of_authors_cost_little() -> None:
    many = b"From: a@b.example" + b",\r\n c@d.example" * 4_000 + b"\r\n\r\n"
    header = HeaderBlock.parse(many)
    assert len(mailboxes(header.first(b"from") or b"")) == 4_001
    assert seconds(lambda: describe(many, NOW)) < 0.2
    check_envelope(read(render_envelope(header)))


@pytest.mark.row("HDR-20")
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"a:b:c:;;", [Group(b"a", (Mailbox(None, b"b:c:", b""),))]),
        (b"From: :;", [Group(b"From", (Mailbox(None, b":", b""),))]),
        (b":;", [Group(b"", ())]),
        (b"a:" * 1_000 + b";" * 1_000, None),
    ],
)
def test_groups_in_groups_are_read_as_far_as_they_make_sense(
    value: bytes, found: list[Mailbox | Group] | None
) -> None:
    if found is not None:
        assert parse_addresses(value) == found
    raw = b"From: " + value + b"\r\nTo: " + value + b"\r\n\r\n"
    assert seconds(lambda: describe(raw, NOW)) < 0.2
    check_envelope(read(render_envelope(HeaderBlock.parse(raw))))


@pytest.mark.row("HDR-20", "HDR-21")
@pytest.mark.parametrize(
    ("head", "answer"),
    [
        pytest.param(FROM[:-2] + b",\r\n c@d.example" * 4_000 + b"\r\n", "250 2.0.0", id="4,000 authors"),
        pytest.param(FROM + b"To: a:b:c:;;\r\n", "250 2.0.0", id="groups"),
        pytest.param(b"From: :;\r\n", "554 5.6.0", id="an empty group"),
        pytest.param(FROM + b"Message-ID: <\r\n", "250 2.0.0", id="an id that ends at once"),
        pytest.param(FROM + b"Message-ID: <a@\r\n", "250 2.0.0", id="an id that does not end"),
        pytest.param(b'From: "\r\n', "554 5.6.0", id="a quote that does not end"),
        pytest.param(b"From: a@[\r\n", "250 2.0.0", id="a literal that does not end"),
    ],
)
def test_broken_addresses_and_ids_are_taken_or_refused_and_break_nothing(head: bytes, answer: str) -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.mail(head + b"\r\nbody\r\n") == answer
            assert len(await here.mails("bob")) == answer.startswith("250")
            assert here.log.events("intake_failed") == []

    run(scene())


@pytest.mark.row("HDR-22")
@pytest.mark.parametrize("end", [b"=0A", b"=0D=0A", b"=0D", b"=00"])
def test_a_line_end_in_an_encoded_word_begins_no_field_in_what_we_write(end: bytes) -> None:
    subject = b"=?utf-8?q?hello" + end + b"Bcc=3A_evil=40x?= " + b"w" * 90
    raw = FROM + b"Subject: " + subject + b"\r\n\r\nbody\r\n"
    shown = decode_words(HeaderBlock.parse(raw).first(b"subject") or b"")
    assert "Bcc: evil@x" in shown
    with pytest.raises(Unwritable):
        field(b"Subject", shown.encode())
    again = HeaderBlock.parse(field(b"Subject", encode_words(shown)))
    assert [each.name for each in again.fields] == [b"subject"]
    assert decode_words(again.first(b"subject") or b"") == shown
    told = read(render_envelope(HeaderBlock.parse(raw)))
    assert isinstance(told, list)
    assert told[1] == subject

    bounce = dsn.build(report(), raw[: HeaderBlock.parse(raw).end])
    names = {name.lower() for part in message_from_bytes(bounce, policy=policy.HTTP).walk() for name in part.keys()}  # noqa: SIM118
    assert "bcc" not in names
    returned = parse(bounce).children[2]
    assert bounce[returned.body : returned.end] == FROM + b"Subject: " + subject


def report() -> dsn.Report:
    """Return a report of a failure."""
    failed = dsn.Reported(Address("joe", "b.example"), "5.1.1", "550 no\r\nBcc: evil@x")
    to = Address("a", "b.example")
    return dsn.Report(7, dsn.Kind.FAILED, to, (failed,), "mx.example", "postmaster@mx.example", NOW, NOW, 8)


# --- MIME ---------------------------------------------------------------------------------------------------


@pytest.mark.row("MIME-01")
def test_two_content_types_are_flagged_and_both_readings_are_scanned() -> None:
    types = [b"Content-Type: text/plain\r\n", b"Content-Type: multipart/mixed; boundary=b\r\n"]
    for order in (types, types[::-1]):
        raw = FROM + b"".join(order) + b"\r\n--b\r\n" + PROGRAM + b"--b--\r\n"
        root = parse(raw)
        assert Fault.TWO_TYPES in root.faults & AMBIGUOUS_STRUCTURE
        assert {"AMBIGUOUS_HEADER", "PROGRAM_ATTACHED"} <= set(rules(raw))


@pytest.mark.row("MIME-02")
def test_two_boundaries_are_flagged_and_both_readings_are_scanned() -> None:
    raw = (
        FROM
        + b"Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\n--a\r\n\r\ntext\r\n--a--\r\n--b\r\n"
        + PROGRAM
        + b"--b--\r\n"
    )
    root = parse(raw)
    assert root.all_faults() & AMBIGUOUS_STRUCTURE >= {Fault.TWO_BOUNDARIES, Fault.EPILOGUE}
    assert [part.content_type.value for part in root.children] == [b"text/plain"]
    assert "PROGRAM_ATTACHED" in rules(raw)


@pytest.mark.parametrize("encoding", [b"base64 (c)", b"(c) base64", b'"base64"', b"b\0ase64", b"base64;"])
def test_an_odd_encoding_is_flagged_and_taken_as_it_is_most_likely_meant(encoding: bytes) -> None:
    part = parse(FROM + b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\nQUFB\r\n")
    assert part.encoding == b"base64"
    assert Fault.ODD_ENCODING in part.faults & AMBIGUOUS_STRUCTURE


@pytest.mark.row("MIME-09")
@pytest.mark.parametrize(
    ("before", "behind", "fault"),
    [
        (PROGRAM, b"", Fault.PREAMBLE),
        (b"", PROGRAM, Fault.EPILOGUE),
        (b"", b"--b\r\n" + PROGRAM, Fault.AFTER_CLOSE),
    ],
)
def test_what_looks_like_a_part_outside_the_boundaries_is_flagged_and_scanned(
    before: bytes, behind: bytes, fault: Fault
) -> None:
    raw = FROM + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + before
    raw += b"--b\r\n\r\ntext\r\n--b--\r\n" + behind
    root = parse(raw)
    assert fault in root.faults & AMBIGUOUS_STRUCTURE
    assert len(root.children) == 1
    assert "PROGRAM_ATTACHED" in rules(raw)


def test_every_name_of_a_file_is_seen() -> None:
    raw = (
        FROM
        + b"Content-Type: application/x; name=c.pdf\r\nContent-Disposition: attachment; "
        + b"filename=\"a.txt\"; filename*=utf-8''b.exe\r\n\r\n"
    )
    assert parse(raw).filenames() == ("a.txt", "b.exe", "c.pdf")
    assert "PROGRAM_ATTACHED" in rules(raw)


def multiparts(levels: int) -> bytes:
    """Return a mail of multiparts in each other."""
    opened = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(levels)
    )
    return FROM + opened + b"\r\ntext\r\n" + b"".join(b"--b%d--\r\n" % n for n in reversed(range(levels)))


def messages(levels: int) -> bytes:
    """Return a mail of messages in each other."""
    return FROM + b"Content-Type: message/rfc822\r\n\r\n" * levels + b"\r\ntext\r\n"


@pytest.mark.row("MIME-12")
@pytest.mark.parametrize("levels", [49, 50, 101, 1_000, 10_000])
@pytest.mark.parametrize("make", [multiparts, messages])
def test_parts_in_parts_are_flagged_at_50_levels_and_left_closed_at_100(
    make: Callable[[int], bytes], levels: int
) -> None:
    raw = make(levels)
    root = parse(raw)
    check_structure(raw, root)
    faults = root.all_faults() & AMBIGUOUS_STRUCTURE
    assert (Fault.DEEP in faults, Fault.TOO_DEEP in faults) == (levels >= 50, levels >= 100)
    assert depth(root) == min(levels + 1, DEPTH_MAX)
    for told, extended in zip(render_structure(root), (True, False), strict=True):
        check_body(read(told), extended=extended)
    assert seconds(lambda: describe(raw, NOW)) < 1


@pytest.mark.row("MIME-13")
def test_a_hundred_thousand_parts_are_counted_up_to_1000() -> None:
    raw = FROM + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 100_000 + b"--b--\r\n"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    root = parse(raw)
    listing = describe(raw, NOW)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
    assert len(list(root.walk())) == PARTS_MAX
    assert Fault.TOO_MANY_PARTS in root.faults & AMBIGUOUS_STRUCTURE
    assert len(listing.sections) < 64 << 10


@pytest.mark.row("MIME-12", "MIME-13")
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(multiparts(10_000), id="10,000 levels"),
        pytest.param(messages(10_000), id="10,000 messages in messages"),
        pytest.param(
            FROM + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 100_000,
            id="100,000 parts",
        ),
    ],
)
def test_a_mail_of_too_many_parts_is_stored_as_it_came(content: bytes) -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.mail(content) == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert stored.endswith(content)
            assert here.log.events("intake_failed") == []

    run(scene())


@pytest.mark.row("MIME-15")
def test_thousands_of_pieces_of_a_parameter_are_read_up_to_200() -> None:
    value = b"application/x" + b"".join(b"; name*%d=x" % number for number in range(8_000))
    found = parse_parameters(value)
    assert len(found.params) == PARAMS_MAX
    assert ParameterFlaw.TOO_MANY in found.flaws
    assert found.text(b"name") == "x" * PARAMS_MAX
    raw = FROM + b"Content-Type: " + value.replace(b";", b";\r\n ") + b"\r\n\r\n"
    assert Fault.TOO_MANY_PARAMETERS in parse(raw).faults & AMBIGUOUS_STRUCTURE
    assert seconds(lambda: (describe(raw, NOW), parse(raw).filenames())) < 0.2


@pytest.mark.row("MIME-16")
@pytest.mark.parametrize(
    ("charset", "body"),
    [
        ("unicode_escape", b"\\x3cscript\\x3e"),
        ("raw_unicode_escape", b"\\u003cscript\\u003e"),
        ("utf-7", b"+ADw-script+AD4-"),
        ("utf-7-imap", b"&ADw-script&AD4-"),
        ("punycode", b"script-3s7d"),
        ("idna", b"xn--script"),
        ("rot13", b"<fpevcg>"),
        ("hex", b"3c7363726970743e"),
        ("base64", b"PHNjcmlwdD4="),
        ("zlib", b"x\x9c"),
        ("cp037", b"L\xa2\x83\x99\x89\x97\xa3n"),
        ("undefined", b"x"),
        ("../../etc/passwd", b"x"),
    ],
)
def test_a_charset_that_rewrites_its_text_is_not_decoded(charset: str, body: bytes) -> None:
    assert "<script>" not in decode(body, charset)
    if body.isascii():
        assert decode(body, charset) == body.decode()
    word = b"=?" + charset.replace("/", "").encode() + b"?q?" + body.replace(b"=", b"=3D") + b"?="
    assert "<script>" not in decode_words(word)
    raw = FROM + b"Content-Type: text/html; charset=" + charset.encode() + b"\r\n\r\n" + body + b"\r\n"
    assert not Message(raw, describe(raw, NOW).sections).body_has("<script>")


EIGHT_BIT = FROM + b"\r\n" + bytes(octet for octet in range(1, 256) if octet not in b"\r\n") + b"\r\n"


@pytest.mark.row("MIME-21")
def test_eight_bit_octets_without_any_mime_header_are_fetched_as_they_came() -> None:
    async def play(here: view.World) -> None:
        await here.deliver(EIGHT_BIT)
        async with here.imap(select="INBOX") as talk:
            (fetched,) = await talk.ok("FETCH 1 BODY.PEEK[]")
            assert fetched == b"* 1 FETCH (BODY[] {%d}\r\n%b)" % (len(EIGHT_BIT), EIGHT_BIT)

    view.scene(play)


@pytest.mark.row("MIME-21")
def test_eight_bit_octets_without_any_mime_header_are_stored_as_they_came() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.mail(EIGHT_BIT) == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert stored.endswith(EIGHT_BIT)
            assert await talk.mail(FROM + b"\r\na\0b\r\n") == "554 5.6.0"

    run(scene())
