"""The mailbox that a session has selected: its own list of UIDs, and what it was told about each.

A session's view is this list, not a snapshot of the database: others may add, change and expunge meanwhile, and
the session hears of it only where IMAP allows (`take` between commands, EXPUNGE never during FETCH, STORE and
SEARCH; RFC 3501 §7.4.1).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence

from gatepost.codec.imap.sets import Ranges, resolved
from gatepost.store.flags import SEEN, flag_names
from gatepost.store.model import Mailbox, News
from gatepost.store.uids import Ranges as UidRanges
from gatepost.store.uids import bridge

FlagRow = tuple[int, int, int]


class Selected:
    """Sequence number n is `uids[n - 1]`; `flags` runs beside it."""

    def __init__(
        self, mailbox: Mailbox, rows: Sequence[FlagRow], keywords: Mapping[int, str], *, read_only: bool
    ) -> None:
        self.mailbox = mailbox
        self.read_only = read_only
        self.keywords = dict(keywords)
        self.uids = [row[0] for row in rows]
        self.flags = [row[1] for row in rows]
        self.modseq = mailbox.modseq
        self.uidnext = max(mailbox.uidnext, self.uids[-1] + 1 if rows else 0)
        self.gone: set[int] = set()
        self._rendered: dict[int, bytes] = {}
        self._uid_flags: bytes | None = None

    def __len__(self) -> int:
        return len(self.uids)

    def learn(self, keywords: Mapping[int, str]) -> None:
        """Take the mailbox's keywords as they are now; masks written without them are written anew."""
        self.keywords = dict(keywords)
        self._rendered.clear()
        self._uid_flags = None

    def rendered(self, mask: int) -> bytes:
        """Return `(\\Seen ...)` for a mask; each mask is written once."""
        found = self._rendered.get(mask)
        if found is None:
            names = " ".join(flag_names(mask, self.keywords))
            found = self._rendered[mask] = f"({names})".encode("ascii")
        return found

    def uid_flags(self) -> bytes:
        """Return the whole answer to `FETCH 1:* (UID FLAGS)`; kept until something changes."""
        if self._uid_flags is None:
            rendered = {mask: self.rendered(mask) for mask in set(self.flags)}
            self._uid_flags = b"".join(
                [
                    b"* %d FETCH (UID %d FLAGS %b)\r\n" % (number, uid, rendered[mask])
                    for number, (uid, mask) in enumerate(zip(self.uids, self.flags, strict=True), 1)
                ]
            )
        return self._uid_flags

    def number(self, uid: int) -> int | None:
        """Return the sequence number of a UID."""
        at = bisect_left(self.uids, uid)
        return at + 1 if at < len(self.uids) and self.uids[at] == uid else None

    def positions(self, ranges: Ranges, *, uid: bool) -> list[range]:
        """Return the index ranges that a sequence set names; numbers that do not exist name nothing."""
        if not self.uids:
            return []
        if not uid:
            found = resolved(ranges, len(self.uids))
            return [range(low - 1, min(high, len(self.uids))) for low, high in found if low <= len(self.uids)]
        found = resolved(ranges, self.uids[-1])
        spans = (range(bisect_left(self.uids, low), bisect_right(self.uids, high)) for low, high in found)
        return [span for span in spans if span]

    def beyond(self, ranges: Ranges) -> bool:
        """Tell whether a set of sequence numbers names one that does not exist: BAD (RFC 3501 §6.4.5)."""
        return any(low > len(self.uids) for low, _ in resolved(ranges, len(self.uids))) or not self.uids

    def chosen(self, spans: Iterable[range]) -> list[int]:
        """Return the UIDs at index ranges."""
        return [uid for span in spans for uid in self.uids[span.start : span.stop]]

    def uid_ranges(self, spans: Sequence[range]) -> UidRanges:
        """Return few UID ranges that hold exactly the chosen messages and no other of this mailbox."""
        if not spans:
            return ()
        if len(spans) == 1:
            return ((self.uids[spans[0].start], self.uids[spans[0].stop - 1]),)
        return bridge(self.chosen(spans), self.uids)

    def set_flags(self, rows: Iterable[FlagRow]) -> list[int]:
        """Take changed flags of messages that are known here; return the indices that differ now."""
        changed = []
        for uid, mask, _ in rows:
            at = bisect_left(self.uids, uid)
            if at < len(self.uids) and self.uids[at] == uid and self.flags[at] != mask:
                self.flags[at] = mask
                changed.append(at)
        if changed:
            self._uid_flags = None
        return changed

    def take(self, news: News, *, may_expunge: bool) -> bytes:
        """Take what others did; return the untagged answers that tell it."""
        said: list[bytes] = []
        self.gone.update(news.expunged)
        if may_expunge and self.gone:
            said.append(self.expunge(self.gone))
            self.gone = set()
        said.append(self._changed(news.rows))
        self.modseq, self.uidnext = news.mailbox.modseq, news.mailbox.uidnext
        return b"".join(said)

    def compare(self, rows: Sequence[FlagRow]) -> None:
        """Mark as gone what a fresh reading of the whole mailbox no longer has."""
        self.gone |= set(self.uids) - {row[0] for row in rows}

    def expunge(self, uids: Iterable[int]) -> bytes:
        """Remove messages from the view; return their EXPUNGE answers, the highest number first."""
        gone = set(uids)
        places = [at for at, uid in enumerate(self.uids) if uid in gone]
        if not places:
            return b""
        kept = [(uid, mask) for uid, mask in zip(self.uids, self.flags, strict=True) if uid not in gone]
        self.uids, self.flags = [uid for uid, _ in kept], [mask for _, mask in kept]
        self._uid_flags = None
        return b"".join(b"* %d EXPUNGE\r\n" % (at + 1) for at in reversed(places))

    def first_unseen(self) -> int:
        """Return the first sequence number without \\Seen; 0 for none."""
        return next((at for at, mask in enumerate(self.flags, 1) if not mask & SEEN), 0)

    def _changed(self, rows: Sequence[FlagRow]) -> bytes:
        last = self.uids[-1] if self.uids else 0
        fresh = [row for row in rows if row[0] > last]
        indices = self.set_flags(row for row in rows if row[0] <= last)
        said: list[bytes] = []
        if fresh:
            self.uids += [row[0] for row in fresh]
            self.flags += [row[1] for row in fresh]
            self._uid_flags = None
            said.append(b"* %d EXISTS\r\n* 0 RECENT\r\n" % len(self.uids))
        for at in indices:
            said.append(
                b"* %d FETCH (UID %d FLAGS %b)\r\n" % (at + 1, self.uids[at], self.rendered(self.flags[at]))
            )
        return b"".join(said)
