"""By which server mail leaves, by who sends it."""

from collections.abc import Mapping

import pytest

from gatepost.base.address import Address, ReversePath
from gatepost.base.settings import BadSetting
from gatepost.policy.action import Action, Deliver, Relay, Route, RouteKind, ToRelay
from gatepost.policy.rules import load
from gatepost.policy.settings import ActionSettings, Do, PolicySettings
from gatepost.policy.smarthosts import Smarthosts

ACTIONS: Mapping[str, Action] = {
    name: Relay(Route(RouteKind.HOST, f"{name}.example", 587)) for name in ("one", "two", "three", "all")
} | {"mine": Deliver()}
HOSTS = Smarthosts({"Joe@Example.org": "one", "@example.org": "two", ".Example.net": "three", "*": "all"}, ACTIONS)


@pytest.mark.parametrize(
    ("sender", "entry", "host"),
    [
        (Address("joe", "example.org"), "joe@example.org", "one.example"),
        (Address("JOE", "EXAMPLE.org"), "joe@example.org", "one.example"),
        (Address("ann", "example.org"), "example.org", "two.example"),
        (Address("ann", "sub.example.org"), "*", "all.example"),
        (Address("ann", "example.net"), "*", "all.example"),
        (Address("ann", "a.b.example.net"), ".example.net", "three.example"),
        (None, "*", "all.example"),
    ],
)
def test_the_closest_entry_counts(sender: ReversePath, entry: str, host: str) -> None:
    found = HOSTS.find(sender)
    assert found is not None
    assert (found[0], found[1].host) == (entry, host)


def test_bounces_may_have_a_server_of_their_own_and_without_an_entry_there_is_none() -> None:
    hosts = Smarthosts({"<>": "one", "example.org": "two"}, ACTIONS)
    found = hosts.find(None)
    assert found is not None
    assert found[1].host == "one.example"
    assert hosts.find(Address("a", "x.example")) is None


def test_only_what_would_go_to_an_mx_is_changed() -> None:
    ann = Address("ann", "far.example")
    by_mx, by_rule = ToRelay(ann, Route()), ToRelay(ann, Route(RouteKind.HOST, "rule.example"))
    by_socket = ToRelay(ann, Route(RouteKind.HOST, "/run/lmtp", lmtp=True))
    found = HOSTS.apply(Address("joe", "example.org"), (by_mx, by_rule, by_socket))
    assert found == (ToRelay(ann, Route(RouteKind.HOST, "one.example", 587)), by_rule, by_socket)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"example.org": "nine"}, "there is no action 'nine'"),
        ({"example.org": "mine"}, "the action 'mine' does not relay"),
        ({"example.org": "one", "@EXAMPLE.org": "two"}, "'@EXAMPLE.org' stands here twice"),
        ({"": "one"}, "'' is no sender"),
        ({"joe@": "one"}, "'joe@' is no sender"),
        ({"a b": "one"}, "'a b' is no sender"),
    ],
)
def test_a_mistake_names_its_entry(given: dict[str, str], problem: str) -> None:
    with pytest.raises(BadSetting) as wrong:
        load(PolicySettings(actions=_settings(), smarthosts=given))
    assert wrong.value.path[:2] == ("policy", "smarthosts")
    assert wrong.value.problem.startswith(problem)


def _settings() -> dict[str, ActionSettings]:
    return {
        "one": ActionSettings(Do.RELAY, host="one.example"),
        "two": ActionSettings(Do.RELAY, host="two.example"),
        "mine": ActionSettings(Do.DELIVER, mailbox="Archive"),
    }


def test_an_action_without_a_host_still_chooses_source_and_name() -> None:
    settings = {"own": ActionSettings(Do.RELAY, source="192.0.2.7", helo="seven.example")}
    found = load(PolicySettings(actions=settings, smarthosts={"example.org": "own"})).smarthosts
    route = found.find(Address("joe", "example.org"))
    assert route is not None
    assert (route[1].kind, route[1].source, route[1].helo) == (RouteKind.MX, "192.0.2.7", "seven.example")


def test_how_long_a_rule_tries_goes_along_to_the_senders_server() -> None:
    ann, joe = Address("ann", "far.example"), Address("joe", "example.org")
    (found,) = HOSTS.apply(joe, (ToRelay(ann, Route(lifetime=7200)),))
    assert found == ToRelay(ann, Route(RouteKind.HOST, "one.example", 587, lifetime=7200))
