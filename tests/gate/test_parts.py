"""What feeds give tables: published for all workers at once, owned by one source, within the limit."""

from dataclasses import replace

import pytest

from gatepost.base.clock import Instant
from gatepost.gate.grey import Kind, Record
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import number_of, parse_prefix
from gatepost.gate.steps import PIECE_OCTETS
from gatepost.gate.table import TableFull, read_compact
from gatepost.gate.verbs import add_entries, grey_records, list_tables, show_table, spamdb_lines
from tests.gate.world import QUIET, SENDER, World, make, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run


def networks(*texts: str) -> Networks:
    """Networks of texts."""
    return Networks.of(map(parse_prefix, texts))


def holds(here: World, table: str, ip: str) -> bool:
    """Tell whether the gate finds an address in a table."""
    return here.gate.holds(table, *number_of(ip))


@each_engine
@pytest.mark.row("BG-04", "BG-05")
def test_a_feed_gives_and_takes_and_other_workers_hear_of_it(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            other = World(
                make(QUIET, here.database, here.clock, here.journal, here.cut.append), here.database, here.clock,
                here.journal, here.cut,
            )  # fmt: skip
            await other.gate.start()
            await here.gate.publish("bgp_spamd", "bgp", networks("198.51.100.0/24", "2001:db8::/32"))
            await other.gate.start()
            for each in (here, other):
                assert each.verdict(SENDER) == "black"
                assert each.verdict("2001:db8::9", kind="submission") == "black"
            here.clock.move(1)
            await here.gate.publish("bgp_spamd", "bgp", networks("192.0.2.0/24"))
            await other.gate.start()
            for each in (here, other):
                assert each.verdict(SENDER) == "grey"
                assert each.verdict("192.0.2.9") == "black"
            await here.gate.unpublish("bgp_spamd", "bgp")
            await other.gate.start()
            for each in (here, other):
                assert each.verdict("192.0.2.9") == "grey"
            assert await here.gate.published() == []

    run(scene())


def test_sources_own_their_parts_and_what_an_operator_says_comes_first() -> None:
    async def scene() -> None:
        async with world() as here:
            await here.gate.publish("bgp_spamd", "bgp", networks("192.0.2.0/24"))
            await here.gate.publish("bgp_spamd", "list:x", networks("192.0.2.0/25", "203.0.113.0/24"))
            await add_entries(here.database, "bgp_spamd", ["!192.0.2.7", "198.51.100.1"], here.now)
            await here.learn()
            assert [holds(here, "bgp_spamd", ip) for ip in ("192.0.2.6", "192.0.2.7", "198.51.100.1")] == [
                True,
                False,
                True,
            ]
            await here.gate.unpublish("bgp_spamd", "bgp")
            assert [holds(here, "bgp_spamd", ip) for ip in ("192.0.2.6", "192.0.2.200", "203.0.113.9")] == [
                True,
                False,
                True,
            ]
            assert [each.text for each in await show_table(here.database, "bgp_spamd")] == [
                "192.0.2.0/25", "192.0.2.7", "198.51.100.1", "203.0.113.0/24",
            ]  # fmt: skip
            assert dict(await list_tables(here.database, QUIET))["bgp_spamd"] == 4

    run(scene())


@pytest.mark.row("PF-05")
def test_a_feed_beyond_the_limit_is_refused_and_the_old_stays() -> None:
    async def scene() -> None:
        async with world(replace(QUIET, tables_max=3)) as here:
            await here.gate.publish("t", "bgp", networks("192.0.2.1", "192.0.2.2"))
            with pytest.raises(TableFull):
                await here.gate.publish("t", "bgp", networks("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"))
            assert holds(here, "t", "192.0.2.2")
            assert not holds(here, "t", "192.0.2.4")
            assert [(each.table, each.source, each.count) for each in await here.gate.published()] == [
                ("t", "bgp", 2)
            ]

    run(scene())


@each_engine
def test_a_large_part_is_kept_in_pieces(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            many = Networks.packed(((each << 9) << 8 | 32 for each in range(20_000)), ())
            assert len(many.pack()) > 3 * PIECE_OCTETS
            await here.gate.publish("t", "bgp", many)
            again = make(QUIET, here.database, here.clock, here.journal, here.cut.append)
            await again.start()
            assert again.sizes()["t"] == 20_000
            assert again.holds("t", 4, 19_999 << 9)
            assert not again.holds("t", 4, 1)

    run(scene())


@pytest.mark.row("GR-05", "LS-02")
def test_a_list_with_a_message_is_spamds_and_its_members_hear_it() -> None:
    async def scene() -> None:
        async with world() as here:
            await here.gate.publish("uatraps", "list", networks(SENDER), message="Your address %A is in uatraps\n")
            await here.gate.publish("nixspam", "list", networks(SENDER), message="%A is in nixspam\n")
            assert (here.verdict(), here.verdict(kind="submission")) == ("black", "pass")
            wire = here.connect()
            wire.send(b"HELO x\r\nDATA\r\n.\r\n")
            assert wire.text.endswith(f"450-Your address {SENDER} is in uatraps\r\n450 {SENDER} is in nixspam\r\n")
            assert here.journal.texts[-1] == f"{SENDER}: connected (1/1), lists: uatraps nixspam"
            await here.gate.unpublish("uatraps", "list")
            wire = here.connect()
            assert here.journal.texts[-1] == f"{SENDER}: connected (2/2), lists: nixspam"

    run(scene())


class Heard:
    """Who listens to the gate's news."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.changes = 0

    def grey(self, ip: str, helo: bytes, sender: bytes, recipient: bytes) -> None:
        """Remember."""
        self.told.append(("grey", ip, helo, sender, recipient))

    def white(self, ip: str, expires: Instant) -> None:
        """Remember."""
        self.told.append(("white", ip, expires))

    def trapped(self, ip: str, expires: Instant) -> None:
        """Remember."""
        self.told.append(("trapped", ip, expires))

    def changed(self, digest: bytes) -> None:
        """Count."""
        self.changes += 1


@pytest.mark.row("SY-01")
def test_the_gate_tells_what_it_learns_itself_and_not_what_it_was_told() -> None:
    async def scene() -> None:
        news = Heard()
        async with world(replace(QUIET, trap_domains=("@example.org",)), news=news) as here:
            here.offer()
            here.offer()
            here.offer("192.0.2.7", "x@elsewhere.example")
            here.gate.contacted("203.0.113.9")
            here.gate.heard_grey("192.0.2.99", b"h", b"<a@b>", b"<ann@example.org>")
            here.gate.heard_white("192.0.2.98", Instant(here.now + 1))
            here.gate.heard_trapped("192.0.2.97", Instant(here.now + 1))
            await here.learn()
            grey = ("grey", SENDER, b"mail.example.net", b"<joe@example.net>", b"<ann@example.org>")
            assert news.told == [
                grey,
                grey,
                ("trapped", "192.0.2.7", here.now + 86_400_000_000),
                ("white", "203.0.113.9", here.now + 36 * 86_400_000_000),
            ]
            assert news.changes == 4

    run(scene())


@each_engine
@pytest.mark.row("SY-04")
def test_what_peers_tell_is_met_by_our_rules(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            s = here.now // 1_000_000
            ends, later = s + 4 * 3600, Instant(here.now + 3_600_000_000)
            here.gate.heard_grey(SENDER, b"mail.example.net", b"<joe@example.net>", b"<ann@example.org>")
            here.gate.heard_white("192.0.2.1", later)
            here.gate.heard_white("192.0.2.1", Instant(later + 1))
            here.gate.heard_trapped("192.0.2.2", later)
            here.gate.heard_white("192.0.2.2", later)
            here.gate.heard_white("192.0.2.3", here.now)
            await here.learn()
            assert spamdb_lines(await grey_records(here.database)).decode().splitlines() == [
                f"WHITE|192.0.2.1|||{s}|0|{s + 3600}|0|1",
                f"TRAPPED|192.0.2.2|{s + 3600}",
                f"GREY|{SENDER}|mail.example.net|<joe@example.net>|<ann@example.org>|{s}|{ends}|{ends}|1|0",
            ]
            here.clock.move(25 * 60 + 1)
            here.offer()
            await here.scan()
            assert here.verdict() == "pass"  # greylisted there, retried here

    run(scene())


@each_engine
@pytest.mark.row("SYNC-06")
def test_records_of_peers_are_merged_in_any_order(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:

            def at(seconds: int) -> Instant:
                return Instant(here.now + seconds * 1_000_000)

            white = Record(b"192.0.2.1", Kind.HOST, "192.0.2.1", at(-9), at(-8), at(99), 3, 1)
            longer = Record(b"192.0.2.1", Kind.HOST, "192.0.2.1", at(-5), at(-9), at(200), 1, 7)
            trapped = Record(b"192.0.2.1", Kind.HOST, "192.0.2.1", at(-2), at(50), at(50), 1, -1)
            ended = Record(b"192.0.2.9", Kind.HOST, "192.0.2.9", at(-2), at(0), at(0), 1, -1)
            for order in ((white, longer), (longer, white), (white, longer, white)):
                here.gate.merge([*order, ended])
                await here.learn()
                assert await grey_records(here.database) == [
                    Record(b"192.0.2.1", Kind.HOST, "192.0.2.1", at(-9), at(-9), at(200), 3, 7)
                ]
            for order in ((trapped, longer), (white, trapped)):
                here.gate.merge(order)
                await here.learn()
                assert await grey_records(here.database) == [trapped]

    run(scene())


def test_a_large_file_is_kept_as_networks_and_a_mistake_names_its_line(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("tables") / "many"
    path.write_text(
        "# all\n" + "".join(f"10.{at >> 8}.{at & 255}.0/24\n" for at in range(2_000)) + "2001:db8::/32\n"
    )
    found = read_compact(path)
    assert isinstance(found, Networks)
    assert (len(found), found.holds(*number_of("10.7.207.9")), found.holds(*number_of("2001:db8::1"))) == (
        2_001,
        True,
        True,
    )
    path.write_text(path.read_text() + "!10.0.0.7\n")
    assert isinstance(read_compact(path), list)
    path.write_text("10.0.0.1\n10.0.0.300\n")
    with pytest.raises(ValueError, match=r"many: line 2: '10\.0\.0\.300' is no address or network"):
        read_compact(path)
