"""PLAIN and LOGIN, both sides (RFC 4616, RFC 4954)."""

import pytest

from gatepost.codec.sasl import (
    Challenge,
    Credentials,
    Login,
    Malformed,
    Plain,
    decode_response,
    encode,
    login_responses,
    plain_response,
)


def test_plain_example_of_rfc_4616_section_4() -> None:
    assert Plain().step(b"\0tim\0tanstaaftanstaaf") == Credentials("tim", b"tanstaaftanstaaf")
    assert Plain().step(b"Ursel\0Kurt\0xipj3plmq") == Credentials("Kurt", b"xipj3plmq", authorize_as="Ursel")


def test_plain_without_an_initial_response_is_asked_for_it() -> None:
    assert Plain().step(None) == Challenge(b"")


@pytest.mark.parametrize("response", [b"", b"bob", b"\0bob", b"\xff\0bob\0x", b"\0\xff\0x"])
def test_what_is_not_plain_is_malformed(response: bytes) -> None:
    with pytest.raises(Malformed):
        Plain().step(response)


@pytest.mark.row("AUTH-08")
def test_a_third_nul_belongs_to_the_password_so_that_it_is_wrong() -> None:
    assert Plain().step(b"\0bob\0x\0pw") == Credentials("bob", b"x\0pw")


def test_login_asks_for_user_and_password() -> None:
    login = Login()
    assert login.step(None) == Challenge(b"Username:")
    assert login.step(b"bob") == Challenge(b"Password:")
    assert login.step(b"pw") == Credentials("bob", b"pw")


def test_login_takes_the_user_as_initial_response() -> None:
    login = Login()
    assert login.step(b"bob") == Challenge(b"Password:")


@pytest.mark.row("AUTH-06")
@pytest.mark.parametrize("line", [b"a*b", b"====", b"YQ", b"\xff\xfe", b"YQ==\n", b"Y Q="])
def test_what_is_not_base64_is_malformed(line: bytes) -> None:
    with pytest.raises(Malformed):
        decode_response(line)


def test_an_equals_sign_is_the_empty_response() -> None:
    assert decode_response(b"=") == b""


def test_both_sides_agree() -> None:
    assert Plain().step(decode_response(encode(plain_response("bøb", "pw")))) == Credentials("bøb", b"pw")
    login = Login()
    login.step(None)
    user, password = login_responses("bob", "pw")
    login.step(user)
    assert login.step(password) == Credentials("bob", b"pw")


def test_the_client_side_refuses_a_nul() -> None:
    with pytest.raises(ValueError, match="NUL"):
        plain_response("bob\0", "pw")


def test_a_password_is_not_shown_by_repr() -> None:
    assert "secret" not in repr(Credentials("bob", b"secret"))
