"""Mails that no one wrote: half short and plain, the rest multipart/alternative and multipart/mixed with a file."""

import base64
import random
from pathlib import Path

SYLLABLES = [consonant + vowel for consonant in "bdfklmnprst" for vowel in "aeio"]
KNOWN_WORDS = [
    "meeting",
    "report",
    "invoice",
    "project",
    "schedule",
    "quarter",
    "regards",
    "please",
    "thanks",
    "attached",
]


def mails(count: int, corpus: Path | None = None, seed: int = 7) -> list[bytes]:
    """Return `count` mails with CRLF, the same for a seed; those of a folder where one is given."""
    if corpus is not None:
        found = sorted(
            path for path in corpus.rglob("*") if path.suffix in (".eml", ".msg", ".txt") and path.is_file()
        )
        if not found:
            raise FileNotFoundError(f"no .eml, .msg or .txt files in {corpus}")
        bodies = [b"\r\n".join(path.read_bytes().replace(b"\r\n", b"\n").split(b"\n")) for path in found]
        return [bodies[at % len(bodies)] for at in range(count)]
    writer = _Writer(random.Random(seed))
    return [writer.mail(number) for number in range(count)]


class _Writer:
    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        invented = {"".join(dice.choices(SYLLABLES, k=dice.randint(1, 4))) for _ in range(6_000)}
        self._words = sorted(invented) + KNOWN_WORDS * 40
        self._texts = [self._lines(4_600) for _ in range(200)]

    def mail(self, number: int) -> bytes:
        """Return mail `number`: 50 % plain (5 KB), 30 % alternative (20 KB), 20 % mixed with a file (20 KB)."""
        kind = number % 10
        head = self._head(number)
        text = self._dice.choice(self._texts)
        plain = f"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n{text}\r\n"
        if kind % 2 == 0:
            return (head + plain).encode()
        lines = "".join(
            f"<p>{line}</p>\r\n" for each in self._dice.choices(self._texts, k=2) for line in each.split("\r\n")
        )
        html = (
            "Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
            f"<html><body>{lines}</body></html>\r\n"
        )
        if kind < 6:
            return (head + _multipart("alternative", f"=_a{number:08x}", [plain, html])).encode()
        octets = base64.encodebytes(self._dice.randbytes(9_000)).decode().replace("\n", "\r\n")
        name = f"report-{number}.pdf"
        file = (
            f'Content-Type: application/pdf; name="{name}"\r\nContent-Transfer-Encoding: base64\r\n'
            f'Content-Disposition: attachment; filename="{name}"; size=9000\r\n\r\n{octets}'
        )
        inner = _multipart("alternative", f"=_i{number:08x}", [plain, html])
        return (head + _multipart("mixed", f"=_m{number:08x}", [inner, file])).encode()

    def _head(self, number: int) -> str:
        words = " ".join(self._dice.choices(self._words, k=5))
        if number % 9 == 0:
            words = "=?utf-8?b?" + base64.b64encode(f"Grüße {words}"[:40].encode()).decode() + "?="
        first, last = (each.title() for each in self._dice.choices(self._words, k=2))
        stamp = f"{1 + number % 28:02} Nov 2026 {number % 24:02}:{number % 60:02}:00 +0000"
        fields = [
            f"Return-Path: <sender{number % 500}@sender.test>",
            (
                f"Received: from mx.sender.test (mx.sender.test [192.0.2.{number % 250}])\r\n"
                f"\tby mx.example.test with ESMTPS id {number:012x}; {stamp}"
            ),
            f'From: "{first} {last}" <sender{number % 500}@sender.test>',
            "To: Ann Example <ann@example.test>, list@example.test",
            f"Subject: {words}",
            f"Date: {stamp}",
            f"Message-ID: <{number}.bench@sender.test>",
            "MIME-Version: 1.0",
        ]
        if number % 10 == 7:
            fields.append("Cc: Joe <joe@example.test>, Sam <sam@other.test>")
        if number % 5 == 4:
            fields += [
                f"In-Reply-To: <{number - 4}.bench@sender.test>",
                f"References: <{number - 4}.bench@sender.test>",
            ]
        return "\r\n".join(fields) + "\r\n"

    def _lines(self, size: int) -> str:
        lines, line = [], ""
        while size > 0:
            word = self._dice.choice(self._words)
            size -= len(word) + 1
            if len(line) + len(word) > 72:
                lines.append(line.rstrip())
                line = ""
            line += word + " "
        return "\r\n".join([*lines, line.rstrip()])


def _multipart(kind: str, boundary: str, parts: list[str]) -> str:
    inside = "".join(f"--{boundary}\r\n{part}" for part in parts)
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n{inside}--{boundary}--\r\n'
