"""The files in which others send reports: plain, gzipped, zipped, or a mail that brings one of these.

Whoever knows our address can send one, so what is unpacked is bounded, in octets and in its ratio to what came.
"""

import zlib
from binascii import Error as NotBase64
from binascii import a2b_base64, a2b_qp
from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO
from typing import Final
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from gatepost.codec.mail.structure import Part, parse

PACKED_MAX: Final = 32 << 20
"""Octets of a file; a mail is larger than what it brings."""
RATIO_MAX: Final = 100
RATIO_FREE: Final = 1 << 20
"""Octets up to which no ratio is asked for: a small report may well repeat itself."""
MEMBERS_MAX: Final = 100
GZIP: Final = b"\x1f\x8b"
ZIP: Final = b"PK\x03\x04"
_NOT_A_ZIP: Final = (BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, zlib.error)


class BadReport(ValueError):
    """It is no report that can be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How reports of a kind are known: `begin` is a document's first octet, `ending` that of its name."""

    title: str
    begin: bytes
    ending: str
    types: Collection[bytes]
    most: int
    """Octets of a document."""

    def document(self, octets: bytes) -> bytes:
        """Return the document that a file holds; raises BadReport."""
        if len(octets) > PACKED_MAX:
            raise BadReport(f"more than {PACKED_MAX} octets")
        found = self._unpacked(octets)
        return self._of_mail(octets) if found is None else found

    def _unpacked(self, octets: bytes) -> bytes | None:
        if octets.startswith(GZIP):
            document = _gunzip(octets, self._allowed(octets))
        elif octets.startswith(ZIP):
            document = self._unzip(octets)
        elif octets.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(self.begin):
            document = octets
        else:
            return None
        if len(document) > self.most:
            raise BadReport(f"more than {self.most} octets of {self.ending.upper()}")
        return document

    def _allowed(self, octets: bytes) -> int:
        return min(self.most, max(RATIO_FREE, RATIO_MAX * len(octets)))

    def _unzip(self, octets: bytes) -> bytes:
        most = self._allowed(octets)
        try:
            with ZipFile(BytesIO(octets)) as archive, archive.open(self._member(archive)) as member:
                document = member.read(most + 1)
        except BadReport:
            raise
        except _NOT_A_ZIP as wrong:
            raise BadReport(f"it is a zip archive, but damaged: {wrong}") from None
        if len(document) > most:
            raise BadReport(f"unpacked it has more than {most} octets")
        return document

    def _member(self, archive: ZipFile) -> ZipInfo:
        members = [each for each in archive.infolist() if not each.is_dir()][:MEMBERS_MAX]
        named = [each for each in members if each.filename.lower().endswith("." + self.ending)]
        chosen = named or members
        if not chosen:
            raise BadReport("it is a zip archive with nothing in it")
        if chosen[0].flag_bits & 1:
            raise BadReport("it is a zip archive that asks for a password")
        if chosen[0].compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise BadReport("it is a zip archive of a compression that no report has")
        return chosen[0]

    def _of_mail(self, octets: bytes) -> bytes:
        for part in parse(octets).walk():
            if not part.children and self._may_bring(part):
                document = self._unpacked(_content(octets, part))
                if document is not None:
                    return document
        raise BadReport(f"it is no {self.title}, and no mail that brings one")

    def _may_bring(self, part: Part) -> bool:
        endings = (f".{self.ending}", ".gz", ".zip")
        return part.content_type.value in self.types or any(
            name.lower().endswith(endings) for name in part.filenames()
        )


def _gunzip(octets: bytes, most: int) -> bytes:
    member = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        document = member.decompress(octets, most + 1)
    except zlib.error as wrong:
        raise BadReport(f"it is compressed, but damaged: {wrong}") from None
    if len(document) > most:
        raise BadReport(f"unpacked it has more than {most} octets")
    if not member.eof:
        raise BadReport("it is compressed, but its end is missing")
    return document


def _content(octets: bytes, part: Part) -> bytes:
    body = octets[part.body : part.end]
    try:
        match part.encoding:
            case b"base64":
                return a2b_base64(body)
            case b"quoted-printable":
                return a2b_qp(body)
            case _:
                return body
    except NotBase64 as wrong:
        raise BadReport(f"the mail's part is not base64: {wrong}") from None
