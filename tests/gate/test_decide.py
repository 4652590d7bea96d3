"""The article's rules: which decides, over six tables and the ports."""

from ipaddress import ip_network

import pytest

from gatepost.gate.decide import Verdict, decide
from gatepost.gate.settings import GateSettings, Ipv6


class Members:
    """Everybody is in these tables."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def holds(self, table: str, version: int, whole: int) -> bool:
        """Tell."""
        return table in self.names


def _verdict(kind: str, *tables: str, ip: str = "192.0.2.1", settings: GateSettings | None = None) -> str:
    return decide(ip, kind, Members(*tables), settings or GateSettings(), ()).verdict.value


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
    decision = decide("127.0.0.1", "mx", Members("bruteforce"), GateSettings(), (ip_network("127.0.0.0/8"),))
    assert decision.verdict is Verdict.PASS
    assert "skip on lo" in decision.rule
