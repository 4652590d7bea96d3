"""The resolver against a zone double: forged answers, faults, aliases, the cache, trust."""

import asyncio
import itertools
import time
from collections import Counter
from pathlib import Path

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.aio.dns import Mx, Tlsa
from gatepost.aio.resolve import Resolver, Status, system_servers
from gatepost.base.clock import Instant
from tests.support.loop import run
from tests.support.zone import Fault, Zone, txt

RECORDS = {
    "example.org": {
        "MX": ["20 mx2.example.org.", "10 mx1.example.org."],
        "TXT": [txt("v=spf1 mx -all"), txt("x" * 600)],
        "A": ["192.0.2.1"],
        "AAAA": ["2001:db8::1"],
    },
    "null.example": {"MX": ["0 ."]},
    "alias.example": {"CNAME": ["example.org."]},
    "a.loop.example": {"CNAME": ["b.loop.example."]},
    "b.loop.example": {"CNAME": ["a.loop.example."]},
    "only4.example": {"A": ["192.0.2.4"]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["mail.example.org."]},
    "_25._tcp.mx1.example.org": {"TLSA": ["3 1 1 " + "ab" * 32]},
    **{f"c{at}.example": {"CNAME": [f"c{at + 1}.example."]} for at in range(20)},
    "c20.example": {"A": ["192.0.2.20"]},
}


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> Instant:
        return Instant(round(self.time * 1_000_000))

    def steady(self) -> float:
        return self.time


def resolver(zone: Zone, **options: float) -> Resolver:
    return Resolver([zone.address], clock=SystemClock(), try_time=options.get("try_time", 2.0))


def test_each_kind_of_record() -> None:
    async def story() -> None:
        async with Zone(RECORDS) as zone:
            ask = resolver(zone)
            assert (await ask.mx("Example.ORG.")).records == (Mx(10, "mx1.example.org"), Mx(20, "mx2.example.org"))
            assert (await ask.mx("null.example")).records == (Mx(0, ""),)
            assert set((await ask.txt("example.org")).records) == {b"v=spf1 mx -all", b"x" * 600}
            assert (await ask.addresses("example.org")).records == ("192.0.2.1", "2001:db8::1")
            assert (await ask.ptr("192.0.2.1")).records == ("mail.example.org",)
            assert (await ask.tlsa("_25._tcp.mx1.example.org")).records == (Tlsa(3, 1, 1, b"\xab" * 32),)
            alias = await ask.a("alias.example")
            assert (alias.records, alias.name) == (("192.0.2.1",), "example.org")

    run(story())


def test_absence_is_told_apart() -> None:
    async def story() -> None:
        async with Zone(RECORDS) as zone:
            ask = resolver(zone)
            assert (await ask.a("nothing.example")).status is Status.NXDOMAIN
            assert (await ask.txt("only4.example")).status is Status.NODATA
            assert (await ask.addresses("only4.example")).status is Status.OK
            assert (await ask.addresses("null.example")).status is Status.NODATA
            asked = len(zone.asked)
            assert (await ask.a("not..a.name")).status is Status.NXDOMAIN
            assert len(zone.asked) == asked

    run(story())


@pytest.mark.row("DNS-01")
@pytest.mark.parametrize("fault", [Fault.WRONG_ID_FIRST, Fault.WRONG_QUESTION_FIRST, Fault.GARBAGE_FIRST])
def test_the_right_answer_is_waited_for(fault: Fault) -> None:
    async def story() -> None:
        async with Zone(RECORDS, faults={"example.org": fault}) as zone:
            start = time.monotonic()
            assert (await resolver(zone).a("example.org")).records == ("192.0.2.1",)
            assert time.monotonic() - start > 0.015, "something unusable was taken for the answer"
            assert len(zone.asked) == 1

    run(story())


@pytest.mark.row("DNS-02")
def test_ids_and_ports_are_spread() -> None:
    async def story() -> None:
        async with Zone({}) as zone:
            ask = resolver(zone, try_time=20)
            for start in range(0, 1000, 50):
                async with asyncio.TaskGroup() as group:
                    for at in range(start, start + 50):
                        group.create_task(ask.a(f"n{at}.example"))
            assert len(zone.asked) == 1000
            ids = [number for _, _, number, _ in zone.asked]
            ports = [port for _, _, _, port in zone.asked]
            assert len(set(ids)) > 970
            assert len(set(ports)) > 900
            for values, bits in ((ids, 16), (ports, 11)):
                ones = [sum(value >> bit & 1 for value in values) for bit in range(bits)]
                assert all(400 < count < 600 for count in ones)
            steps = Counter(after - before for before, after in itertools.pairwise(ports))
            assert steps.most_common(1)[0][1] < 20

    run(story())


@pytest.mark.row("DNS-03")
def test_records_of_other_names_are_not_remembered() -> None:
    async def story() -> None:
        async with Zone(RECORDS, faults={"example.org": Fault.STRANGER}) as zone:
            ask = resolver(zone)
            assert (await ask.a("example.org")).records == ("192.0.2.1",)
            assert (await ask.a("victim.example")).status is Status.NXDOMAIN

    run(story())


@pytest.mark.row("DNS-03")
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("a.loop.example", Status.SERVFAIL),
        ("c0.example", Status.SERVFAIL),
        ("c11.example", Status.SERVFAIL),
        ("c12.example", Status.OK),
    ],
)
def test_alias_chains_and_loops(name: str, status: Status) -> None:
    async def story() -> None:
        async with Zone(RECORDS) as zone:
            assert (await resolver(zone).a(name)).status is status

    run(story())


