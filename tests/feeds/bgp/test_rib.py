"""Routes and tables: who put a prefix there, and when it goes."""

from collections.abc import Sequence
from threading import Thread
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.feeds.bgp import rib
from gatepost.feeds.bgp.rib import Admission, Overflow, Routes, members, pack_keys
from gatepost.feeds.bgp.settings import BOGONS
from gatepost.feeds.bgp.table import FedTable
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import Prefix, parse_prefix
from tests.feeds.bgp.world import BAD, GOOD, hosts, key, keys, neighbor_filter, path, texts

OPEN = Admission({4: 8, 6: 16})


def routes(*rules: str, most: int = 1_000_000) -> Routes:
    return Routes(neighbor_filter(*rules), most)


def table(name: str, *every: Routes, admission: Admission = OPEN) -> list[str]:
    four, six = members(every, name, admission)
    return texts(4, four) + texts(6, six)


@pytest.mark.row("BG-06")
def test_a_withdrawn_prefix_leaves_the_table() -> None:
    one = routes()
    one.announce(4, keys("5.6.7.8", "5.6.7.9", "6.0.0.0/16"), path(GOOD))
    assert table("bgp_spamd_bypass", one) == ["5.6.7.8", "5.6.7.9", "6.0.0.0/16"]
    one.dirty.clear()
    one.withdraw(4, keys("5.6.7.9", "9.9.9.9"))
    assert one.dirty == {"bgp_spamd_bypass"}
    assert table("bgp_spamd_bypass", one) == ["5.6.7.8", "6.0.0.0/16"]


@pytest.mark.row("BG-06")
def test_another_community_moves_a_prefix_to_the_other_table() -> None:
    one = routes()
    one.announce(4, keys("5.6.7.8"), path(GOOD))
    one.dirty.clear()
    one.announce(4, keys("5.6.7.8"), path(BAD))
    assert one.dirty == {"bgp_spamd", "bgp_spamd_bypass"}
    assert table("bgp_spamd_bypass", one) == []
    assert table("bgp_spamd", one) == ["5.6.7.8"]
    one.dirty.clear()
    one.announce(4, keys("5.6.7.8"), path(1))
    assert one.dirty == {"bgp_spamd"}
    assert table("bgp_spamd", one) == []


@pytest.mark.row("BG-03")
def test_a_prefix_stays_until_the_last_of_two_route_servers_withdraws_it() -> None:
    one, two = routes(), routes()
    one.announce(4, keys("5.6.7.8"), path(BAD))
    two.announce(4, keys("5.6.7.8", "5.6.7.9"), path(BAD))
    assert table("bgp_spamd", one, two) == ["5.6.7.8", "5.6.7.9"]
    one.withdraw(4, keys("5.6.7.8"))
    assert table("bgp_spamd", one, two) == ["5.6.7.8", "5.6.7.9"]
    two.withdraw(4, keys("5.6.7.8"))
    assert table("bgp_spamd", one, two) == ["5.6.7.9"]


def test_the_same_again_changes_nothing() -> None:
    one = routes()
    one.announce(4, keys("5.6.7.8"), path(GOOD))
    one.dirty.clear()
    one.announce(4, keys("5.6.7.8"), path(GOOD))
    one.announce(4, keys("5.6.7.8"), path(GOOD, as_path=(65066, 1)))
    assert one.dirty == set()


@pytest.mark.row("BG-10")
def test_ipv6_prefixes_go_into_tables() -> None:
    one = routes()
    one.announce(6, keys("2001:67c::/32", "2a00::1/128"), path(BAD))
    one.announce(4, keys("5.6.7.8"), path(BAD))
    assert table("bgp_spamd", one) == ["5.6.7.8", "2001:67c::/32", "2a00::1"]
    one.withdraw(6, keys("2a00::1/128"))
    assert table("bgp_spamd", one) == ["5.6.7.8", "2001:67c::/32"]


@pytest.mark.row("BG-06")
def test_a_lost_session_takes_its_routes_along() -> None:
    one = routes()
    one.announce(4, keys("5.6.7.8"), path(BAD))
    one.dirty.clear()
    one.lost()
    one.bury()
    assert one.dirty == {"bgp_spamd"}
    assert table("bgp_spamd", one) == []
    assert one.count() == one.stale_count() == 0


@pytest.mark.row("BGP-09")
def test_stale_routes_count_until_end_of_rib() -> None:
    one = routes()
    one.announce(4, keys("5.6.7.8", "5.6.7.9"), path(BAD))
    one.announce(6, keys("2a00::1/128"), path(BAD))
    one.lost(keep=(4, 6))
    assert (one.count(), one.stale_count()) == (0, 3)
    assert table("bgp_spamd", one) == ["5.6.7.8", "5.6.7.9", "2a00::1"]
    one.announce(4, keys("5.6.7.8"), path(BAD))
    assert (one.count(), one.stale_count()) == (1, 2)
    one.end_of_rib(4)
    assert table("bgp_spamd", one) == ["5.6.7.8", "2a00::1"]
    one.end_of_rib(6)
    assert table("bgp_spamd", one) == ["5.6.7.8"]
    assert one.stale_count() == 0


