"""The gate in the kernel, without a kernel: what tables become, what is told of a change, the ruleset's words."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.aio import libnftables
from gatepost.base.clock import Instant, later, seconds
from gatepost.codec import nft
from gatepost.config import ConfigError, parse
from gatepost.db.unit import Database, Unit
from gatepost.gate import verbs
from gatepost.gate.decide import BRUTEFORCE, GREYTRAP, NOSPAMD, SPAMD, WHITE
from gatepost.gate.kernel.helper import BAN_NOTE, KernelGate, Policy
from gatepost.gate.kernel.mirror import NEVER, Content, Member, Mirror, Span, base_of, flatten, split
from gatepost.gate.kernel.rules import LISTS, MADE, TABLE, Ports, ruleset, set_name
from gatepost.gate.kernel.settings import KernelMode, KernelSettings, Refusal
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import Prefix, number_of, parse_prefix
from gatepost.gate.settings import GateSettings, Ipv6, Mode, RateSettings
from gatepost.gate.sql import SCHEMA
from gatepost.gate.steps import entry_step, part_steps, table_news
from gatepost.gate.table import Entry, Table
from tests.gate.world import Journal
from tests.support.databases import open_sqlite
from tests.support.loop import run
from tests.support.wire import START, MovedClock

ENOENT = 2
PATIENCE = 10.0  # s
DAY = seconds(86_400)


class Refused(OSError):
    """What the kernel says no with."""


class FakeKernel:
    """Sets as the kernel keeps them: what is not there cannot be deleted, a batch counts whole or not at all."""

    def __init__(self) -> None:
        self.sets: dict[str, list[nft.Element]] = {}
        self.batches: list[int] = []
        self.loads: list[str] = []
        self.cuts: list[str] = []
        self.handle: int | None = None
        self.refuse = 0
        self.changed = asyncio.Event()

    def apply(self, changes: Sequence[nft.Change]) -> None:
        """Take a batch."""
        if self.refuse:
            self.refuse -= 1
            raise Refused(ENOENT, "refused")
        sets = {name: list(found) for name, found in self.sets.items()}
        for kind, flags, body in changes:
            name = body.split(b"\0\x02\0", 1)[1].split(b"\0", 1)[0].decode()
            told = list(nft.elements(nft.Message(kind, flags, 0, body)))
            held = sets.setdefault(name, [])
            if kind & 0xFF == 12:
                held += [each for each in told if each not in held]
            elif not told:
                held.clear()
            else:
                for each in told:
                    if each not in held:
                        raise Refused(ENOENT, f"{each} is not in {name}")
                    held.remove(each)
        self.sets = sets
        self.batches.append(len(changes))
        self.changed.set()

    def run(self, text: str, *, dry: bool = False) -> str:
        """Load a ruleset."""
        self.loads.append(text)
        self.handle = len(self.loads)
        self.changed.set()
        return ""

    def table(self, name: str) -> int | None:
        """Return the table's handle."""
        assert name == TABLE
        return self.handle

    def elements(self, table: str, name: str) -> list[nft.Element]:
        """Return a set's elements."""
        return list(self.sets.get(name, ()))

    def cut(self, version: int, first: int, last: int) -> int:
        """Remember whose connections were cut."""
        self.cuts.append(Prefix(version, 32 if version == 4 else 128, first).text)
        return 1

    def holds(self, table: str, ip: str) -> bool:
        """Tell whether an address is in one of a table's sets."""
        version, number = number_of(ip)
        hosts = self.sets.get(set_name(table, version, hosts=True), ())
        nets = nft.ranges(self.sets.get(set_name(table, version, hosts=False), ()), version)
        return any(each.key == number for each in hosts) or any(each.first <= number <= each.last for each in nets)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that a batch brings."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


# --- flattening -----------------------------------------------------------------------------------------------


def prefixes(version: int) -> st.SearchStrategy[Prefix]:
    """Networks in the last five bits of the address space, where they overlap much."""
    width = 32 if version == 4 else 128
    top = ((1 << width) - 1) >> 5 << 5
    return st.builds(
        lambda length, low: Prefix(version, width - length, (top | low) >> length << length),
        st.integers(0, 6),
        st.integers(0, 31),
    )


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data())
def test_the_kernel_holds_exactly_what_the_table_holds(version: int, data: st.DataObject) -> None:
    some = prefixes(version)
    own = data.draw(st.dictionaries(some, st.booleans(), max_size=8))
    feeds = [Networks.of(each) for each in data.draw(st.lists(st.lists(some, max_size=5), max_size=2))]
    table = Table(
        "t", [Entry(each, hole) for each, hole in own.items()], {str(at): f for at, f in enumerate(feeds)}
    )
    members = [Member(network, hole) for network, hole in own.items()]
    spans = flatten(members, [feed.ranges(version) for feed in feeds], version)
    assert all(one.last < other.first for one, other in pairwise(spans))
    width = 32 if version == 4 else 128
    for number in range((1 << width) - 70, 1 << width):
        assert any(span.first <= number <= span.last for span in spans) is table.holds(version, number)


