"""Links with neighbours over real sockets on the loopback: calling, being called, retrying, keys, commands."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.base.units import Seconds
from gatepost.codec.bgp.types import Afi, Local, Path, Peer
from gatepost.feeds.bgp.connect import (
    Acceptor,
    Neighbor,
    Speaker,
    Terms,
    Times,
    bound,
    place_of,
    prepare,
    set_key,
)
from gatepost.feeds.bgp.link import Link, Linked, Loss, Up
from gatepost.feeds.bgp.plan import compose
from gatepost.feeds.bgp.settings import BgpSettings, NeighborSettings
from tests.codec.bgp.messages import (
    KEEPALIVE,
    MP4,
    USUAL,
    as4,
    message,
    opening,
    prefix,
    restart,
    update,
    usual_open,
)
from tests.support.loop import run
from tests.support.peers import cannot

WAIT_S = 5.0
HOME = "127.0.0.1"
HOST = prefix("5.6.7.8/32")
QUICK = Times(
    connect=1, connect_retry=0.02, idle_hold=0.02, idle_hold_max=0.1, stable=60, closing=0.2, jitter=lambda: 1
)
KEEPS = restart(120, b"\x00\x01\x01\x80")
CAN_SIGN = True
try:
    with socket.socket() as _probe:
        set_key(_probe, HOME, b"key")
except OSError:
    CAN_SIGN = False


class Lines:
    """A log that keeps its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def _keep(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    debug = info = warning = error = exception = _keep


class Heard:
    """A sink that remembers, and lets tests wait."""

    def __init__(self) -> None:
        self.news: list[tuple[object, ...]] = []
        self.ups: list[Up] = []
        self.on_update: Callable[[], None] = lambda: None
        self._changed = asyncio.Event()

    def established(self, up: Up) -> None:
        self.ups.append(up)
        self._note("up")

    def updated(
        self, version: int, withdrawn: Sequence[bytes], announced: Sequence[bytes], path: Path | None
    ) -> None:
        self._note("update", version, tuple(withdrawn), tuple(announced))
        self.on_update()

    def end_of_rib(self, version: int) -> None:
        self._note("end of rib", version)

    def ended(self, why: str, loss: Loss) -> None:
        self._note("ended", loss, why)

    def count(self, kind: str) -> int:
        return sum(each[0] == kind for each in self.news)

    async def hear(self, kind: str, count: int = 1) -> tuple[object, ...]:
        """Wait for the so-manieth of a kind."""
        await self.until(lambda: self.count(kind) >= count)
        return [each for each in self.news if each[0] == kind][count - 1]

    async def until(self, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(str(self.news)) from None

    def _note(self, *what: object) -> None:
        self.news.append(what)
        self._changed.set()


class Far:
    """One connection of the neighbour's end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)

    async def say(self, *octets: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(octets))

    async def message(self) -> tuple[int, bytes]:
        head = await self._exactly(19)
        return head[18], await self._exactly(int.from_bytes(head[16:18]) - 19)

    async def next(self, kind: int) -> bytes:
        """Return the body of the next message of a type."""
        while True:
            found, body = await self.message()
            if found == kind:
                return body

    async def establish(self, opened: bytes | None = None) -> None:
        assert (await self.message())[0] == 1
        await self.say(opened or usual_open(), KEEPALIVE)
        assert (await self.message())[0] == 4

    async def end(self) -> None:
        """Wait until we closed."""
        with suppress(ConnectionResetError):
            while await self._some():
                pass

    def close(self) -> None:
        self.sock.close()

    async def _exactly(self, size: int) -> bytes:
        octets = b""
        while len(octets) < size:
            some = await self._some(size - len(octets))
            if not some:
                raise EOFError(octets)
            octets += some
        return octets

    async def _some(self, size: int = 65_536) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await asyncio.get_running_loop().sock_recv(self.sock, size)


class World:
    """A link, its sink, and the neighbour's bound socket."""

    def __init__(self, family: str, key: bytes) -> None:
        self.listener = bound(family, 0)
        if key:
            set_key(self.listener, family, key)
        self.listener.listen()
        self.log = Lines()
        self.heard = Heard()
        self.neighbor: Neighbor
        self.acceptor: Acceptor
        self.task: asyncio.Task[None]
        self._opened: list[Far] = []

    async def accept(self) -> Far:
        """Take the link's next call."""
        async with asyncio.timeout(WAIT_S):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return self._keep(Far(sock))

    async def established(self, opened: bytes | None = None) -> Far:
        far = await self.accept()
        await far.establish(opened)
        await self.heard.hear("up", self.heard.count("up") + 1 if self.neighbor.state != "Established" else 1)
        return far

    async def reach(self, state: str) -> None:
        """Wait until the link is in a state."""
        async with asyncio.timeout(WAIT_S):
            while self.neighbor.state != state:
                await asyncio.sleep(0)

    async def call(self, key: bytes = b"") -> Far:
        """Call the link."""
        [(address, port)] = self.acceptor.addresses()
        sock = socket.socket()
        far = self._keep(Far(sock))
        if key:
            set_key(sock, address, key)
        async with asyncio.timeout(WAIT_S):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        return far

    def _keep(self, far: Far) -> Far:
        self._opened.append(far)
        return far

    def close(self) -> None:
        for far in self._opened:
            far.close()
        self.listener.close()


def terms_of(port: int, address: str = HOME) -> Terms:
    return Terms(Local(65500, 0x0A000001), Peer(65066), address, port, name="rs1")


@asynccontextmanager
async def world(
    change: Callable[[Terms], Terms] = lambda terms: terms,
    *,
    family: str = HOME,
    key: bytes = b"",
    times: Times = QUICK,
) -> AsyncIterator[World]:
    """Run a link while a test does."""
    made = World(family, key)
    made.acceptor = Acceptor(made.log)
    made.acceptor.listen_on([f"{HOME}:0"])
    terms = change(terms_of(made.listener.getsockname()[1], family))
    made.neighbor = Neighbor(terms, clock=SystemClock(), log=made.log, acceptor=made.acceptor, times=times)
    made.task = asyncio.create_task(made.neighbor.run(made.heard))
    try:
        async with asyncio.timeout(20):
            while not terms.down and made.neighbor.state == "Idle":
                await asyncio.sleep(0)
            yield made
    finally:
        made.task.cancel()
        with suppress(asyncio.CancelledError):
            await made.task
        made.acceptor.close()
        made.close()


def test_it_calls_and_tells_what_it_hears() -> None:
    async def main() -> None:
        async with world() as here:
            far = await here.established(usual_open(KEEPS))
            [up] = here.heard.ups
            assert (up.remote_id, up.holdtime, up.restart_s, tuple(up.restarts)) == ("10.0.0.2", 90, 120, (4,))
            assert "Route Refresh" in up.capabilities
            assert up.remote == f"{HOME}:{here.listener.getsockname()[1]}"
            await far.say(update(USUAL, HOST), update(withdrawn=HOST), update())
            await here.heard.hear("end of rib")
            assert here.heard.news[1:] == [
                ("update", 4, (), (HOST,)),
                ("update", 4, (HOST,), ()),
                ("end of rib", 4),
            ]
            assert here.neighbor.state == "Established"
            assert here.neighbor.received.updates == 3
            assert here.neighbor.sent.opens == 1
            assert here.neighbor.last_read is not None

    run(main())


def test_it_speaks_over_ipv6() -> None:
    async def main() -> None:
        async with world(family="::1") as here:
            await here.established()
            assert here.heard.ups[0].remote.startswith("[::1]:")

    run(main())


@pytest.mark.row("BGP-01", "BGP-02")
@pytest.mark.parametrize(
    ("octets", "answer"),
    [
        (b"\0" * 19, b"\x01\x01"),
        (b"\xff" * 16 + b"\x10\x01\x02", b"\x01\x02\x10\x01"),
        (message(6), b"\x01\x03\x06"),
        (opening(asn=1), b"\x02\x02"),
        (opening(hold=1), b"\x02\x06"),
        (opening(bgp_id=0), b"\x02\x03"),
    ],
)
def test_after_an_error_it_says_why_closes_and_calls_again(octets: bytes, answer: bytes) -> None:
    async def main() -> None:
        async with world() as here:
            far = await here.accept()
            await far.say(octets)
            assert await far.next(3) == answer
            await far.end()
            assert "we said: " in str(await here.heard.hear("ended"))
            await here.established()

    run(main())


@pytest.mark.row("BGP-01")
def test_the_wait_before_the_next_call_doubles_until_a_session_was_stable() -> None:
    waits: list[float] = []

    async def main() -> None:
        async with world(times=replace(QUICK, stable=1e-9, idle_hold_max=0.08)) as here:
            for _ in range(4):
                far = await here.accept()
                waits.append(here.neighbor._idle_hold)
                await far.say(message(6))
                await far.end()
                far.close()
            far = await here.established()
            waits.append(here.neighbor._idle_hold)
            far.close()
            await here.accept()
            waits.append(here.neighbor._idle_hold)

    run(main())
    assert waits == [0.02, 0.04, 0.08, 0.08, 0.08, 0.04]


def test_while_idle_it_takes_no_calls() -> None:
    async def main() -> None:
        async with world(times=replace(QUICK, idle_hold=60)) as here:
            (await here.accept()).close()
            await here.reach("Idle")
            far = await here.call()
            assert await far._some() == b""

    run(main())


def test_a_refused_call_is_tried_again() -> None:
    async def main() -> None:
        async with world() as here:
            port = here.listener.getsockname()[1]
            here.listener.close()
            assert "no connection" in str(await here.heard.hear("ended", 2))
            here.listener = bound(HOME, port)
            here.listener.listen()
            await here.established()

    run(main())


@pytest.mark.parametrize("subcode", [4, 7])
def test_a_neighbour_that_refuses_capabilities_is_called_once_without(subcode: int) -> None:
    async def main() -> None:
        async with world(times=replace(QUICK, idle_hold=60)) as here:
            far = await here.accept()
            first = await far.next(1)
            assert first[9] > 0
            await far.say(message(3, bytes((2, subcode))))
            again = await here.accept()
            assert (await again.next(1))[9:] == b"\0"
            await again.say(opening(), KEEPALIVE)
            await here.heard.hear("up")

    run(main())


@pytest.mark.row("BGP-09")
def test_how_a_session_ended_is_told() -> None:
    async def main() -> None:
        async with world() as here:
            ends: list[tuple[bytes, bytes | None, Loss]] = [
                (usual_open(), None, Loss.BROKEN),
                (usual_open(KEEPS), None, Loss.GRACEFUL),
                (usual_open(KEEPS), message(3, b"\x06\x02"), Loss.WANTED),
                (usual_open(KEEPS), message(3, b"\x04\x00"), Loss.BROKEN),
                (usual_open(KEEPS), message(9), Loss.WANTED),
            ]
            for number, (opened, last, loss) in enumerate(ends, 1):
                far = await here.accept()
                await far.establish(opened)
                await here.heard.hear("up", number)
                if last is not None:
                    await far.say(last)
                    await here.heard.hear("ended", number)
                far.close()
                assert (await here.heard.hear("ended", number))[1] is loss

    run(main())


@pytest.mark.row("BGP-09")
def test_a_silent_neighbour_is_ended_by_the_hold_timer() -> None:
    async def main() -> None:
        async with world() as here:
            far = await here.accept()
            await far.establish(opening(MP4, as4(65066), hold=3))
            await here.heard.hear("up")
            assert await far.next(4) == b""  # after 1 s
            assert await far.next(3) == b"\x04\x00"
            assert (await here.heard.hear("ended"))[1] is Loss.BROKEN

    run(main())


def test_operators_end_clear_and_begin() -> None:
    async def main() -> None:
        async with world(times=replace(QUICK, idle_hold=60)) as here:
            far = await here.established()
            assert here.neighbor.refresh()
            assert await far.next(5) == b"\x00\x01\x00\x01"
            here.neighbor.clear()
            assert (await far.next(3))[:2] == b"\x06\x04"
            far = await here.established()
            here.neighbor.down()
            assert (await far.next(3))[:2] == b"\x06\x02"
            assert (await here.heard.hear("ended", 2))[1] is Loss.WANTED
            await far.end()
            far.close()
            await here.reach("Idle")
            assert not here.neighbor.refresh()
            here.neighbor.up()
            await here.established()
            assert here.neighbor.sent.opens == 3

    run(main())


def test_a_neighbour_that_is_down_is_not_called_until_somebody_says_so() -> None:
    async def main() -> None:
        async with world(lambda terms: replace(terms, down=True)) as here:
            far = await here.call()
            assert await far._some() == b""
            assert here.neighbor.state == "Idle"
            here.neighbor.up()
            await here.established()

    run(main())


@pytest.mark.row("BGP-08")
@pytest.mark.parametrize("wait", [0.0, 0.02])
def test_too_many_prefixes_end_the_session_within_the_update(wait: float) -> None:
    async def main() -> None:
        async with world(lambda terms: replace(terms, restart=wait)) as here:
            here.heard.on_update = lambda: here.neighbor.overflow("more than 0")
            far = await here.established()
            await far.say(update(USUAL, HOST) * 50)
            assert await far.next(3) == b"\x06\x01"
            assert (await here.heard.hear("ended"))[1:] == (
                Loss.WANTED,
                "we said: Cease, maximum number of prefixes reached (more than 0)",
            )
            assert here.heard.count("update") == 1
            if not wait:
                await far.end()
                await here.reach("Idle")
                here.neighbor.up()
            await here.established()

    run(main())


def test_it_is_called_where_it_listens() -> None:
    async def main() -> None:
        async with world(lambda terms: replace(terms, passive=True)) as here:
            far = await here.call()
            await far.establish()
            await here.heard.hear("up")

    run(main())


def test_strangers_are_hung_up_on() -> None:
    async def main() -> None:
        async with world(lambda terms: replace(terms, passive=True, address="127.0.0.9")) as here:
            far = await here.call()
            assert await far._some() == b""

    run(main())


@pytest.mark.parametrize(("their_id", "ours_stays"), [(0x0A000002, False), (0x09000002, True)])
def test_of_two_connections_the_one_of_the_higher_identifier_stays(their_id: int, ours_stays: bool) -> None:
    async def main() -> None:
        async with world() as here:
            ours, theirs = await here.accept(), await here.call()
            for far in (ours, theirs):
                assert (await far.message())[0] == 1
            opened = opening(MP4, as4(65066), bgp_id=their_id)
            stays, goes = (ours, theirs) if ours_stays else (theirs, ours)
            await stays.say(opened)
            assert (await stays.message())[0] == 4
            await goes.say(opened)
            assert await goes.next(3) == b"\x06\x07"
            await stays.say(KEEPALIVE, update(USUAL, HOST))
            await here.heard.hear("update")
            assert here.heard.count("up") == 1
            assert here.neighbor.state == "Established"

    run(main())


def test_a_second_call_does_not_disturb_a_session_unless_the_neighbour_restarted() -> None:
    async def main() -> None:
        async with world() as here:
            first = await here.established()
            second = await here.call()
            await second.next(1)
            await second.say(usual_open())
            assert await second.next(3) == b"\x06\x07"
            await first.say(update(USUAL, HOST))
            await here.heard.hear("update")
        async with world() as here:
            first = await here.established(usual_open(KEEPS))
            second = await here.call()
            await second.next(1)
            await second.say(usual_open(KEEPS), KEEPALIVE)
            assert (await here.heard.hear("ended"))[1] is Loss.GRACEFUL
            await here.heard.hear("up", 2)
            await first.end()
            assert [each[0] for each in here.heard.news] == ["up", "ended", "up"]

    run(main())


def test_the_end_of_the_server_is_said() -> None:
    async def main() -> None:
        async with world() as here:
            far = await here.established()
            here.task.cancel()
            assert (await far.next(3))[:2] == b"\x06\x02"

    run(main())


@pytest.mark.row("BGP-03")
def test_faults_are_logged_some_lines_a_minute() -> None:
    async def main() -> None:
        async with world() as here:
            far = await here.established()
            await far.say(update(b"\x40\x01\x01\x07", HOST) * 100)
            await here.heard.hear("update", 100)
            assert here.heard.news[-1] == ("update", 4, (HOST,), ())
            assert len(here.log.events) == 10
            assert here.log.events[0][0] == "bgp_update_fault"
            assert here.neighbor.state == "Established"

    run(main())


def test_a_long_feed_lets_others_run() -> None:
    async def main() -> None:
        async with world() as here:
            far = await here.established()
            nlri = b"".join(b"\x20" + (0x05000000 + each).to_bytes(4) for each in range(700))
            sending = asyncio.create_task(far.say(update(USUAL, nlri) * 150))
            turns = 0
            while here.heard.count("update") < 150:
                await asyncio.sleep(0)
                turns += 1
            await sending
            assert turns >= 5

    run(main())


# --- keys and hops ------------------------------------------------------------------------------------------


def needs_signatures() -> None:
    if not CAN_SIGN:
        cannot("this kernel has no TCP MD5 signatures")


def test_signed_connections_both_ways() -> None:
    needs_signatures()

    async def main() -> None:
        async with world(lambda terms: replace(terms, key=b"secret"), key=b"secret") as here:
            far = await here.established()
            await far.say(update(USUAL, HOST))
            await here.heard.hear("update")
        async with world(lambda terms: replace(terms, key=b"secret", passive=True)) as here:
            far = await here.call(b"secret")
            await far.establish()
            await here.heard.hear("up")

    run(main())


def test_another_key_makes_no_connection() -> None:
    needs_signatures()

    async def main() -> None:
        quick = replace(QUICK, connect=0.2)
        async with world(lambda terms: replace(terms, key=b"secret"), key=b"other", times=quick) as here:
            assert "no answer" in str(await here.heard.hear("ended"))
        async with world(lambda terms: replace(terms, key=b"secret", passive=True), times=quick) as here:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await here.call()

    run(main())


def test_a_kernel_without_signatures_is_said_for_that_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost.feeds.bgp.connect._TCP_MD5SIG", 250)

    async def main() -> None:
        terms = replace(terms_of(9), key=b"secret")
        with pytest.raises(OSError, match="no TCP MD5 signatures"):
            await Neighbor(terms, clock=SystemClock(), log=Lines()).run(Heard())

    run(main())


@pytest.mark.parametrize(
    ("change", "ttl", "least"),
    [
        ({}, 1, 0),
        ({"multihop": 64}, 64, 0),
        ({"peer": Peer(65500)}, 255, 0),
        ({"ttl_security": True}, 255, 255),
        ({"ttl_security": True, "multihop": 3}, 255, 253),
    ],
)
@pytest.mark.parametrize("address", [HOME, "::1"])
def test_hops(change: dict[str, object], ttl: int, least: int, address: str) -> None:
    terms = replace(terms_of(9, address), **change)  # type: ignore[arg-type]  # a table of several types
    with socket.socket(terms.family) as sock:
        prepare(sock, terms)
        if address == HOME:
            found = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL), sock.getsockopt(socket.IPPROTO_IP, 21)
        else:
            six = socket.IPPROTO_IPV6
            found = sock.getsockopt(six, socket.IPV6_UNICAST_HOPS), sock.getsockopt(six, 73)
        assert found == (ttl, least)


def test_ttl_security_takes_neighbours_of_the_same_wire_only() -> None:
    async def main() -> None:
        async with world(lambda terms: replace(terms, ttl_security=True, passive=True)) as here:
            far = await here.call()
            far.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
            await far.establish()
            await here.heard.hear("up")
            far.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 254)
            await far.say(update(USUAL, HOST))
            far.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
            await here.heard.hear("update")  # the kernel dropped it, and TCP sent it again with 255

    run(main())


