"""MTA-STS documents: the record, the policy, and which hosts fit it (RFC 8461 §3, §4.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.codec.mtasts import (
    LINES_MAX,
    MAX_AGE_MOST,
    OCTETS_MAX,
    BadPolicy,
    Mode,
    Policy,
    read_policy,
    read_record,
)

# RFC 8461 §3.2, the example
EXAMPLE = (
    b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\n"
    b"mx: *.example.net\r\nmx: backupmx.example.com\r\nmax_age: 604800\r\n"
)


def test_the_policy_of_the_rfc_is_read() -> None:
    assert read_policy(EXAMPLE) == Policy(
        Mode.ENFORCE, 604_800, ("mail.example.com", "*.example.net", "backupmx.example.com")
    )


def test_bare_line_feeds_space_and_unknown_fields_are_borne() -> None:
    octets = (
        b"version:STSv1 \nmode:\ttesting  \nmx: MX.Example.ORG.\nx-new: \xc3\xbc a\n\nmax_age: 60\nmode: none\n"
    )
    assert read_policy(octets) == Policy(Mode.TESTING, 60, ("mx.example.org",))


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\xff",
        b"<html>",
        EXAMPLE.replace(b"STSv1", b"STSv2"),
        EXAMPLE.replace(b"enforce", b"strict"),
        EXAMPLE.replace(b"604800", b"soon"),
        EXAMPLE.replace(b"604800", b"-1"),
        EXAMPLE.replace(b"604800", str(MAX_AGE_MOST + 1).encode()),
        EXAMPLE.replace(b"*.example.net", b"*.*.example.net"),
        EXAMPLE.replace(b"*.example.net", b"mail*.example.net"),
        EXAMPLE + b"no field\r\n",
        EXAMPLE + b"x: y\r\n" * LINES_MAX,
        EXAMPLE + b"x: " + b"y" * OCTETS_MAX,
        b"version: STSv1\r\nmode: enforce\r\nmax_age: 60\r\n",
    ],
)
def test_what_is_no_policy_is_none(octets: bytes) -> None:
    with pytest.raises(BadPolicy):
        read_policy(octets)


@given(st.binary(max_size=300))
def test_any_octets_are_a_policy_or_none(octets: bytes) -> None:
    try:
        read_policy(b"version: STSv1\nmode: none\nmax_age: 1\n" + octets)
    except BadPolicy:
        pass
    read_record([octets, b"v=STSv1;" + octets])


@given(
    st.sampled_from(Mode),
    st.integers(0, MAX_AGE_MOST),
    st.lists(st.from_regex(r"\A(\*\.)?[a-z0-9]{1,9}\.[a-z]{2,5}\Z"), min_size=1, max_size=5, unique=True),
)
def test_what_is_served_is_what_is_read(mode: Mode, max_age: int, mx: list[str]) -> None:
    policy = Policy(mode, max_age, tuple(mx))
    assert read_policy(policy.document()) == policy


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ("mail.example.com", True),
        ("MAIL.example.com.", True),
        ("a.example.net", True),
        ("example.net", False),
        ("a.b.example.net", False),
        (".example.net", False),
        ("mail.example.org", False),
        ("192.0.2.1", False),
    ],
)
def test_a_star_stands_for_one_label(host: str, fits: bool) -> None:
    assert read_policy(EXAMPLE).fits(host) is fits


@pytest.mark.parametrize(
    ("texts", "announced"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),  # RFC 8461 §3.1
        ([b"v=STSv1;id=1"], "1"),
        ([b"v=STSv1; x=y ; id=1 ;"], "1"),
        ([b"v=spf1 -all", b"v=STSv1; id=1"], "1"),
        ([b"v=STSv1; id=1", b"v=STSv1; id=2"], ""),
        ([b"v=STSv1; id=1; id=2"], ""),
        ([b"v=STSv1; id=a-b"], ""),
        ([b"v=STSv1; id=" + b"1" * 33], ""),
        ([b"v=STSv1; id=1;;"], ""),
        ([b"v=STSv1;"], ""),
        ([b"v=STSv10; id=1"], ""),
        ([b"V=STSV1; id=1"], ""),
        ([], ""),
    ],
)
def test_one_good_record_announces_a_policy(texts: list[bytes], announced: str) -> None:
    assert read_record(texts) == announced
