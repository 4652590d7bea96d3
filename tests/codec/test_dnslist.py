"""DNS lists: names and answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.codec.dnslist import ALL, Answers, complaint, listed, parse_answers, parse_zone, query_name


@pytest.mark.parametrize(
    ("ip", "name"),
    [
        ("192.0.2.99", "99.2.0.192.list.example"),  # RFC 5782 §2.1
        ("::ffff:192.0.2.99", "99.2.0.192.list.example"),
        (
            "2001:db8:1:2:3:4:567:89ab",  # RFC 5782 §2.4
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.list.example",
        ),
        ("::1", "1." + "0." * 31 + "list.example"),
    ],
)
def test_an_address_is_reversed(ip: str, name: str) -> None:
    assert query_name(ip, "list.example") == name


@given(st.ip_addresses())
def test_every_address_has_a_name_of_its_own(ip: object) -> None:
    name = query_name(str(ip), "list.example")
    labels = name.removesuffix(".list.example").split(".")
    assert len(labels) in (4, 32)
    assert len(name) <= 253


@pytest.mark.row("DNS-08")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("127.255.254.255", True),
        ("127.255.255.1", False),
        ("127.255.255.252", False),
        ("127.255.255.254", False),
        ("127.255.255.255", False),
        ("10.0.0.1", False),
        ("128.0.0.2", False),
        ("12.7.0.0", False),
        ("203.0.113.80", False),
    ],
)
def test_only_127_without_its_error_codes_says_listed(answer: str, says: bool) -> None:
    assert listed(answer) is says
    assert complaint(answer) is answer.startswith("127.255.255.")


@pytest.mark.parametrize(
    ("mask", "yes", "no"),
    [
        ("127.0.0.4", ["127.0.0.4"], ["127.0.0.2", "127.0.1.4"]),
        ("=127.0.0.4", ["127.0.0.4"], ["127.0.0.5"]),
        ("127.0.0.[2..11]", ["127.0.0.2", "127.0.0.11"], ["127.0.0.1", "127.0.0.12", "127.0.1.2"]),
        ("127.0.[0..255].[1;3]", ["127.0.7.1", "127.0.255.3"], ["127.0.7.2"]),
        ("127.0.0.[2;4..6;9]", ["127.0.0.2", "127.0.0.5", "127.0.0.9"], ["127.0.0.3", "127.0.0.7"]),
        ("[127].0.0.0", ["127.0.0.0"], ["127.0.0.1"]),
    ],
)
def test_a_mask_chooses_among_answers(mask: str, yes: list[str], no: list[str]) -> None:
    answers = parse_answers(mask)
    assert all(answers.match(each) for each in yes)
    assert not any(answers.match(each) for each in no)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_a_range_matches_what_lies_in_it(one: int, other: int, octet: int) -> None:
    first, last = sorted((one, other))
    assert parse_answers(f"127.0.0.[{first}..{last}]").match(f"127.0.0.{octet}") is (first <= octet <= last)
    assert ALL.match(f"127.0.0.{octet}")


@pytest.mark.parametrize(
    "mask",
    ["", "127", "127.0.0", "127.0.0.", "127.0.0.2.3", "127.0.0.256", "127.0.0.[2..]", "127.0.0.[5..2]",
     "127.0.0.[]", "127.0.0.[2..300]", "127.0.0.2 ", "127.0.0.[2", "127.0.0.x", "10.0.0.2", "127.0.0.[2,3]",
     "==127.0.0.2", "127.0.0.2x", "127..0.2", "[1..5].0.0.2"],
)  # fmt: skip
def test_a_mask_that_is_none_is_refused(mask: str) -> None:
    with pytest.raises(ValueError, match="answer"):
        parse_answers(mask)


@given(st.text("127.0[]=;-", max_size=20))
def test_any_text_is_a_mask_or_refused(text: str) -> None:
    try:
        assert isinstance(parse_answers(text), Answers)
    except ValueError:
        pass


def test_a_zone_is_a_domain() -> None:
    assert parse_zone("Zen.Spamhaus.ORG.") == "zen.spamhaus.org"
    assert parse_zone("key_1.list.example") == "key_1.list.example"
    for wrong in (
        "",
        ".",
        "a..b",
        "a b.example",
        "-a.example",
        "http://list.example",
        "x" * 64,
        ("a." * 100) + "b",
    ):
        with pytest.raises(ValueError, match="list"):
            parse_zone(wrong)
