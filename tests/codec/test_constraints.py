"""Name constraints of an authority (RFC 5280 §4.2.1.10), by hand and against OpenSSL."""

import subprocess
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from gatepost.codec.constraints import COMPARED_MAX
from gatepost.codec.tlsa import Unproven, prove
from tests.relay.authority import NOW, Paper, paper
from tests.support.peers import program

HOST = "mx.there.example"
ROOT = paper(common="root", authority=True)
Names = Sequence[x509.GeneralName]


def dns(*names: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name) for name in names]


def subject(**parts: str) -> x509.Name:
    kinds = {"c": NameOID.COUNTRY_NAME, "o": NameOID.ORGANIZATION_NAME, "cn": NameOID.COMMON_NAME}
    kinds["mail"] = NameOID.EMAIL_ADDRESS
    return x509.Name([x509.NameAttribute(kinds[kind], text) for kind, text in parts.items()])


def verdict(leaf: Paper, *above: Paper, anchor: Paper = ROOT) -> str:
    """Return "" when the leaf is good for HOST under the anchor (DANE-TA), else why not."""
    try:
        prove([anchor.tlsa(2)], [each.der for each in (leaf, *above)], (HOST,), NOW)
    except Unproven as wrong:
        return str(wrong)
    return ""


BERLIN = subject(c="DE", o="Uni  Berlin")
IP4, IP6 = x509.IPAddress(ip_address("192.0.2.7")), x509.IPAddress(ip_address("2001:db8::7"))
MAIL = x509.RFC822Name("ann@there.example")
CASES: list[tuple[Names | None, Names | None, dict[str, object], bool]] = [
    (dns("there.example"), None, {}, True),
    (dns("THERE.example"), None, {}, True),
    (dns(HOST), None, {}, True),
    (dns("other.example", "there.example"), None, {}, True),
    (dns(".there.example"), None, {}, True),
    (dns(f".{HOST}"), None, {}, False),
    (dns("here.example"), None, {}, False),  # a tail, but of half a label
    (dns("other.example"), None, {}, False),
    (dns(f"a.{HOST}"), None, {}, False),
    (None, dns("other.example"), {}, True),
    (None, dns("there.example"), {}, False),
    (None, dns("example"), {}, False),
    (dns("there.example"), dns(HOST), {}, False),
    (dns("there.example"), dns("www.there.example"), {}, True),
    (dns("there.example"), None, {"more": dns("www.other.example")}, False),  # every name counts
    (dns("there.example"), None, {"more": [IP4]}, True),  # another kind
    ([x509.IPAddress(ip_network("192.0.2.0/24"))], None, {"more": [IP4]}, True),
    ([x509.IPAddress(ip_network("192.0.2.0/24"))], None, {"more": [IP6]}, False),
    (None, [x509.IPAddress(ip_network("0.0.0.0/0")), x509.IPAddress(ip_network("::/0"))], {}, True),
    (None, [x509.IPAddress(ip_network("0.0.0.0/0"))], {"more": [IP4]}, False),
    (None, [x509.IPAddress(ip_network("0.0.0.0/0"))], {"more": [IP6]}, True),
    ([x509.DirectoryName(BERLIN)], None, {"subject": subject(c="DE", o="uni berlin", cn="x")}, True),
    ([x509.DirectoryName(BERLIN)], None, {"subject": subject(c="DE", o="Uni Bremen", cn="x")}, False),
    ([x509.DirectoryName(BERLIN)], None, {"subject": subject(o="Uni Berlin", c="DE")}, False),
    (None, [x509.DirectoryName(BERLIN)], {"subject": subject(c="DE", o="Uni Berlin", cn="x")}, False),
    ([x509.RFC822Name("other.example")], None, {"more": [MAIL]}, False),
    ([x509.RFC822Name("other.example")], None, {}, True),
    (None, [x509.RFC822Name("there.example")], {"subject": subject(cn="x", mail="ann@there.example")}, False),
]  # fmt: skip


@pytest.mark.parametrize(("permitted", "excluded", "leaf", "good"), CASES)
def test_an_authority_vouches_for_the_names_that_its_own_certificate_leaves_it(
    permitted: Names | None, excluded: Names | None, leaf: dict[str, object], good: bool
) -> None:
    middle = paper(common="middle", authority=True, issuer=ROOT, permitted=permitted, excluded=excluded)
    below = paper(HOST, issuer=middle, **leaf)  # type: ignore[arg-type]  # fields by name
    wrong = verdict(below, middle, ROOT)
    assert (wrong == "") is good, wrong
    assert good or "may not vouch for" in wrong


