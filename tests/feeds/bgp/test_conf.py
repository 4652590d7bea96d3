"""bgpd.conf: the article's as it is, every statement of its manual, and mistakes with line and remedy."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.base.units import Seconds
from gatepost.feeds.bgp.conf import BgpdConf, parse, parse_filter, read
from gatepost.feeds.bgp.filter import (
    Action,
    As,
    AsPart,
    AsTest,
    Community,
    ExtendedCommunity,
    Group,
    LargeCommunity,
    Lengths,
    Named,
    Peers,
    Rule,
    Within,
)
from gatepost.feeds.bgp.rules import rule_text
from gatepost.feeds.bgp.words import BgpdConfError
from gatepost.gate.prefix import cut, parse_prefix

ARTICLE = """\
# $OpenBSD: bgpd.conf,v 1.1 2014/07/11 17:10:30 henning Exp $
# sample bgpd configuration file
# see bgpd.conf(5)

#macros
spam_rs1="64.142.121.62"    # rs.bgp-spamd.net
spam_rs2="217.31.80.170"    # eu.bgp-spamd.net
spamASN="65066"

AS 65500
fib-update no               # mandatory, to not update
                            # the local routing table

group "spam-bgp" {
    remote-as $spamASN
    multihop 64
    announce none           # Do not send any route updates
    neighbor $spam_rs1
    neighbor $spam_rs2
}

# 'match' is required, to remove entries when routes are withdrawn
match from group "spam-bgp" community $spamASN:42 set pftable "bgp_spamd_bypass"
match from group "spam-bgp" community $spamASN:666 set pftable "bgp_spamd"
"""
"""The bgpd.conf of the article, letter by letter."""


def conf(text: str) -> BgpdConf:
    return parse(text, Path("bgpd.conf"))


def rule(text: str) -> Rule:
    return parse_filter(text, Path("filters"), "filters:1")


@pytest.mark.row("BG-01", "BG-02")
def test_the_articles_configuration_is_read_as_it_is() -> None:
    found = conf(ARTICLE)
    assert found.asn == 65500
    assert [each.address for each in found.neighbors] == ["64.142.121.62", "217.31.80.170"]
    for each in found.neighbors:
        assert (each.remote_as, each.multihop, each.group) == (65066, 64, "spam-bgp")
    assert [(each.action, each.table, each.communities) for each in found.rules] == [
        (Action.MATCH, "bgp_spamd_bypass", (Community(65066, 42),)),
        (Action.MATCH, "bgp_spamd", (Community(65066, 666),)),
    ]
    assert [each.where for each in found.rules] == ["bgpd.conf:23", "bgpd.conf:24"]
    assert found.remarks == []


@pytest.mark.row("BG-11")
def test_a_third_match_of_another_community_is_read() -> None:
    found = conf(ARTICLE + 'match from group "spam-bgp" community 65055:42 set pftable "bgp_spamd_bypass"\n')
    assert found.rules[2].communities == (Community(65055, 42),)


def test_everything_of_a_neighbor_is_read() -> None:
    found = conf(
        """
AS 1.10
router-id 192.0.2.1
holdtime 30
holdtime min 9
listen on 192.0.2.1
listen on 2001:db8::1 port 1179
neighbor 192.0.2.7 {
    remote-as 4200000001
    descr "the first"
    local-address 192.0.2.1
    max-prefix 1000 restart 5
    enforce neighbor-as no
    passive
    down "not yet"
    tcp md5sig key 6d656b6d
    ttl-security yes
    port 1179
    holdtime 12
    announce IPv4 none
    announce IPv6 unicast
}
neighbor 2001:db8::7 { remote-as 65066
    tcp md5sig password mekmitasdigoat }
"""
    )
    assert (found.asn, found.router_id, found.holdtime, found.holdtime_min) == (
        65546,
        "192.0.2.1",
        Seconds(30),
        Seconds(9),
    )
    assert found.listen == ["192.0.2.1", "[2001:db8::1]:1179"]
    one, two = found.neighbors
    assert (one.remote_as, one.description, one.local_address) == (4200000001, "the first", "192.0.2.1")
    assert (one.max_prefix, one.max_prefix_restart, one.enforce_neighbor_as) == (1000, Seconds(300), False)
    assert (one.passive, one.down, one.ttl_security, one.port, one.holdtime) == (
        True,
        True,
        True,
        1179,
        Seconds(12),
    )
    assert (one.ipv4, one.ipv6, one.key) == (False, True, b"mekm")
    assert (two.address, two.key) == ("2001:db8::7", b"mekmitasdigoat")


def test_what_means_nothing_here_is_left_out_and_listed() -> None:
    found = conf(
        """AS 65500
