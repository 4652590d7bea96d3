"""The gate in a real kernel: TCP between two network namespaces, its modules alone first, then the whole server.

Each connection tells which listener took it: 25 is the mail server, 8025 the gate's own port.
"""

import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost.aio.capability import keep_net_admin
from gatepost.aio.libnftables import Libnftables, NftablesError
from gatepost.aio.netlink import Netfilter, NetlinkError
from gatepost.base.clock import Instant
from gatepost.base.units import Seconds
from gatepost.codec import nft
from gatepost.gate.bans import BanSettings
from gatepost.gate.decide import BRUTEFORCE, NOSPAMD
from gatepost.gate.decide import LISTED as BGP_SPAMD
from gatepost.gate.decide import WHITE as SPAMD_WHITE
from gatepost.gate.kernel.mirror import NEVER, Content, Member, Mirror, flatten
from gatepost.gate.kernel.rules import MADE, TABLE, Ports, remove, ruleset, set_name
from gatepost.gate.kernel.settings import KernelMode, KernelSettings, Refusal
from gatepost.gate.prefix import number_of, parse_prefix
from gatepost.gate.settings import GateSettings, Ipv6, Mode, RateSettings
from tests.process.namespaces import (
    ABUSER,
    FOREIGN,
    LISTED,
    LISTED6,
    OTHER,
    SERVER4,
    SERVER6,
    UNKNOWN,
    UNKNOWN6,
    WHITE,
    WHITE6,
    Cable,
    Refused,
    cable,
)
from tests.process.served import until

pytestmark = [pytest.mark.process, pytest.mark.peer("iproute2"), pytest.mark.peer("nftables")]

SPAMD_MODE = GateSettings(mode=Mode.SPAMD)


class Filtered:
    """A server's machine with our ruleset, its sets filled by hand: the mirror with a source that is none."""

    def __init__(self, wire: Cable) -> None:
        self.wire = wire
        self.packets = wire.on_server(Netfilter)
        self.mirror = Mirror(self.packets)

    def load(
        self,
        gate: GateSettings = SPAMD_MODE,
        kernel: KernelSettings | None = None,
        rated: tuple[tuple[str, tuple[int, ...]], ...] = (),
    ) -> None:
        """Load a ruleset."""
        text = ruleset(gate, kernel or KernelSettings(KernelMode.NFTABLES), Ports(rated=rated))
        self.wire.on_server(lambda: Libnftables().run(text))

    def give(self, table: str, *texts: str, until: Instant = NEVER) -> None:
        """Give a table exactly these."""
        members = [Member(parse_prefix(each), until=until) for each in texts]
        self.mirror.give(table, Content(flatten(members, (), 4), flatten(members, (), 6)), moment())