def test_the_reason_names_the_authority_and_the_name() -> None:
    middle = paper(common="middle", authority=True, issuer=ROOT, permitted=dns("other.example"))
    assert verdict(paper(HOST, issuer=middle), middle, ROOT) == (
        "no certificate above the server's fits a TLSA record (usage 2): "
        f"the authority 'CN=middle' may not vouch for {HOST}"
    )


def test_the_constraints_of_all_authorities_on_the_way_count_and_the_anchors_too() -> None:
    root = paper(common="root", authority=True, excluded=dns("there.example"))
    middle = paper(common="middle", authority=True, issuer=root, permitted=dns("there.example"))
    leaf = paper(HOST, issuer=middle)
    assert "'CN=root' may not vouch" in verdict(leaf, middle, root, anchor=root)
    assert verdict(leaf, middle, root, anchor=middle) == ""  # what is above the anchor does not count


def test_names_of_the_authorities_between_count_unless_they_issued_themselves() -> None:
    german = [x509.DirectoryName(subject(c="DE"))]
    root = paper(subject=subject(c="FR", o="root"), authority=True, permitted=german)
    renewed = paper(subject=subject(c="FR", o="root"), authority=True, issuer=root)
    foreign = paper(subject=subject(c="FR", o="middle"), authority=True, issuer=root)
    berliner = subject(c="DE", cn="x")
    assert verdict(paper(HOST, issuer=renewed, subject=berliner), renewed, root, anchor=root) == ""
    wrong = verdict(paper(HOST, issuer=foreign, subject=berliner), foreign, root, anchor=root)
    assert "may not vouch for O=middle,C=FR" in wrong


def test_a_wildcard_does_not_stand_for_an_excluded_name() -> None:
    """The wildcard itself is none of the excluded names; the one that it is asked for is."""
    middle = paper(common="middle", authority=True, issuer=ROOT, excluded=dns(HOST))
    wild = paper("*.there.example", issuer=middle)
    assert f"may not vouch for {HOST}" in verdict(wild, middle, ROOT)
    free = paper(common="free", authority=True, issuer=ROOT, excluded=dns("www.there.example"))
    assert verdict(paper("*.there.example", issuer=free), free, ROOT) == ""


def test_a_common_name_in_place_of_other_names_is_constrained_too() -> None:
    middle = paper(common="middle", authority=True, issuer=ROOT, excluded=dns("there.example"))
    assert f"may not vouch for {HOST}" in verdict(paper(common=HOST, issuer=middle), middle, ROOT)


def test_another_authority_of_the_same_name_without_constraints_is_a_way_up() -> None:
    key = ROOT.key
    tight = paper(common="middle", authority=True, issuer=ROOT, key=key, excluded=dns("there.example"))
    free = paper(common="middle", authority=True, issuer=ROOT, key=key)
    assert verdict(paper(HOST, issuer=free), tight, free, ROOT) == ""


def test_constraints_made_to_cost_are_given_up() -> None:
    many = dns(*(f"d{number}.example" for number in range(300)))
    middle = paper(common="middle", authority=True, issuer=ROOT, excluded=many)
    leaf = paper(HOST, *(f"a{number}.there.example" for number in range(COMPARED_MAX // 300)), issuer=middle)
    assert "more name constraints than are looked at" in verdict(leaf, middle, ROOT)


@pytest.mark.peer("openssl")
def test_openssl_gives_the_same_verdicts(tmp_path: Path) -> None:
    openssl = program("openssl")
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    differ = []
    for number, (permitted, excluded, leaf, good) in enumerate(CASES):
        middle = paper(common="middle", authority=True, issuer=ROOT, permitted=permitted, excluded=excluded)
        below = paper(HOST, issuer=middle, **leaf)  # type: ignore[arg-type]  # fields by name
        (tmp_path / "middle.pem").write_bytes(middle.pem)
        (tmp_path / "leaf.pem").write_bytes(below.pem)
        words = ["-CAfile", "root.pem", "-untrusted", "middle.pem", "-verify_hostname", HOST, "leaf.pem"]
        run = subprocess.run([openssl, "verify", *words], cwd=tmp_path, capture_output=True, text=True)
        if (run.returncode == 0) is not good:
            differ.append((number, good, run.stderr))
    assert differ == []
