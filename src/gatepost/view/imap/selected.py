"""The mailbox that a session has selected: its own list of UIDs, and what it was told about each.

A session's view is this list, not a snapshot of the database: others may add, change and expunge meanwhile, and
the session hears of it only where IMAP allows (`take` between commands, EXPUNGE never during FETCH, STORE and
SEARCH; RFC 3501 §7.4.1).
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Final

from gatepost.codec.imap.sets import Ranges, resolved
from gatepost.store.flags import SEEN, flag_names
from gatepost.store.model import Changed, Mailbox, News, Removed
from gatepost.store.uids import Ranges as UidRanges
from gatepost.store.uids import bridge

FlagRow = tuple[int, int, int]

SLICE: Final = 1_000
"""Messages that are rendered or changed in one step on the loop: about a millisecond."""


class Selected:
    """Sequence number n is `uids[n - 1]`; `flags` and `modseqs` run beside it."""

    def __init__(
        self, mailbox: Mailbox, rows: Sequence[FlagRow], keywords: Mapping[int, str], *, read_only: bool
    ) -> None:
        self.mailbox = mailbox
        self.read_only = read_only
        self.keywords = dict(keywords)
        self.uids = [row[0] for row in rows]
        self.flags = [row[1] for row in rows]
        self.modseqs = array("q", [row[2] for row in rows])
        self.tells_modseq = False
        """Whether the client wants MODSEQ with every FETCH that tells flags (RFC 7162 §3.1)."""
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

    def flags_fact(self, at: int) -> bytes:
        """Return FLAGS of the message at an index as a FETCH tells them, with MODSEQ where the client wants it."""
        shown = b"FLAGS " + self.rendered(self.flags[at])
        return b"%b MODSEQ (%d)" % (shown, self.modseqs[at]) if self.tells_modseq else shown

    def changed_since(self, spans: Iterable[range], modseq: int) -> list[range]:
        """Return what of `spans` changed after a modseq, as this session knows it."""
        modseqs = self.modseqs
        changed: list[range] = []
        for span in spans:
            for at in span:
                if modseqs[at] <= modseq:
                    continue
                if changed and changed[-1].stop == at:
                    changed[-1] = range(changed[-1].start, at + 1)
                else:
                    changed.append(range(at, at + 1))
        return changed

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

    def changed_here(self, done: Changed) -> list[int]:
        """Take what this session changed; return the indices that differ now.

        Where nobody else did anything meanwhile it is no news any more: every unit counts the modseq up by one.
        """
        self._counted(done.modseq)
        return self.set_flags(done.rows)

    def expunged_here(self, removed: Removed) -> Iterator[bytes]:
        """Take what one unit of this session removed; yield as `expunge` does."""
        if removed.uids:
            self._counted(removed.modseq)
        return self.expunge(removed.uids)

    def _counted(self, modseq: int) -> None:
        if modseq == self.modseq + 1:
            self.modseq = modseq

    def set_flags(self, rows: Iterable[FlagRow]) -> list[int]:
        """Take changed flags of messages that are known here; return the indices that differ now."""
        changed = []
        for uid, mask, modseq in rows:
            at = bisect_left(self.uids, uid)
            if at == len(self.uids) or self.uids[at] != uid:
                continue
            self.modseqs[at] = modseq
            if self.flags[at] != mask:
                self.flags[at] = mask
                changed.append(at)
        if changed:
            self._uid_flags = None
        return changed

    def take(self, news: News, *, may_expunge: bool) -> Iterator[bytes]:
        """Take what others did; yield the untagged answers that tell it, a slice at a time."""
        self.gone.update(news.expunged)
        if may_expunge and self.gone:
            gone, self.gone = self.gone, set()
            yield from self.expunge(gone)
        for begin in range(0, len(news.rows), SLICE):
            yield self._changed(news.rows[begin : begin + SLICE])
        self.modseq, self.uidnext = news.mailbox.modseq, news.mailbox.uidnext

    def compare(self, rows: Sequence[FlagRow]) -> None:
        """Mark as gone what a fresh reading of the whole mailbox no longer has."""
        self.gone |= set(self.uids) - {row[0] for row in rows}

    def expunge(self, uids: Iterable[int]) -> Iterator[bytes]:
        """Remove messages from the view, a slice at a time; yield their EXPUNGE answers, highest number first."""
        gone = sorted(uids, reverse=True)
        for begin in range(0, len(gone), SLICE):
            if said := self._expunge(gone[begin : begin + SLICE]):
                yield said

    def _expunge(self, uids: Iterable[int]) -> bytes:
        places = [number - 1 for uid in uids if (number := self.number(uid)) is not None]
        if not places:
            return b""
        kept = bytearray(b"\1") * len(self.uids)
        for at in places:
            kept[at] = 0
        self.uids, self.flags = list(compress(self.uids, kept)), list(compress(self.flags, kept))
        self.modseqs = array("q", compress(self.modseqs, kept))
        self._uid_flags = None
        return b"".join(b"* %d EXPUNGE\r\n" % (at + 1) for at in places)

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
            self.modseqs.extend([row[2] for row in fresh])
            self._uid_flags = None
            said.append(b"* %d EXISTS\r\n* 0 RECENT\r\n" % len(self.uids))
        said += [b"* %d FETCH (UID %d %b)\r\n" % (at + 1, self.uids[at], self.flags_fact(at)) for at in indices]
        return b"".join(said)