def moment(later: float = 0.0) -> Instant:
    """Return the wall clock, some seconds on."""
    return Instant(time.time_ns() // 1000 + int(later * 1_000_000))


@pytest.fixture
def filtered() -> Iterator[Filtered]:
    """A machine without rules, and stand-ins on its ports."""
    with cable() as wire:
        wire.listen(25, 8025, 587, 465, 143, 22)
        made = Filtered(wire)
        yield made
        made.packets.close()


@pytest.mark.row("PF-12", "PF-13", "GR-08")
def test_white_reaches_25_and_listed_and_unknown_the_gate_which_knows_what_they_dialled(filtered: Filtered) -> None:
    wire = filtered.wire
    filtered.load()
    filtered.give(NOSPAMD, WHITE, WHITE6)
    filtered.give(BGP_SPAMD, "198.51.100.11", LISTED6, WHITE)
    assert [wire.outcome(WHITE, port) for port in (25, 587, 143)] == [25, 8025, 143]
    assert [wire.outcome(LISTED, port) for port in (25, 587, 465, 143)] == [8025, 8025, 8025, 143]
    assert [wire.outcome(UNKNOWN, port) for port in (25, 587, 465, 143)] == [8025, 587, 465, 143]
    assert [wire.outcome(WHITE6, 25), wire.outcome(LISTED6, 25), wire.outcome(UNKNOWN6, 25)] == [25, 8025, 25]
    for source, port, dialled in ((UNKNOWN, 25, SERVER4), (LISTED, 465, SERVER4), (LISTED6, 587, SERVER6)):
        reached = wire.reach(source, port)
        assert (reached.port, reached.dialled) == (8025, (dialled, port))
    assert wire.reach(WHITE, 25).dialled == (SERVER4, 25)
    assert wire.outcome(UNKNOWN, 8025) == "refused"  # nobody dials the gate's own port


@pytest.mark.row("PF-19")
@pytest.mark.parametrize(
    ("policy", "outcome"),
    [(Ipv6.BYPASS, 25), (Ipv6.GREYLIST, 8025), (Ipv6.BLOCK, "refused")],
    ids=lambda each: str(each),
)
def test_unknown_ipv6_is_met_as_the_setting_says(filtered: Filtered, policy: Ipv6, outcome: int | str) -> None:
    filtered.load(GateSettings(mode=Mode.SPAMD, ipv6=policy))
    filtered.give(SPAMD_WHITE, WHITE6 + "/64")
    assert filtered.wire.outcome(UNKNOWN6, 25) == outcome
    assert filtered.wire.outcome(WHITE6, 25) == 25


@pytest.mark.row("PF-08")
@pytest.mark.parametrize(("how", "outcome"), [(Refusal.DROP, "dropped"), (Refusal.RESET, "refused")])
def test_a_banned_source_is_refused_on_every_port_until_its_time_is_over(
    filtered: Filtered, how: Refusal, outcome: str
) -> None:
    wire = filtered.wire
    filtered.load(kernel=KernelSettings(KernelMode.NFTABLES, banned=how))
    held = wire.reach(ABUSER, 22)
    filtered.give(BRUTEFORCE, ABUSER, "203.0.113.0/24", until=moment(60))
    assert [wire.outcome(ABUSER, port) for port in (25, 587, 143, 22)] == [outcome] * 4
    assert wire.outcome(OTHER, 143) == 143
    assert not wire.ping(ABUSER)
    held.client.sendall(b"established")
    assert held.served.recv(64) == b"established"  # PF's states: who is added by hand keeps what was open
    filtered.give(BRUTEFORCE, ABUSER, "203.0.113.0/24", until=moment(1))
    assert wire.outcome(ABUSER, 143) == outcome
    until(lambda: wire.outcome(ABUSER, 143) == 143, 10, lambda: "the ban did not end")
    assert wire.ping(ABUSER)


@pytest.mark.row("PF-10")
def test_flush_global_cuts_what_a_banned_source_had_open_on_every_port(filtered: Filtered) -> None:
    wire = filtered.wire
    filtered.load()
    banned, other = [wire.reach(ABUSER, port) for port in (143, 587, 22)], wire.reach(OTHER, 143)
    filtered.give(BRUTEFORCE, ABUSER, until=moment(60))
    assert filtered.packets.cut(4, number_of(ABUSER)[1], number_of(ABUSER)[1]) == 3
    for each in banned:
        each.client.sendall(b"still there?")
        each.served.sendall(b"220 hello")  # our end learns from the kernel that it is over
        with pytest.raises(ConnectionResetError):
            each.served.recv(64)
    other.client.sendall(b"me too")
    assert other.served.recv(64) == b"me too"


@pytest.mark.row("PF-10")
def test_over_its_rate_a_source_is_banned_by_the_kernel_itself(filtered: Filtered) -> None:
    wire = filtered.wire
    gate = GateSettings(
        mode=Mode.SPAMD, rates={"imap": RateSettings(0, 5, Seconds(60))}, bans=BanSettings(ban_time=Seconds(2))
    )
    filtered.load(gate, KernelSettings(KernelMode.NFTABLES, limits=True), (("imap", (143,)),))
    held = [wire.reach(ABUSER, 143) for _ in range(5)]
    assert wire.outcome(OTHER, 143) == 143
    with pytest.raises((ConnectionResetError, Refused)):
        wire.dial(ABUSER, 143).recv(64)
    until(lambda: bool(filtered.packets.elements(TABLE, f"{MADE}4")), 5, lambda: "nobody was banned")
    (made,) = filtered.packets.elements(TABLE, f"{MADE}4")
    assert made.key == number_of(ABUSER)[1]
    assert [wire.outcome(ABUSER, port) for port in (587, 22)] == ["dropped"] * 2
    assert wire.outcome(OTHER, 143) == 143
    for each in held:
        each.close()
    until(lambda: wire.outcome(ABUSER, 587) == 587, 10, lambda: "the ban did not end")


@pytest.mark.row("PF-16", "PF-18")
def test_what_is_not_ours_is_refused_and_ping_goes_on(filtered: Filtered) -> None:
    wire = filtered.wire
    wire.listen(4711)
    datagrams = wire.on_server(lambda: socket.create_server(("", 4712), family=socket.AF_INET))
    wire.open.append(datagrams)
    filtered.load()
    assert wire.outcome(OTHER, 4711) == 4711  # nobody asked to block it
    filtered.load(kernel=KernelSettings(KernelMode.NFTABLES, block_rest=True, open=(22,)))
    filtered.give(SPAMD_WHITE, WHITE)
    assert [wire.outcome(OTHER, port) for port in (4711, 4712, 143)] == ["refused"] * 3
    assert [wire.outcome(OTHER, port) for port in (22, 25, 587)] == [22, 8025, 587]
    assert wire.outcome(WHITE, 25) == 25
    speaker = wire.udp(OTHER, 53)
    speaker.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):  # port unreachable
        speaker.recv(64)
    assert wire.ping(OTHER)
    assert wire.ping(UNKNOWN6)