def ends(spans: Sequence[Span], ip: str) -> Instant | None:
    """Return until when an address is held."""
    number = number_of(ip)[1]
    return next((span.until for span in spans if span.first <= number <= span.last), None)


def test_an_address_stays_until_the_last_entry_that_holds_it_ends() -> None:
    early, late = Instant(1_000_000), Instant(2_000_000)
    spans = flatten(
        [
            Member(parse_prefix("192.0.2.0/24"), until=early),
            Member(parse_prefix("192.0.2.7"), until=late),
            Member(parse_prefix("192.0.2.8/29"), negated=True),
            Member(parse_prefix("192.0.2.9"), until=early),
        ],
        [[(number_of("192.0.2.200")[1], number_of("192.0.3.3")[1])]],
        4,
    )
    assert [ends(spans, f"192.0.2.{last}") for last in (1, 7, 8, 9, 200)] == [early, late, None, early, NEVER]
    assert ends(spans, "192.0.3.3") == NEVER


def test_few_addresses_side_by_side_go_in_as_hosts() -> None:
    hosts, nets = split([Span(1, 1), Span(5, 12), Span(20, 28)])
    assert [span.first for span in hosts] == [1, *range(5, 13)]
    assert nets == [Span(20, 28)]


# --- what is told ---------------------------------------------------------------------------------------------


def contents(*texts: str) -> Content:
    """What a table holds of networks."""
    members = [Member(parse_prefix(each)) for each in texts]
    return Content(flatten(members, (), 4), flatten(members, (), 6))


@given(st.lists(st.lists(prefixes(4) | prefixes(6), max_size=6), min_size=1, max_size=5))
def test_after_every_change_the_kernel_holds_the_table(steps: list[list[Prefix]]) -> None:
    kernel = FakeKernel()
    mirror = Mirror(kernel)
    for networks in steps:
        mirror.give(SPAMD, contents(*(each.text for each in networks)), START)
        for version in (4, 6):
            hosts, nets = split(contents(*(each.text for each in networks)).of(version))
            assert {each.key for each in kernel.sets[set_name(SPAMD, version, hosts=True)]} == {
                s.first for s in hosts
            }
            found = nft.ranges(kernel.sets[set_name(SPAMD, version, hosts=False)], version)
            assert [(each.first, each.last) for each in found] == [(span.first, span.last) for span in nets]


def test_one_address_more_is_one_message() -> None:
    kernel = FakeKernel()
    mirror = Mirror(kernel)
    many = [f"198.{at // 100}.{at % 100}.0/25" for at in range(2_000)]
    mirror.give(SPAMD, contents(*many), START)
    assert mirror.give(SPAMD, contents(*many, "203.0.113.7"), START) == 1
    assert kernel.holds(SPAMD, "203.0.113.7")
    assert mirror.give(SPAMD, contents(*many, "203.0.113.7"), START) == 0


@given(st.lists(st.tuples(st.booleans(), st.lists(prefixes(4), max_size=4)), min_size=1, max_size=6))
def test_hosts_beside_a_feed_are_compared_alone_and_yet_the_kernel_holds_both(
    steps: list[tuple[bool, list[Prefix]]],
) -> None:
    kernel = FakeKernel()
    mirror = Mirror(kernel)
    base = base_of([])
    for fresh, own in steps:
        if fresh:
            fed = own
            base = base_of([Networks.of(fed)])
        members = [Member(Prefix(4, 32, each.number)) for each in own]
        content = Content(flatten(members, (), 4), base=base)
        if not content.few():
            continue
        mirror.give(SPAMD, content, START)
        hosts = {each.key for each in kernel.sets[set_name(SPAMD, 4, hosts=True)]}
        spans = {span.first << 32 | span.last for span in split(content.four)[0]}
        assert {key << 32 | key for key in hosts} == base.of(4, hosts=True) | spans
        nets = nft.ranges(kernel.sets[set_name(SPAMD, 4, hosts=False)], 4)
        assert {each.first << 32 | each.last for each in nets} == base.of(4, hosts=False)