@pytest.mark.row("BGP-09")
def test_what_was_stale_before_is_gone_when_the_session_is_lost_again() -> None:
    one = routes()
    one.announce(4, keys("5.6.7.8", "5.6.7.9"), path(BAD))
    one.lost(keep=(4, 6))
    one.announce(4, keys("5.6.7.8"), path(BAD))
    one.lost(keep=(4, 6))
    assert table("bgp_spamd", one) == ["5.6.7.8"]
    one.drop_stale()
    assert table("bgp_spamd", one) == []


@pytest.mark.row("BGP-09")
def test_only_the_families_that_restart_gracefully_are_kept() -> None:
    one = routes()
    one.announce(4, keys("5.6.7.8"), path(BAD))
    one.announce(6, keys("2a00::1/128"), path(BAD))
    one.lost(keep=(6,))
    assert table("bgp_spamd", one) == ["2a00::1"]


def test_a_stale_prefix_is_withdrawn_and_replaced_as_any_other() -> None:
    one = routes()
    one.announce(4, keys("5.6.7.8", "5.6.7.9"), path(BAD))
    one.lost(keep=(4, 6))
    one.dirty.clear()
    one.announce(4, keys("5.6.7.8"), path(GOOD))
    assert one.dirty == {"bgp_spamd", "bgp_spamd_bypass"}
    one.withdraw(4, keys("5.6.7.9"))
    assert table("bgp_spamd", one) == []
    assert table("bgp_spamd_bypass", one) == ["5.6.7.8"]


@pytest.mark.row("BGP-08")
def test_more_prefixes_than_allowed_end_the_session() -> None:
    one = routes(most=3)
    one.announce(4, hosts(3), path(BAD))
    one.announce(4, hosts(3), path(GOOD))
    with pytest.raises(Overflow, match="more than 3 prefixes"):
        one.announce(4, keys("9.9.9.9"), path(BAD))


@pytest.mark.row("BGP-08")
@pytest.mark.parametrize(
    "refused",
    [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "8.0.0.0/8",
        "198.41.0.7",
        "198.41.0.0/20",
        "10.1.2.3",
        "127.0.0.1",
        "224.1.1.1",
        "192.168.7.0/24",
        "::/0",
        "2000::/3",
        "fe80::1",
        "2a00::/31",
        "2001:db8::1",
        "2001:500::7",
        "2001:500::/32",
    ],
)
def test_a_default_route_a_bogon_a_half_of_the_world_and_we_ourselves_are_never_listed(refused: str) -> None:
    own = map(parse_prefix, ("198.41.0.7", "2001:500::7"))
    admission = Admission({4: 16, 6: 32}, map(parse_prefix, BOGONS), own)
    one = routes()
    prefix = parse_prefix(refused)
    one.announce(prefix.version, [key(refused)], path(BAD))
    one.announce(4, keys("5.6.0.0/16", "198.41.0.8", "9.255.255.255", "11.0.0.0/24"), path(BAD))
    one.announce(6, keys("2001:db7::/32", "2001:500::8/128"), path(BAD))
    assert table("bgp_spamd", one, admission=admission) == [
        "5.6.0.0/16",
        "9.255.255.255",
        "11.0.0.0/24",
        "198.41.0.8",
        "2001:500::8",
        "2001:db7::/32",
    ]
    assert admission.refusal(prefix.version, prefix.number << 8 | prefix.length)


prefixes = st.one_of(
    st.builds(
        lambda number, length: (4, number >> 32 - length << 32 - length << 8 | length),
        st.integers(0, (1 << 32) - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda number, length: (6, number >> 128 - length << 128 - length << 8 | length),
        st.integers(0, (1 << 128) - 1),
        st.integers(0, 128),
    ),
)


@given(st.lists(prefixes, max_size=40), st.lists(prefixes, max_size=4), st.integers(8, 32))
def test_admission_of_many_is_that_of_each(
    many: list[tuple[int, int]], refused: list[tuple[int, int]], shortest: int
) -> None:
    admission = Admission(
        {4: shortest, 6: shortest}, [Prefix(version, each & 0xFF, each >> 8) for version, each in refused]
    )
    for version in (4, 6):
        given_prefixes = sorted({each for family, each in many if family == version})
        wanted = [each for each in given_prefixes if not admission.refusal(version, each)]
        assert admission.admitted(version, given_prefixes) == wanted


@given(st.lists(prefixes, max_size=20))
def test_prefixes_of_an_update_are_read_as_numbers(many: list[tuple[int, int]]) -> None:
    for version, width in ((4, 32), (6, 128)):
        packed = [each for family, each in many if family == version]
        made = [
            bytes([each & 0xFF]) + (each >> 8).to_bytes(width // 8)[: ((each & 0xFF) + 7) // 8] for each in packed
        ]
        assert list(pack_keys(version, made)) == packed


steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["announce", "announce", "withdraw", "lose", "keep", "end", "drop"]),
        st.lists(st.integers(0, 9), max_size=4),
        st.sampled_from([GOOD, BAD, 7]),
    ),
    max_size=30,
)


