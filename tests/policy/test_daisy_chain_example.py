"""examples/daisy-chain: which way each mail goes at each hop, and that strangers get nowhere else."""

from pathlib import Path

import pytest

from gatepost.accounts.model import Found, NotOurs
from gatepost.base.address import Address
from gatepost.base.envelope import Client
from gatepost.base.reply import Refusal
from gatepost.codec.smtp.grammar import parse_mailbox
from gatepost.config import load
from gatepost.policy.action import ToRelay
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load as load_rules
from tests.support.loop import run

CONFIG = load(Path(__file__).parents[2] / "examples" / "daisy-chain" / "gatepost.toml")
POLICY = Policy(CONFIG.policy, load_rules(CONFIG.policy), own_names=[CONFIG.hostname])
STRANGER, FILTER = "198.51.100.7", "127.0.0.1"


class Nobody:
    """Accounts that the rules of the chain do not ask."""

    async def is_local(self, domain: str) -> bool:
        """Own nothing."""
        return False

    async def lookup(self, address: Address, *, aliases: bool = True) -> Found:
        """Know nobody."""
        return NotOurs()


def way(rcpt: str, ip: str, tag: str = "", user: str = "") -> str:
    """Return where a mail goes, or the code of its refusal."""
    client = Client(ip, 40000, "192.0.2.1", 25, "mx", tag, user=user)
    try:
        (delivery,) = run(POLICY.route(client, None, parse_mailbox(rcpt.encode()), directory=Nobody()))
    except Refusal as refused:
        return str(int(refused.reply.code))
    assert isinstance(delivery, ToRelay)
    told = " xforward" if delivery.route.xforward else ""
    return f"{delivery.route.destination(delivery.recipient)}{told}"


@pytest.mark.parametrize(
    ("rcpt", "ip", "tag", "user", "expected"),
    [
        ("ann@example.org", STRANGER, "", "", "smtp://127.0.0.1:10029 xforward"),
        ("ann@example.org", FILTER, "CLAMAV_IN", "", "smtp://127.0.0.1:10025 xforward"),
        ("ann@example.org", FILTER, "SPAM_IN", "", "lmtp:///run/dovecot/lmtp"),
        ("ann@example.org", "203.0.113.9", "", "bob@example.org", "smtp://127.0.0.1:10029 xforward"),
        ("joe@far.example", "203.0.113.9", "", "bob@example.org", "smtp://127.0.0.1:10027"),
        ("joe@far.example", FILTER, "DKIM_OUT", "", "far.example"),
        ("root@localhost", FILTER, "", "", "lmtp:///run/dovecot/lmtp"),
        ("nobody@example.org", STRANGER, "", "", "550"),
        ("joe@far.example", STRANGER, "", "", "550"),
        ("joe@far.example", STRANGER, "DKIM_OUT", "", "550"),
        ("ann@example.org", STRANGER, "SPAM_IN", "", "smtp://127.0.0.1:10029 xforward"),
    ],
)
def test_each_hop_has_its_rule(rcpt: str, ip: str, tag: str, user: str, expected: str) -> None:
    assert way(rcpt, ip, tag, user) == expected


def test_the_ways_back_are_on_loopback_alone_and_the_filters_may_tell_of_the_client() -> None:
    tagged = [each for each in CONFIG.listen.values() if each.tag]
    assert [each.tag for each in tagged] == ["CLAMAV_IN", "SPAM_IN", "DKIM_OUT"]
    assert all(address.startswith("127.0.0.1:") for each in tagged for address in each.address)
    assert CONFIG.intake.xforward == ("127.0.0.1/32",)
    assert not CONFIG.intake.xclient