def test_what_the_kernel_refuses_is_filled_anew() -> None:
    kernel = FakeKernel()
    mirror = Mirror(kernel)
    mirror.give(SPAMD, contents("192.0.2.1", "198.51.100.0/24"), START)
    kernel.sets[set_name(SPAMD, 4, hosts=True)].clear()  # somebody else did that
    mirror.give(SPAMD, contents("203.0.113.9"), START)
    assert [kernel.holds(SPAMD, each) for each in ("203.0.113.9", "192.0.2.1", "198.51.100.3")] == [
        True,
        False,
        False,
    ]


def test_a_ban_that_ended_in_the_kernel_is_not_deleted_there() -> None:
    kernel = FakeKernel()
    mirror = Mirror(kernel)
    spans = [Span(7, 7, later(START, seconds(60))), Span(9, 9, later(START, DAY))]
    mirror.give(BRUTEFORCE, Content(spans), START)
    name = set_name(BRUTEFORCE, 4, hosts=True)
    kernel.sets[name] = [each for each in kernel.sets[name] if each.key != 7]
    batches = len(kernel.batches)
    mirror.give(BRUTEFORCE, Content(spans[1:]), later(START, seconds(61)))
    mirror.give(BRUTEFORCE, Content(spans), later(START, seconds(61)))
    assert {each.key for each in kernel.sets[name]} == {9}
    assert kernel.batches[batches:] == [0, 0]


# --- the ruleset ----------------------------------------------------------------------------------------------


def rules(
    gate: GateSettings | None = None, kernel: KernelSettings | None = None, ports: Ports | None = None
) -> dict[str, list[str]]:
    """Return the ruleset's rules by chain."""
    text = ruleset(gate or GateSettings(mode=Mode.SPAMD), kernel or KernelSettings(), ports or Ports())
    found: dict[str, list[str]] = {}
    chain = ""
    for line in text.splitlines():
        if line.startswith("\tchain "):
            chain = line.split()[1]
        elif line.startswith("\t\t"):
            found.setdefault(chain, []).append(line.strip())
    return found


def test_only_spamd_mode_redirects_who_is_unknown() -> None:
    unknown = 'meta nfproto ipv4 tcp dport { 25 } counter redirect to :8025 comment "rdr-to spamd from any to smtp"'
    assert rules()["arriving"][-1] == unknown
    assert unknown not in rules(GateSettings(mode=Mode.FRIENDLY))["arriving"]
    assert unknown not in rules(GateSettings(mode=Mode.SPAMD, greylist=False))["arriving"]


def test_unknown_ipv6_is_let_through_redirected_or_refused() -> None:
    redirected = [each for each in rules()["arriving"] if each.startswith("meta nfproto ipv6")]
    assert not redirected  # spamd mode: the author's intent
    grey = rules(GateSettings(mode=Mode.SPAMD, ipv6=Ipv6.GREYLIST))
    assert grey["arriving"][-1].startswith("meta nfproto ipv6 tcp dport { 25 } counter redirect")
    block = rules(GateSettings(mode=Mode.SPAMD, ipv6=Ipv6.BLOCK))
    assert block["incoming"][-1].startswith("meta nfproto ipv6 tcp dport { 25 } reject with tcp reset")


def test_white_stands_before_the_lists_and_only_on_port_25() -> None:
    arriving = rules()["arriving"]
    white = [at for at, each in enumerate(arriving) if "accept" in each and "spamd-white" in each]
    black = [at for at, each in enumerate(arriving) if "@bgp_spamd-" in each]
    assert max(white) < min(black)
    assert all("tcp dport { 25 } " in arriving[at] for at in white)
    assert all("tcp dport { 25, 465, 587 } " in arriving[at] for at in black)


def test_what_is_established_is_let_through_before_anything_is_refused() -> None:
    everything = rules(kernel=KernelSettings(block_rest=True, banned=Refusal.RESET, limits=True, urpf=True))
    incoming = everything["incoming"]
    first = next(at for at, each in enumerate(incoming) if "reject" in each or "drop" in each)
    assert incoming.index("ct state established,related accept") < first
    assert incoming[1] == 'iifname "lo" accept comment "set skip on lo"'
    assert any(each.startswith("tcp dport { 22, 25, 465, 587, 8025 } accept") for each in incoming)


