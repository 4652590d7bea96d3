"""Aliases, virtual users, details, loops."""

import pytest

from gatepost.base.settings import BadSetting
from tests.policy.world import ANN, STRANGER, People, address_of, policy, refusal, route
from tests.support.loop import run


def virtual(entries: dict[str, str]) -> dict[str, object]:
    return {
        "tables": {"users": {"entries": entries}},
        "actions": {"virt": {"do": "deliver", "virtual": "users"}},
        "rules": [
            {"match": {"from": "any", "for": "here.example"}, "action": "virt"},
            {"match": {"from": "local", "for": "any"}, "action": "relay"},
        ],
    }


@pytest.mark.row("MT-07", "MT-34")
def test_an_alias_may_lead_outside_although_its_mail_came_from_there() -> None:
    people = People(aliases={"team@here.example": ("ann@here.example", "joe@here.example", "x@far.example")})
    assert route(policy(), "team@here.example", people=people) == ["INBOX ann", "INBOX joe", "relay x@far.example"]
    assert refusal(policy(), "x@far.example") == (550, "5.7.1")


def test_an_alias_that_names_itself_keeps_a_copy() -> None:
    people = People(aliases={"ann@here.example": ("ann@here.example", "x@far.example")})
    assert route(policy(), "ann@here.example", people=people) == ["INBOX ann", "relay x@far.example"]
    assert route(policy(), "ann+z@here.example", people=people) == ["INBOX ann", "relay x@far.example"]


def test_duplicates_are_removed() -> None:
    people = People(
        aliases={
            "all@here.example": ("team@here.example", "ann@here.example", "ANN@here.example"),
            "team@here.example": ("ann@here.example", "joe@here.example", "ann+x@here.example"),
        }
    )
    assert route(policy(), "all@here.example", people=people) == ["INBOX ann", "INBOX joe"]


@pytest.mark.row("OUT-12")
@pytest.mark.parametrize(
    "target",
    [
        "a@x.example> SIZE=0\r\nRCPT TO:<v@y.example",
        "a@x.example> SIZE=0",
        "a b@x.example",
        "@x.example",
        "a@",
        "a\0b",
    ],
)
def test_what_is_no_address_is_refused_when_the_table_is_read(target: str) -> None:
    with pytest.raises(BadSetting, match=r"policy\.tables\.users"):
        policy(virtual({"joe@here.example": target}))


def test_loops_are_broken_and_an_empty_one_is_refused() -> None:
    looping = {"a@here.example": ("b@here.example",), "b@here.example": ("a@here.example",)}
    assert refusal(policy(), "a@here.example", people=People(aliases=looping)) == (550, "5.4.6")
    with_joe = looping | {"b@here.example": ("a@here.example", "joe@here.example")}
    assert route(policy(), "a@here.example", people=People(aliases=with_joe)) == ["INBOX joe"]


def test_ten_expansions_are_enough() -> None:
    chain = {f"a{n}@here.example": (f"a{n + 1}@here.example",) for n in range(12)}
    chain["a10@here.example"] = ("joe@here.example",)
    assert refusal(policy(), "a0@here.example", people=People(aliases=chain)) == (550, "5.4.6")
    assert route(policy(), "a1@here.example", people=People(aliases=chain)) == ["INBOX joe"]


def test_a_thousand_deliveries_are_enough() -> None:
    crowd = {"all@here.example": tuple(f"x{n}@far.example" for n in range(1001))}
    assert refusal(policy(), "all@here.example", people=People(aliases=crowd)) == (550, "5.4.6")


def test_one_bad_target_refuses_the_whole_address() -> None:
    people = People(aliases={"team@here.example": ("ann@here.example", "gone@here.example")})
    assert refusal(policy(), "team@here.example", people=people) == (550, "5.1.1")


@pytest.mark.row("MT-07", "MT-22")
def test_virtual_keys_go_from_the_exact_to_the_general() -> None:
    entries = {
        "ann+tag@here.example": "joe",
        "ann@here.example": "ann",
        "sales+x": "ann@here.example",
        "sales": "joe",
        "@here.example": "x@far.example",
    }
    rules = policy(virtual(entries))
    assert route(rules, "ann+tag@here.example") == ["INBOX joe"]
    assert route(rules, "Ann+other@here.example") == ["INBOX ann"]
    assert route(rules, "sales+x@here.example") == ["INBOX ann"]
    assert route(rules, "sales+y@here.example") == ["INBOX joe"]
    assert route(rules, "nobody@here.example") == ["relay x@far.example"]
    assert refusal(policy(virtual({"ann": "ann"})), "nobody@here.example") == (550, "5.1.1")


