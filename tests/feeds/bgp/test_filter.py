"""Filter rules: the last allow or deny decides, the last table wins, and a match that sets a table accepts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.codec.bgp.types import Path
from gatepost.feeds.bgp.filter import NeighborFilter, Outcome, Rule, Who, by_prefix, only_matches, tables_of
from gatepost.gate.prefix import parse_prefix
from tests.feeds.bgp.world import ARTICLE_RULES, BAD, GOOD, WHO, full_path, neighbor_filter, path, rules


def judged(one: Path, *texts: str, prefix: str = "5.6.7.8/32") -> Outcome:
    asked = neighbor_filter(*texts)
    return asked.conclude(asked.applying(one), parse_prefix(prefix))


def fits(one: Path, condition: str, prefix: str = "5.6.7.8/32", who: Who = WHO) -> bool:
    asked = NeighborFilter(rules(f"allow from any {condition}"), who)
    return asked.conclude(asked.applying(one), parse_prefix(prefix)).accepted


@pytest.mark.row("BG-04", "BG-05")
def test_a_community_chooses_the_table_and_match_alone_accepts() -> None:
    assert judged(path(GOOD)) == Outcome(True, "bgp_spamd_bypass", "bgpd.conf:1")
    assert judged(path(BAD)) == Outcome(True, "bgp_spamd", "bgpd.conf:2")
    assert judged(path(1)) == Outcome(False, "", "no rule accepts it")


def test_of_two_tables_the_last_rule_s_wins() -> None:
    assert judged(path(GOOD, BAD)).table == "bgp_spamd"
    assert judged(path(BAD, GOOD)).table == "bgp_spamd"


def test_the_last_allow_or_deny_decides() -> None:
    assert judged(path(BAD), "deny from any", *ARTICLE_RULES) == Outcome(False, "", "denied by bgpd.conf:3")
    assert judged(path(BAD), "deny from any", "allow from any", *ARTICLE_RULES).table == "bgp_spamd"
    assert not judged(
        path(BAD), "allow from any", *ARTICLE_RULES, "deny from any prefix 5.0.0.0/8 or-longer"
    ).accepted
    assert judged(path(7), "allow from any") == Outcome(True, "", "bgpd.conf:1")


def test_quick_ends_it() -> None:
    quick = 'allow quick from any community 65066:42 set pftable "x"'
    assert judged(path(GOOD, BAD), quick, *ARTICLE_RULES).table == "x"
    assert judged(path(BAD), quick, *ARTICLE_RULES).table == "bgp_spamd"
    inside = 'allow quick from any prefix 5.0.0.0/8 or-longer set pftable "x"'
    assert judged(path(BAD), inside, *ARTICLE_RULES).table == "x"
    assert judged(path(BAD), inside, *ARTICLE_RULES, prefix="6.0.0.0/16").table == "bgp_spamd"


@pytest.mark.parametrize(
    ("source", "who", "expected"),
    [
        ("any", WHO, True),
        ("ebgp", WHO, True),
        ("ibgp", WHO, False),
        ("ibgp", Who("192.0.2.7", 65500, 65500), True),
        ("192.0.2.7", WHO, True),
        ("192.0.2.8", WHO, False),
        ("AS 65066", WHO, True),
        ("AS 65067", WHO, False),
        ('group "spam-bgp"', WHO, True),
        ('group "other"', WHO, False),
        ('{ 192.0.2.8, group "spam-bgp" }', WHO, True),
    ],
)
def test_rules_are_for_some_neighbours(source: str, who: Who, expected: bool) -> None:
    asked = NeighborFilter(rules(f"allow from {source}"), who)
    assert asked.conclude(asked.applying(path())).accepted is expected


@pytest.mark.row("BG-11")
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("community 65066:42", True),
        ("community 65055:42", False),
        ("community *:42", True),
        ("community 65066:*", True),
        ("community neighbor-as:42", True),
        ("community local-as:42", False),
        ("community NO_EXPORT", True),
        ("community BLACKHOLE", False),
        ("community 65066:42 community NO_EXPORT", True),
        ("community 65066:42 community BLACKHOLE", False),
        ("large-community 65066:1:42", True),
        ("large-community *:1:*", True),
        ("large-community 65066:2:*", False),
        ("ext-community rt 65066:42", True),
        ("ext-community rt 65066:*", True),
        ("ext-community soo 65066:42", False),
        ("ext-community * *", True),
        ("AS 65043", True),
        ("AS { 1, 65043 }", True),
        ("AS 1", False),
        ("AS neighbor-as", True),
        ("source-as 65043", True),
        ("source-as 65066", False),
        ("peer-as 65066", True),
        ("peer-as 65043", False),
        ("transit-as 65066", True),
        ("transit-as 65043", False),
        ("AS 65040 - 65050", True),
        ("source-as != 65043", False),
        ("source-as 65040 >< 65050", False),
        ("max-as-len 1", True),
        ("max-as-len 2", False),
        ("prefix 5.6.7.8/32", True),
        ("prefix 5.6.0.0/16", False),
        ("prefix 5.6.0.0/16 or-longer", True),
        ("prefix 5.6.0.0/16 prefixlen 24-32", True),
        ("prefix 5.6.0.0/16 prefixlen < 32", False),
        ("prefix 5.6.0.0/16 maxlen 24", False),
        ("prefix { 6.0.0.0/8, 5.0.0.0/8 } ", False),
        ("inet", True),
        ("inet6", False),
        ("inet prefixlen >= 24", True),
        ("inet prefixlen 16><24", True),
    ],
)
def test_conditions(condition: str, expected: bool) -> None:
    one = full_path(
        (65066, 65043),
        (GOOD, 65535 << 16 | 65281),
        ((65066, 1, 42),),
        (bytes.fromhex("0002fe2a0000002a"),),
    )
    assert fits(one, condition) is expected


def test_a_community_with_an_as_of_four_octets_fits_nothing() -> None:
    assert not fits(path(0), "community neighbor-as:0", who=Who("192.0.2.7", 1 << 16, 65500))


def test_prefixes_are_asked_only_where_a_rule_does() -> None:
    asked = neighbor_filter(*ARTICLE_RULES, "deny from any community 1:1 prefix 5.0.0.0/8 or-longer")
    assert not by_prefix(asked.applying(path(GOOD)))
    assert by_prefix(asked.applying(path(GOOD, 1 << 16 | 1)))


@pytest.mark.row("BG-09")
def test_a_configuration_that_today_s_openbgpd_would_take_nothing_by_is_known() -> None:
    assert only_matches(rules(*ARTICLE_RULES))
    assert not only_matches(rules("allow from any", *ARTICLE_RULES))
    assert not only_matches(rules("allow from any"))
    assert tables_of(rules(*ARTICLE_RULES, *ARTICLE_RULES)) == ("bgp_spamd_bypass", "bgp_spamd")


KINDS = st.sampled_from(
    [
        "allow from any",
        "deny from any",
        "allow quick from any community 65066:42",
        "deny from any prefix 5.0.0.0/8 or-longer",
        'match from any set pftable "one"',
        'match from any community 65066:42 set pftable "two"',
        'allow from any prefix 6.0.0.0/8 or-longer set pftable "three"',
    ]
)


@given(st.lists(KINDS, max_size=8), st.sampled_from([(), (GOOD,)]), st.sampled_from(["5.6.7.8", "6.6.6.6"]))
def test_the_compiled_rules_say_what_reading_them_one_by_one_says(
    given_rules: list[str], communities: tuple[int, ...], address: str
) -> None:
    def plain() -> tuple[bool, str]:
        accepted: bool | None = None
        table = ""
        for one in rules(*given_rules):
            if not _plainly_fits(one, communities, address):
                continue
            table = one.table or table
            if one.action.value != "match":
                accepted = one.action.value == "allow"
            if one.quick:
                break
        taken = bool(table) if accepted is None else accepted
        return taken, table if taken else ""

    asked = NeighborFilter(rules(*given_rules), WHO)
    outcome = asked.conclude(asked.applying(path(*communities)), parse_prefix(address))
    assert (outcome.accepted, outcome.table) == plain()


def _plainly_fits(one: Rule, communities: tuple[int, ...], address: str) -> bool:
    if one.communities and GOOD not in communities:
        return False
    return not one.within or address.startswith(one.within[0].network.text[:2])