@pytest.mark.parametrize("many", [1, 64])
@given(script=steps)
def test_tables_are_what_a_plain_model_says_and_every_change_is_told(
    many: int, script: list[tuple[int, str, list[int], int]]
) -> None:
    with patch.object(rib, "MANY", many):
        _follow(script)


def _follow(script: list[tuple[int, str, list[int], int]]) -> None:
    both = (routes(), routes())
    fed = {name: FedTable(name) for name in ("bgp_spamd", "bgp_spamd_bypass")}
    model: tuple[dict[int, int], dict[int, int]] = ({}, {})
    stale: tuple[dict[int, int], dict[int, int]] = ({}, {})
    names = {GOOD: "bgp_spamd_bypass", BAD: "bgp_spamd", 7: ""}

    def expected(name: str) -> list[str]:
        held = [one for place in (*model, *stale) for one, community in place.items() if names[community] == name]
        return [f"5.0.0.{each}" for each in sorted(set(held))]

    for who, step, numbers, community in script:
        before = {name: expected(name) for name in names.values() if name}
        one, live, old = both[who], model[who], stale[who]
        one.dirty.clear()
        match step:
            case "announce":
                one.announce(4, keys(*(f"5.0.0.{each}" for each in numbers)), path(community))
                for each in numbers:
                    live[each] = community
                    old.pop(each, None)
            case "withdraw":
                one.withdraw(4, keys(*(f"5.0.0.{each}" for each in numbers)))
                for each in numbers:
                    live.pop(each, None)
                    old.pop(each, None)
            case "lose" | "keep":
                one.lost(keep=(4, 6) if step == "keep" else ())
                old.clear()
                if step == "keep":
                    old.update(live)
                live.clear()
            case "end":
                one.end_of_rib(4)
                old.clear()
            case "drop":
                one.drop_stale()
                old.clear()
        one.bury()
        places, one.places = one.places, set()
        for name, was in before.items():
            assert table(name, *both) == expected(name)
            networks = fed[name].make(both, OPEN, places)
            assert [each.text for each in networks] == expected(name)
            assert name in one.dirty or was == expected(name)
        assert (one.count(), one.stale_count()) == (len(live), len(old))


@given(st.lists(prefixes, max_size=40), st.lists(prefixes, max_size=40), st.booleans())
def test_a_table_made_in_parts_is_the_one_made_in_a_piece(
    first: list[tuple[int, int]], then: list[tuple[int, int]], ends: bool
) -> None:
    one, other = routes(), routes()
    fed = FedTable("bgp_spamd")
    edges = [
        (4, 0xFFFFFF00 << 8 | 24),
        (4, 0x05FFFFFF << 8 | 32),
        (4, 0x06000000 << 8 | 8),
        (6, 0xFFFF << 120 | 16),
    ]
    for who, batch in ((one, first + (edges if ends else [])), (other, then), (one, [])):
        for version in (4, 6):
            packed = [each for family, each in batch if family == version and each & 0xFF >= 8]
            who.announce(version, [_key(version, each) for each in packed], path(BAD))
        if not batch:
            who.withdraw(4, [_key(4, each) for family, each in first[::2] if family == 4])
        places = one.places | other.places
        one.places.clear()
        other.places.clear()
        made = fed.make((one, other), OPEN, places)
        whole = Networks.packed(*members((one, other), "bgp_spamd", OPEN))
        assert made == whole
        assert list(made.ranges(4)) == list(whole.ranges(4))
        assert list(made.ranges(6)) == list(whole.ranges(6))
        assert made.pack() == whole.pack()


def _key(version: int, packed: int) -> bytes:
    octets = (packed >> 8).to_bytes(4 if version == 4 else 16)
    return bytes([packed & 0xFF]) + octets[: ((packed & 0xFF) + 7) // 8]


def test_other_rules_are_asked_about_what_is_there() -> None:
    one = routes()
    one.announce(4, keys("5.6.7.8", "6.6.7.8"), path(BAD))
    one.dirty.clear()
    other = neighbor_filter('match from any community 65066:666 prefix 5.0.0.0/8 or-longer set pftable "other"')
    for _ in one.filter_anew(other):
        pass
    assert one.dirty == {"bgp_spamd", "other"}
    assert table("bgp_spamd", one) == []
    assert table("other", one) == ["5.6.7.8"]


def test_a_thread_reads_while_the_loop_writes() -> None:
    one = routes()
    fixed, moving = hosts(2_000), hosts(2_000, 0x60000000)
    one.announce(4, fixed, path(BAD))
    sizes: list[int] = []

    def read() -> None:
        for _ in range(60):
            sizes.append(len(members((one,), "bgp_spamd", OPEN)[0]))

    reader = Thread(target=read)
    reader.start()
    while reader.is_alive():
        _write(one, moving)
    reader.join()
    assert all(2_000 <= size <= 4_000 for size in sizes)


def _write(one: Routes, moving: Sequence[bytes]) -> None:
    one.announce(4, moving, path(BAD))
    one.withdraw(4, moving)
