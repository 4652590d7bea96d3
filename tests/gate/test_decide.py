"""The article's rules: which decides, over six tables and the ports."""

import pytest

from gatepost.gate.decide import RULES, TABLE_NAMES, Plan, Verdict, decide, explain
from gatepost.gate.prefix import number_of, parse_prefix
from gatepost.gate.settings import GateSettings, Ipv6
from gatepost.gate.table import Table, Tables, parse_entry


class Members:
    """Everybody is in these tables."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.lists = tuple(name for name in names if name.startswith("list-"))

    def holds(self, table: str, version: int, number: int) -> bool:
        """Tell."""
        return table in self.names


def _verdict(kind: str, *tables: str, ip: str = "192.0.2.1", settings: GateSettings | None = None) -> str:
    """Decide, and have the plan that is made ready for speed decide too."""
    settings, members = settings or GateSettings(), Members(*tables)
    decision = decide(ip, kind, members, settings, ())
    made = Tables(1_000, TABLE_NAMES)
    for name in tables:
        made.replace(Table(name, [parse_entry("0.0.0.0/0"), parse_entry("::/0")]))
    assert Plan(kind, made, members.lists, settings, ()).decide(*number_of(ip)) == decision
    return decision.verdict.value


@pytest.mark.row("PF-02", "PF-08", "PF-11", "PF-12", "PF-13", "PF-14")
@pytest.mark.parametrize(
    ("tables", "mx", "submission", "submissions", "imap"),
    [
        ((), "grey", "pass", "pass", "pass"),
        (("bruteforce",), "block", "block", "block", "block"),
        (("bruteforce", "nospamd", "spamd-white"), "block", "block", "block", "block"),
        (("bgp_spamd_bypass",), "pass", "pass", "pass", "pass"),
        (("nospamd",), "pass", "pass", "pass", "pass"),
        (("spamd-white",), "pass", "pass", "pass", "pass"),
        (("bgp_spamd",), "black", "black", "black", "pass"),
        (("spamd",), "black", "black", "black", "pass"),
        (("bgp_spamd", "spamd-white"), "pass", "black", "black", "pass"),
        (("spamd", "nospamd", "bgp_spamd_bypass"), "pass", "black", "black", "pass"),
        (("spamd-greytrap",), "black", "pass", "pass", "pass"),
        (("list-a", "spamd-greytrap"), "black", "pass", "pass", "pass"),
        (("list-a", "spamd-white"), "pass", "pass", "pass", "pass"),
        (("list-a", "bgp_spamd"), "black", "black", "black", "pass"),
        (("spamd-greytrap", "nospamd"), "pass", "pass", "pass", "pass"),
    ],
)
def test_precedence(tables: tuple[str, ...], mx: str, submission: str, submissions: str, imap: str) -> None:
    kinds = ("mx", "submission", "submissions", "imap")
    assert tuple(_verdict(kind, *tables) for kind in kinds) == (mx, submission, submissions, imap)


def test_a_black_client_is_told_of_all_its_lists_those_of_the_traps_last() -> None:
    decision = decide("192.0.2.1", "mx", Members("spamd", "spamd-greytrap", "bgp_spamd"), GateSettings(), ())
    assert decision.lists == ("bgp_spamd", "spamd", "spamd-greytrap")


@pytest.mark.row("PF-19")
@pytest.mark.parametrize(
    ("policy", "verdict"), [(Ipv6.BYPASS, "pass"), (Ipv6.GREYLIST, "grey"), (Ipv6.BLOCK, "block")]
)
def test_unlisted_ipv6_is_met_by_policy(policy: Ipv6, verdict: str) -> None:
    settings = GateSettings(ipv6=policy)
    assert _verdict("mx", ip="2001:db8::1", settings=settings) == verdict
    assert _verdict("submission", ip="2001:db8::1", settings=settings) == "pass"
    assert _verdict("mx", "spamd-white", ip="2001:db8::1", settings=settings) == "pass"
    assert _verdict("mx", "spamd", ip="2001:db8::1", settings=settings) == "black"


def test_without_greylist_only_lists_are_held() -> None:
    settings = GateSettings(greylist=False)
    assert _verdict("mx", settings=settings) == "pass"
    assert _verdict("mx", "spamd", settings=settings) == "black"


@pytest.mark.row("PF-06")
def test_exempt_networks_are_never_looked_up() -> None:
    decision = decide("127.0.0.1", "mx", Members("bruteforce"), GateSettings(), (parse_prefix("127.0.0.0/8"),))
    assert decision.verdict is Verdict.PASS
    assert "skip on lo" in decision.rule


@pytest.mark.row("PF-02", "GR-12")
@pytest.mark.parametrize("kind", ["mx", "submission", "imap"])
@pytest.mark.parametrize("tables", [(), ("bgp_spamd",), ("bruteforce",), ("spamd-white", "spamd")])
def test_an_explanation_ends_with_the_rule_that_decides(kind: str, tables: tuple[str, ...]) -> None:
    looks = explain("192.0.2.1", kind, Members(*tables), GateSettings(), ())
    decision = decide("192.0.2.1", kind, Members(*tables), GateSettings(), ())
    assert [look.matched for look in looks] == [False] * (len(looks) - 1) + [True]
    assert decision.rule.startswith(looks[-1].rule)
    assert decision.verdict.value in looks[-1].why
    assert [look.rule for look in looks[:-1]] == [rule.name for rule in RULES[: len(looks) - 1]]