network 192.0.2.0/24 set { localpref 300,
    med 4 }
log updates
dump all in "/tmp/all" 300
neighbor 192.0.2.7 { remote-as 65066; announce self
}
""".replace(";", "\n")
        + 'deny to any\nmatch from any community 1:2 set { localpref 50, pftable "x" }\n'
    )
    assert [each.text for each in found.remarks] == [
        "bgpd.conf:2: left out: network 192.0.2.0/24 set { localpref 300 , med 4 } (nothing is ever announced)",
        "bgpd.conf:4: left out: log updates (changes of sessions are always logged)",
        'bgpd.conf:5: left out: dump all in "/tmp/all" 300 (write no MRT files)',
        "bgpd.conf:7: left out: announce self (nothing is ever announced)",
        "bgpd.conf:9: left out: deny to any (nothing is ever announced)",
        "bgpd.conf:10: left out: set localpref 50 (it does not matter for tables)",
    ]
    assert found.rules[0].table == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AS 65500\nfib-update yes\n", "bgpd.conf:2: fib-update yes is not possible"),
        ("AS zero\n", "bgpd.conf:1: 'zero' is no AS number"),
        ("AS 4294967296\n", "bgpd.conf:1: '4294967296' is no AS number"),
        (
            "\n\nneigbor 192.0.2.7\n",
            "bgpd.conf:3: 'neigbor' is no statement of bgpd.conf (did you mean 'neighbor'?)",
        ),
        ("neighbor 192.0.2.7\n", "bgpd.conf:1: neighbor 192.0.2.7 has no remote-as"),
        ("neighbor $rs { remote-as 1 }\n", "bgpd.conf:1: macro 'rs' is not defined"),
        ("neighbor 10.0.0.0/8 { remote-as 1 }\n", "is a template for a network"),
        ('group "a" {\n remote-as 1\n', "bgpd.conf:1: the braces of group 'a' are not closed"),
        ('group "a" {\n remote-as 1\n}\n', "group 'a' has no neighbor"),
        ("neighbor 192.0.2.7 {\n remote-as 1\n multihop 256\n}\n", "bgpd.conf:3: multihop is '256'"),
        ("neighbor 192.0.2.7 {\n remote-as 23456\n}\n", "23456 is no usable AS number"),
        ("neighbor 192.0.2.7 {\n remote-as 1\n ipsec ah ike\n}\n", "bgpd.conf:3: ipsec is not possible here"),
        ("holdtime 2\n", "a hold time is 0, or between 3 and 65535 s"),
        ('match from any comunity 1:2 set pftable "x"\n', "the condition 'comunity' is not understood here"),
        ('match from any community 1 set pftable "x"\n', "bgpd.conf:1: '1' is no community"),
        ("match from any community 1:70000\n", "'70000' is no part of a community"),
        ('match from any set pftable "a b"\n', "'a b' is no name of a table"),
        ("match community 1:2\n", "the rule names no neighbours"),
        ("match from somebody\n", "'somebody' is no neighbour"),
        ("match from any prefix 10.0.0.0\n", "'10.0.0.0' is no prefix"),
        ("match from any set community 1:2\n", "set community is not possible"),
        ('a="$b"\nb="$a"\nAS $a\n', "macro"),
        ('AS "65500\n', "the quotation has no closing"),
        ("AS 65500 65501 65502\n", "bgpd.conf:1: '65502' is not understood here"),
        ("AS 1 \\ 2\n", "is out of place"),
    ],
)
def test_a_mistake_names_its_line_and_remedy(text: str, message: str) -> None:
    with pytest.raises(BgpdConfError) as wrong:
        conf(text)
    assert message in str(wrong.value)


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(BgpdConfError, match="there is no such file"):
        read(tmp_path / "bgpd.conf")
    (tmp_path / "bgpd.conf").write_bytes(b"\xff\xfe")
    with pytest.raises(BgpdConfError, match="cannot be read"):
        read(tmp_path / "bgpd.conf")


def test_files_that_include_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bgpd.conf").write_text('AS 65500\ninclude "bgpd.conf"\n')
    with pytest.raises(BgpdConfError, match="too deeply"):
        read(tmp_path / "bgpd.conf")


def test_an_included_file_knows_the_macros_above_it(tmp_path: Path) -> None:
    (tmp_path / "bgpd.conf").write_text('asn="65066"\ninclude "more.conf"\n')
    (tmp_path / "more.conf").write_text("neighbor 192.0.2.7 { remote-as $asn }\n")
    assert read(tmp_path / "bgpd.conf").neighbors[0].remote_as == 65066


def test_macros_that_grow_without_end_are_refused() -> None:
    text = 'a0="' + "x " * 10_000 + '"\n' + "".join(f"a{n} = $a{n - 1} $a{n - 1}\n" for n in range(1, 20))
    with pytest.raises(BgpdConfError, match="macros grow without end"):
        conf(text)


def test_rules_are_read_with_all_their_conditions() -> None:
    found = conf(
        """
