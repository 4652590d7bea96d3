"""TLSA records against chains of certificates (RFC 6698, RFC 7671, RFC 7672)."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatepost.codec.tlsa import Tlsa, Unproven, matches_name, prove, public_key_octets, strongest, usable
from tests.relay.authority import NOW, Paper, paper

NAMES = ("mx.there.example", "there.example")
ROOT = paper(common="root", authority=True)
MIDDLE = paper(common="middle", authority=True, issuer=ROOT)
LEAF = paper("mx.there.example", issuer=MIDDLE)
STRANGER = paper(common="root", authority=True)
OLD = NOW - timedelta(days=2)
FORMS = [(selector, matching) for selector in (0, 1) for matching in (0, 1, 2)]


def tried(record: Tlsa | Sequence[Tlsa], *chain: Paper, names: Sequence[str] = NAMES) -> str:
    """Return "" when the chain fits a record, else why not."""
    records = usable([record] if isinstance(record, Tlsa) else record)
    assert records
    try:
        assert prove(records, [each.der for each in chain], names, NOW) in records
    except Unproven as wrong:
        return str(wrong)
    return ""


@pytest.mark.parametrize(("selector", "matching"), FORMS)
def test_dane_ee_takes_the_servers_own_certificate_only(selector: int, matching: int) -> None:
    record = LEAF.tlsa(3, selector, matching)
    assert tried(record, LEAF) == ""
    assert "fits none" in tried(record, paper("mx.there.example", issuer=MIDDLE), LEAF, MIDDLE)


@pytest.mark.parametrize("served", [paper("other.example"), paper(common="", ends=OLD, begins=OLD - timedelta(9))])
def test_dane_ee_skips_names_and_dates(served: Paper) -> None:
    assert tried(served.tlsa(3, 1, 1), served) == ""


@pytest.mark.parametrize(("selector", "matching"), FORMS)
def test_dane_ta_takes_any_authority_above_the_server(selector: int, matching: int) -> None:
    for authority in (MIDDLE, ROOT):
        record = authority.tlsa(2, selector, matching)
        assert tried(record, LEAF, MIDDLE, ROOT) == ""
        assert tried(record, LEAF, ROOT, MIDDLE) == ""  # the order above the leaf does not matter
        assert tried(record, LEAF, STRANGER, MIDDLE, ROOT) == ""
        assert "no certificate above" in tried(record, paper("mx.there.example", issuer=STRANGER), MIDDLE, ROOT)


def test_an_authority_that_only_the_dns_shows_is_enough_when_it_is_whole() -> None:
    assert tried(MIDDLE.tlsa(2, 0, 0), LEAF) == ""
    assert tried(MIDDLE.tlsa(2, 1, 0), LEAF) == ""
    assert tried(ROOT.tlsa(2, 1, 0), LEAF, MIDDLE) == ""
    assert "no certificate above" in tried(MIDDLE.tlsa(2, 0, 1), LEAF)
    assert "no certificate above" in tried(STRANGER.tlsa(2, 1, 0), LEAF, MIDDLE)


def test_the_servers_own_certificate_is_no_authority_above_it() -> None:
    own = paper("mx.there.example", authority=True)
    assert "no certificate above" in tried(own.tlsa(2), own)
    assert "no certificate above" in tried(LEAF.tlsa(2), LEAF, MIDDLE)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
def test_a_bare_key_of_any_kind_verifies(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> None:
    root = paper(common="root", authority=True, key=key)
    assert tried(root.tlsa(2, 1, 0), paper("mx.there.example", issuer=root)) == ""
    assert "no certificate above" in tried(root.tlsa(2, 1, 0), paper("mx.there.example", issuer=ROOT))


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (("mx.there.example",), True),
        (("THERE.example",), True),
        (("*.there.example",), True),
        (("other.example", "mx.there.example"), True),
        (("mx.other.example",), False),
        (("m*.there.example",), False),
        (("*.example",), False),
        ((), False),
    ],
)
def test_dane_ta_asks_for_one_of_the_reference_names(names: tuple[str, ...], fits: bool) -> None:
    wrong = tried(MIDDLE.tlsa(2), paper(*names, issuer=MIDDLE), MIDDLE)
    assert (wrong == "") is fits, wrong


def test_the_common_name_counts_only_where_there_are_no_other_names() -> None:
    assert tried(MIDDLE.tlsa(2), paper(common="mx.there.example", issuer=MIDDLE), MIDDLE) == ""
    both = paper("other.example", common="mx.there.example", issuer=MIDDLE)
    assert "is for other.example, not mx.there.example" in tried(MIDDLE.tlsa(2), both, MIDDLE)


def test_dane_ta_asks_for_dates_purpose_and_known_extensions() -> None:
    expired = paper("mx.there.example", issuer=MIDDLE, begins=OLD - timedelta(9), ends=OLD)
    early = paper("mx.there.example", issuer=MIDDLE, begins=NOW + timedelta(days=1))
    client = paper("mx.there.example", issuer=MIDDLE, uses=(ExtendedKeyUsageOID.CLIENT_AUTH,))
    odd = paper("mx.there.example", issuer=MIDDLE, critical=True)
    record = MIDDLE.tlsa(2)
    assert "expired at" in tried(record, expired, MIDDLE)
    assert "not valid before" in tried(record, early, MIDDLE)
    assert "not one for servers" in tried(record, client, MIDDLE)
    assert "critical extension" in tried(record, odd, MIDDLE)


@pytest.mark.parametrize(
    "bad",
    [
        {"authority": False},
        {"authority": True, "signs": False},
        {"authority": True, "begins": OLD - timedelta(9), "ends": OLD},
        {"authority": True, "critical": True},
    ],
)
def test_what_may_not_sign_leads_nowhere(bad: dict[str, bool]) -> None:
    middle = paper(common="middle", issuer=ROOT, **bad)  # type: ignore[arg-type]  # fields by name
    leaf = paper("mx.there.example", issuer=middle)
    assert "no certificate above" in tried(ROOT.tlsa(2), leaf, middle, ROOT)


def test_a_path_length_is_kept() -> None:
    root = paper(common="root", authority=True, path_length=0)
    middle = paper(common="middle", authority=True, issuer=root)
    assert tried(root.tlsa(2), paper("mx.there.example", issuer=root), root) == ""
    below = paper("mx.there.example", issuer=middle)
    assert "no certificate above" in tried(root.tlsa(2), below, middle, root)


def test_one_record_that_fits_is_enough() -> None:
    assert tried([STRANGER.tlsa(3), MIDDLE.tlsa(2), STRANGER.tlsa(2)], LEAF, MIDDLE) == ""
    assert tried([STRANGER.tlsa(2), LEAF.tlsa(3)], LEAF) == ""


def test_a_weaker_digest_beside_a_stronger_one_does_not_count() -> None:
    """RFC 7671 §9: the strongest digest of each usage and selector; full data always."""
    weak, strong = LEAF.tlsa(3, 1, 1), STRANGER.tlsa(3, 1, 2)
    assert strongest([weak, strong]) == (strong,)
    assert "fits none" in tried([weak, strong], LEAF)
    assert tried([LEAF.tlsa(3, 0, 1), strong], LEAF) == ""
    assert tried([LEAF.tlsa(3, 1, 0), strong], LEAF) == ""


def test_records_that_smtp_cannot_use_are_left_out() -> None:
    good = LEAF.tlsa(3, 1, 1)
    bad = [
        LEAF.tlsa(0),
        LEAF.tlsa(1),
        Tlsa(4, 1, 1, good.data),
        Tlsa(3, 2, 1, good.data),
        Tlsa(3, 1, 3, good.data),
        Tlsa(3, 1, 1, good.data[:-1]),
        Tlsa(3, 1, 2, good.data),
        Tlsa(3, 0, 0, b"nothing"),
        Tlsa(2, 1, 0, b"nothing"),
        Tlsa(255, 255, 255, b""),
    ]
    assert usable(bad) == ()
    assert usable([*bad, good]) == (good,)
    assert len(usable([good] * 100)) == 32


def test_a_chain_made_to_cost_is_given_up() -> None:
    """Fifteen authorities of one name and key could be climbed in 15! orders."""
    key = ROOT.key
    maze = [paper(common="x", authority=True, key=key) for _ in range(15)]
    leaf = paper("mx.there.example", issuer=maze[0])
    assert "no certificate above" in tried(STRANGER.tlsa(2), leaf, *maze)


@pytest.mark.parametrize(
    "chain", [[], [b""], [b"\x30"], [LEAF.der[:-1], MIDDLE.der], [b"\x30\x84\xff\xff\xff\xff"]]
)
@pytest.mark.parametrize("record", [MIDDLE.tlsa(2), LEAF.tlsa(3, 1, 1), LEAF.tlsa(3, 0, 1)])
def test_broken_chains_are_unproven(chain: list[bytes], record: Tlsa) -> None:
    with pytest.raises(Unproven):
        prove([record], chain, NAMES, NOW)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a certificate that is broken so is read, still
@example(at=15, octet=128, cut=False)
@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(LEAF.der) - 1), octet=st.integers(0, 255), cut=st.booleans())
def test_no_broken_certificate_raises_anything_else(at: int, octet: int, cut: bool) -> None:
    changed = LEAF.der[:at] if cut else LEAF.der[:at] + bytes((octet,)) + LEAF.der[at + 1 :]
    for record in (MIDDLE.tlsa(2), LEAF.tlsa(3, 0, 1)):
        if changed != LEAF.der:
            with pytest.raises(Unproven):
                prove([record], [changed, MIDDLE.der], NAMES, NOW)


def test_the_public_key_is_taken_as_it_stands() -> None:
    for each in (ROOT, MIDDLE, LEAF, paper("x.example", key=rsa.generate_private_key(65537, 2048))):
        assert public_key_octets(each.der) == each.spki
        assert x509.load_der_x509_certificate(each.der) == each.certificate


def test_names_match_without_case_and_with_one_wildcard_label() -> None:
    assert matches_name("MX.there.example", "mx.THERE.example")
    assert matches_name("*.there.example", "mx.there.example")
    assert not matches_name("*.there.example", "there.example")
    assert not matches_name("*.there.example", "a.mx.there.example")
    assert not matches_name("*", "example")
