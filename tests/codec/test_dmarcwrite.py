"""The aggregate report that we send says, where the schema wants it, what was counted."""

import gzip
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

from hypothesis import given
from hypothesis import strategies as st

from gatepost.codec.dmarc import Policy, Request
from gatepost.codec.dmarcreport import Proof, Report, Row, read_document, read_report
from gatepost.codec.dmarcwrite import NAMESPACE, document, filename, packed, published

SAMPLE = Path(__file__).parent.parent / "conformance" / "dmarc" / "rfc9990-sample.xml"
POLICY = Policy(
    Request.REJECT,
    Request.QUARANTINE,
    Request.NONE,
    strict_dkim=True,
    testing=True,
    reports_to=("mailto:d@far.example",),
)
PROVEN = Row(
    "2001:db8::1", 3, "pass", "pass", "fail", "far.example", "list.example",
    proofs=(Proof("spf", "list.example", "softfail"), Proof("dkim", "far.example", "pass", "s1")),
)  # fmt: skip
FORGED = Row(
    "192.0.2.7", 2, "none", "fail", "fail", "www.far.example", "",
    ("policy_test_mode", "mailing_list: of the list <peas> & beans"), (Proof("spf", "helo.example", "none"),),
)  # fmt: skip
REPORT = Report(
    "Here", "postmaster@here.example", "1790000000.5ee5.far.example@here.example", 1_790_000_000, 1_790_086_399,
    "far.example", published(POLICY), (PROVEN, FORGED),
)  # fmt: skip


def names(element: Element) -> set[str]:
    """Return the paths of all elements below."""
    paths = set()
    for child in element:
        name = child.tag.removeprefix(f"{{{NAMESPACE}}}")
        paths |= {name} | {f"{name}/{path}" for path in names(child)}
    return paths


def test_a_report_is_read_as_it_was_meant() -> None:
    told = read_report(packed(REPORT))
    assert (told.organization, told.contact, told.id) == (REPORT.organization, REPORT.contact, REPORT.id)
    assert (told.begin, told.end, told.domain) == (REPORT.begin, REPORT.end, REPORT.domain)
    assert dict(told.policy) == {
        "p": "reject", "sp": "quarantine", "np": "none", "adkim": "s", "aspf": "r", "testing": "y",
        "discovery_method": "treewalk",
    }  # fmt: skip
    first, second = told.rows
    assert set(first.proofs) == set(PROVEN.proofs)
    assert (first.count, first.disposition, first.ip, first.sender) == (3, "pass", "2001:db8::1", "list.example")
    assert second.reasons == FORGED.reasons


def test_it_has_the_elements_of_the_published_sample_and_no_others_but_optional_ones() -> None:
    ours, theirs = fromstring(document(REPORT)), fromstring(SAMPLE.read_bytes())
    assert ours.tag == theirs.tag
    assert names(theirs) - names(ours) == {"report_metadata/extra_contact_info"}
    assert names(ours) - names(theirs) == {
        "policy_published/adkim",
        "policy_published/aspf",
        "record/row/policy_evaluated/reason",
        "record/row/policy_evaluated/reason/type",
        "record/row/policy_evaluated/reason/comment",
        "record/auth_results/spf/scope",
    }


def test_spf_says_whether_it_was_of_the_reverse_path_or_of_the_greeting() -> None:
    scopes = [each.text for each in fromstring(document(REPORT)).iter(f"{{{NAMESPACE}}}scope")]
    assert scopes == ["mfrom", "helo"]


def test_the_same_report_gives_the_same_octets_and_the_name_of_the_rfc() -> None:
    assert packed(REPORT) == packed(REPORT)
    assert gzip.decompress(packed(REPORT)) == document(REPORT)
    name = "here.example!far.example!1790000000!1790086399!1790000000.5ee5.far.example.xml.gz"
    assert filename("here.example", REPORT) == name


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1), min_size=5, max_size=5))
def test_whatever_stands_in_a_row_comes_out_as_text(texts: list[str]) -> None:
    row = Row("192.0.2.1", 1, "none", "fail", "fail", texts[0], texts[1], proofs=(Proof("dkim", *texts[2:5]),))
    (told,) = read_document(document(Report("x", "y", "z", 0, 1, "far.example", (), (row,)))).rows
    assert told.author == texts[0].strip()[:300].lower()