prefix-set "mine" { 192.0.2.0/24, 10.0.0.0/8 or-longer }
as-set "theirs" { 1 2, 3 }
good="{ 192.0.2.0/24, 198.51.100.0/24 prefixlen 26-28 }"
allow quick from { group "a", 192.0.2.7, AS 65066, ibgp } prefix { $good 203.0.113.0/24 prefixlen > 30 } \\
    { AS { 1, 2 }, source-as 3 } community *:42 community neighbor-as:666 large-community 1:2:* \\
    ext-community rt 65066:42 set { pftable "x" }
deny from any prefix-set "mine" transit-as as-set "theirs"
match from any inet prefixlen >= 24 max-as-len 8 community BLACKHOLE
"""
    )
    one, two, three = found.rules
    assert one.quick
    assert one.sources == (Group("a"), "192.0.2.7", As(65066), Peers.IBGP)
    assert one.within == (
        Within(parse_prefix("192.0.2.0/24"), Lengths(24, 24)),
        Within(parse_prefix("198.51.100.0/24"), Lengths(26, 28)),
        Within(parse_prefix("203.0.113.0/24"), Lengths(31, 32)),
    )
    assert one.as_tests == (AsTest(AsPart.ANY, 1), AsTest(AsPart.ANY, 2), AsTest(AsPart.SOURCE, 3))
    assert one.communities == (Community(Named.ANY, 42), Community(Named.NEIGHBOR_AS, 666))
    assert one.large == (LargeCommunity((1, 2, Named.ANY)),)
    assert one.extended == (ExtendedCommunity(0x0002_FE2A_0000_002A, (1 << 64) - 1),)
    assert [each.lengths for each in two.within] == [Lengths(24, 24), Lengths(8, 32)]
    assert [each.number for each in two.as_tests] == [1, 2, 3]
    assert (three.within[0].lengths, three.longest) == (Lengths(24, 32), 8)
    assert three.communities == (Community(65535, 666),)


numbers = st.integers(1, 65_535)
parts = st.one_of(numbers, st.sampled_from(Named))
withins = st.builds(
    lambda number, length, more: Within(
        cut(4, number, length),
        Lengths(length, min(32, length + more)) if more < 40 else Lengths(3, 9, outside=True),
    ),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 32),
    st.integers(0, 50),
)
rules = st.builds(
    Rule,
    action=st.sampled_from(Action),
    sources=st.lists(
        st.one_of(
            st.sampled_from(Peers), st.just("192.0.2.7"), st.builds(As, numbers), st.builds(Group, st.just("a b"))
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    quick=st.booleans(),
    within=st.lists(withins, max_size=3).map(tuple),
    as_tests=st.lists(
        st.builds(
            AsTest,
            st.sampled_from(AsPart),
            numbers,
            st.one_of(st.none(), st.just(70_000)),
            st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    longest=st.one_of(st.none(), st.integers(0, 255)),
    communities=st.lists(st.builds(Community, parts, parts), max_size=2).map(tuple),
    large=st.lists(st.builds(LargeCommunity, st.tuples(parts, parts, parts)), max_size=2).map(tuple),
    table=st.sampled_from(["", "bgp_spamd"]),
    where=st.just("filters:1"),
)


@given(rules)
def test_a_rule_that_was_written_is_read_as_the_same(one: Rule) -> None:
    assert rule(rule_text(one)) == one


@given(st.text(alphabet='aA1$"{}(),=<>!/# \n\\.:-*', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        conf(text)
    except BgpdConfError as wrong:
        text = str(wrong)
        if not text.startswith("bgpd.conf:"):
            raise