def test_limits_count_what_their_listener_has_and_ban_only_into_bruteforce() -> None:
    rates = {"submission": RateSettings(50, 25), "imap": RateSettings(5, 0, overload="elsewhere")}
    gate = GateSettings(mode=Mode.SPAMD, rates=rates)
    ports = Ports(rated=(("submission", (587,)), ("imap", (143,))))
    found = rules(gate, KernelSettings(limits=True), ports)
    assert [name for name in found if name.startswith("meter-")] == ["meter-submission"]
    assert len(found["meter-submission"]) == 2
    assert "limit rate over 300/minute burst 25 packets" in found["meter-submission"][0]
    assert not [name for name in rules(gate, KernelSettings(), ports) if name.startswith("meter-")]


def test_a_missing_library_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables, "_LIBRARY", "libnftables.so.999")
    with pytest.raises(libnftables.NftablesError, match="install libnftables1"):
        libnftables.Libnftables()


def test_without_a_listener_where_the_kernel_redirects_to_the_configuration_is_refused() -> None:
    text = '[gate.kernel]\nmode = "nftables"\n'
    with pytest.raises(ConfigError, match=r"gatepost.toml:1: gate.kernel.port: no listener has port 8025 \(add"):
        parse(text, Path("gatepost.toml"))
    parse(text + '[listen.gate]\nkind = "mx"\naddress = ["0.0.0.0:8025"]\n', Path("gatepost.toml"))


@pytest.mark.parametrize("wrong", [{"port": 0}, {"open": (70_000,)}, {"devices": ('eth0" accept',)}])
def test_settings_that_no_ruleset_could_say_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"is not a port|no name of an interface"):
        KernelSettings(**wrong)  # type: ignore[arg-type]  # as a file gives them


# --- the process's work ---------------------------------------------------------------------------------------


class Scene:
    """A gate in a kernel that is none, over a real database."""

    def __init__(self, database: Database, kernel: KernelSettings) -> None:
        self.database = database
        self.kernel = FakeKernel()
        self.clock = MovedClock()
        self.journal = Journal()
        policy = Policy(GateSettings(mode=Mode.SPAMD, backups=("192.0.2.99",)), kernel, Ports())
        self.gate = KernelGate(policy, database, self.kernel, self.kernel, self.clock, self.journal)

    async def add(self, table: str, *texts: str) -> None:
        """Add entries as the command line does."""
        await verbs.add_entries(self.database, table, texts, self.clock.now())

    async def feed(self, table: str, *texts: str, message: str | None = None) -> None:
        """Give a table what a feed gives it."""
        networks = Networks.of(map(parse_prefix, texts))
        self.clock.move(1)
        steps = part_steps(table, "feed", networks, networks.pack(), message, self.clock.now())
        await self.database.commit(Unit(tuple(steps), (table_news(table),)))


@asynccontextmanager
async def scene(kernel: KernelSettings | None = None) -> AsyncIterator[Scene]:
    """A kernel gate that runs."""
    async with open_sqlite((SCHEMA,)) as database:
        here = Scene(database, kernel or KernelSettings(KernelMode.NFTABLES))
        ready = asyncio.Event()
        task = asyncio.ensure_future(here.gate.run(ready.set))
        try:
            async with asyncio.timeout(PATIENCE):
                await ready.wait()
            yield here
        finally:
            task.cancel()
            await asyncio.wait([task])


def play(scene_of: Callable[[Scene], Awaitable[None]], kernel: KernelSettings | None = None) -> None:
    """Run a scene."""

    async def whole() -> None:
        async with scene(kernel) as here:
            await scene_of(here)

    run(whole())


