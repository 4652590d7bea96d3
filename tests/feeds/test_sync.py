"""Servers that share their greylist: over real sockets on loopback, each with a gate and a database of its own."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.envelope import Client
from gatepost.base.units import Seconds
from gatepost.codec.peersync import Entry, Kind, batches, seal
from gatepost.codec.spamd.sync import Trapped, key_of, pack
from gatepost.db.unit import Unit
from gatepost.feeds.sync import feed
from gatepost.feeds.sync.feed import KeyUnusable, Sync, read_keys
from gatepost.feeds.sync.records import entry_of, record_of, walk
from gatepost.feeds.sync.settings import Place, SyncMode, SyncSettings, parse_place
from gatepost.gate.grey import Kind as RecordKind
from gatepost.gate.grey import Record
from gatepost.gate.settings import GateSettings, Mode
from gatepost.gate.steps import put_step
from gatepost.gate.verbs import add_spamtraps, grey_records
from tests.gate.world import QUIET, SENDER, World, world
from tests.support.loop import run

SPAMD = replace(QUIET, trap_domains=())
FRIENDLY = replace(QUIET, mode=Mode.FRIENDLY)
PATIENCE = 10.0
KEY = os.urandom(64)


class Node:
    """One server: its gate, its sync, and the task that runs it."""

    def __init__(self, here: World, sync: Sync) -> None:
        self.here = here
        self.sync = sync

    async def verdict(self, ip: str = SENDER) -> str:
        """Write, scan, and decide about a client."""
        await self.here.scan()
        return self.here.verdict(ip)

    def events(self, name: str) -> list[dict[str, object]]:
        """Return what was logged."""
        return [fields for event, fields in self.here.journal.lines if event == name]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + PATIENCE
    while not await holds():
        assert time.monotonic() < ends, "it never came to be"
        await asyncio.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Return UDP ports that nobody has."""
    sockets = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(count)]
    for each in sockets:
        each.bind(("::", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Net:
    """What joins the nodes; `cut` drops every datagram of some."""

    def __init__(self) -> None:
        self.away: set[Sync] = set()

    def wrap(self, sync: Sync) -> None:
        """Let a sync's datagrams go through the net."""
        through = sync._send

        def send(octets: bytes, to: tuple[str, int]) -> None:
            if sync not in self.away:
                through(octets, to)

        hears = sync._hear

        def hear(octets: bytes, ip: str, gate: feed.Gate) -> None:
            if sync not in self.away:
                hears(octets, ip, gate)

        sync._send = send  # type: ignore[method-assign]  # a line that can be cut
        sync._hear = hear  # type: ignore[method-assign]


@asynccontextmanager
async def nodes(
    count: int,
    mode: SyncMode,
    gate: GateSettings,
    *,
    host: str = "127.0.0.1",
    interval: float = 0.1,
    keys: bool = True,
) -> AsyncIterator[tuple[list[Node], Net]]:
    """Servers that all know each other."""
    ports, net, made = free_ports(count), Net(), list[Node]()
    bracketed = f"[{host}]" if ":" in host else host
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        (folder / "key").write_bytes(KEY)
        for port in ports:
            others = tuple(f"{bracketed}:{each}" for each in ports if each != port)
            settings = SyncSettings(
                mode,
                listen=f"{bracketed}:{port}",
                peers=others,
                key_files=(str(folder / "key"),) if keys else (),
                interval=Seconds(interval),
            )
            here = await stack.enter_async_context(world(gate, start=False))
            sync = Sync(settings, clock=here.clock, log=here.journal, hears=True)
            net.wrap(sync)
            here.gate._news = here.gate._friendly._news = sync
            await here.gate.start()
            made.append(Node(here, sync))
            task = asyncio.get_running_loop().create_task(sync.run(here.gate, here.database))
            stack.push_async_callback(_ended, task)
        await asyncio.sleep(0)
        yield made, net


@pytest.mark.parametrize(
    ("key", "kind", "ip", "expires", "taken"),
    [
        (b"192.0.2.1", RecordKind.HOST, "192.0.2.1", 9, True),
        (b"192.0.2.1\nh\n<a>\n<b>", RecordKind.TUPLE, "192.0.2.1", 9, True),
        (b"good\nspf:example.org", RecordKind.GOOD, "spf:example.org", 9, True),
        (b"192.0.2.1", RecordKind.HOST, "nobody", 9, False),
        (b"nobody", RecordKind.HOST, "nobody", 9, False),
        (b"trap@example.org", RecordKind.HOST, "192.0.2.1", 9, False),
        (b"trap@example.org", RecordKind.GOOD, "spf:example.org", 9, False),
        (b"trap@example.org", RecordKind.TRAP, "", 9, False),
        (b"expected\n1", RecordKind.EXPECTED, "1", 9, False),
        (b"192.0.2.1", RecordKind.HOST, "192.0.2.1", 4, False),
    ],
)
def test_records_that_no_server_of_ours_writes_are_not_taken(
    key: bytes, kind: RecordKind, ip: str, expires: int, taken: bool
) -> None:
    record = record_of(Entry(key, kind.value, ip, 1, 5, expires, 1, 0))
    assert (record is not None) is taken
    assert record_of(Entry(key, 99, ip, 1, 5, expires, 1, 0)) is None


def test_ipv4_peers_are_heard_at_an_address_of_both_families() -> None:
    async def scene() -> None:
        async with nodes(2, SyncMode.OWN, SPAMD) as ((one, _), _net):
            (port,) = free_ports(1)
            settings = replace(one.sync._settings, listen=f"[::]:{port}", allow=("127.0.0.1",))
            both = Sync(settings, clock=one.here.clock, log=one.here.journal, hears=True)
            task = asyncio.get_running_loop().create_task(both.run(one.here.gate, one.here.database))
            try:
                await asyncio.sleep(0)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                    peer.sendto(_sealed(one, KEY, 1, one.here.now), ("127.0.0.1", port))

                    async def met() -> bool:
                        return both.tally.heard + both.tally.strangers == 1

                    await until(met)
                assert both.tally.records == 1
            finally:
                await _ended(task)

    run(scene())


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def move(made: list[Node], length: float) -> None:
    """Let time pass for all."""
    for node in made:
        node.here.clock.move(length)


@pytest.mark.row("SY-01", "SY-02", "SY-04", "SY-05")
@pytest.mark.parametrize(("mode", "keys"), [(SyncMode.OWN, True), (SyncMode.SPAMD, True), (SyncMode.SPAMD, False)])
def test_a_sender_greylisted_at_one_passes_at_another(mode: SyncMode, keys: bool) -> None:
    async def scene() -> None:
        async with nodes(2, mode, SPAMD, keys=keys) as ((mx2, mx1), _):
            mx2.here.offer()
            await mx2.here.gate.flush()

            async def known() -> bool:
                await mx1.here.gate.flush()
                return len(await grey_records(mx1.here.database)) == 1

            await until(known)
            move([mx1, mx2], 25 * 60 + 1)
            mx1.here.offer()
            assert await mx1.verdict() == "pass"

    run(scene())


@pytest.mark.row("SY-04", "BM-03")
@pytest.mark.parametrize("mode", list(SyncMode))
def test_a_trap_hit_at_one_blocks_at_all(mode: SyncMode) -> None:
    async def scene() -> None:
        async with nodes(3, mode, SPAMD) as (made, _):
            await add_spamtraps(made[2].here.database, ["trap@example.org"], made[2].here.now)
            await made[2].here.learn()
            made[2].here.offer(recipient="trap@example.org")
            await made[2].here.gate.flush()

            async def black() -> bool:
                return [await node.verdict() for node in made] == ["black"] * 3

            await until(black)

    run(scene())


@pytest.mark.row("SYNC-06")
def test_after_a_partition_both_sides_have_what_either_had() -> None:
    async def scene() -> None:
        async with nodes(2, SyncMode.OWN, SPAMD) as ((one, two), net):
            net.away = {one.sync, two.sync}
            for at in range(40):
                one.here.offer(f"198.51.100.{at}")
                two.here.offer(f"203.0.113.{at}")
            one.here.gate.contacted("192.0.2.1")
            await add_spamtraps(two.here.database, ["trap@example.org"], two.here.now)
            await two.here.learn()
            two.here.offer("192.0.2.2", "trap@example.org")
            for node in (one, two):
                await node.here.learn()
            assert len(await grey_records(one.here.database)) == 41
            net.away = set()

            async def alike() -> bool:
                found = []
                for node in (one, two):
                    await node.here.gate.flush()
                    records = await grey_records(node.here.database)
                    found.append({each for each in records if each.kind is not RecordKind.TRAP})
                return found[0] == found[1] and len(found[0]) == 82

            await until(alike)
            assert [await one.verdict("192.0.2.2"), await two.verdict("192.0.2.1")] == ["black", "pass"]

    run(scene())


def test_friendly_records_and_ipv6_peers_are_shared() -> None:
    async def scene() -> None:
        async with nodes(2, SyncMode.OWN, FRIENDLY, host="::1") as ((one, two), _):
            client = Client(ip=SENDER, port=1, local_ip="::1", local_port=25, listener="mx", helo="x")
            ask = client, Address("joe", "example.net"), Address("ann", "example.org"), (1,)
            assert (await one.here.gate.recipient(*ask, one.here.now)).why == "first attempt"
            await one.here.gate.flush()

            async def known() -> bool:
                await two.here.gate.flush()
                return len(await grey_records(two.here.database, friendly=True)) == 1

            await until(known)
            move([one, two], 60)
            standing = await two.here.gate.recipient(*ask, two.here.now)
            assert standing.why == "came back in time"
            two.here.gate.accepted([standing], ())
            await two.here.gate.flush()

            async def good() -> bool:
                await one.here.gate.flush()
                return (await one.here.gate.recipient(*ask, one.here.now)).why == "a good past"

            await until(good)

    run(scene())


def _record(ip: str, now: Instant, *, trapped: bool = False) -> Record:
    ends = Instant(now + 86_400_000_000)
    return Record(ip.encode(), RecordKind.HOST, ip, now, now, ends, 1, -1 if trapped else 0)


def _sealed(node: Node, key: bytes, sequence: int, now: int, ip: str = "192.0.2.77") -> bytes:
    record = _record(ip, Instant(now))
    values = record.key, record.kind.value, record.ip, record.first, record.passes, record.expires
    (body,) = batches([entry_of((*values, record.blocked, record.passed))])
    return seal(Kind.RECORDS, body, key, b"anothers", sequence, now)


@pytest.mark.row("SYNC-01", "SYNC-02", "SYNC-04")
def test_what_is_replayed_late_or_signed_with_another_key_is_not_taken() -> None:
    async def scene() -> None:
        async with nodes(2, SyncMode.OWN, SPAMD) as ((one, _), _net):
            hear, tally, now = one.sync._hear, one.sync.tally, one.here.now
            move([one], 120)
            gate, now = one.here.gate, one.here.now
            hear(_sealed(one, KEY, 5, now), "127.0.0.1", gate)
            assert (tally.records, tally.replayed) == (1, 0)
            hear(_sealed(one, KEY, 5, now), "127.0.0.1", gate)  # again
            hear(_sealed(one, KEY, 4, now), "127.0.0.1", gate)  # out of order, but new
            assert (tally.records, tally.replayed) == (2, 1)
            hear(_sealed(one, os.urandom(64), 6, now), "127.0.0.1", gate)
            for octets in (b"", b"gps1", bytes(65_507), _sealed(one, KEY, 7, now)[:-1]):
                hear(octets, "127.0.0.1", gate)
            assert (tally.records, tally.refused) == (2, 5)
            for skew, taken in ((-59, 1), (59, 1), (-61, 0), (61, 0), (-300, 0), (300, 0)):
                before = tally.records
                hear(_sealed(one, KEY, 1_000 + skew, now + skew * 1_000_000), "127.0.0.1", gate)
                assert tally.records - before == taken
            assert one.events("sync_clocks_differ")
            again = Sync(one.sync._settings, clock=one.here.clock, log=one.here.journal, hears=True)
            move([one], 1)
            again._hear(_sealed(one, KEY, 5, now - 1), "127.0.0.1", gate)  # kept from before it started
            assert (again.tally.records, again.tally.replayed) == (0, 1)

    run(scene())


@pytest.mark.row("SYNC-02")
def test_a_replayed_datagram_of_spamd_changes_nothing_but_a_count() -> None:
    async def scene() -> None:
        async with nodes(2, SyncMode.SPAMD, SPAMD) as ((one, _), _net):
            ends = one.here.now // 1_000_000 + 3_600
            octets = pack([Trapped("192.0.2.66", ends)], 0, key_of(KEY), 0)
            for _ in range(3):
                one.sync._hear(octets, "127.0.0.1", one.here.gate)
            await one.here.learn()
            (record,) = await grey_records(one.here.database)
            assert (record.passed, record.expires // 1_000_000) == (-1, ends)

    run(scene())


@pytest.mark.row("PF-09", "SYNC-01")
def test_strangers_are_not_heard_and_never_answered() -> None:
    async def scene() -> None:
        async with nodes(2, SyncMode.OWN, SPAMD) as ((one, _), _net):
            place = parse_place(one.sync._settings.listen)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.setblocking(False)
                stranger.bind(("127.0.0.2", 0))
                for octets in (b"", b"x" * 1_000, _sealed(one, KEY, 1, one.here.now)):
                    stranger.sendto(octets, (place.ip, place.port))

                async def met() -> bool:
                    return one.sync.tally.strangers == 3

                await until(met)
                with pytest.raises(BlockingIOError):
                    stranger.recv(1)
            assert one.sync.tally.records == 0
            assert one.events("sync_stranger")[0]["peer"] == "127.0.0.2"

    run(scene())


@pytest.mark.row("SYNC-04")
def test_two_keys_overlap_while_one_is_changed_for_the_other(tmp_path: Path) -> None:
    async def scene() -> None:
        async with nodes(2, SyncMode.OWN, SPAMD) as ((one, _), _net):
            (tmp_path / "new").write_bytes(b"n" * 40)
            files = (*one.sync._settings.key_files, str(tmp_path / "new"))
            both = Sync(
                replace(one.sync._settings, key_files=files), clock=one.here.clock, log=one.here.journal, hears=True
            )
            for sequence, key in enumerate((KEY, b"n" * 40)):
                both._hear(_sealed(one, key, sequence, one.here.now), "127.0.0.1", one.here.gate)
            assert (both.tally.records, both.tally.refused) == (2, 0)

    run(scene())


def test_many_records_are_compared_and_only_what_differs_is_sent() -> None:
    async def scene() -> None:
        async with nodes(2, SyncMode.OWN, SPAMD, interval=60) as ((one, two), _):
            now = one.here.now
            steps = [put_step(_record(f"10.{at >> 8}.{at & 255}.1", now), now) for at in range(3_000)]
            for node in (one, two):
                for at in range(0, len(steps), 500):
                    await node.here.database.commit(Unit(tuple(steps[at : at + 500])))
            lacking = put_step(_record("192.0.2.55", now), now)
            await one.here.database.commit(Unit((lacking,)))
            for node in (one, two):
                node.sync._ledger = await walk(node.here.database, now)
            assert two.sync._ledger is not None
            sent = one.sync.tally.sent
            two.sync._tell(Kind.SUMS, two.sync._ledger.top().pack(), two.sync._peers())

            async def came() -> bool:
                # one answers with the sums of one subtree; two has nothing there to send, and asks in its turn
                one_sums, two_sums = one.sync._ledger, two.sync._ledger
                assert one_sums is not None
                assert two_sums is not None
                prefix = next(at for at in range(256) if one_sums.below(at).sums != two_sums.below(at).sums)
                two.sync._tell(Kind.SUMS, two_sums.below(prefix).pack(), two.sync._peers())
                await two.here.gate.flush()
                return len(await grey_records(two.here.database, ["192.0.2.55"])) == 1

            await until(came)
            assert one.sync.tally.sent - sent < 60

    run(scene())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("192.0.2.2", Place("192.0.2.2", 8025)),
        ("192.0.2.2:99", Place("192.0.2.2", 99)),
        ("2001:db8::2", Place("2001:db8::2", 8025)),
        ("[2001:db8::2]:99", Place("2001:db8::2", 99)),
        ("em0", Place("", 8025, "em0", 1)),
        ("em0:2", Place("", 8025, "em0", 2)),
    ],
)
def test_places_are_read_as_spamd_does(text: str, place: Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"peers": ("192.0.2.1",)}, "needs key_files"),
        ({"peers": ("em0",), "key_files": ("k",)}, "only spamd mode"),
        ({"mode": SyncMode.SPAMD, "peers": ("em0",), "listen": "em0:2"}, "does not match"),
        ({"mode": SyncMode.SPAMD, "peers": ("em0:0",)}, "TTL"),
        ({"mode": SyncMode.SPAMD, "peers": ("no host here",)}, "neither"),
        ({"mode": SyncMode.SPAMD, "key_files": ("a", "b")}, "one key"),
        ({"allow": ("mx2.example.org",)}, "'mx2.example.org' does not appear to be"),
        ({"group": "192.0.2.1"}, "no multicast address"),
        ({"group": "ff02::1"}, "no multicast address"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SyncSettings(**settings)  # type: ignore[arg-type]  # named by the cases


def test_a_key_that_is_missing_or_too_short_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match="failed to open sync key"):
        read_keys(SyncSettings(peers=("192.0.2.1",), key_files=(str(tmp_path / "none"),)))
    (tmp_path / "short").write_bytes(b"x" * 31)
    with pytest.raises(KeyUnusable, match="32 octets"):
        read_keys(SyncSettings(peers=("192.0.2.1",), key_files=(str(tmp_path / "short"),)))
    assert read_keys(SyncSettings(SyncMode.SPAMD, peers=("192.0.2.1",))) == (b"",)
