"""Tables: PF's longest prefix, holes, exact entries, and the limit."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.clock import Instant
from gatepost.gate.prefix import number_of, parse_prefix
from gatepost.gate.table import BadEntry, Table, TableFull, Tables, parse_entry, parse_file


def _table(*texts: str) -> Table:
    return Table("t", [parse_entry(text, Instant(7)) for text in texts])


def _holds(table: Table, ip: str) -> bool:
    return table.holds(*number_of(ip))


def test_the_longest_prefix_decides_and_a_hole_is_outside() -> None:
    table = _table("10.0.0.0/8", "!10.1.0.0/16", "10.1.2.3")
    assert [_holds(table, ip) for ip in ("10.9.9.9", "10.1.9.9", "10.1.2.3", "11.0.0.1")] == [
        True,
        False,
        True,
        False,
    ]


def test_families_are_apart_and_mapped_addresses_are_ipv4() -> None:
    table = _table("::/0", "192.0.2.0/24")
    assert _holds(table, "2001:db8::1")
    assert _holds(table, "::ffff:192.0.2.1")
    assert not _holds(table, "198.51.100.1")
    assert parse_entry("::ffff:192.0.2.0/120").text == "192.0.2.0/24"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("192.0.2.1/32", "192.0.2.1"),
        ("192.0.2.9/24", "192.0.2.0/24"),
        ("10.2/16", "10.2.0.0/16"),
        ("10/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::1/128", "2001:db8::1"),
        ("!2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_an_entry_is_shown_as_pfctl_does(text: str, shown: str) -> None:
    assert parse_entry(text).text == shown


NO_ENTRIES = (
    *("", "!", "/8", "host.example", "192.0.2", "1.2.3.4.5/8", "192.0.2.1/33", "1.2.3.4/", "1.2.3.4/8/8"),
    *("1.2.3.4/+8", "::/129", "::ffff:1.2.3.4/90"),
)


@pytest.mark.parametrize("text", NO_ENTRIES)
def test_what_is_no_entry_is_refused(text: str) -> None:
    with pytest.raises(BadEntry):
        parse_entry(text)


@pytest.mark.row("PF-04")
def test_a_file_is_words_with_comments() -> None:
    entries = parse_file("# trusted\n192.0.2.1 192.0.2.2 # two\n\n!10.0.0.1\n")
    assert [entry.text for entry in entries] == ["192.0.2.1", "192.0.2.2", "10.0.0.1"]
    with pytest.raises(BadEntry, match="line 2"):
        parse_file("192.0.2.1\nnobody\n")


def test_entries_are_exact() -> None:
    table = _table("10.0.0.0/8")
    assert not table.delete(parse_prefix("10.0.0.0/9"))
    assert not table.add(parse_entry("!10.0.0.0/8"))
    assert table.delete(parse_prefix("10.0.0.0/8"))
    assert (len(table), list(table), _holds(table, "10.0.0.1")) == (0, [], False)


def test_iteration_gives_back_what_was_put() -> None:
    texts = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]
    assert [entry.text for entry in _table(*texts)] == texts
    assert all(entry.since == 7 for entry in _table(*texts, "!10.1.0.0/16"))


V4 = st.integers(0, (1 << 32) - 1).map(lambda n: str(ip_address(n)))
NETWORK = st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 32), st.booleans()).map(
    lambda each: ("!" if each[2] else "") + str(ip_network((each[0] >> (32 - each[1]) << (32 - each[1]), each[1])))
)


@settings(max_examples=150)
@given(st.lists(NETWORK, max_size=25), st.lists(V4, max_size=4))
def test_a_table_says_what_a_plain_search_says(texts: list[str], ips: list[str]) -> None:
    table = _table(*texts)
    first: dict[object, bool] = {}
    for text in texts:
        first.setdefault(ip_network(text.removeprefix("!")), text.startswith("!"))
    for ip in [*ips, *(str(ip_network(text.removeprefix("!")).network_address) for text in texts)]:
        nets = [(net.prefixlen, hole) for net, hole in first.items() if ip_address(ip) in net]  # type: ignore[operator,attr-defined]
        assert _holds(table, ip) == (bool(nets) and not max(nets)[1])


def test_a_table_of_many_lengths_says_the_same_before_and_after_a_change() -> None:
    texts = ["0.0.0.0/0", "!10.0.0.0/8", "10.1.0.0/16", "!10.1.1.0/24", "10.1.1.1", "255.255.255.255", "!0.0.0.0/5"]
    ips = [
        "10.0.0.0",
        "9.255.255.255",
        "10.1.0.1",
        "10.1.1.0",
        "10.1.1.1",
        "10.1.1.2",
        "255.255.255.255",
        "0.0.0.0",
    ]
    table = _table(*texts, "2001:db8::/32")
    whole = [_holds(table, ip) for ip in ips]
    assert whole == [False, True, True, False, True, False, True, False]
    table.add(parse_entry("192.0.2.1"))
    assert [_holds(table, ip) for ip in ips] == whole
    six = _table(*(f"2001:db8::/{length}" for length in range(32, 128, 8)), "!2001:db8::8/125")
    assert [_holds(six, ip) for ip in ("2001:db8::1", "2001:db8::9", "2001:db9::1")] == [True, False, False]


@pytest.mark.row("PF-05")
def test_the_limit_is_over_all_tables_and_keeps_the_old_content() -> None:
    tables = Tables(3, ["a", "b"])
    tables.replace(Table("a", [parse_entry("10.0.0.1"), parse_entry("10.0.0.2")]))
    with pytest.raises(TableFull):
        tables.replace(Table("b", [parse_entry("10.0.0.3"), parse_entry("10.0.0.4")]))
    assert tables.sizes() == {"a": 2, "b": 0}
    tables.replace(Table("b", [parse_entry("10.0.0.3")]))
    assert len(tables) == 3


def test_the_deciding_entry_is_counted() -> None:
    table = _table("10.0.0.0/8", "10.1.0.0/16")
    table.count(*number_of("10.1.1.1"), passed=True)
    table.count(*number_of("10.2.1.1"), passed=False)
    counts = table.take_counts()
    assert {prefix.text: tuple(pair) for prefix, pair in counts.items()} == {
        "10.0.0.0/8": (1, 0),
        "10.1.0.0/16": (0, 1),
    }
    assert table.take_counts() == {}
