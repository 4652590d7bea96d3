"""The message of an APPEND while it arrives: checked, its line ends made CRLF, and held in a spool."""

import mmap
import re
from typing import Final

from gatepost.blobs.spool import Spool
from gatepost.db.unit import NoRoom

_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)")


class Upload:
    """One message. Once it is `refused` its octets are taken and dropped; `close` it in every case."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._ends_with_cr = False
        self.refused = ""
        """Why it cannot be stored: the text of a NO, and `code` its response code."""
        self.code = ""

    def foresee(self, size: int) -> None:
        """Refuse a message of that size where there is no room for it now."""
        try:
            self._spool.foresee(size)
        except NoRoom:
            self._no_room()

    def refuse(self, text: str, code: str) -> None:
        """Refuse it, and let go what was held of it."""
        self.refused, self.code = text, code
        self._spool.close()

    def write(self, octets: bytes) -> None:
        """Take the next octets; bare CRs and LFs become CRLF, in whichever pieces they come."""
        if self.refused:
            return
        if b"\0" in octets:
            self.refuse("A message cannot hold NUL", "CANNOT")
            return
        if self._ends_with_cr:
            octets = b"\r" + octets
        self._ends_with_cr = octets.endswith(b"\r")
        if self._ends_with_cr:
            octets = octets[:-1]
        self._hold(octets)

    def content(self) -> bytes | mmap.mmap:
        """Return the whole message, valid until `close`; empty where nothing came."""
        if self._ends_with_cr:
            self._ends_with_cr = False
            self._hold(b"\r\n")
        return b"" if self.refused else self._spool.view()

    def close(self) -> None:
        """Let everything go."""
        self._spool.close()

    def _hold(self, octets: bytes) -> None:
        ends = octets.count(b"\r\n")
        if not octets.count(b"\n") == ends == octets.count(b"\r"):
            octets = _BARE.sub(b"\r\n", octets)
        try:
            self._spool.write(octets)
        except NoRoom:
            self._no_room()

    def _no_room(self) -> None:
        self.refuse("Too many messages are arriving at once; try again in a moment", "LIMIT")
