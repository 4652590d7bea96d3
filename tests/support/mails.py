"""Mails of a seeded generator: well-formed, with CRLF and without NUL, made of sane and of odd pieces."""

import random
from typing import Final

WORDS: Final = b"odd needle hay the of Re: =?utf-8?q?M=C3=BCnchen?= =?iso-8859-1?B?5GRk?= x".split()
NAMES: Final = (b"Ann", b'"Ann O\'Neil"', b'"a \\"b\\" c"', b"=?utf-8?q?J=C3=B6rg?=", b"", b"Dr. Who")
TYPES: Final = (
    b"text/plain", b"text/html; charset=utf-8", b'text/plain; charset="us-ascii"; format=flowed',
    b"application/octet-stream; name=a.bin", b"image/png", b"TEXT/Plain; Charset=ISO-8859-1",
)  # fmt: skip
ENCODINGS: Final = (b"7bit", b"8bit", b"base64", b"quoted-printable", b"BINARY")
DATES: Final = (
    b"Mon, 23 Nov 2026 08:00:00 +0000", b"1 Jan 2019 00:00:00 -0500", b"Tue, 3 Feb 2015 9:01 +0100",
)  # fmt: skip


class Maker:
    """Makes mails of one seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def mail(self) -> bytes:
        """Return a mail."""
        chance = self._chance
        fields = [b"From: " + self._addresses(1), b"To: " + self._addresses(chance.randrange(1, 4))]
        fields.append(b"Date: " + chance.choice(DATES))
        fields.append(b"Subject: " + self._text())
        if chance.random() < 0.6:
            fields.append(b"Message-ID: <%d.%d@sender.example>" % (chance.randrange(1 << 30), chance.randrange(9)))
        if chance.random() < 0.3:
            fields.append(b"Cc: " + self._addresses(2))
        if chance.random() < 0.2:
            fields.append(b"Sender: " + self._addresses(1))
        if chance.random() < 0.2:
            fields.append(b"Reply-To: " + self._addresses(1))
        if chance.random() < 0.3:
            fields.append(b"In-Reply-To: <x@y.example>")
        for _ in range(chance.randrange(3)):
            fields.append(b"X-Odd: " + self._text())
        if chance.random() < 0.3:
            fields.insert(0, b"Received: from a by b;\r\n\tMon, 23 Nov 2026 08:00:00 +0000")
        chance.shuffle(fields)
        head, body = self._entity(0)
        return b"\r\n".join([*fields, b"MIME-Version: 1.0", *head]) + b"\r\n\r\n" + body

    def _text(self) -> bytes:
        chance = self._chance
        words = [chance.choice(WORDS) for _ in range(chance.randrange(1, 9))]
        return b"".join(word + chance.choice((b" ", b" ", b"\r\n ", b"  ", b"\r\n\t")) for word in words).rstrip()

    def _addresses(self, count: int) -> bytes:
        chance, made = self._chance, []
        for _ in range(count):
            name, who = chance.choice(NAMES), chance.choice((b"ann", b"joe", b'"j d"', b"a.b+c"))
            made.append(name + b" <%b@h%d.example>" % (who, chance.randrange(9)))
        if count > 1 and chance.random() < 0.2:
            return b"friends: " + b", ".join(made) + b";"
        return chance.choice((b", ", b",\r\n ")).join(made)

    def _lines(self) -> bytes:
        chance = self._chance
        lines = [b" ".join(chance.choices(WORDS, k=chance.randrange(12))) for _ in range(chance.randrange(8))]
        return b"".join(line + b"\r\n" for line in lines)

    def _entity(self, depth: int) -> tuple[list[bytes], bytes]:
        """Return the MIME fields and the body of an entity."""
        chance = self._chance
        kind = chance.random()
        if depth < 3 and kind < 0.35:
            return self._multipart(depth)
        if depth < 3 and kind < 0.45:
            return [b"Content-Type: message/rfc822"], Maker(chance.randrange(1 << 30))._inner()
        fields = [b"Content-Type: " + chance.choice(TYPES)] if chance.random() < 0.8 else []
        if chance.random() < 0.5:
            fields.append(b"Content-Transfer-Encoding: " + chance.choice(ENCODINGS))
        if chance.random() < 0.3:
            fields.append(b'Content-Disposition: attachment; filename="a b.txt"')
        if chance.random() < 0.1:
            fields.append(b"Content-ID: <part@x.example>\r\nContent-Description: a part")
        if chance.random() < 0.1:
            fields.append(b"Content-Language: en, de")
        return fields, self._lines()

    def _inner(self) -> bytes:
        head = [b"From: " + self._addresses(1), b"Subject: " + self._text(), b"Content-Type: text/plain"]
        return b"\r\n".join(head) + b"\r\n\r\n" + self._lines()

    def _multipart(self, depth: int) -> tuple[list[bytes], bytes]:
        chance = self._chance
        boundary = b"b%d-%d" % (depth, chance.randrange(1 << 20)) + chance.choice((b"", b"=_", b"'()+_,./:?"))
        body = chance.choice((b"", b"A preamble.\r\n"))
        for _ in range(chance.randrange(1, 4)):
            fields, content = self._entity(depth + 1)
            body += b"--%b\r\n%b\r\n%b\r\n" % (boundary, b"".join(each + b"\r\n" for each in fields), content)
        body += b"--%b--\r\n" % boundary + chance.choice((b"", b"\r\n", b"An epilogue.\r\n"))
        subtype = chance.choice((b"mixed", b"alternative", b'related; type="text/html"', b"Report"))
        return [b'Content-Type: multipart/%b; boundary="%b"' % (subtype, boundary)], body
