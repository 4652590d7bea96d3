"""Senders of forwarded mail: who is rewritten, and where reports about it go."""

from pathlib import Path

import pytest

from gatepost.base.clock import DAY, Instant, later
from gatepost.base.reply import Refusal
from gatepost.base.settings import BadSetting
from gatepost.policy.action import ToRelay
from gatepost.policy.policy import Policy
from gatepost.policy.srs import SrsSettings, load_rewriter
from tests.policy.world import STRANGER, People, address_of, policy
from tests.support.loop import run

NOW = Instant(1_790_000_000_000_000)
FORWARDED = People(
    aliases={"out@here.example": ("joe@far.example",), "both@here.example": ("ann@here.example", "x@y.example")}
)


@pytest.fixture
def rules(tmp_path: Path) -> Policy:
    key = tmp_path / "srs.key"
    key.write_text("a key that nobody guesses\n")
    key.chmod(0o600)
    return policy({"srs": {"key_file": str(key)}})


def relays(rules: Policy, recipient: str, sender: str | None = "ann@sender.example") -> list[tuple[str, bool]]:
    """Return (recipient, rewritten) of each delivery elsewhere."""
    origin = None if sender is None else address_of(sender)
    found = run(rules.route(STRANGER, origin, address_of(recipient), directory=FORWARDED, now=NOW))
    return [(str(each.recipient), each.route.srs) for each in found if isinstance(each, ToRelay)]


def test_what_an_address_of_ours_sends_on_shows_a_rewritten_sender(rules: Policy) -> None:
    assert relays(rules, "out@here.example") == [("joe@far.example", True)]
    assert relays(rules, "both@here.example") == [("x@y.example", True)]
    shown = rules.shown(address_of("ann@sender.example"), NOW)
    assert shown.domain == "mx.here.example"
    assert shown.local.endswith("=sender.example=ann")


@pytest.mark.parametrize("sender", [None, "ann@here.example"])
def test_null_senders_and_our_own_are_left_as_they_are(rules: Policy, sender: str | None) -> None:
    assert relays(rules, "out@here.example", sender) == [("joe@far.example", False)]


def test_without_a_key_nobody_is_rewritten() -> None:
    assert relays(policy(), "out@here.example") == [("joe@far.example", False)]
    assert policy().shown(address_of("ann@sender.example"), NOW) == address_of("ann@sender.example")


def test_a_report_goes_to_the_true_sender_and_is_not_rewritten_again(rules: Policy) -> None:
    shown = rules.shown(address_of("ann@sender.example"), NOW)
    assert relays(rules, str(shown), None) == [("ann@sender.example", False)]
    assert relays(rules, str(shown), "robot@far.example") == [("ann@sender.example", True)]


def test_a_forged_or_old_address_is_refused_and_is_no_open_relay(rules: Policy) -> None:
    for local in ("SRS0=aaaa=AA=victim.example=joe", "srs0+aaaa=AA=victim.example=joe", "SRS1=a=b=c"):
        with pytest.raises(Refusal) as refused:
            relays(rules, f"{local}@mx.here.example", None)
        assert (refused.value.reply.code, refused.value.reply.enhanced) == (550, "5.1.1")
    shown = rules.shown(address_of("ann@sender.example"), later(NOW, -22 * DAY))
    with pytest.raises(Refusal) as old:
        relays(rules, str(shown), None)
    assert "expired" in old.value.reply.text


def test_a_rewritten_address_of_another_forwarder_is_an_address_like_others(rules: Policy) -> None:
    with pytest.raises(Refusal) as refused:
        relays(rules, "SRS0=aaaa=AA=victim.example=joe@far.example", None)
    assert refused.value.reply.enhanced == "5.7.1"


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        ("a key that nobody guesses\n", 0o644, "is readable by others"),
        ("short\n", 0o600, "key 1 of"),
        ("\n# nothing\n", 0o600, "must have 1 to 16 keys"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path, content: str, mode: int, problem: str) -> None:
    key = tmp_path / "srs.key"
    key.write_text(content)
    key.chmod(mode)
    with pytest.raises(BadSetting, match=problem):
        load_rewriter(SrsSettings(str(key)))


def test_a_key_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadSetting) as wrong:
        load_rewriter(SrsSettings(str(tmp_path / "none")))
    assert "gatepost srs key" in wrong.value.remedy
