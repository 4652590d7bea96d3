"""A mailbox against a model in plain Python: any sequence of changes gives the same mailbox."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.store.flags import DELETED
from gatepost.store.model import MailboxId
from gatepost.store.uids import Ranges, above, bridge, clip, merge, runs
from tests.store.world import ANN, MAIL, World, world
from tests.support.databases import open_sqlite
from tests.support.loop import run

SPANS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3).map(merge)
MASKS = st.sampled_from([0, 1, 4, DELETED, DELETED | 1, 1 << 16])
BOXES = st.integers(0, 1)
CHANGES = st.one_of(
    st.tuples(st.just("append"), BOXES, MASKS),
    st.tuples(st.just("flags"), BOXES, SPANS, MASKS, MASKS),
    st.tuples(st.just("copy"), BOXES, SPANS, BOXES),
    st.tuples(st.just("move"), BOXES, SPANS, BOXES),
    st.tuples(st.just("expunge"), BOXES, SPANS),
)


@dataclass
class Box:
    """What a mailbox should be: flags by UID."""

    id: MailboxId
    rows: dict[int, int] = field(default_factory=dict)
    next: int = 1
    gone: list[int] = field(default_factory=list)

    def add(self, flags: int) -> int:
        """Add a message; return its UID."""
        self.rows[self.next] = flags
        self.next += 1
        return self.next - 1

    def within(self, ranges: Ranges) -> list[int]:
        """Return the UIDs in the ranges."""
        return [uid for uid in self.rows if any(low <= uid <= high for low, high in ranges)]

    def remove(self, uids: list[int]) -> None:
        """Take messages out."""
        self.gone += uids
        for uid in uids:
            del self.rows[uid]


async def apply(here: World, boxes: list[Box], change: tuple[object, ...]) -> None:
    """Do one change in both worlds and compare what it returns."""
    match change:
        case ("append", int(at), int(flags)):
            assert (await here.add(boxes[at].id, flags)).uid == boxes[at].add(flags)
        case ("flags", int(at), tuple(ranges), int(add), int(remove)):
            done = await here.mailboxes.change_flags(boxes[at].id, ranges, add=add, remove=remove)
            changed = []
            for uid in boxes[at].within(ranges):
                after = (boxes[at].rows[uid] & ~remove) | add
                if after != boxes[at].rows[uid]:
                    changed.append((uid, after))
                boxes[at].rows[uid] = after
            assert [row[:2] for row in done.rows] == changed
        case ("copy" | "move" as how, int(at), tuple(ranges), int(to)):
            verb = here.mailboxes.copy if how == "copy" else here.mailboxes.move
            copied = await verb(boxes[at].id, ranges, boxes[to].id)
            uids = boxes[at].within(ranges)
            expected = tuple((uid, boxes[to].add(boxes[at].rows[uid])) for uid in uids)
            assert (copied.uids if copied else ()) == expected
            if how == "move":
                boxes[at].remove(uids)
        case ("expunge", int(at), tuple(ranges)):
            gone = [uid for uid in boxes[at].within(ranges) if boxes[at].rows[uid] & DELETED]
            assert (await here.mailboxes.expunge(boxes[at].id, ranges)).uids == gone
            boxes[at].remove(gone)
        case _:
            raise AssertionError(change)


async def compare(here: World, box: Box) -> None:
    """Compare a mailbox with what it should be."""
    rows = await here.mailboxes.rows(box.id)
    state = await here.mailboxes.get(box.id)
    assert {uid: flags for uid, flags, _ in rows} == box.rows
    assert (state.uidnext, state.messages, state.octets) == (box.next, len(box.rows), len(MAIL) * len(box.rows))
    assert await here.mailboxes.expunged_since(box.id, 0) == sorted(box.gone)
    assert all(modseq <= state.modseq for _, _, modseq in rows)


@given(st.lists(CHANGES, max_size=14))
@settings(max_examples=25, deadline=None)
def test_any_changes_give_what_the_model_says(changes: list[tuple[object, ...]]) -> None:
    async def play() -> None:
        async with world(open_sqlite) as here:
            boxes = [Box(await here.mailboxes.inbox(ANN)), Box((await here.mailboxes.find(ANN, "Sent")).id)]
            for box in boxes:
                await here.mailboxes.add_keywords(box.id, ["same"])
            seen = [await here.mailboxes.get(box.id) for box in boxes]
            for change in changes:
                await apply(here, boxes, change)
            for box, before in zip(boxes, seen, strict=True):
                await compare(here, box)
                news = await here.mailboxes.news(box.id, before.modseq, before.uidnext)
                assert {uid: flags for uid, flags, _ in news.rows} == box.rows
                assert news.expunged == sorted(box.gone)
            used = {
                row[1] for box in boxes async for page in here.mailboxes.listing(box.id, ((1, 99),)) for row in page
            }
            assert await here.count("body") == len(used)

    run(play())


UIDS = st.sets(st.integers(1, 30))


@given(UIDS, UIDS)
def test_ranges_hold_exactly_their_uids(uids: set[int], others: set[int]) -> None:
    def spread(ranges: Ranges) -> list[int]:
        return [uid for low, high in ranges for uid in range(low, high + 1)]

    assert spread(runs(uids)) == sorted(uids)
    assert merge(runs(uids) + runs(others)) == runs(uids | others)
    existing = sorted(uids | others)
    assert [uid for uid in spread(bridge(uids, existing)) if uid in existing] == sorted(uids)
    assert len(bridge(uids, existing)) <= len(runs(uids))
    assert spread(clip(runs(uids), 12)) == [uid for uid in sorted(uids) if uid <= 12]
    assert spread(above(runs(uids), 12)) == [uid for uid in sorted(uids) if uid > 12]


def test_a_range_written_backwards_is_turned() -> None:
    assert merge([(5, 2), (3, 9), (11, 11), (10, 10)]) == ((2, 11),)
