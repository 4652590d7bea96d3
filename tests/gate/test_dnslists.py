"""DNS lists at connect: weights, what is no answer, lists that are broken, and no waiting beyond the limit."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.aio.resolve import Answer, Resolver, Status
from gatepost.base.settings import BadSetting, fill
from gatepost.base.units import Seconds
from gatepost.gate import dnslists
from gatepost.gate.dnslists import (
    CACHE_MAX,
    FAILURES_MAX,
    LISTS_MAX,
    NO_SCORE,
    DnsLists,
    DnsListSettings,
    DnsSettings,
    Hit,
    Names,
    Opinion,
    listable,
)
from tests.intake.world import Notebook
from tests.support.loop import run
from tests.support.wire import MovedClock
from tests.support.zone import Fault, Zone, txt

BAD = "198.51.100.7"
GOOD = "198.51.100.8"
BOTH = "198.51.100.9"
NEW = "198.51.100.10"
SIX = "2001:db8::7"
NIBBLES = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
Lists = Mapping[str, Mapping[str, list[str]]]
TEST_POINT: dict[str, dict[str, list[str]]] = {"2.0.0.127": {"A": ["127.0.0.2"]}}
BLACK = TEST_POINT | {
    "7.100.51.198": {"A": ["127.0.0.2", "127.0.0.10"], "TXT": [txt("see https://black.example/7")]},
    "9.100.51.198": {"A": ["127.0.0.4"]},
    NIBBLES: {"A": ["127.0.0.2"]},
}
WHITE = TEST_POINT | {"8.100.51.198": {"A": ["127.0.5.3"]}, "9.100.51.198": {"A": ["127.0.5.1"]}}


def zones(**lists: Lists) -> dict[str, Mapping[str, list[str]]]:
    """Return the records of lists, each under `NAME.example`."""
    return {f"{name}.{each}.example": sets for each, records in lists.items() for name, sets in records.items()} | {
        f"{each}.example": {"TXT": ["a"]} for each in lists
    }


def settings(*lists: DnsListSettings, **others: object) -> DnsSettings:
    return replace(DnsSettings(lists, black=3, white=2), **others)  # type: ignore[arg-type]  # named by the tests


BLACK_LIST = DnsListSettings("black.example", 3)
WHITE_LIST = DnsListSettings("white.example", -2)


def made(
    ask: DnsSettings, names: Names, log: Notebook | None = None, clock: MovedClock | SystemClock | None = None
) -> DnsLists:
    return DnsLists(ask, names, clock=clock or MovedClock(), log=log or Notebook())


def resolver(zone: Zone, **options: float) -> Resolver:
    return Resolver([zone.address], clock=SystemClock(), try_time=options.get("try_time", 2.0), tries=1)


def test_weights_are_added_up() -> None:
    async def story() -> None:
        log = Notebook()
        async with Zone(zones(black=BLACK, white=WHITE)) as zone:
            lists = made(settings(BLACK_LIST, WHITE_LIST), resolver(zone), log)
            await lists.prove()
            assert lists.states() == {"black.example": "asked", "white.example": "asked"}
            assert lists.known(BAD) is None
            bad = await lists.ask(BAD)
            assert (bad.total, bad.opinion) == (3, Opinion.BLACK)
            assert bad.hits == (
                Hit("black.example", 3, ("127.0.0.10", "127.0.0.2"), "see https://black.example/7"),
            )
            good, both, new = [await lists.ask(ip) for ip in (GOOD, BOTH, NEW)]
            assert (good.total, good.opinion) == (-2, Opinion.WHITE)
            assert (both.total, both.opinion) == (1, Opinion.NONE)
            assert (new.total, new.opinion, new.hits) == (0, Opinion.NONE, ())
            assert (await lists.ask(SIX)).total == 3
            assert lists.known(BAD) == bad
        assert [(line["ip"], line["total"], line["lists"]) for line in log.events("dnslists")] == [
            (BAD, 3, "black.example*3"),
            (GOOD, -2, "white.example*-2"),
            (BOTH, 1, "black.example*3 white.example*-2"),
            (SIX, 3, "black.example*3"),
        ]

    run(story())


def test_a_zone_may_weigh_its_answers_apart_and_is_asked_once() -> None:
    async def story() -> None:
        low = DnsListSettings("black.example", 1, ("127.0.0.[2..3]",))
        high = DnsListSettings("black.example", 5, ("127.0.0.10", "127.0.0.[20..30]"))
        none = DnsListSettings("black.example", 100, ("127.0.0.77",))
        async with Zone(zones(black=BLACK)) as zone:
            lists = made(settings(low, high, none, texts=False), resolver(zone))
            await lists.prove()
            zone.asked.clear()
            score = await lists.ask(BAD)
            assert score.hits == (
                Hit("black.example", 1, ("127.0.0.2",)),
                Hit("black.example", 5, ("127.0.0.10",)),
            )
            assert [(name, kind) for name, kind, _, _ in zone.asked] == [("7.100.51.198.black.example", "A")]
            assert (await lists.ask(BOTH)).hits == ()

    run(story())


@pytest.mark.row("DNS-08")
@pytest.mark.parametrize("answer", ["127.255.255.254", "127.255.255.252", "10.0.0.1", "203.0.113.80", "128.0.0.2"])
def test_an_error_code_or_another_address_is_not_listed(answer: str) -> None:
    async def story() -> None:
        async with Zone(zones(black=TEST_POINT | {"7.100.51.198": {"A": [answer]}})) as zone:
            lists = made(settings(BLACK_LIST), resolver(zone))
            await lists.prove()
            score = await lists.ask(BAD)
            assert (score.total, score.hits, score.opinion) == (0, (), Opinion.NONE)

    run(story())


@pytest.mark.row("DNS-08")
@pytest.mark.parametrize(
    ("records", "says"),
    [
        ({"1.0.0.127": {"A": ["127.0.0.2"]}}, "it lists 127.0.0.1"),
        ({"1.0.0.127": {"A": ["10.0.0.1"]}}, "it lists 127.0.0.1"),
        ({"1.0.0.127": {"A": ["203.0.113.80"]}, "2.0.0.127": {"A": ["203.0.113.80"]}}, "it lists 127.0.0.1"),
        ({"1.0.0.127": {"A": ["127.255.255.254"]}, "2.0.0.127": {"A": ["127.255.255.254"]}}, "it refuses"),
        ({"2.0.0.127": {"A": ["127.255.255.252"]}}, "it refuses"),
    ],
)
def test_a_list_that_lists_everybody_or_refuses_us_is_switched_off_with_an_alarm(
    records: dict[str, dict[str, list[str]]], says: str
) -> None:
    async def story() -> None:
        log = Notebook()
        async with Zone(zones(black=BLACK | records)) as zone:
            lists = made(settings(BLACK_LIST), resolver(zone), log)
            await lists.prove()
            assert lists.states() == {"black.example": "off"}
            assert await lists.ask(BAD) == NO_SCORE
            await lists.prove()
        [alarm] = log.events("dnslist_off")
        assert says in str(alarm["text"])

    run(story())


def test_a_list_that_behaves_again_is_asked_again() -> None:
    async def story() -> None:
        log = Notebook()
        async with Zone(zones(black=BLACK | {"1.0.0.127": {"A": ["127.0.0.2"]}}), ttl=0) as zone:
            lists = made(settings(BLACK_LIST), Resolver([zone.address], clock=MovedClock()), log)
            await lists.prove()
            del zone.records["1.0.0.127.black.example"]
            lists._names = resolver(zone)
            await lists.prove()
            assert (await lists.ask(BAD)).total == 3
        assert [event for event, _ in log.lines][:2] == ["dnslist_off", "dnslist_on"]

    run(story())


def test_a_list_without_its_test_entry_is_told_and_asked() -> None:
    async def story() -> None:
        log = Notebook()
        records = {name: sets for name, sets in BLACK.items() if name != "2.0.0.127"}
        async with Zone(zones(black=records)) as zone:
            lists = made(settings(BLACK_LIST), resolver(zone), log)
            await lists.prove()
            await lists.prove()
            assert (await lists.ask(BAD)).total == 3
        assert len(log.events("dnslist_empty")) == 1

    run(story())


def test_an_unproven_list_has_no_say() -> None:
    async def story() -> None:
        faults = {"1.0.0.127.black.example": Fault.SERVFAIL}
        async with Zone(zones(black=BLACK), faults=faults) as zone:
            lists = made(settings(BLACK_LIST), resolver(zone))
            assert await lists.ask(BAD) == NO_SCORE
            await lists.prove()
            assert lists.states() == {"black.example": "unproven"}
            assert await lists.ask(BAD) == NO_SCORE

    run(story())


class Ever:
    """A DNS in which every black test point is right and all else waits for ever, but for what `quick` knows."""

    def __init__(self, **quick: tuple[str, ...]) -> None:
        self.quick = quick
        self.asked: list[str] = []

    async def a(self, name: str) -> Answer[str]:
        self.asked.append(name)
        if name.startswith("1.0.0.127."):
            return Answer((), False, Status.NXDOMAIN, ttl=60)
        if name.startswith("2.0.0.127."):
            return Answer(("127.0.0.2",), False, Status.OK, ttl=60)
        zone = name.split(".")[-2]
        if zone not in self.quick:
            await asyncio.Event().wait()
        found = self.quick[zone]
        return Answer(found, False, Status.OK if found else Status.NXDOMAIN, ttl=1 << 63)

    async def txt(self, name: str) -> Answer[bytes]:
        await asyncio.Event().wait()
        raise AssertionError


def test_when_no_list_answers_there_is_no_score_and_it_is_known_in_time() -> None:
    """Who has no score is greylisted as if there were no lists."""
    assert DnsSettings().timeout == Seconds(10)

    async def story() -> None:
        log = Notebook()
        lists = made(settings(BLACK_LIST, WHITE_LIST, timeout=Seconds(0.2)), Ever(), log)
        await lists.prove()
        start = time.monotonic()
        score = await lists.ask(BAD)
        assert 0.2 <= time.monotonic() - start < 1.0
        assert (score.total, score.hits, score.opinion) == (0, (), Opinion.NONE)
        assert score.silent == ("black.example", "white.example")
        assert log.events("dnslists")[0]["silent"] == "black.example white.example"

    run(story())


def test_the_lists_that_answer_in_time_count() -> None:
    async def story() -> None:
        lists = made(settings(BLACK_LIST, WHITE_LIST, timeout=Seconds(0.2)), Ever(black=("127.0.0.2",)))
        await lists.prove()
        score = await lists.ask(BAD)
        assert (score.total, score.opinion, score.silent) == (3, Opinion.BLACK, ("white.example",))
        assert score.hits[0].text == "", "its reason did not come in time"

    run(story())


def test_a_list_that_fails_again_and_again_rests() -> None:
    async def story() -> None:
        log, clock, names = Notebook(), MovedClock(), Ever(white=())
        lists = made(settings(BLACK_LIST, WHITE_LIST, timeout=Seconds(0.02)), names, log, clock)
        await lists.prove()
        for at in range(FAILURES_MAX):
            assert lists.states()["black.example"] == "asked"
            await lists.ask(f"198.51.100.{100 + at}")
        assert lists.states() == {"black.example": "resting", "white.example": "asked"}
        names.asked.clear()
        score = await lists.ask("198.51.100.200")
        assert score.silent == ()
        assert names.asked == ["200.100.51.198.white.example"]
        clock.move(dnslists.REST)
        assert lists.states()["black.example"] == "asked"
        await lists.ask("198.51.100.201")
        assert lists.states()["black.example"] == "resting"
        assert [line["seconds"] for line in log.events("dnslist_rests")] == [60.0, 120.0]
        clock.move(2 * dnslists.REST)
        names.quick["black"] = ("127.0.0.2",)
        assert (await lists.ask("198.51.100.202")).total == 3
        assert len(log.events("dnslist_back")) == 1

    run(story())


def test_a_dns_that_is_down_is_a_list_that_does_not_answer() -> None:
    async def story() -> None:
        async with Zone(zones(black=BLACK), faults={"7.100.51.198.black.example": Fault.SERVFAIL}) as zone:
            lists = made(settings(BLACK_LIST), resolver(zone))
            await lists.prove()
            score = await lists.ask(BAD)
            assert (score.opinion, score.silent) == (Opinion.NONE, ("black.example",))

    run(story())


@pytest.mark.row("DNS-08")
def test_a_score_is_kept_an_hour_at_most_whatever_its_ttl() -> None:
    async def story() -> None:
        clock = MovedClock()
        names = Ever(black=("127.0.0.2",))
        lists = made(settings(BLACK_LIST, texts=False), names, clock=clock)
        await lists.prove()
        await lists.ask(BAD)
        clock.move(3599)
        assert lists.known(BAD) is not None
        asked = len(names.asked)
        await lists.ask(BAD)
        assert len(names.asked) == asked
        clock.move(2)
        assert lists.known(BAD) is None

    run(story())


def test_an_ipv6_customer_is_one_source() -> None:
    async def story() -> None:
        names = Ever(black=())
        lists = made(settings(BLACK_LIST), names)
        await lists.prove()
        await lists.ask("2001:db8::1")
        asked = len(names.asked)
        await lists.ask("2001:db8::2:2:2:2")
        assert len(names.asked) == asked

    run(story())


def test_what_is_remembered_and_asked_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnslists, "CACHE_MAX", 10)
    monkeypatch.setattr(dnslists, "ASKING_MAX", 3)
    assert CACHE_MAX == 10_000

    async def story() -> None:
        names = Ever(black=())
        lists = made(settings(BLACK_LIST, timeout=Seconds(0.1)), names)
        await lists.prove()
        for at in range(30):
            await lists.ask(f"198.51.100.{at}")
        assert len(lists._scores) == 10
        del names.quick["black"]
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(lists.ask(f"203.0.113.{at}")) for at in range(10)]
        assert [each.result().silent for each in asked].count(()) == 7

    run(story())


def test_addresses_that_are_nobodys_are_not_asked_about() -> None:
    assert not any(
        map(listable, ("127.0.0.1", "10.9.8.7", "192.168.1.1", "172.31.0.1", "::1", "fd00::1", "fe80::1"))
    )
    assert all(map(listable, ("192.0.2.1", "172.32.0.1", "2001:db8::1", "100.128.0.1")))


def test_watching_proves_again_after_new_settings() -> None:
    async def story() -> None:
        async with Zone(zones(black=BLACK, white=WHITE)) as zone:
            lists = made(settings(BLACK_LIST), resolver(zone))
            task = asyncio.create_task(lists.watch())

            async def comes_to(states: dict[str, str]) -> None:
                async with asyncio.timeout(5):
                    while lists.states() != states:
                        await asyncio.sleep(0.005)

            await comes_to({"black.example": "asked"})
            await lists.ask(BAD)
            lists.renew(settings(BLACK_LIST, WHITE_LIST))
            assert lists.known(BAD) is None
            await comes_to({"black.example": "asked", "white.example": "asked"})
            task.cancel()

    run(story())


def test_reasons_are_one_line_of_plain_ascii() -> None:
    async def story() -> None:
        records = TEST_POINT | {"7.100.51.198": {"A": ["127.0.0.2"], "TXT": [txt("a\\010250 ok\\000" + "x" * 300)]}}
        async with Zone(zones(black=records)) as zone:
            lists = made(settings(BLACK_LIST), resolver(zone))
            await lists.prove()
            text = (await lists.ask(BAD)).hits[0].text
            assert len(text) == dnslists.TEXT_MAX
            assert text.isprintable()

    run(story())


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"lists": [{"zone": "http://x"}]}, "lists.0"),
        ({"lists": [{"zone": "black.example", "answers": ["10.0.0.1"]}]}, "lists.0"),
        ({"lists": [{"zone": "black.example", "weight": 0}]}, "lists.0"),
        ({"lists": [{"zone": f"l{at}.example"} for at in range(LISTS_MAX + 1)]}, ""),
        ({"black": -1}, ""),
        ({"white": -3}, ""),
        ({"timeout": 0}, ""),
        ({"timeout": "60s"}, ""),
    ],
)
def test_settings_that_cannot_be_meant_are_told_with_their_place(given: dict[str, object], place: str) -> None:
    with pytest.raises(BadSetting) as wrong:
        fill(DnsSettings, given)
    assert ".".join(map(str, wrong.value.path)) == place


def test_without_a_sum_nothing_is_wanted() -> None:
    async def story() -> None:
        assert not made(DnsSettings(), Ever()).wanted
        assert not made(DnsSettings((BLACK_LIST,)), Ever()).wanted
        assert made(settings(BLACK_LIST), Ever()).wanted

    run(story())
