"""The feed: sessions come and go, and tables follow; commands ask it through its door."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.base.units import Seconds
from gatepost.feeds.bgp import verbs
from gatepost.feeds.bgp.door import Refused, ask, door_path
from gatepost.feeds.bgp.link import Loss
from gatepost.feeds.bgp.plan import compose, own_addresses
from gatepost.feeds.bgp.query import RibQuery
from gatepost.feeds.bgp.service import BgpService
from gatepost.feeds.bgp.settings import BgpSettings, CommunityTableSettings, NeighborSettings
from gatepost.gate.networks import NONE
from gatepost.gate.prefix import parse_prefix
from tests.feeds.bgp.fed import ONE, TABLES, TWO, Lines, RememberedTables, ScriptedLink, fed, plan_of
from tests.feeds.bgp.test_conf import ARTICLE
from tests.feeds.bgp.world import BAD, GOOD
from tests.support.loop import run


@pytest.mark.row("BG-03", "BG-04", "BG-05", "BG-06")
def test_tables_follow_two_route_servers() -> None:
    async def main() -> None:
        async with fed() as running:
            one, two = await running.link("rs1"), await running.link("rs2")
            tables = running.tables
            await tables.hold("bgp_spamd")
            one.establish()
            two.establish()
            one.announce(GOOD, "5.6.7.8", "5.6.7.9")
            one.announce(BAD, "6.6.6.6")
            two.announce(BAD, "6.6.6.6", "7.7.7.0/24")
            await tables.hold("bgp_spamd_bypass", "5.6.7.8", "5.6.7.9", within=1)
            await tables.hold("bgp_spamd", "6.6.6.6", "7.7.7.0/24", within=1)
            assert tables.messages == {"bgp_spamd_bypass": None, "bgp_spamd": "You %A are listed"}
            one.withdraw("6.6.6.6", "5.6.7.9")
            await tables.hold("bgp_spamd_bypass", "5.6.7.8", within=1)
            await tables.hold("bgp_spamd", "6.6.6.6", "7.7.7.0/24")
            one.announce(BAD, "5.6.7.8")
            await tables.hold("bgp_spamd_bypass", within=1)
            await tables.hold("bgp_spamd", "5.6.7.8", "6.6.6.6", "7.7.7.0/24", within=1)
            two.sink.ended("connection reset", Loss.BROKEN)
            await tables.hold("bgp_spamd", "5.6.7.8", within=1)

    run(main())


def test_a_stream_without_a_pause_reaches_the_tables_meanwhile() -> None:
    async def main() -> None:
        async with fed() as running:
            one = await running.link()
            one.establish()

            async def stream() -> None:
                for at in range(100_000):
                    one.announce(BAD, f"6.{at >> 16}.{at >> 8 & 255}.{at & 255}")
                    await asyncio.sleep(0.01)  # the pauses of the stream, each shorter than what ends a burst

            endless = asyncio.create_task(stream())
            try:
                tables = running.tables
                await tables.change(lambda: bool(tables.tables.get("bgp_spamd")), lambda: "nothing came", 5)
            finally:
                endless.cancel()

    run(main())


@pytest.mark.row("BG-10")
def test_ipv6_prefixes_reach_the_tables() -> None:
    async def main() -> None:
        async with fed() as running:
            one = await running.link()
            one.establish()
            one.announce(BAD, "2a00::/48", version=6)
            await running.tables.hold("bgp_spamd", "2a00::/48", within=1)
            one.withdraw("2a00::/48", version=6)
            await running.tables.hold("bgp_spamd", within=1)

    run(main())


@pytest.mark.row("BGP-09")
def test_after_a_graceful_loss_entries_stay_until_end_of_rib() -> None:
    async def main() -> None:
        async with fed(plan_of(ONE)) as running:
            one = await running.link()
            one.establish(restart_s=120)
            one.announce(BAD, "5.6.7.8", "5.6.7.9")
            await running.tables.hold("bgp_spamd", "5.6.7.8", "5.6.7.9")
            one.sink.ended("connection reset", Loss.GRACEFUL)
            assert running.log.named("bgp_down")[0]["kept_s"] == 120
            one.establish(restart_s=120)
            one.announce(BAD, "5.6.7.9", "9.9.9.9")
            await running.tables.hold("bgp_spamd", "5.6.7.8", "5.6.7.9", "9.9.9.9")
            one.sink.end_of_rib(4)
            await running.tables.hold("bgp_spamd", "5.6.7.9", "9.9.9.9")

    run(main())


@pytest.mark.row("BGP-09")
def test_a_neighbor_that_comes_back_without_graceful_restart_has_kept_nothing() -> None:
    async def main() -> None:
        async with fed(plan_of(ONE)) as running:
            one = await running.link()
            one.establish(restart_s=120)
            one.announce(BAD, "5.6.7.8")
            await running.tables.hold("bgp_spamd", "5.6.7.8")
            one.sink.ended("connection reset", Loss.GRACEFUL)
            one.establish()
            one.announce(BAD, "9.9.9.9")
            await running.tables.hold("bgp_spamd", "9.9.9.9")

    run(main())


@pytest.mark.row("BGP-09")
def test_stale_entries_go_with_an_alarm_when_their_time_is_over() -> None:
    async def main() -> None:
        async with fed(plan_of(ONE, stale_time=0.05)) as running:
            one = await running.link()
            one.establish(restart_s=120)
            one.announce(BAD, "5.6.7.8")
            await running.tables.hold("bgp_spamd", "5.6.7.8")
            one.sink.ended("connection reset", Loss.GRACEFUL)
            await running.tables.hold("bgp_spamd")
            assert running.log.named("bgp_stale_dropped") == [{"neighbor": "rs1", "prefixes": 1}]

    run(main())


@pytest.mark.row("BGP-09")
def test_without_graceful_restart_hold_on_loss_says_how_long_entries_stay() -> None:
    async def main() -> None:
        async with fed(plan_of(ONE, hold_on_loss=0.3)) as running:
            one = await running.link()
            one.establish()
            one.announce(BAD, "5.6.7.8")
            one.sink.end_of_rib(4)
            await running.tables.hold("bgp_spamd", "5.6.7.8")
            one.sink.ended("hold timer expired", Loss.BROKEN)
            assert one.sink is running.links["rs1"].sink
            assert running.tables.texts("bgp_spamd") == ["5.6.7.8"]
            await running.tables.hold("bgp_spamd")

    run(main())


@pytest.mark.row("BGP-09")
def test_a_session_that_somebody_ended_takes_its_entries_at_once() -> None:
    async def main() -> None:
        async with fed(plan_of(ONE, hold_on_loss=60)) as running:
            one = await running.link()
            one.establish(restart_s=120)
            one.announce(BAD, "5.6.7.8")
            one.sink.end_of_rib(4)
            await running.tables.hold("bgp_spamd", "5.6.7.8")
            one.sink.ended("Cease, administrative shutdown", Loss.WANTED)
            await running.tables.hold("bgp_spamd", within=1)

    run(main())


@pytest.mark.row("BGP-09")
def test_after_a_start_with_hold_on_loss_old_tables_stay_until_a_neighbor_has_said_all() -> None:
    async def main() -> None:
        async with fed(plan_of(ONE, hold_on_loss=60)) as running:
            one = await running.link()
            one.establish()
            one.announce(BAD, "5.6.7.8")
            await asyncio.sleep(0)
            assert running.tables.tables == {}
            one.sink.end_of_rib(4)
            await running.tables.hold("bgp_spamd", "5.6.7.8")

    run(main())


@pytest.mark.row("BGP-08")
def test_too_many_prefixes_warn_and_then_end_the_session() -> None:
    async def main() -> None:
        async with fed(plan_of(replace(ONE, max_prefix=5))) as running:
            one = await running.link()
            one.establish(restart_s=120)
            one.announce(BAD, *(f"5.6.7.{each}" for each in range(5)))
            assert running.log.named("bgp_nearly_too_many") == [{"neighbor": "rs1", "prefixes": 5, "most": 5}]
            await running.tables.count("bgp_spamd", 5)
            one.announce(BAD, "9.9.9.9")
            assert one.orders == ["overflow more than 5 prefixes"]
            await running.tables.hold("bgp_spamd")

    run(main())


@pytest.mark.row("BGP-08")
def test_refused_networks_and_our_own_addresses_stay_out() -> None:
    async def main() -> None:
        settings = BgpSettings(neighbors=(ONE,), tables=TABLES)
        async with fed(compose(settings, [parse_prefix("198.41.0.7")])) as running:
            one = await running.link()
            one.establish()
            one.announce(BAD, "0.0.0.0/0", "10.0.0.0/8", "198.41.0.7", "8.0.0.0/8", "192.168.1.1", "5.6.7.8")
            await running.tables.hold("bgp_spamd", "5.6.7.8")

    run(main())


def test_this_machine_s_own_addresses_are_found() -> None:
    found = own_addresses(("198.41.0.7", "0.0.0.0", "localhost"))
    assert {parse_prefix("127.0.0.1"), parse_prefix("198.41.0.7")} <= set(found)
    assert parse_prefix("0.0.0.0") not in found


@pytest.mark.row("BG-01", "BG-11")
def test_the_articles_file_and_settings_beside_it_make_one_plan(tmp_path: Path) -> None:
    (tmp_path / "bgpd.conf").write_text(ARTICLE)
    settings = BgpSettings(
        conf=str(tmp_path / "bgpd.conf"),
        neighbors=(NeighborSettings("192.0.2.9", 65055, group="spam-bgp"),),
        tables=(CommunityTableSettings("bgp_spamd_bypass", community="65055:42", neighbor="group spam-bgp"),),
        filters=("deny from 192.0.2.9 community 1:1",),
    )
    plan = compose(settings, [parse_prefix("192.0.2.1"), parse_prefix("127.0.0.1")])
    assert (plan.asn, plan.router_id, plan.holdtime) == (65500, "192.0.2.1", Seconds(90))
    assert [each.address for each in plan.neighbors] == ["64.142.121.62", "217.31.80.170", "192.0.2.9"]
    assert [each.table for each in plan.rules] == ["bgp_spamd_bypass", "bgp_spamd", "bgp_spamd_bypass", ""]
    with pytest.raises(ValueError, match=r"feeds\.bgp\.tables\.0: '65055' is no community"):
        compose(BgpSettings(tables=(CommunityTableSettings("x", community="65055"),)), ())


@pytest.mark.row("BG-09")
def test_a_configuration_with_matches_only_is_told_of() -> None:
    async def main() -> None:
        async with fed() as running:
            await running.link()
            assert "OpenBGPD since 6.4" in str(running.log.named("bgp_configuration")[0]["text"])

    run(main())


def test_a_full_table_keeps_what_it_has_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with fed(plan_of(ONE)) as running:
            one = await running.link()
            one.establish()
            one.announce(BAD, "5.6.7.8")
            await running.tables.hold("bgp_spamd", "5.6.7.8")
            running.tables.full = True
            one.announce(BAD, "5.6.7.9")
            async with asyncio.timeout(5):
                while not running.log.named("bgp_table_kept"):
                    await asyncio.sleep(0)
            running.tables.full = False
            await running.tables.hold("bgp_spamd", "5.6.7.8", "5.6.7.9")

    monkeypatch.setattr("gatepost.feeds.bgp.feed.RETRY_S", 0.05)
    run(main())


def test_another_plan_keeps_sessions_and_moves_entries() -> None:
    async def main() -> None:
        async with fed() as running:
            one, two = await running.link("rs1"), await running.link("rs2")
            one.establish()
            two.establish()
            one.announce(BAD, "5.6.7.8")
            two.announce(BAD, "6.6.7.8")
            await running.tables.hold("bgp_spamd", "5.6.7.8", "6.6.7.8")
            other = CommunityTableSettings("other", community="65066:666")
            await running.feed.renew(plan_of(ONE, tables=(other,)))
            await running.tables.hold("other", "5.6.7.8")
            await running.tables.change(lambda: set(running.tables.tables) == {"other"}, str, 5)
            assert running.links["rs1"] is one
            await running.feed.renew(plan_of(replace(ONE, multihop=3), TWO))
            assert (await running.link("rs1")) is not one
            await running.tables.hold("bgp_spamd")

    run(main())


@pytest.mark.row("BG-07", "BG-08", "BG-09")
def test_commands_ask_through_the_door(tmp_path: Path) -> None:
    async def main() -> None:
        async with fed(door=door_path(tmp_path)) as running:
            one, two = await running.link("rs1"), await running.link("rs2")
            one.establish()
            one.announce(BAD, "5.6.7.8", "0.0.0.0/0")
            one.announce(7, "7.7.7.7")
            two.establish()
            two.announce(BAD, "5.6.7.8", "5.6.7.9")
            two.announce(GOOD, "2a00::/48", version=6)
            states = await verbs.list_neighbors(tmp_path)
            assert [(each.name, each.state, each.prefixes, each.received.updates) for each in states] == [
                ("rs1", "Established", 3, 2),
                ("rs2", "Established", 3, 2),
            ]
            shown = [each async for each in verbs.list_routes(tmp_path, RibQuery(community="65066:666"))]
            assert [(each.prefix, each.neighbor, each.selected) for each in shown] == [
                ("0.0.0.0/0", "192.0.2.7", True),
                ("5.6.7.8/32", "192.0.2.7", True),
                ("5.6.7.8/32", "192.0.2.8", False),
                ("5.6.7.9/32", "192.0.2.8", True),
            ]
            sent = [each async for each in verbs.list_routes(tmp_path, RibQuery(neighbor="rs1", received=True))]
            assert [(each.prefix, each.valid, each.refused) for each in sent] == [
                ("0.0.0.0/0", True, "shorter than /16"),
                ("5.6.7.8/32", True, ""),
                ("7.7.7.7/32", False, "no rule accepts it"),
            ]
            assert [
                each.prefix async for each in verbs.list_routes(tmp_path, RibQuery(table="bgp_spamd_bypass"))
            ] == ["2a00::/48"]
            assert (await verbs.show_neighbor(tmp_path, "192.0.2.8")).name == "rs2"
            for order in verbs.Order:
                assert await verbs.order_neighbor(tmp_path, "rs1", order) == f"rs1: {order.value}"
            assert one.orders == ["up", "down", "clear", "refresh"]
            for question, told in (
                ({"verb": "neighbor", "neighbor": "rs3"}, "there is no neighbour 'rs3'; there are: rs1, rs2"),
                ({"verb": "rib", "community": "x"}, "is no community"),
                ({"verb": "dance"}, "not understood"),
            ):
                with pytest.raises(Refused, match=told):
                    async for _ in ask(door_path(tmp_path), question):
                        pass

    run(main())


def test_without_a_server_a_command_says_so(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no BGP feed is running here"):
        run(verbs.list_neighbors(tmp_path))


def _service(settings: BgpSettings, tables: RememberedTables, log: Lines, data_dir: Path) -> BgpService:
    return BgpService(
        settings,
        tables,
        connect=lambda neighbor, _: ScriptedLink(neighbor),
        own=("198.41.0.7",),
        clock=SystemClock(),
        log=log,
        data_dir=data_dir,
    )


@pytest.mark.row("BG-12")
def test_without_a_feed_tables_of_an_earlier_one_are_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        tables, log = RememberedTables(), Lines()
        tables.tables["bgp_spamd"] = NONE
        service = _service(BgpSettings(), tables, log, tmp_path)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(service.run())
            await tables.change(lambda: not tables.tables, str, 5)
            assert await verbs.list_neighbors(tmp_path) == []
            assert log.events == []
            await service.renew(BgpSettings(neighbors=(ONE,), tables=TABLES))
            assert [each.name for each in await verbs.list_neighbors(tmp_path)] == ["rs1"]
            await tables.hold("bgp_spamd")
            await tables.hold("bgp_spamd_bypass")
            service.leave()
        assert set(tables.tables) == {"bgp_spamd", "bgp_spamd_bypass"}

    run(main())


def test_a_bgpd_conf_that_cannot_be_used_stops_nothing_but_the_feed(tmp_path: Path) -> None:
    async def main() -> None:
        tables, log = RememberedTables(), Lines()
        tables.tables["bgp_spamd"] = NONE
        file = tmp_path / "bgpd.conf"
        settings = BgpSettings(conf=str(file))
        service = _service(settings, tables, log, tmp_path)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            while not log.events:
                await asyncio.sleep(0)
            assert "there is no such file" in str(log.named("bgp_refused")[0]["error"])
            file.write_text("neighbour 192.0.2.7\n")
            with pytest.raises(ValueError, match=r"bgpd\.conf:1: .*did you mean 'neighbor'"):
                await service.renew(settings)
            assert not task.done()
            assert set(tables.tables) == {"bgp_spamd"}
            file.write_text(ARTICLE)
            await service.renew(settings)
            await tables.hold("bgp_spamd_bypass")
            service.leave()

    run(main())
