"""spamd's own port, behind a packet filter: how a client is met that was redirected there.

The filter has asked the white tables before it redirected, so nobody passes here, exempt or not: who is on a list
is black, everybody else grey. All of spamd's lists count, each once, in their order; that of its traps is the last.
"""

from typing import Final

from gatepost.gate.decide import BLACK_TABLES, GREYTRAP, Decision, Membership, Verdict
from gatepost.gate.prefix import number_of

RULE: Final = "redirected to spamd"


def redirected(ip: str, tables: Membership) -> Decision:
    """Return how a redirected client is met: GREY or BLACK."""
    version, number = number_of(ip)
    names = dict.fromkeys((*BLACK_TABLES, *tables.lists, GREYTRAP))
    lists = tuple(name for name in names if tables.holds(name, version, number))
    if lists:
        return Decision(Verdict.BLACK, f"{RULE}: in {', '.join(lists)}", lists)
    return Decision(Verdict.GREY, RULE)