# --- the plan -----------------------------------------------------------------------------------------------


def test_a_speaker_makes_links_from_the_plan() -> None:
    async def main() -> None:
        settings = NeighborSettings(
            "192.0.2.7", 65066, multihop=64, md5_key="736563", holdtime=Seconds(30), ipv6=False, description="rs1"
        )
        plan = compose(BgpSettings(neighbors=(settings,), router_id="10.9.8.7", listen=("127.0.0.1:0",)), ())
        log = Lines()
        speaker = Speaker(clock=SystemClock(), log=log)
        linked: Linked = speaker.link
        link: Link = linked(settings, plan)
        assert isinstance(link, Neighbor)
        terms = link.terms
        assert terms.local == Local(65500, int(IPv4Address("10.9.8.7")), 30, 3, True, (Afi.IPV4,))
        assert (terms.peer, terms.key, terms.multihop, terms.name) == (Peer(65066), b"sec", 64, "rs1")
        linked(settings, replace(plan, listen=("nowhere", "192.0.2.1")))
        assert [event for event, _ in log.events] == ["bgp_cannot_listen"] * 2
        speaker.close()

    run(main())


def test_where_to_listen_is_read() -> None:
    assert place_of("192.0.2.1") == ("192.0.2.1", 179)
    assert place_of("192.0.2.1:1179") == ("192.0.2.1", 1179)
    assert place_of("2001:db8:0::1") == ("2001:db8::1", 179)
    assert place_of("[2001:db8::1]:1179") == ("2001:db8::1", 1179)
    for wrong in ("nowhere", "192.0.2.1:99999", "[2001:db8::1]x"):
        with pytest.raises(ValueError):
            place_of(wrong)
