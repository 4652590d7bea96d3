"""How a host is reached by one of its addresses, and what is remembered of the others."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, cast

import pytest

from gatepost.aio.drive import Wire
from gatepost.policy.action import Route, RouteKind
from gatepost.relay.connect import KNOWN_MAX, NotReached, Silent, in_turn, reach, sendable, source_for
from gatepost.relay.route import NoRoute
from gatepost.relay.settings import RelaySettings
from tests.queue.world import Clock
from tests.relay.world import QUICK, Journal, Names, consignment, relay, router
from tests.support.loop import run
from tests.support.nexthop import DROP, NextHop

SIX, FOUR, FIVE = "2001:db8::1", "192.0.2.1", "192.0.2.2"


class Line(Wire):
    """A connection that only remembers that it was closed."""

    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


@dataclass
class Net:
    """A network: what each address does, which were tried, and what was connected."""

    does: dict[str, str]
    tried: list[str] = field(default_factory=list)
    lines: dict[str, Line] = field(default_factory=dict)
    go: dict[str, asyncio.Event] = field(default_factory=dict)

    async def connect(self, ip: str) -> Wire:
        """Answer, refuse, or wait for `go`."""
        self.tried.append(ip)
        what = self.does[ip]
        if what == "silent":
            await asyncio.Event().wait()
        if what == "waits":
            try:
                await self.go.setdefault(ip, asyncio.Event()).wait()
            except asyncio.CancelledError:
                if not self.go[ip].is_set():
                    raise
        if what == "refuses":
            raise ConnectionRefusedError(111, "Connection refused")
        return self.lines.setdefault(ip, Line())


def reached(net: Net, *addresses: str, delay: float = 0.01) -> tuple[str, tuple[str, ...]]:
    """Return the address that won, and those that did not answer in time."""
    found = run(reach(addresses, net.connect, delay))
    return found.ip, found.failed


def test_the_first_address_that_answers_is_taken_and_no_other_is_tried() -> None:
    net = Net({SIX: "answers", FOUR: "answers"})
    assert reached(net, SIX, FOUR) == (SIX, ())
    assert net.tried == [SIX]


def test_a_refusal_leads_to_the_next_at_once() -> None:
    net = Net({SIX: "refuses", FOUR: "answers"})
    assert reached(net, SIX, FOUR, delay=3600) == (FOUR, (SIX,))


def test_silence_costs_the_delay_and_no_more() -> None:
    net = Net({SIX: "silent", FOUR: "answers", FIVE: "answers"})
    assert reached(net, SIX, FOUR, FIVE) == (FOUR, (SIX,))
    assert net.tried == [SIX, FOUR]


def test_a_slow_address_may_still_win_against_one_that_is_slower() -> None:
    async def play() -> tuple[str, bool]:
        net = Net({SIX: "waits", FOUR: "silent"})
        asked = asyncio.ensure_future(reach((SIX, FOUR), net.connect, 0.001))
        while FOUR not in net.tried:
            await asyncio.sleep(0)
        net.go[SIX].set()
        return (await asked).ip, net.lines[SIX].aborted

    assert run(play()) == (SIX, False)


def test_what_connects_in_the_same_moment_as_the_winner_is_closed() -> None:
    async def play() -> tuple[str, Net]:
        net = Net({SIX: "waits", FOUR: "waits"})
        asked = asyncio.ensure_future(reach((SIX, FOUR), net.connect, 0.001))
        while len(net.go) < 2:
            await asyncio.sleep(0)
        net.go[SIX].set()
        net.go[FOUR].set()
        return (await asked).ip, net

    ip, net = run(play())
    assert ip == SIX
    assert (net.lines[SIX].aborted, net.lines[FOUR].aborted) == (False, True)


def test_when_none_answers_each_says_why() -> None:
    net = Net({SIX: "refuses", FOUR: "refuses"})
    with pytest.raises(NotReached) as none:
        reached(net, SIX, FOUR)
    assert [ip for ip, _ in none.value.errors] == [SIX, FOUR]


def test_who_gives_up_leaves_no_attempt_behind() -> None:
    async def play() -> int:
        net = Net({SIX: "silent", FOUR: "silent"})
        asked = asyncio.ensure_future(reach((SIX, FOUR), net.connect, 0.001))
        while FOUR not in net.tried:
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        return len(asyncio.all_tasks()) - 1

    assert run(play()) == 0


def test_a_defect_is_not_taken_for_a_dead_network() -> None:
    async def broken(ip: str) -> Wire:
        raise KeyError(ip)

    with pytest.raises(KeyError):
        run(reach((SIX,), cast(Callable[[str], Awaitable[Wire]], broken)))


def test_families_take_turns_and_ipv6_begins() -> None:
    assert in_turn(["6a", "6b", "6c"], ["4a"]) == ["6a", "4a", "6b", "6c"]
    assert in_turn([], ["4a", "4b"]) == ["4a", "4b"]


def test_many_ipv6_addresses_do_not_hide_ipv4() -> None:
    many = [f"2001:db8::{n}" for n in range(1, 20)]
    names = Names({"d.example": {"mx": [(10, "a.example")]}, "a.example": {"aaaa": many, "a": [FOUR]}})

    async def collect() -> tuple[str, ...]:
        return (await anext(router(names, RelaySettings()).hops(Route(), "d.example"))).addresses

    found = run(collect())
    assert len(found) == 6
    assert found[1] == FOUR


BOTH: Final = ("192.0.2.10", "192.0.2.11", "2001:db8::10")


def test_sources_choose_the_family_and_a_destination_keeps_its_source() -> None:
    assert sendable([SIX, FOUR], ()) == [SIX, FOUR]
    assert sendable([SIX, FOUR], ("192.0.2.10",)) == [FOUR]
    assert source_for(SIX, BOTH, "far.example") == "2001:db8::10"
    assert source_for(FOUR, (), "far.example") is None
    chosen = {source_for(FOUR, BOTH, f"d{n}.example") for n in range(40)}
    assert chosen == {"192.0.2.10", "192.0.2.11"}
    assert len({source_for(FOUR, BOTH, "far.example") for _ in range(3)}) == 1


def test_a_host_whose_family_has_no_source_is_no_way() -> None:
    names = Names({"d.example": {"mx": [(10, "a.example")]}, "a.example": {"aaaa": [SIX]}})

    async def first() -> None:
        await anext(router(names, RelaySettings(source=("192.0.2.10",))).hops(Route(), "d.example"))

    with pytest.raises(NoRoute) as none:
        run(first())
    assert (none.value.reply.code, none.value.reply.text) == (
        451,
        "No source address of the family of its mail servers",
    )


def test_a_silent_address_is_tried_last_for_a_minute_more_each_time() -> None:
    clock = Clock()
    silent = Silent(clock)
    for times in range(1, 15):
        silent.failed(SIX)
        assert silent.last([SIX, FOUR]) == (FOUR, SIX)
        clock.pass_by(min(60 * times, 600) - 1)
        assert silent.rests(SIX)
        clock.pass_by(2)
        assert silent.last([SIX, FOUR]) == (SIX, FOUR)
    silent.answered(SIX)
    silent.failed(SIX)
    clock.pass_by(61)
    assert not silent.rests(SIX)


def test_the_memory_is_bounded() -> None:
    silent = Silent(Clock())
    for number in range(KNOWN_MAX + 5):
        silent.failed(str(number))
    assert not silent.rests("4")
    assert silent.rests("5")


DEAD: Final = "127.0.0.66"  # nobody listens there


def test_a_dead_address_costs_only_the_first_mail_and_the_log_says_which() -> None:
    async def play() -> tuple[list[str], list[dict[str, object]]]:
        async with NextHop() as hop:
            names = Names({"there.example": {"mx": [(10, "a.example")]}, "a.example": {"a": [DEAD, "127.0.0.1"]}})
            log = Journal()
            sender = relay(hop.port, names, QUICK, log=log)
            ips = []
            for _ in range(2):
                (result,) = await sender.deliver(consignment())
                ips.append(result.ip)
            assert sender._silent.rests(DEAD)
            return ips, [fields for event, fields in log.events if event == "hop_unreachable"]

    ips, unreachable = run(play())
    assert ips == ["127.0.0.1", "127.0.0.1"]
    assert unreachable == []


@pytest.mark.parametrize(
    ("source", "helo", "heard"),
    [
        ("", "", b"EHLO here.example\r\n"),
        ("127.0.0.5", "", b"EHLO five.example\r\n"),
        ("127.0.0.6,127.0.0.5", "", b"EHLO five.example\r\n"),
        ("127.0.0.5", "own.example", b"EHLO own.example\r\n"),
    ],
)
def test_we_greet_with_the_name_of_the_address_that_we_send_from(source: str, helo: str, heard: bytes) -> None:
    async def play() -> bytes:
        async with NextHop() as hop:
            settings = replace(QUICK, helos={"127.0.0.5": "five.example", "127.0.0.6": "five.example"})
            route = Route(RouteKind.HOST, "127.0.0.1", hop.port, source=source, helo=helo)
            await relay(1, settings=settings).deliver(consignment(route=route))
            return next(line for line in hop.commands if line.startswith(b"EHLO"))

    assert run(play()) == heard


def test_a_host_of_which_no_address_answers_comes_after_the_lesser_ones() -> None:
    async def play() -> list[str]:
        async with NextHop() as hop:
            names = Names(
                {
                    "there.example": {"mx": [(10, "a.example"), (20, "b.example")]},
                    "a.example": {"a": [DEAD]},
                    "b.example": {"a": ["127.0.0.1"]},
                }
            )
            log = Journal()
            sender = relay(hop.port, names, QUICK, log=log)
            for _ in range(3):
                (result,) = await sender.deliver(consignment())
                assert result.host == "b.example"
            return [str(fields["host"]) for event, fields in log.events if event == "hop_unreachable"]

    assert run(play()) == ["a.example"]


def test_an_address_that_hangs_up_leads_to_the_next_of_the_same_host() -> None:
    async def play() -> tuple[str, str]:
        async with NextHop(host="127.0.0.2", answers={"greeting": DROP}) as bad, NextHop(port=bad.port) as good:
            names = Names(
                {"there.example": {"mx": [(10, "a.example")]}, "a.example": {"a": ["127.0.0.2", "127.0.0.1"]}}
            )
            (result,) = await relay(good.port, names).deliver(consignment())
            return result.fate.value, result.ip

    assert run(play()) == ("delivered", "127.0.0.1")