@pytest.mark.row("PF-18")
@pytest.mark.parametrize(("kind", "passes"), [(8, True), (30, True), (11, True), (13, False), (17, False)])
def test_only_the_icmp_types_of_the_article_pass(filtered: Filtered, kind: int, passes: bool) -> None:
    wire = filtered.wire
    heard = wire.on_server(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    wire.open.append(heard)
    heard.settimeout(0.4)
    filtered.load(kernel=KernelSettings(KernelMode.NFTABLES, block_rest=True))
    wire.icmp(OTHER, kind)
    if passes:
        packet, (source, _) = heard.recvfrom(2048)
        assert (source, packet[20]) == (OTHER, kind)
    else:
        with pytest.raises(TimeoutError):
            heard.recv(2048)


@pytest.mark.row("PF-07")
def test_what_would_not_be_answered_on_its_interface_is_dropped(filtered: Filtered) -> None:
    wire = filtered.wire
    server = wire.on_server(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    wire.open.append(server)
    server.bind((SERVER4, 5353))
    server.settimeout(0.4)
    for urpf in (False, True):
        filtered.load(kernel=KernelSettings(KernelMode.NFTABLES, urpf=urpf))
        wire.udp(OTHER, 5353).send(b"own")
        assert server.recv(64) == b"own"
        wire.udp(FOREIGN, 5353).send(b"spoofed")
        if urpf:
            with pytest.raises(TimeoutError):
                server.recv(64)
        else:
            assert server.recv(64) == b"spoofed"
    assert wire.outcome(UNKNOWN6, 143) == 143


def test_rules_loaded_again_keep_what_the_sets_hold_also_after_a_helper_that_was_killed(filtered: Filtered) -> None:
    wire = filtered.wire
    filtered.load()
    filtered.give(NOSPAMD, WHITE, "10.0.0.0/8")
    handle = filtered.packets.table(TABLE)
    filtered.load(kernel=KernelSettings(KernelMode.NFTABLES, limits=True, urpf=True))
    assert filtered.packets.table(TABLE) == handle
    assert wire.outcome(WHITE, 25) == 25
    fresh = Mirror(filtered.packets)  # knows nothing of what the one before gave
    assert fresh.give(NOSPAMD, Content(flatten([Member(parse_prefix(OTHER))], (), 4)), moment()) > 0
    assert [wire.outcome(WHITE, 25), wire.outcome(OTHER, 25)] == [8025, 25]
    found = nft.ranges(filtered.packets.elements(TABLE, set_name(NOSPAMD, 4, hosts=False)), 4)
    assert found == []
    wire.on_server(lambda: Libnftables().run(remove()))
    assert filtered.packets.table(TABLE) is None
    assert wire.outcome(UNKNOWN, 25) == 25


def test_thirty_thousand_elements_are_in_the_kernel_in_a_moment_and_one_more_at_once(filtered: Filtered) -> None:
    filtered.load()
    texts = [f"{10 + at // 62_500}.{at // 250 % 250}.{at % 250}.7" for at in range(30_000)]
    members = [Member(parse_prefix(each)) for each in texts]
    content = Content(flatten(members, (), 4))
    began = time.perf_counter()
    filtered.mirror.give(BGP_SPAMD, content, moment())
    assert time.perf_counter() - began < 3  # 0.2 s on a machine of its own
    assert (
        filtered.mirror.give(BGP_SPAMD, Content(flatten([*members, Member(parse_prefix(LISTED))], (), 4)), moment())
        == 1
    )
    assert filtered.wire.outcome(LISTED, 25) == 8025
    assert len(filtered.packets.elements(TABLE, set_name(BGP_SPAMD, 4, hosts=True))) == 30_001


def test_another_user_keeps_the_one_capability_and_loads_rules_with_it(filtered: Filtered) -> None:
    def alone() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; this one is alone
            child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        status = 1
        try:
            keep_net_admin("nobody")
            lines = Path("/proc/thread-self/status").read_text().splitlines()
            kept = {line.split()[1] for line in lines if line.startswith("Cap")}
            Libnftables().run(ruleset(SPAMD_MODE, KernelSettings(), Ports()))
            with Netfilter() as packets:
                packets.apply(
                    list(nft.add(TABLE, set_name(NOSPAMD, 4, hosts=True), 4, [nft.Range(7, 7)], hosts=True))
                )
            status = 0 if os.getuid() == 65534 and kept == {f"{1 << 12:016x}"} else 2
        finally:
            os._exit(status)

    assert filtered.wire.on_server(alone) == 0
    assert filtered.packets.table(TABLE) is not None


def test_the_kernel_says_what_is_wrong_and_nothing_of_a_refused_batch_is_done(filtered: Filtered) -> None:
    filtered.load()
    name = set_name(NOSPAMD, 4, hosts=True)
    both = [
        *nft.add(TABLE, name, 4, [nft.Range(7, 7)], hosts=True),
        *nft.delete(TABLE, name, 4, [nft.Range(8, 8)], hosts=True),
    ]
    with pytest.raises(NetlinkError, match="No such file or directory"):
        filtered.packets.apply(both)
    assert filtered.packets.elements(TABLE, name) == []
    with pytest.raises(NftablesError, match="syntax error"):
        filtered.wire.on_server(lambda: Libnftables().run("add nonsense"))