def test_truncated_answers_come_by_tcp() -> None:
    async def story() -> None:
        async with Zone(RECORDS, faults={"example.org": Fault.TRUNCATED}) as zone:
            assert set((await resolver(zone).txt("example.org")).records) == {b"v=spf1 mx -all", b"x" * 600}
            assert zone.by_tcp == 1

    run(story())


def test_a_server_without_edns_is_asked_plainly() -> None:
    async def story() -> None:
        async with Zone(RECORDS, faults={"example.org": Fault.NO_EDNS}) as zone:
            assert (await resolver(zone).a("example.org")).records == ("192.0.2.1",)

    run(story())


@pytest.mark.row("REL-19")
def test_failure_is_a_temporary_value_and_remembered_for_a_moment() -> None:
    async def story() -> None:
        async with Zone(RECORDS, faults={"example.org": Fault.SERVFAIL, "only4.example": Fault.SILENT}) as zone:
            ask = resolver(zone, try_time=0.1)
            assert (await ask.a("example.org")).temporary
            assert (await ask.a("example.org")).temporary
            assert len(zone.asked) == 1
            start = time.monotonic()
            assert (await ask.a("only4.example")).status is Status.SERVFAIL
            assert 0.19 <= time.monotonic() - start < 3
            assert len(zone.asked) == 3
            patient = resolver(zone, try_time=10)
        start = time.monotonic()
        assert (await patient.a("down.example")).temporary  # nobody listens: refused, not waited for
        assert time.monotonic() - start < 5

    run(story())


@pytest.mark.row("REL-19")
def test_a_lost_question_is_asked_again_and_a_late_answer_still_counts() -> None:
    async def story() -> None:
        faults = {"example.org": Fault.SILENT_ONCE, "only4.example": Fault.LATE}
        async with Zone(RECORDS, faults=faults, lateness=0.5) as zone:
            ask = resolver(zone, try_time=0.4)
            assert (await ask.a("example.org")).records == ("192.0.2.1",)
            start = time.monotonic()
            assert (await ask.a("only4.example")).records == ("192.0.2.4",)
            assert time.monotonic() - start < 0.85  # the first try's answer, in the second try's time

    run(story())


@pytest.mark.row("REL-19")
def test_the_second_server_is_asked_when_the_first_fails() -> None:
    async def story() -> None:
        async with Zone(RECORDS, faults={"example.org": Fault.REFUSED}) as bad, Zone(RECORDS) as good:
            ask = Resolver([bad.address, good.address], clock=SystemClock())
            assert (await ask.a("example.org")).records == ("192.0.2.1",)

    run(story())


def test_equal_questions_share_one_exchange_and_a_cancelled_one_harms_nobody() -> None:
    async def story() -> None:
        async with Zone(RECORDS, faults={"example.org": Fault.LATE}, lateness=0.1) as zone:
            ask = resolver(zone)
            tasks = [asyncio.ensure_future(ask.a("example.org")) for _ in range(10)]
            await asyncio.sleep(0.03)
            tasks[0].cancel()
            answers = await asyncio.gather(*tasks[1:])
            assert {answer.records for answer in answers} == {("192.0.2.1",)}
            assert len(zone.asked) == 1

    run(story())


@pytest.mark.parametrize(("ttl", "kept"), [(0, 1), (300, 300), (10_000_000, 86_400)])
def test_answers_are_kept_for_their_ttl_within_bounds(ttl: int, kept: int) -> None:
    async def story() -> None:
        clock = HandClock()
        async with Zone(RECORDS, ttl=ttl) as zone:
            ask = Resolver([zone.address], clock=clock)
            for advance, asked in ((0.0, 1), (kept - 0.5, 1), (0.6, 2)):
                clock.time += advance
                assert (await ask.a("example.org")).records == ("192.0.2.1",)
                assert len(zone.asked) == asked
            clock.time += 100_000
            await ask.a("nothing.example")
            clock.time += 59
            await ask.a("nothing.example")
            assert len(zone.asked) == 3
            clock.time += 2
            await ask.a("nothing.example")
            assert len(zone.asked) == 4

    run(story())


def test_the_ad_bit_counts_from_near_or_trusted_servers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(trusted: bool) -> tuple[bool, bool]:
        async with Zone(RECORDS, secure=True) as signed, Zone(RECORDS) as plain:
            asked = []
            for zone in (signed, plain):
                ask = Resolver([zone.address], clock=SystemClock(), trusted=trusted)
                asked.append((await ask.addresses("example.org")).secure)
            return asked[0], asked[1]

    assert run(story(False)) == (True, False)
    monkeypatch.setattr("gatepost.aio.resolve.is_loopback", lambda ip: False)
    assert run(story(False)) == (False, False)
    assert run(story(True)) == (True, False)


def test_system_servers(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# x\nsearch a\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n")
    assert system_servers(path) == (("192.0.2.53", 53), ("2001:db8::53", 53))
    assert system_servers(tmp_path / "none") == (("127.0.0.1", 53),)


def test_an_alias_record_is_told_as_it_stands_and_not_followed() -> None:
    async def play() -> None:
        records = {"www.example.org": {"CNAME": ["box.example.net."]}, "box.example.net": {"A": ["192.0.2.7"]}}
        async with Zone(records, secure=True) as zone:
            ask = resolver(zone)
            answer = await ask.cname("www.example.org")
            assert (answer.records, answer.secure) == (("box.example.net",), True)
            assert (await ask.cname("box.example.net")).status is Status.NODATA
            await ask.close()

    run(play())
