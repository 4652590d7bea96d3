"""DMARC records and the tree walk (RFC 9989 §4)."""

import pytest

from gatepost.codec.dmarc import Policy, Request, Suffix, applicable, ends, only_policy, organizational, parse, walk


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v=DMARC1; p=reject", Policy(Request.REJECT)),
        ("v=DMARC1;p=quarantine;sp=none;np=reject", Policy(Request.QUARANTINE, Request.NONE, Request.REJECT)),
        (" v = DMARC1 ; p = reject ;", Policy(Request.REJECT)),
        ("v=DMARC1; adkim=s; p=none; aspf=S", Policy(strict_dkim=True, strict_spf=True)),
        ("v=DMARC1", Policy()),
        ("v=DMARC1; p=Reject; psd=Y", Policy(Request.REJECT, suffix=Suffix.YES)),
        ("v=DMARC1; p=reject; t=y", Policy(Request.REJECT, testing=True)),
        ("v=DMARC1; p=reject; pct=50", Policy(Request.REJECT, testing=True)),
        ("v=DMARC1; p=reject; pct=100", Policy(Request.REJECT)),
        ("v=DMARC1; p=reject; pct=many; frog=1; =; x", Policy(Request.REJECT)),
        ("v=DMARC1; p=reject; p=none", Policy(Request.REJECT)),
        (
            "v=DMARC1; p=none; rua=mailto:a@x.example!10m, mailto:b@y.example,ftp://z.example",
            Policy(reports_to=("mailto:a@x.example", "mailto:b@y.example")),
        ),
        ("v=DMARC1; p=frog; rua=mailto:a@x.example", Policy(reports_to=("mailto:a@x.example",))),
        ("v=DMARC1; p=reject; sp=frog; rua=mailto:a@x.example", Policy(reports_to=("mailto:a@x.example",))),
    ],
)
def test_record(text: str, expected: Policy) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=DMARC2; p=reject",
        "v=dmarc1; p=reject",
        "v=DMARC10; p=reject",
        "p=reject; v=DMARC1",
        "v=spf1 -all",
        "v=DMARC1; p=frog",
        "v=DMARC1; p=reject; np=frog",
        "v=DMARC1; p=" + "x" * 5000,
    ],
)
def test_what_is_no_record(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "uri", ["mailto:a%0d%0aBcc:b@x.example", "mailto:a b@x.example", "mailto:@x", "a@x.example"]
)
def test_report_addresses_that_could_carry_more_than_an_address_are_left_out(uri: str) -> None:
    policy = parse(f"v=DMARC1; p=none; rua={uri}")
    assert policy is not None
    assert policy.reports_to == ()


def test_at_most_ten_report_addresses_are_kept() -> None:
    policy = parse("v=DMARC1; p=none; rua=" + ",".join(f"mailto:a{n}@x.example" for n in range(100)))
    assert policy is not None
    assert len(policy.reports_to) == 10


def test_two_records_are_none_and_other_text_does_not_count() -> None:
    assert only_policy(["v=DMARC1; p=reject", "v=DMARC1; p=none"]) is None
    assert only_policy(["hello", "v=DMARC1; p=reject"]) == Policy(Request.REJECT)
    assert only_policy([]) is None


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("example.com", ["example.com", "com"]),
        ("a.mail.example.com", ["a.mail.example.com", "mail.example.com", "example.com", "com"]),
        (
            "a.b.c.d.e.f.g.h.i.j.example.com",
            [
                "a.b.c.d.e.f.g.h.i.j.example.com",
                "f.g.h.i.j.example.com",
                "g.h.i.j.example.com",
                "h.i.j.example.com",
                "i.j.example.com",
                "j.example.com",
                "example.com",
                "com",
            ],
        ),
        ("com", ["com"]),
    ],
)
def test_walk_asks_at_most_eight_domains(domain: str, expected: list[str]) -> None:
    found = list(walk(domain))
    if domain.startswith("a.b."):  # seven labels, then one less each time (§4.10 step 5)
        expected = [domain, *(".".join(domain.split(".")[-n:]) for n in range(7, 0, -1))]
    assert found == expected


def test_walk_ends_at_psd_n_and_at_psd_y_above_the_start() -> None:
    assert ends(Policy(suffix=Suffix.NO), first=True)
    assert ends(Policy(suffix=Suffix.YES), first=False)
    assert not ends(Policy(suffix=Suffix.YES), first=True)
    assert not ends(Policy(), first=False)
    assert not ends(None, first=False)


@pytest.mark.parametrize(
    ("start", "found", "expected"),
    [
        # RFC 9989 §4.10.2's two examples
        ("a.mail.example.com", [("mail.example.com", Policy()), ("example.com", Policy())], "example.com"),
        ("a.mail.example.com", [("com", Policy(suffix=Suffix.YES))], "example.com"),
        ("a.example.com", [], "a.example.com"),
        ("a.b.example.com", [("b.example.com", Policy(suffix=Suffix.NO))], "b.example.com"),
        ("bank.gov", [("bank.gov", Policy(suffix=Suffix.YES))], "bank.gov"),
        ("x.co.example", [("x.co.example", Policy()), ("co.example", Policy(suffix=Suffix.YES))], "x.co.example"),
    ],
)
def test_organizational_domain(start: str, found: list[tuple[str, Policy]], expected: str) -> None:
    assert organizational(start, found) == expected


def test_record_that_counts_is_the_authors_then_the_organizations_then_the_suffixs() -> None:
    own, above, suffix = Policy(Request.REJECT), Policy(Request.QUARANTINE), Policy(suffix=Suffix.YES)
    assert applicable("a.x.com", [("a.x.com", own), ("x.com", above)]) == ("a.x.com", own)
    assert applicable("a.x.com", [("x.com", above), ("com", suffix)]) == ("x.com", above)
    assert applicable("a.x.com", [("com", suffix)]) == ("com", suffix)
    assert applicable("a.x.com", []) is None


def test_a_record_between_the_author_and_the_organization_does_not_count() -> None:
    found = [("b.x.com", Policy(Request.REJECT)), ("x.com", Policy(Request.NONE))]
    assert applicable("a.b.x.com", found) == found[1]


@pytest.mark.row("AUTHN-20")
@pytest.mark.parametrize(
    ("policy", "own", "exists", "expected"),
    [
        (Policy(Request.REJECT, Request.NONE, Request.QUARANTINE), True, True, Request.REJECT),
        (Policy(Request.REJECT, Request.NONE, Request.QUARANTINE), False, True, Request.NONE),
        (Policy(Request.REJECT, Request.NONE, Request.QUARANTINE), False, False, Request.QUARANTINE),
        (Policy(Request.REJECT, Request.NONE), False, False, Request.NONE),
        (Policy(Request.REJECT), False, False, Request.REJECT),
    ],
)
def test_what_is_asked_for_a_subdomain(policy: Policy, own: bool, exists: bool, expected: Request) -> None:
    assert policy.wish(own=own, exists=exists) is expected
