"""Addresses: how they are written and how they are compared."""

import pytest

from gatepost.base.address import Address, fold, fold_domain


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("bob", "example.org"), "bob@example.org"),
        (Address("b b", "example.org"), '"b b"@example.org'),
        (Address('b"\\', "example.org"), '"b\\"\\\\"@example.org'),
        (Address(".bob", "example.org"), '".bob"@example.org'),
        (Address("a..b", "example.org"), '"a..b"@example.org'),
        (Address("", "example.org"), '""@example.org'),
        (Address("böb", "example.org"), "böb@example.org"),
    ],
)
def test_a_local_part_is_quoted_where_the_grammar_asks_for_it(address: Address, text: str) -> None:
    assert str(address) == text


def test_addresses_compare_without_case_and_by_a_label() -> None:
    assert Address("Bob", "BÜCHER.example").key == Address("bob", "xn--bcher-kva.example.").key


def test_the_kelvin_sign_is_not_a_k() -> None:
    assert fold("\u212a") == "\u212a"


def test_a_domain_that_idna_refuses_is_only_lowered() -> None:
    assert fold_domain("Ü\u0000X.example") == "Ü\u0000x.example"
