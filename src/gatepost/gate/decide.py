"""Which of the article's rules decides about a new connection: its table, as data.

The first rule that matches decides, as with PF's `quick`. White tables stand before the lists on port 25, and
have no say on the submission ports, where a listed host meets the tarpit too.
"""

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, Protocol

from gatepost.gate.settings import GateSettings, Ipv6

BRUTEFORCE: Final = "bruteforce"
BYPASS: Final = "bgp_spamd_bypass"
LISTED: Final = "bgp_spamd"
WHITE: Final = "spamd-white"
SPAMD: Final = "spamd"
NOSPAMD: Final = "nospamd"
GREYTRAP: Final = "spamd-greytrap"
TABLE_NAMES: Final = (BRUTEFORCE, BYPASS, LISTED, WHITE, SPAMD, NOSPAMD, GREYTRAP)

MX: Final = "mx"
SUBMISSION: Final = frozenset(("submission", "submissions"))


class Verdict(Enum):
    """What becomes of a connection."""

    PASS = "pass"  # noqa: S105  (a verdict, not a password)
    GREY = "grey"
    BLACK = "black"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, the rule that gave it, and the lists that the source is on."""

    verdict: Verdict
    rule: str
    lists: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: for which listeners, for members of which tables (none: everybody), and what then."""

    name: str
    kinds: frozenset[str] | None
    tables: tuple[str, ...]
    verdict: Verdict


RULES: Final = (
    Rule("block quick from <bruteforce>", None, (BRUTEFORCE,), Verdict.BLOCK),
    Rule("pass from white tables to smtp", frozenset((MX,)), (BYPASS, NOSPAMD, WHITE), Verdict.PASS),
    Rule(
        "rdr-to spamd from lists to smtp, submission, smtps",
        frozenset((MX,)) | SUBMISSION,
        (LISTED, SPAMD, GREYTRAP),
        Verdict.BLACK,
    ),
    Rule("rdr-to spamd from any to smtp", frozenset((MX,)), (), Verdict.GREY),
    Rule("pass from any", None, (), Verdict.PASS),
)
_EXEMPT: Final = Decision(Verdict.PASS, "exempt: set skip on lo")


class Membership(Protocol):
    """What a decision asks of the tables."""

    def holds(self, table: str, version: int, whole: int) -> bool: ...


def decide(
    ip: str, kind: str, tables: Membership, settings: GateSettings, exempt: tuple[IPv4Network | IPv6Network, ...]
) -> Decision:
    """Return what becomes of a connection from `ip` to a listener of `kind`."""
    address = ip_address(ip)
    version, whole = address.version, int(address)
    if any(address in network for network in exempt if network.version == version):
        return _EXEMPT
    for rule in RULES:
        if rule.kinds is not None and kind not in rule.kinds:
            continue
        if not rule.tables:
            return _for_anybody(rule, version, settings)
        lists = tuple(name for name in rule.tables if tables.holds(name, version, whole))
        if lists:
            return Decision(rule.verdict, f"{rule.name}: in {', '.join(lists)}", lists)
    raise AssertionError("the last rule is for everybody")


def _for_anybody(rule: Rule, version: int, settings: GateSettings) -> Decision:
    if rule.verdict is not Verdict.GREY:
        return Decision(rule.verdict, rule.name)
    if version == 6 and settings.ipv6 is Ipv6.BYPASS:
        return Decision(Verdict.PASS, "pass inet6 from any to smtp: ipv6 = bypass")
    if version == 6 and settings.ipv6 is Ipv6.BLOCK:
        return Decision(Verdict.BLOCK, "block inet6 from any to smtp: ipv6 = block")
    if not settings.greylist:
        return Decision(Verdict.PASS, "pass from any to smtp: greylist = false")
    return Decision(rule.verdict, rule.name)
