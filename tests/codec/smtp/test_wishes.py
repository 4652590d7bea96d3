"""What MAIL asks about the way of a mail: RFC 8689, RFC 6710, RFC 2852, RFC 4865."""

import pytest

from gatepost.base.clock import Instant
from gatepost.base.reply import Refusal
from gatepost.codec.smtp.grammar import Mail, parse_command
from gatepost.codec.smtp.server import Dialogue, Terms
from gatepost.codec.smtp.wishes import Asked, By


def asked(parameters: str) -> Asked | None:
    command = parse_command(f"MAIL FROM:<bob@here.example> {parameters}".encode())
    assert isinstance(command, Mail)
    return command.asked


def refusal(parameters: str) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        asked(parameters)
    return caught.value.reply.code, caught.value.reply.enhanced


def answer(parameters: str, terms: Terms, *, tls: bool = True) -> bytes:
    """Return what a server of these terms says to MAIL, b"" when it may be taken."""
    dialogue = Dialogue(terms, 0.0, tls=tls)
    dialogue.receive(b"EHLO client.example\r\n", 0.0)
    dialogue.next_event()
    dialogue.accept()
    dialogue.output()
    dialogue.receive(f"MAIL FROM:<bob@here.example> {parameters}\r\n".encode(), 0.0)
    return b"" if dialogue.next_event() is not None else dialogue.output()


def test_a_usual_mail_asks_for_nothing() -> None:
    assert asked("SIZE=100 BODY=8BITMIME") is None


def test_requiretls_takes_no_value_and_is_given_once() -> None:
    assert asked("REQUIRETLS") == asked("size=1 requiretls") == Asked(requiretls=True)
    assert refusal("REQUIRETLS=1") == refusal("REQUIRETLS REQUIRETLS") == (501, "5.5.4")


def test_requiretls_is_taken_over_tls_where_it_is_offered() -> None:
    assert answer("REQUIRETLS", Terms("mx")) == b""
    no = b"555 5.5.4 Unsupported parameter REQUIRETLS\r\n"
    assert answer("REQUIRETLS", Terms("mx"), tls=False) == no
    assert answer("REQUIRETLS", Terms("mx", requiretls=False)) == no


@pytest.mark.parametrize("value", range(-9, 10))
def test_a_priority_is_a_number_from_minus_nine_to_nine(value: int) -> None:
    assert asked(f"MT-PRIORITY={value}") == Asked(priority=value)


@pytest.mark.parametrize("value", ["", "=", "=10", "=-10", "=+5", "=-0", "=05", "=x", "=1 MT-PRIORITY=1"])
def test_other_priorities_are_malformed(value: str) -> None:
    assert refusal(f"MT-PRIORITY{value}") == (501, "5.5.4")


def test_a_priority_is_taken_where_it_is_offered() -> None:
    assert answer("MT-PRIORITY=1", Terms("mx", priority=True)) == b""
    assert answer("MT-PRIORITY=1", Terms("mx")) == b"555 5.5.4 Unsupported parameter MT-PRIORITY\r\n"


@pytest.mark.parametrize(
    ("value", "by"),
    [
        ("120;R", By(120, True)),
        ("+1;rt", By(1, True, True)),
        ("0;N", By(0, False)),
        ("-999999999;NT", By(-999_999_999, False, True)),
    ],
)
def test_a_time_has_a_mode_and_perhaps_a_trace(value: str, by: By) -> None:
    assert asked(f"BY={value}") == Asked(by=by)


@pytest.mark.parametrize(
    "value",
    ["", "=120", "=120;", "=;R", "=120;X", "=120;RN", "=1234567890;N", "=1;R;T", "=0;R", "=-1;R", "=1;R BY=1;R"],
)
def test_other_times_are_malformed(value: str) -> None:
    assert refusal(f"BY{value}") == (501, "5.5.4")


def test_a_time_is_taken_where_it_is_offered() -> None:
    assert answer("BY=1;R", Terms("mx", deliver_by=True)) == b""
    assert answer("BY=1;R", Terms("mx")) == b"555 5.5.4 Unsupported parameter BY\r\n"


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("HOLDFOR=1", Asked(hold_for=1)),
        ("holdfor=999999999", Asked(hold_for=999_999_999)),
        ("HOLDUNTIL=1970-01-01T00:00:01Z", Asked(hold_until=Instant(1_000_000))),
        ("HOLDUNTIL=2027-01-31t08:00:00.5z", Asked(hold_until=Instant(1_801_382_400_500_000))),
        ("HOLDUNTIL=2027-01-31T09:00:00+01:00", Asked(hold_until=Instant(1_801_382_400_000_000))),
    ],
)
def test_a_release_is_a_time_or_a_date(value: str, meant: Asked) -> None:
    assert asked(value) == meant


@pytest.mark.parametrize(
    "value",
    [
        "HOLDFOR",
        "HOLDFOR=0",
        "HOLDFOR=-1",
        "HOLDFOR=01",
        "HOLDFOR=1000000000",
        "HOLDFOR=1 HOLDFOR=1",
        "HOLDUNTIL",
        "HOLDUNTIL=2027-01-31",
        "HOLDUNTIL=2027-01-31T08:00:00",
        "HOLDUNTIL=2027-02-31T08:00:00Z",
        "HOLDUNTIL=20270131T080000Z",
        "HOLDFOR=1 HOLDUNTIL=2027-01-31T08:00:00Z",
    ],
)
def test_other_releases_are_malformed(value: str) -> None:
    assert refusal(value) == (501, "5.5.4")


def test_a_release_is_taken_where_it_is_offered() -> None:
    assert answer("HOLDFOR=1", Terms("mx", future_release="60 2027-01-31T08:00:00Z")) == b""
    assert answer("HOLDFOR=1", Terms("mx")) == b"555 5.5.4 Unsupported parameter HOLDFOR\r\n"
    no = b"555 5.5.4 Unsupported parameter HOLDUNTIL\r\n"
    assert answer("HOLDUNTIL=2027-01-31T08:00:00Z", Terms("mx")) == no
