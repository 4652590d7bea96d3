"""Lines that end in CRLF, out of octets that come in pieces of any size.

Only CRLF ends a line: a bare LF or CR is part of it and left for the grammar to refuse. What waits for its CRLF is
never longer than `limit`; who feeds faster than lines are taken is bounded by the driver's buffer.
"""

CRLF = b"\r\n"


class LineTooLong(ValueError):
    """More than `limit` octets came without a CRLF, or the line with its CRLF is longer."""


class LineBuffer:
    """Keep what has come in; hand it out by lines or, for counted data, by octets."""

    __slots__ = ("_at", "_octets", "_searched", "limit")

    def __init__(self, limit: int) -> None:
        """Refuse lines of more than `limit` octets, CRLF included; `limit` may be changed between lines."""
        self.limit = limit
        self._octets = b""
        self._at = 0
        self._searched = 0

    def __len__(self) -> int:
        return len(self._octets) - self._at

    def feed(self, octets: bytes) -> None:
        """Take what the peer sent."""
        if self._at == len(self._octets):
            self._octets = octets
            self._searched = 0
        else:
            self._searched = max(0, self._searched - self._at)
            self._octets = self._octets[self._at :] + octets
        self._at = 0

    def line(self) -> bytes | None:
        """Return the next line without its CRLF, None when it is not there yet; raises LineTooLong."""
        octets, at = self._octets, self._at
        end = octets.find(CRLF, max(at, self._searched), at + self.limit)
        if end >= 0:
            self._at = end + 2
            return octets[at:end]
        if len(octets) - at >= self.limit:
            raise LineTooLong(f"a line is longer than {self.limit} octets")
        self._searched = max(at, len(octets) - 1)
        return None

    @property
    def has_bare_newline(self) -> bool:
        """Tell whether what waits for its CRLF, after `line` gave None or raised, has an LF within `limit`."""
        return self._octets.find(b"\n", self._at, self._at + self.limit) >= 0

    def take(self, count: int | None = None) -> bytes:
        """Return up to `count` octets as they came (None: all there are)."""
        octets, at = self._octets, self._at
        if count is None or count >= len(octets) - at:
            self.clear()
            return octets[at:] if at else octets
        self._at = at + count
        return octets[at : at + count]

    def clear(self) -> None:
        """Forget what was not taken."""
        self._octets = b""
        self._at = self._searched = 0
