"""The feed with real OpenBGPD, BIRD and GoBGP as route servers, each in a network namespace of its own."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.base.units import Seconds
from gatepost.databases import reached
from gatepost.feeds.bgp import verbs
from gatepost.feeds.bgp.connect import Speaker
from gatepost.feeds.bgp.door import Refused, door_path
from gatepost.feeds.bgp.feed import BgpFeed
from gatepost.feeds.bgp.plan import compose
from gatepost.feeds.bgp.query import RibQuery
from gatepost.feeds.bgp.settings import BgpSettings, NeighborSettings
from gatepost.gate import verbs as gate_verbs
from gatepost.gate.settings import GateSettings
from tests.feeds.bgp.daemons import OUR_AS, RS_AS, Daemon, daemon
from tests.feeds.bgp.fed import TABLES, Lines, RememberedTables
from tests.feeds.bgp.test_conf import ARTICLE
from tests.process.served import Served, until
from tests.support.loop import run

pytestmark = [pytest.mark.process, pytest.mark.timeout(110)]
EVERY = [
    pytest.param("openbgpd", marks=pytest.mark.peer("openbgpd")),
    pytest.param("bird2", marks=pytest.mark.peer("bird2")),
    pytest.param("gobgpd", marks=pytest.mark.peer("gobgpd")),
]
GOOD_COUNT, BAD_COUNT, SIX_COUNT = 20_000, 10_000, 48  # 48: what the article's reader was sent
SETTLED_S = 90.0


def announced(good: int = GOOD_COUNT, bad: int = BAD_COUNT, six: int = SIX_COUNT) -> dict[str, str]:
    """Return hosts with their communities, as bgp-spamd sent them."""
    found = {f"20.{each >> 8}.{each & 255}.1/32": "65066:42" for each in range(good)}
    found |= {f"21.{each >> 8}.{each & 255}.1/32": "65066:666" for each in range(bad)}
    return found | {f"2a00:1450:{each + 1:x}::/48": "65066:666" for each in range(six)}


def neighbor(server: Daemon) -> NeighborSettings:
    return NeighborSettings(server.place.far, RS_AS, group="spam-bgp", local_address=server.place.near)


class Running:
    """A feed beside real route servers."""

    def __init__(self, settings: BgpSettings, data_dir: Path) -> None:
        self.tables, self.log, self.data_dir = RememberedTables(), Lines(), data_dir
        clock = SystemClock()
        self.feed = BgpFeed(
            compose(settings, ()),
            self.tables,
            Speaker(clock=clock, log=self.log).link,
            clock=clock,
            log=self.log,
            door=door_path(data_dir),
        )


@asynccontextmanager
async def running(settings: BgpSettings, data_dir: Path) -> AsyncIterator[Running]:
    fed = Running(settings, data_dir)
    task = asyncio.create_task(fed.feed.run())
    try:
        yield fed
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.row("BG-04", "BG-05", "BG-06", "BG-07", "BG-08", "BG-10", "BG-11")
@pytest.mark.parametrize("kind", EVERY)
def test_tables_follow_a_real_route_server(kind: str, tmp_path: Path) -> None:
    async def main(server: Daemon) -> None:
        settings = BgpSettings(asn=OUR_AS, neighbors=(neighbor(server),), tables=TABLES)
        async with running(settings, tmp_path) as fed:
            tables = fed.tables
            await tables.count("bgp_spamd_bypass", GOOD_COUNT, within=SETTLED_S)
            await tables.count("bgp_spamd", BAD_COUNT + SIX_COUNT, within=SETTLED_S)
            held = tables.tables["bgp_spamd"]
            assert held.holds(4, 0x15000001)
            assert held.holds(6, 0x2A00_1450_0001 << 80)

            await asyncio.to_thread(server.add, "22.0.0.1/32", "65066:666")
            await tables.count("bgp_spamd", BAD_COUNT + SIX_COUNT + 1, within=5)
            assert tables.tables["bgp_spamd"].holds(4, 0x16000001)
            await asyncio.to_thread(server.remove, "22.0.0.1/32")
            await tables.count("bgp_spamd", BAD_COUNT + SIX_COUNT, within=1)
            await asyncio.to_thread(server.add, "2a00:1450:ffff::/48", "65066:42")
            await tables.count("bgp_spamd_bypass", GOOD_COUNT + 1, within=5)
            await asyncio.to_thread(server.remove, "2a00:1450:ffff::/48")
            await tables.count("bgp_spamd_bypass", GOOD_COUNT, within=1)

            (status,) = await verbs.list_neighbors(tmp_path)
            assert (status.state, status.remote_as) == ("Established", RS_AS)
            assert status.prefixes == GOOD_COUNT + BAD_COUNT + SIX_COUNT
            assert status.ends_of_rib >= 1
            assert "4-byte AS numbers" in status.capabilities
            bad = [row.prefix async for row in verbs.list_routes(tmp_path, RibQuery(community="65066:666"))]
            assert len(bad) == BAD_COUNT + SIX_COUNT
            assert bad[0] == "21.0.0.1/32"
            answer = await verbs.order_neighbor(tmp_path, server.place.far, verbs.Order.REFRESH)
            assert answer.endswith("refresh")

    with daemon(kind, tmp_path / kind, announced()) as server:
        run(main(server))


@pytest.mark.row("BG-06", "BGP-09")
@pytest.mark.parametrize("kind", EVERY)
def test_a_route_server_that_dies_and_comes_back(kind: str, tmp_path: Path) -> None:
    routes = announced(300, 200, 5)

    async def main(server: Daemon) -> None:
        settings = BgpSettings(asn=OUR_AS, neighbors=(neighbor(server),), tables=TABLES)
        async with running(settings, tmp_path) as fed:
            tables = fed.tables
            await tables.count("bgp_spamd_bypass", 300, within=SETTLED_S)
            await tables.count("bgp_spamd", 205, within=SETTLED_S)
            server.kill()
            if kind == "openbgpd":  # it asks for no graceful restart
                await tables.count("bgp_spamd", 0, within=1)
                await tables.count("bgp_spamd_bypass", 0, within=1)
            else:
                await until_down(tmp_path)
                assert len(tables.tables["bgp_spamd"]) == 205
            fewer = {prefix: community for prefix, community in routes.items() if not prefix.startswith("20.0.")}
            await asyncio.to_thread(server.start, fewer)
            await verbs.order_neighbor(tmp_path, server.place.far, verbs.Order.CLEAR)
            await tables.count("bgp_spamd_bypass", 44, within=SETTLED_S)
            await tables.count("bgp_spamd", 205, within=SETTLED_S)

    with daemon(kind, tmp_path / kind, routes) as server:
        run(main(server))


@pytest.mark.row("BG-01", "BG-02", "BG-03")
@pytest.mark.peer("openbgpd")
@pytest.mark.peer("bird2")
def test_the_articles_configuration_with_two_route_servers(tmp_path: Path) -> None:
    """Only the addresses of its two macros are others, for those in the article are no longer there."""
    before = subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, check=True).stdout

    async def main(one: Daemon, two: Daemon) -> None:
        text = ARTICLE.replace("64.142.121.62", one.place.far).replace("217.31.80.170", two.place.far)
        (tmp_path / "bgpd.conf").write_text(text)
        async with running(BgpSettings(conf=str(tmp_path / "bgpd.conf")), tmp_path) as fed:
            tables = fed.tables
            await tables.count("bgp_spamd_bypass", 100, within=SETTLED_S)
            await tables.count("bgp_spamd", 30, within=SETTLED_S)
            one.kill()
            await until_down(tmp_path)
            assert len(tables.tables["bgp_spamd"]) == 30
            during = subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, check=True).stdout
            assert b"20.0." not in during
            two.kill()

    with (
        daemon("openbgpd", tmp_path / "one", announced(100, 20, 0)) as one,
        daemon("bird2", tmp_path / "two", announced(100, 30, 0)) as two,
    ):
        run(main(one, two))
    after = subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, check=True).stdout
    assert after == before


@pytest.mark.row("BGP-08")
@pytest.mark.peer("bird2")
def test_a_leaked_default_route_and_bogons_of_a_real_server_are_refused(tmp_path: Path) -> None:
    routes = dict.fromkeys(("0.0.0.0/0", "10.0.0.0/8", "5.0.0.0/8", "192.168.0.0/16", "22.0.0.1/32"), "65066:666")

    async def main(server: Daemon) -> None:
        settings = BgpSettings(asn=OUR_AS, neighbors=(neighbor(server),), tables=TABLES)
        async with running(settings, tmp_path) as fed:
            await fed.tables.hold("bgp_spamd", "22.0.0.1", within=SETTLED_S)
            query = RibQuery(neighbor=server.place.far, received=True)
            why = {row.prefix: row.refused async for row in verbs.list_routes(tmp_path, query)}
            assert why == {
                "0.0.0.0/0": "shorter than /16",
                "5.0.0.0/8": "shorter than /16",
                "10.0.0.0/8": "shorter than /16",
                "22.0.0.1/32": "",
                "192.168.0.0/16": "192.168.0.0/16 is refused",
            }

    with daemon("bird2", tmp_path / "bird2", routes) as server:
        run(main(server))


@pytest.mark.row("BGP-08")
@pytest.mark.peer("bird2")
def test_a_real_server_that_announces_too_much_is_told_so_and_left(tmp_path: Path) -> None:
    async def main(server: Daemon) -> None:
        settings = BgpSettings(
            asn=OUR_AS,
            neighbors=(replace(neighbor(server), max_prefix=210, max_prefix_restart=Seconds(0)),),
            tables=TABLES,
        )
        async with running(settings, tmp_path) as fed:
            await fed.tables.count("bgp_spamd", 200, within=SETTLED_S)
            assert len(fed.log.named("bgp_nearly_too_many")) == 1
            for each in range(11):
                await asyncio.to_thread(server.add, f"22.0.0.{each}/32", "65066:666")
            await until_down(tmp_path)
            await fed.tables.count("bgp_spamd", 0, within=1)
            (status,) = await verbs.list_neighbors(tmp_path)
            assert "maximum number of prefixes reached" in status.last_error
            told = await asyncio.to_thread(
                server.run, "birdc", "-s", f"{server.folder}/control", "show", "protocols"
            )
            assert "Maximum number of prefixes reached" in told.stdout

    with daemon("bird2", tmp_path / "bird2", announced(0, 200, 0)) as server:
        run(main(server))


@pytest.mark.row("BG-01", "BG-04", "BG-05", "BG-06", "BG-07", "BG-08", "BG-09", "BG-11", "BG-12")
@pytest.mark.peer("bird2")
def test_a_whole_server_with_the_articles_files_and_script(tmp_path: Path) -> None:
    """One route server is there, the other is not, as today both of bgp-spamd."""
    routes = announced(30, 20, 3) | {"22.0.0.1/32": "65055:42", "22.0.0.2/32": "1:1"}
    with daemon("bird2", tmp_path / "bird2", routes) as rs:
        gone = rs.place.far.removesuffix("2") + "9"
        text = ARTICLE.replace("64.142.121.62", rs.place.far).replace("217.31.80.170", gone)
        (tmp_path / "bgpd.conf").write_text(text)
        with Served(tmp_path, 2, f'[feeds.bgp]\nconf = "{tmp_path}/bgpd.conf"\n') as server:
            until(lambda: _prefix_counts(server) == [55, 0], 30, server.last_words)
            lines = server.command("bgp", "show", "summary").splitlines()
            assert lines[0] == "Neighbor                   AS    MsgRcvd    MsgSent  OutQ Up/Down  State/PrfRcvd"
            assert re.fullmatch(rf"{rs.place.far} +65066 +[0-9]+ +[0-9]+ +0 00:00:[0-9]{{2}} {{5}}55", lines[1])
            assert re.fullmatch(rf"{gone} +65066 +0 +0 +0 Never +(Connect|Active)", lines[2])

            words = f"{sys.executable} -m gatepost bgp rib --community 65066:666 -c {server.config}"
            script = f"{words} | sed -e '1,4d' -e 's/\\/.*$//' -e 's/[ \\*\\>]*//'"
            made = subprocess.run(
                ["sh", "-c", script], capture_output=True, text=True, check=True
            ).stdout.splitlines()
            assert made == [f"21.0.{each}.1" for each in range(20)] + [f"2a00:1450:{each}::" for each in (1, 2, 3)]
            assert server.command("bgp", "export", "65066:42").splitlines()[-1] == "20.0.29.1/32"
            sent = server.command("bgp", "rib", "--neighbor", rs.place.far)
            assert "\n      22.0.0.1/32          " in sent
            assert "2 prefixes in no table: no rule accepts it" in sent

            assert _in_table(server, "bgp_spamd", "21.0.7.1")
            assert _in_table(server, "bgp_spamd", "2a00:1450:2::1")
            assert not _in_table(server, "bgp_spamd_bypass", "22.0.0.1")
            third = 'match from group "spam-bgp" community 65055:42 set pftable "bgp_spamd_bypass"\n'
            (tmp_path / "bgpd.conf").write_text(text + third)
            _reload(server)
            until(lambda: _prefixes(server, "65055:42") == ["22.0.0.1/32"], 20, server.last_words)
            until(lambda: _in_table(server, "bgp_spamd_bypass", "22.0.0.1"), 10, server.last_words)

            run(verbs.order_neighbor(server.folder / "data", rs.place.far, verbs.Order.DOWN))
            until(lambda: not _in_table(server, "bgp_spamd", "21.0.7.1"), 10, server.last_words)
            assert "BGP state = Idle" in server.command("bgp", "neighbor", rs.place.far)
            run(verbs.order_neighbor(server.folder / "data", rs.place.far, verbs.Order.UP))
            until(lambda: _in_table(server, "bgp_spamd", "21.0.7.1"), 20, server.last_words)

            (tmp_path / "bgpd.conf").write_text("AS 65500\n")  # the feed's end: the server goes on without
            _reload(server)
            until(lambda: not _in_table(server, "bgp_spamd", "21.0.7.1"), 10, server.last_words)
            server.smtp().mail("still here")


def _reload(server: Served) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)


def _in_table(server: Served, table: str, address: str) -> bool:
    async def ask() -> bool:
        async with reached(server.folder / "data") as databases:
            done = await gate_verbs.test_entries(databases.gate, table, [address], GateSettings(), None)
            return done.done == done.asked

    return run(ask())


def _prefixes(server: Served, community: str) -> list[str]:
    async def ask() -> list[str]:
        rows = verbs.list_routes(server.folder / "data", RibQuery(community=community))
        return [row.prefix async for row in rows]

    return run(ask())


def _prefix_counts(server: Served) -> list[int]:
    async def ask() -> list[int]:
        try:
            return [each.prefixes for each in await verbs.list_neighbors(server.folder / "data")]
        except Refused:  # it has just begun
            return []

    return run(ask())


async def until_down(data_dir: Path) -> None:
    """Wait until a neighbour that was there is no more."""
    async with asyncio.timeout(5):
        while all(each.state == "Established" for each in await verbs.list_neighbors(data_dir)):
            await asyncio.sleep(0.01)
