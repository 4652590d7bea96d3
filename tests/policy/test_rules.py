"""Which rule decides: order, sources, tags, negation; and that nothing here is an open relay."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.reply import Refusal
from gatepost.base.settings import BadSetting
from tests.policy.world import ANN, LOCAL, STRANGER, People, address_of, policy, refusal, route
from tests.support.loop import run

TO_SCANNER = {"do": "relay", "host": "127.0.0.1", "port": 10025, "tls": "none"}
TO_SIGNER = {"do": "relay", "host": "127.0.0.1", "port": 10027, "tls": "none"}
# The article's rules in the repaired form.
ARTICLE = {
    "tables": {
        "domains": {"values": ["here.example"]},
        "users": {"entries": {"joe.bloggs@here.example": "joe", "@far-alias.example": "x"}},
        "aliases": {"entries": {"root": "joe"}},
        "blocked": {"values": ["blocked@here.example"]},
    },
    "actions": {
        "virt": {"do": "deliver", "virtual": "users", "lmtp": "/var/dovecot/lmtp", "rcpt_to": False},
        "alias": {"do": "deliver", "alias": "aliases", "lmtp": "/var/dovecot/lmtp", "rcpt_to": False},
        "scan": TO_SCANNER,
        "sign": TO_SIGNER,
        "out": {"do": "relay", "helo": "smtp.here.example"},
    },
    "rules": [
        {"match": {"tag": "SPAM_IN", "for": "<domains>"}, "action": "virt"},
        {"match": {"tag": "SPAM_IN", "for": "local"}, "action": "alias"},
        {"match": {"from": "local", "for": "local"}, "action": "alias"},
        {"match": {"from": "any", "for": "<domains>", "recipient": "!<blocked>"}, "action": "scan"},
        {"match": {"tag": "DKIM_OUT", "for": "any"}, "action": "out"},
        {"match": {"from": "local", "for": "any"}, "action": "sign"},
    ],
}
TAGGED_IN = replace(LOCAL, tag="SPAM_IN")
TAGGED_OUT = replace(LOCAL, tag="DKIM_OUT")


@pytest.mark.row("MT-19", "MT-24", "MT-25", "MT-27")
@pytest.mark.parametrize(
    ("client", "recipient", "where"),
    [
        (STRANGER, "joe.bloggs@here.example", ["smtp://127.0.0.1:10025 joe.bloggs@here.example"]),
        (STRANGER, "nobody@here.example", ["smtp://127.0.0.1:10025 nobody@here.example"]),
        (TAGGED_IN, "joe.bloggs@here.example", ["lmtp:///var/dovecot/lmtp joe"]),
        (LOCAL, "root@localhost", ["lmtp:///var/dovecot/lmtp joe"]),
        (TAGGED_OUT, "x@far.example", ["relay x@far.example"]),
        (ANN, "x@far.example", ["smtp://127.0.0.1:10027 x@far.example"]),
        (ANN, "joe.bloggs@here.example", ["smtp://127.0.0.1:10025 joe.bloggs@here.example"]),
        (LOCAL, "x@far.example", ["smtp://127.0.0.1:10027 x@far.example"]),
        # who may send outward may also write to a blocked recipient: the rule does not match, a later one does
        (ANN, "blocked@here.example", ["smtp://127.0.0.1:10027 blocked@here.example"]),
        # a tagged mail for elsewhere meets the untagged rule
        (TAGGED_IN, "x@far.example", ["smtp://127.0.0.1:10027 x@far.example"]),
    ],
)
def test_the_articles_flow(client: object, recipient: str, where: list[str]) -> None:
    assert route(policy(ARTICLE), recipient, client) == where  # type: ignore[arg-type]  # parametrize's object


@pytest.mark.row("MT-08", "MT-22", "MT-24")
def test_the_articles_refusals() -> None:
    rules = policy(ARTICLE)
    assert refusal(rules, "x@far.example") == (550, "5.7.1")
    assert refusal(rules, "blocked@here.example")[0] == 550
    # the rule is chosen; the table does not know the user: no falling through
    assert refusal(rules, "nobody@here.example", TAGGED_IN) == (550, "5.1.1")


def test_the_default_delivers_ours_and_relays_for_us() -> None:
    rules = policy()
    assert route(rules, "joe@here.example") == ["INBOX joe"]
    assert route(rules, "joe+lists@here.example") == ["INBOX joe+lists"]
    assert route(rules, "x@far.example", ANN) == ["relay x@far.example"]
    assert route(rules, "x@far.example", LOCAL) == ["relay x@far.example"]
    assert refusal(rules, "nobody@here.example") == (550, "5.1.1")
    assert refusal(rules, "x@far.example") == (550, "5.7.1")


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.ip_addresses(v=4).map(str).filter(lambda ip: not ip.startswith("127.") and ip != STRANGER.local_ip),
        st.ip_addresses(v=6).filter(lambda ip: not ip.is_loopback).map(str),
    ),
    st.text("abc%!+=\"'/ \x00@", min_size=1, max_size=12),
    st.sampled_from(
        ["far.example", "here.example.far.example", "", "[192.0.2.1]", "FAR.example.", "localhost.far.example"]
    ),
    st.sampled_from(["", "SPAM_IN", "localhost"]),
    st.sampled_from([None, "ann@here.example", "root@localhost"]),
)
def test_no_stranger_can_relay(ip: str, local: str, domain: str, helo: str, sender: str | None) -> None:
    client = replace(STRANGER, ip=ip, helo=helo, rdns="localhost")
    for rules in (policy(), policy({"authenticated_is_local": False}), policy(ARTICLE)):
        try:
            found = run(
                rules.route(
                    client,
                    None if sender is None else address_of(sender),
                    address_of(f"{local}@{domain}"),
                    directory=People(),
                )
            )
        except Refusal:
            continue
        raise AssertionError(found)


@pytest.mark.row("MT-27")
def test_a_login_is_local_only_where_the_setting_says_so() -> None:
    only_local = {"rules": [{"match": {"from": "local", "for": "any"}, "action": "relay"}]}
    assert route(policy(only_local), "x@far.example", ANN) == ["relay x@far.example"]
    assert refusal(policy({**only_local, "authenticated_is_local": False}), "x@far.example", ANN)[0] == 550
    by_auth = {"rules": [{"match": {"from": "any", "auth": True, "for": "any"}, "action": "relay"}]}
    assert route(policy({**by_auth, "authenticated_is_local": False}), "x@far.example", ANN) == [
        "relay x@far.example"
    ]
    assert refusal(policy(by_auth), "x@far.example")[0] == 550


def test_without_from_only_local_sources_match_and_without_for_only_own_names() -> None:
    rules = policy({"rules": [{"match": {}, "action": "relay"}]})
    assert route(rules, "root@localhost", LOCAL) == ["relay root@localhost"]
    assert route(rules, "root@MX.here.example", LOCAL) == ["relay root@MX.here.example"]
    assert refusal(rules, "root@localhost")[0] == 550
    assert refusal(rules, "x@far.example", LOCAL)[0] == 550


@pytest.mark.row("MT-09")
def test_sources_by_network_and_table() -> None:
    rules = policy(
        {
            "tables": {"others": {"values": ["198.51.100.0/24", "2001:db8::/32"]}},
            "rules": [
                {"match": {"from": "203.0.113.5", "for": "any"}, "action": "reject"},
                {"match": {"from": ["<others>", "203.0.113.0/24"], "for": "any"}, "action": "relay"},
            ],
        }
    )
    assert route(rules, "x@far.example", STRANGER) == ["relay x@far.example"]
    assert route(rules, "x@far.example", replace(STRANGER, ip="2001:db8::9")) == ["relay x@far.example"]
    assert refusal(rules, "x@far.example", replace(STRANGER, ip="203.0.113.5"))[0] == 550
    assert refusal(rules, "x@far.example", replace(STRANGER, ip="192.0.2.44"))[0] == 550


@pytest.mark.parametrize(
    ("condition", "taken"),
    [
        ({"sender": "!someone@far.example"}, False),
        ({"sender": "!someone@else.example"}, True),
        ({"from": "!198.51.100.0/24"}, False),
        ({"tag": "!X"}, True),
        ({"rdns": "!*"}, True),
        ({"helo": "!*"}, True),
        ({"auth": False}, True),
        ({"auth": "!ann@here.example"}, True),
        ({"tls": True}, False),
        ({"recipient": ("!@far.example", "!@near.example")}, False),
        ({"for": "!far.example"}, False),
    ],
)
def test_each_condition_can_be_negated(condition: dict[str, object], taken: bool) -> None:
    match = {"from": "any", "for": "any", **condition}
    rules = policy({"rules": [{"match": match, "action": "relay"}]})
    assert (refusal(rules, "x@far.example") == (0, "")) is taken


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"rules": [{"match": {"form": "any"}}]}, "rules.0.match.form"),
        ({"rules": [{"match": {"from": "<nope>"}}]}, "no table 'nope'"),
        ({"rules": [{"match": {"from": "example.org"}}]}, "not an address"),
        ({"rules": [{"match": {"for": ["a.example", "!b.example"]}}]}, "mixed"),
        ({"rules": [{"match": {"for": True}}]}, "makes no sense"),
        ({"rules": [{"action": "forward"}]}, "no action 'forward'"),
        ({"actions": {"x": {"do": "deliver", "virtual": "v"}}}, "no table 'v'"),
        ({"actions": {"x": {"do": "relay", "port": 26}}}, "port needs host"),
        ({"actions": {"x": {"do": "relay", "auth": "me"}}}, "auth needs a host"),
        ({"actions": {"x": {"do": "relay", "host": "h", "auth": "me", "tls": "none"}}}, "in the clear"),
        ({"actions": {"relay": {"do": "relay"}}}, "name is taken"),
        ({"actions": {"x": {"do": "deliver", "lmtp": "localhost"}}}, "no LMTP server"),
        (
            {
                "tables": {"a": {"entries": {"root": "|/bin/sh"}}},
                "actions": {"x": {"do": "deliver", "alias": "a"}},
            },
            "may not start programs or write files",
        ),
    ],
)
def test_mistakes_are_named(settings_: dict[str, object], says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        policy(settings_)


def test_rules_can_be_renewed_while_mail_flows() -> None:
    rules, others = policy(), policy({"rules": [{"match": {"from": "any", "for": "any"}, "action": "reject"}]})
    rules.renew(others._settings, others._ruleset)
    assert refusal(rules, "joe@here.example") == (550, "5.7.1")


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ({"do": "relay", "lifetime": "59m"}, "lifetime must be at least 1h"),
        ({"do": "deliver", "lifetime": "1d"}, "lifetime needs lmtp or program"),
    ],
)
def test_a_lifetime_that_makes_no_sense_is_named(action: dict[str, object], says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        policy({"actions": {"x": action}})