def test_verbs_feeds_lists_and_the_greylist_reach_the_kernel() -> None:
    async def act(here: Scene) -> None:
        kernel = here.kernel
        assert kernel.holds(NOSPAMD, "192.0.2.99")  # our backups
        await here.add(SPAMD, "192.0.2.0/24", "!192.0.2.9", "2001:db8::/32")
        await kernel.until(lambda: kernel.holds(SPAMD, "192.0.2.8"))
        assert not kernel.holds(SPAMD, "192.0.2.9")
        assert kernel.holds(SPAMD, "2001:db8::1")
        await verbs.delete_entries(here.database, SPAMD, ["192.0.2.0/24"])
        await kernel.until(lambda: not kernel.holds(SPAMD, "192.0.2.8"))
        await here.feed("bgp_spamd", "203.0.113.0/24", "198.51.100.7")
        await kernel.until(lambda: kernel.holds("bgp_spamd", "198.51.100.7"))
        await here.add("bgp_spamd", "203.0.113.9", "192.0.2.200")
        await kernel.until(lambda: kernel.holds("bgp_spamd", "192.0.2.200"))
        await here.add("bgp_spamd", "!203.0.113.9/31")
        await kernel.until(lambda: not kernel.holds("bgp_spamd", "203.0.113.8"))
        assert kernel.holds("bgp_spamd", "203.0.113.9")
        await here.feed("bgp_spamd", "203.0.113.0/24")
        await kernel.until(lambda: not kernel.holds("bgp_spamd", "198.51.100.7"))
        await here.feed("uatraps", "198.51.100.8", message="You are on a list\\n")
        await kernel.until(lambda: kernel.holds(LISTS, "198.51.100.8"))
        await verbs.add_white(here.database, ["192.0.2.77"], here.clock.now(), GateSettings())
        await verbs.add_trapped(here.database, ["192.0.2.78"], here.clock.now(), GateSettings())
        await kernel.until(lambda: kernel.holds(WHITE, "192.0.2.77") and kernel.holds(GREYTRAP, "192.0.2.78"))
        assert not here.journal.failures()

    play(act)


def test_who_a_limit_bans_is_cut_and_whom_an_operator_adds_is_not() -> None:
    async def act(here: Scene) -> None:
        await here.add(BRUTEFORCE, "192.0.2.5")
        await here.kernel.until(lambda: here.kernel.holds(BRUTEFORCE, "192.0.2.5"))
        entry = Entry(parse_prefix("192.0.2.6"), since=here.clock.now(), note="imap: too many")
        await here.database.commit(Unit((entry_step(BRUTEFORCE, entry),), (table_news(BRUTEFORCE),)))
        await here.kernel.until(lambda: here.kernel.holds(BRUTEFORCE, "192.0.2.6"))
        assert here.kernel.cuts == ["192.0.2.6"]

    play(act)


def test_whom_the_kernel_banned_comes_into_the_table_and_leaves_with_its_entry() -> None:
    async def act(here: Scene) -> None:
        made, number = f"{MADE}4", number_of("198.51.100.66")[1]
        here.kernel.sets[made] = [nft.Element(number, False, 86_400_000)]
        await here.gate.look()
        (entry,) = await verbs.show_table(here.database, BRUTEFORCE)
        assert (entry.text, entry.note) == ("198.51.100.66", BAN_NOTE)
        await here.gate.look()
        await here.kernel.until(lambda: here.kernel.holds(BRUTEFORCE, "198.51.100.66"))
        here.kernel.sets[made] = [nft.Element(number, False, 0)]  # the fake compares whole elements
        await verbs.delete_entries(here.database, BRUTEFORCE, ["198.51.100.66"])
        await here.kernel.until(lambda: not here.kernel.sets[made])

    play(act, KernelSettings(KernelMode.NFTABLES, limits=True))


def test_a_table_that_somebody_took_away_is_loaded_and_filled_again() -> None:
    async def act(here: Scene) -> None:
        await here.add(SPAMD, "192.0.2.8")
        await here.kernel.until(lambda: here.kernel.holds(SPAMD, "192.0.2.8"))
        here.kernel.handle, here.kernel.sets = None, {}  # nft flush ruleset
        await here.kernel.until(lambda: here.kernel.holds(SPAMD, "192.0.2.8"))
        assert len(here.kernel.loads) == 2

    play(act)


def test_a_kernel_that_refuses_is_told_everything_again() -> None:
    async def act(here: Scene) -> None:
        here.kernel.refuse = 2  # the change, and filling the table anew
        await here.add(SPAMD, "192.0.2.8")
        await here.kernel.until(lambda: here.kernel.holds(SPAMD, "192.0.2.8"))
        assert [event for event, _ in here.journal.failures()] == ["kernel_gate_failed"]

    play(act)


def test_switched_off_it_takes_its_rules_away_and_back_on_it_loads_them() -> None:
    async def act(here: Scene) -> None:
        policy = Policy(GateSettings(), KernelSettings(KernelMode.OFF), Ports())
        here.gate.renew(policy)
        await here.kernel.until(lambda: len(here.kernel.loads) == 2)
        assert here.kernel.loads[-1] == f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
        await here.add(SPAMD, "192.0.2.8")
        here.gate.renew(Policy(GateSettings(), KernelSettings(KernelMode.NFTABLES), Ports()))
        await here.kernel.until(lambda: here.kernel.holds(SPAMD, "192.0.2.8"))

    play(act)
