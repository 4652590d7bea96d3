"""What mails made to be slow cost: octets looked at and lines of code run are counted, so no clock is asked.

Octets are counted where the codec walks over the mail: find, count, slices, and the patterns that are run over it.
"""

import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, SupportsIndex

import pytest

from gatepost.codec.mail import structure
from gatepost.codec.mail.address import parse_addresses
from gatepost.codec.mail.date import parse_date_zone
from gatepost.codec.mail.header import HEADER_MAX, HeaderBlock
from gatepost.codec.mail.imap import render_structure
from gatepost.codec.mail.params import parse_parameters
from gatepost.codec.mail.words import decode_words

PER_OCTET: Final = 40
"""No mail may cost more octets looked at than this times its size; a sane one costs three."""

SPARE: Final = 1 << 20
MIXED: Final = b"From: a@b.example\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
CODEC: Final = structure.__file__.removesuffix("structure.py")


class Counted(bytes):
    """Octets that count how many of them are looked at."""

    steps = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        """Find, and count what lies before the place."""
        stop = len(self) if end is None else min(end, len(self))
        found = bytes.find(self, sub, start, stop)
        self.steps += max(0, (stop if found < 0 else found) - start) + 1
        return found

    def count(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        """Count, and count that."""
        stop = len(self) if end is None else end
        self.steps += max(0, stop - start)
        return bytes.count(self, sub, start, stop)

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        """Slice, and count the slice."""
        self.steps += len(range(*key.indices(len(self)))) if isinstance(key, slice) else 1
        return bytes.__getitem__(self, key)


class CountedPattern:
    """A pattern that counts the octets it is run over; it must be one that goes over them once."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern

    def __getattr__(self, name: str) -> Callable[..., object]:
        """Run it."""
        run: Callable[..., object] = getattr(self._pattern, name)

        def counted(octets: bytes, start: int = 0, end: int = sys.maxsize) -> object:
            if isinstance(octets, Counted):
                octets.steps += max(0, min(end, len(octets)) - start)
            return run(octets, start, end)

        return counted


def octets_seen(raw: bytes, patch: pytest.MonkeyPatch) -> int:
    """Return how many octets are looked at to read a mail's structure."""
    for name, value in list(vars(structure).items()):
        if isinstance(value, re.Pattern):
            patch.setattr(structure, name, CountedPattern(value))
    counted = Counted(raw)
    structure.parse(counted)
    return counted.steps


def nested(levels: int) -> bytes:
    """Return so many multiparts in each other, each with a boundary as long as may be."""
    return b"".join(
        b"Content-Type: multipart/mixed; boundary=%b%d\r\n\r\n--%b%d\r\n" % (b"+" * 190, n, b"+" * 190, n)
        for n in range(levels)
    )


SLOW: Final[dict[str, bytes]] = {
    "1,000 parts whose headers do not end": MIXED + b"--b\r\nA: b\r\n" * 999 + b"x: y\r\n" * 50_000,
    "the same with bare line feeds": MIXED + b"--b\nA: b\n" * 999 + b"x: y\n" * 50_000,
    "headers full of lines with --": MIXED + (b"--b\r\n" + b"--x: y\r\n" * 100) * 900,
    "messages in messages": b"From: a@b.example\r\n"
    + b"Content-Type: message/rfc822\r\n\r\n" * 97
    + b"\r\n"
    + b"a\r\n" * 500_000,
    "messages with -- in their headers behind many misses": MIXED
    + b"--b\r\n\r\n"
    + b"--c\r\n" * 2_100
    + b"--b\r\n"
    + b"--x: y\r\nContent-Type: message/rfc822\r\n\r\n" * 97
    + b"a\r\n" * 500_000,
    "delimiters behind the closing one": MIXED + b"--b\r\n\r\n--b--\r\n" + b"--b\r\n" * 300_000,
    "lines with -- that are no delimiters": MIXED + b"--b\r\n\r\n" + b"--c\r\n" * 300_000,
    "multiparts opened and closed behind many misses": b"From: a@b.example\r\n"
    + nested(95)
    + b"\r\n"
    + b"--x\r\n" * 2_100
    + b"".join(
        b"--%b94\r\nContent-Type: multipart/mixed; boundary=q%d\r\n\r\n" % (b"+" * 190, n) for n in range(850)
    ),
    "lines that nearly are the delimiters of 95 multiparts": b"From: a@b.example\r\n"
    + nested(95)
    + b"\r\n"
    + (b"--" + b"+" * 190 + b"x\r\n") * 10_000,
    "delimiters with padding that is too long": MIXED + b"--b\r\n\r\n" + (b"--b" + b" " * 1_000 + b"\r\n") * 2_000,
    "parts and nothing in them": MIXED + b"--b\r\n\r\n" * 100_000,
}


@pytest.mark.parametrize("name", SLOW)
def test_no_mail_is_looked_at_more_often_than_its_size_allows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = SLOW[name]
    assert octets_seen(raw, monkeypatch) <= PER_OCTET * len(raw) + SPARE


@pytest.mark.parametrize("name", SLOW)
def test_no_mail_runs_more_code_than_its_lines_allow(name: str) -> None:
    raw = SLOW[name][: 1 << 18]
    lines = lines_run(lambda: structure.parse(raw))
    assert lines <= 40 * raw.count(b"\n") + 400_000  # 1,000 parts cost their lines of code however small they are


def test_a_sane_mail_is_looked_at_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = MIXED + b"--b\r\n\r\ntext\r\n--b\r\nContent-Type: image/png\r\n\r\n" + b"QUFB\r\n" * 50_000 + b"--b--\r\n"
    assert octets_seen(raw, monkeypatch) <= 3 * len(raw)


def test_a_structure_of_long_parameters_inside_97_messages_is_rendered_once() -> None:
    parameters = b"".join(b"; p%d=%b" % (n, b"x" * 20) for n in range(200))
    leaf = b"Content-Type: text/plain" + parameters + b"\r\n\r\n"
    plain = MIXED + (b"--b\r\n" + leaf) * 20
    deep = b"From: a@b.example\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 97 + plain
    lines = [lines_run(lambda raw=raw: render_structure(structure.parse(raw))) for raw in (plain, deep)]  # type: ignore[misc]
    assert lines[1] - lines[0] < 97 * 400


# --- values -------------------------------------------------------------------------------------------------

Parser = Callable[[bytes], object]
VALUES: Final[list[tuple[str, Parser, Callable[[int], bytes]]]] = [
    ("quotes", parse_addresses, lambda n: b'"' * n),
    ("comments", parse_addresses, lambda n: b"()" * n),
    ("comments that do not end", parse_addresses, lambda n: b"(" * n),
    ("angles", parse_addresses, lambda n: b"<" * n),
    ("at signs", parse_addresses, lambda n: b"@" * n),
    ("addresses", parse_addresses, lambda n: b"a@b.example," * n),
    ("groups", parse_addresses, lambda n: b"a:b:c:;;" * n),
    ("words", parse_addresses, lambda n: b"a " * n),
    ("literals", parse_addresses, lambda n: b"[a]@" * n),
    ("parameters", parse_parameters, lambda n: b"text/plain" + b"; p=1" * n),
    ("sections", parse_parameters, lambda n: b"text/plain" + b"".join(b"; p*%d=1" % at for at in range(n))),
    ("comments", parse_parameters, lambda n: b"text/plain" + b"(a)" * n),
    ("quotes", parse_parameters, lambda n: b"text/plain" + b';="' * n),
    ("words", decode_words, lambda n: b"=?utf-8?q?=41?= " * n),
    ("words that do not end", decode_words, lambda n: b"=?utf-8?q?" * n),
    ("begins of words", decode_words, lambda n: b"=?" * n),
    ("dates", parse_date_zone, lambda n: b"1 Jan 2026 " + b"(" * n),
    ("fields", HeaderBlock.parse, lambda n: b"From: a@b.example\r\n" * n),
    ("flawed fields", HeaderBlock.parse, lambda n: b"From : a@b.example\r\n" * n),
    ("folds", HeaderBlock.parse, lambda n: b"From:" + b"\r\n " * n),
    ("no fields", HeaderBlock.parse, lambda n: b"x\n" * n),
]


@pytest.mark.parametrize(("_name", "parser", "make"), VALUES, ids=lambda each: getattr(each, "__name__", None))
def test_twice_the_octets_run_at_most_twice_the_code(
    _name: str, parser: Parser, make: Callable[[int], bytes]
) -> None:
    once, twice = (lines_run(lambda n=n: parser(make(n))) for n in (400, 800))  # type: ignore[misc]
    assert twice <= 2 * once + 50


PATTERNS: Final = [
    b"=?a?q?" + b"x" * (1 << 16),
    b"=?" * (1 << 15),
    b'"' + b"\\a" * (1 << 15),
    b"(" * (1 << 16),
    b"((\\)" * (1 << 14),
    b"a " * (1 << 15),
    b"a" + b" " * (1 << 16) + b"=",
    b"a/" + b" " * (1 << 16),
    b";" + b" " * (1 << 16) + b"=" + b" " * (1 << 10) + b'"\\',
    b';a="\\"' * (1 << 13) + b"\\",
    b"1 Jan 2026 " + b" " * (1 << 16),
    b"a, " * (1 << 14),
    b"\r\n " * (1 << 14),
    b"a\r\n \t" * (1 << 13),
]


@pytest.mark.parametrize("value", PATTERNS, ids=lambda value: repr(value[:8]))
@pytest.mark.timeout(20)
def test_no_pattern_goes_back_and_forth_over_a_long_value(value: bytes) -> None:
    """A pattern's steps cannot be counted; a quadratic one would take minutes where this takes milliseconds."""
    assert len(value) <= HEADER_MAX
    for parser in (parse_addresses, parse_parameters, decode_words, parse_date_zone, HeaderBlock.parse):
        parser(value)


def lines_run(action: Callable[[], object]) -> int:
    """Return how many lines of the codec an action runs."""
    count = 0

    def within(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return within

    def entered(frame: FrameType, _event: str, _argument: object) -> Any:
        return within if frame.f_code.co_filename.startswith(CODEC) else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        action()
    finally:
        sys.settrace(before)
    return count
