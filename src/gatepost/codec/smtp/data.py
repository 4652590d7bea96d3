"""Where a mail ends, and what its lines are like.

`EndOfData` takes the octets after DATA and finds CRLF.CRLF, the only end there is (RFC 5321 §4.1.1.4; anything else
is a way to smuggle a second mail, CVE-2023-51764 and its family); it takes the stuffed dots away (§4.5.2).
`Chunks` takes the counted octets of BDAT (RFC 3030). Both hand every piece to one `Lines`, which notes what is
wrong with line ends and lengths, or mends bare CR and LF where the settings say so.

A piece never ends between CR and LF: a CR at the end waits for the next octet. So whole mails are handled by a few
calls that run in C, and every split of the input gives the same content, flaws and rest.
"""

import re
from enum import Enum
from typing import Final

LINE_MAX: Final = 998  # RFC 5321 §4.5.3.1.6, without CRLF: what we must take and may send
LINE_TOLERATED: Final = 65_536  # without CRLF: longer lines are refused

_END: Final = b"\r\n.\r\n"
_STUFFED: Final = b"\r\n."
# Together they say that every line ends in CRLF and none is longer than LINE_MAX: 7 µs for 5 KB, counting takes 25.
_GOOD_LINES: Final = re.compile(rb"(?:.{0,999}(?<=\r)\n)*+.{0,998}")
_CRLF_LINES: Final = re.compile(rb"(?:.*+(?<=\r)\n)*+.*")
_BARE_CR: Final = re.compile(rb"\r(?!\n)")


class BareLines(Enum):
    """What to do with a CR or LF that stands alone in a mail."""

    REJECT = "reject"
    NORMALIZE = "normalize"


class Flaw(Enum):
    """Why a mail's lines cannot be taken."""

    BARE = "bare CR or LF"
    LONG_LINE = "line too long"
    NUL = "NUL octet"


class Lines:
    """Look at the text of one mail in pieces that never part a CR from its LF."""

    __slots__ = ("_open", "_policy", "bare", "longest", "nul", "octets")

    def __init__(self, policy: BareLines) -> None:
        self._policy = policy
        self._open = 0
        self.bare = False
        """A CR or LF stood alone (also when it was mended)."""
        self.nul = False
        """There was a NUL: no mail has one without BINARYMIME, and readers cut their strings there."""
        self.longest = 0
        """Octets of the longest line without CRLF, 0 while none is longer than LINE_MAX."""
        self.octets = 0
        """Octets of the content so far."""

    @property
    def flaw(self) -> Flaw | None:
        """Return why the mail cannot be taken, None when it can."""
        if self.bare and self._policy is BareLines.REJECT:
            return Flaw.BARE
        if self.longest > LINE_TOLERATED:
            return Flaw.LONG_LINE
        return Flaw.NUL if self.nul else None

    def take(self, piece: bytes) -> bytes:
        """Note what is wrong with a piece and return it, mended where the policy says so."""
        first = piece.find(b"\r\n")
        if (
            0 <= first <= LINE_MAX - self._open
            and _GOOD_LINES.fullmatch(piece) is not None
            and _BARE_CR.search(piece) is None
        ):
            self._open = len(piece) - 1 - piece.rfind(b"\n")
        else:
            piece = self._look_closely(piece)
        if b"\0" in piece:
            self.nul = True
        self.octets += len(piece)
        return piece

    def _look_closely(self, piece: bytes) -> bytes:
        lines = piece.split(b"\r\n")
        if piece.count(b"\n") != len(lines) - 1 or piece.count(b"\r") != len(lines) - 1:
            self.bare = True
            if self._policy is BareLines.NORMALIZE:
                piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
                lines = piece.split(b"\r\n")
        first = self._open + len(lines[0])
        longest = max(first, len(max(lines, key=len)))
        if longest > max(LINE_MAX, self.longest):
            self.longest = longest
        self._open = first if len(lines) == 1 else len(lines[-1])
        return piece


class EndOfData:
    """Scan the octets after DATA's 354.

    `feed(octets)` returns the content among them; after the end `ended` is true and `rest` holds what follows.
    """

    __slots__ = ("_held", "_virtual", "ended", "lines", "rest")

    def __init__(self, policy: BareLines) -> None:
        self.lines = Lines(policy)
        self.ended = False
        self.rest = b""
        self._held = b"\r\n"  # DATA's own CRLF: a dot right after it ends an empty mail
        self._virtual = 2

    def feed(self, octets: bytes) -> bytes:
        """Take what the peer sent; return the content in it, without stuffed dots (may be empty)."""
        text = self._held + octets
        if text.endswith(_END) and text.rfind(_STUFFED, 0, -3) < 0:  # the usual mail, all of it at once
            self.ended = True
            self._held = b""
            return self._take(text[:-3])
        end = text.find(_END)
        if end >= 0:
            self.ended = True
            self.rest = text[end + 5 :]
            self._held = b""
            return self._content(text[: end + 2])
        held = _unfinished(text)
        if held:
            self._held = text[-held:]
            return self._content(text[:-held])
        self._held = b""
        return self._content(text)

    def _content(self, text: bytes) -> bytes:
        return self._take(text.replace(_STUFFED, b"\r\n"))

    def _take(self, text: bytes) -> bytes:
        if self._virtual:
            if not text:
                return b""
            text = text[2:]
            self._virtual = 0
        return self.lines.take(text) if text else b""


class Chunks:
    """Take the octets of the BDAT commands of one mail; only `finish` may let a last CR go."""

    __slots__ = ("_held", "lines")

    def __init__(self, policy: BareLines) -> None:
        self.lines = Lines(policy)
        self._held = b""

    def feed(self, octets: bytes) -> bytes:
        """Return the content in the octets of a chunk (may be empty)."""
        text = self._held + octets
        if text.endswith(b"\r"):
            self._held = b"\r"
            text = text[:-1]
        else:
            self._held = b""
        return self.lines.take(text) if text else b""

    def finish(self) -> bytes:
        """Return what was held back at the end of the mail."""
        held, self._held = self._held, b""
        return self.lines.take(held) if held else b""


def crlf_only(text: bytes) -> bool:
    """Tell whether no CR and no LF stands alone in `text`."""
    return _CRLF_LINES.fullmatch(text) is not None and _BARE_CR.search(text) is None


def _unfinished(text: bytes) -> int:
    """Return how many octets at the end may be the beginning of CRLF.CRLF."""
    for length in (4, 3, 2, 1):
        if text.endswith(_END[:length]):
            return length
    return 0