def test_a_virtual_user_may_lead_back_to_itself() -> None:
    entries = {"joe@here.example": "joe@here.example, x@far.example"}
    assert route(policy(virtual(entries)), "joe@here.example") == ["INBOX joe", "relay x@far.example"]


def test_a_table_can_refuse_in_its_own_words() -> None:
    rules = policy(
        virtual({"old@here.example": "error:550 5.1.6 moved away", "busy@here.example": "error:450 later"})
    )
    assert refusal(rules, "old@here.example") == (550, "5.1.6")
    assert refusal(rules, "busy@here.example") == (450, "4.1.1")
    with pytest.raises(BadSetting, match="from 400 to 599"):
        policy(virtual({"old@here.example": "error:250 ok"}))


@pytest.mark.row("MT-23")
def test_aliases_lead_to_users_through_each_other() -> None:
    rules = policy(
        {
            "tables": {
                "aliases": {"entries": {"root": "admins", "admins": "ann, joe", "loop": "loop2", "loop2": "loop"}}
            },
            "actions": {"local": {"do": "deliver", "alias": "aliases"}},
            "rules": [{"match": {"from": "any", "for": "here.example"}, "action": "local"}],
        }
    )
    assert route(rules, "root@here.example") == ["INBOX ann", "INBOX joe"]
    assert route(rules, "root+cron@here.example") == ["INBOX ann", "INBOX joe"]
    assert route(rules, "joe@here.example") == ["INBOX joe"]
    assert refusal(rules, "loop@here.example")[0] == 550


@pytest.mark.row("MT-20")
def test_lmtp_gets_the_user_or_the_whole_address() -> None:
    def rules(rcpt_to: bool) -> dict[str, object]:
        return {
            "actions": {"lmtp": {"do": "deliver", "lmtp": "127.0.0.1:24", "rcpt_to": rcpt_to}},
            "rules": [{"match": {"from": "any", "for": ["here.example", "other.example"]}, "action": "lmtp"}],
        }

    assert route(policy(rules(True)), "ann@here.example") == ["lmtp://127.0.0.1:24 ann@here.example"]
    assert route(policy(rules(False)), "ann@here.example") == ["lmtp://127.0.0.1:24 ann"]
    assert refusal(policy(rules(True)), "nobody@here.example") == (550, "5.1.1")
    # a domain that only the rule knows: the LMTP server decides
    assert route(policy(rules(True)), "x@other.example") == ["lmtp://127.0.0.1:24 x@other.example"]


def test_mail_of_ours_to_ours_stays_here() -> None:
    assert route(policy(), "joe@here.example", ANN) == ["INBOX joe"]


def test_another_mailbox_may_be_chosen() -> None:
    rules = policy(
        {
            "actions": {"junk": {"do": "deliver", "mailbox": "Junk"}},
            "rules": [{"match": {"from": "any", "for": "own"}, "action": "junk"}],
        }
    )
    assert route(rules, "joe@here.example", STRANGER) == ["Junk joe"]


@pytest.mark.row("MT-31")
def test_the_same_name_in_several_domains_is_as_many_people() -> None:
    people = People(
        accounts=("info@here.example", "info@there.example", "ann@here.example"),
        domains=("here.example", "there.example"),
    )
    assert route(policy(), "info@here.example", people=people) == ["INBOX info"]
    ids = [
        [each.account for each in run(policy().route(STRANGER, None, address_of(name), directory=people))]  # type: ignore[union-attr]  # mailboxes only
        for name in people.accounts[:2]
    ]
    assert ids == [[0], [1]]
    tables = {
        "tables": {"users": {"entries": {"info@here.example": "ann", "info@there.example": "info"}}},
        "actions": {"virt": {"do": "deliver", "virtual": "users"}},
        "rules": [{"match": {"from": "any", "for": "own"}, "action": "virt"}],
    }
    assert route(policy(tables), "info@here.example", people=people) == ["INBOX ann"]
    assert route(policy(tables), "info@there.example", people=people) == ["INBOX info"]
    assert refusal(policy(tables), "ann@there.example", people=people) == (550, "5.1.1")
