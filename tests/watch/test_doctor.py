"""The doctor says of a zone as we print it that all is well, and of what is broken what it is and what mends it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.aio.fetch import FetchFailed
from gatepost.judge.verbs import PublishedKey
from gatepost.watch import records
from gatepost.watch.finding import Finding, State
from gatepost.watch.house import House, Unreadable
from tests.support.zone import Fault, txt
from tests.watch.world import (
    CERTIFICATE,
    DOMAIN,
    HOST,
    HOUSE,
    IPS,
    KEY,
    Published,
    ending,
    looked,
    published,
    wrong,
)

POINTER = records.pointer(HOUSE, IPS[0]).name
LISTED = "7.100.51.198.list.example"
PROBLEM, WARNING, UNKNOWN = State.PROBLEM, State.WARNING, State.UNKNOWN


def test_a_zone_as_it_is_printed_is_in_order() -> None:
    findings = looked()
    assert wrong(findings) == []
    assert {each.check for each in findings} == {
        "mx", "address", "pointer", "spf", "dkim", "dmarc", "mta-sts", "dane", "tls-rpt", "services", "lists",
        "certificate",
    }  # fmt: skip


def put(name: str, kind: str, *values: str) -> Callable[[Published], None]:
    """Return what sets records; without values it takes them away."""

    def change(dns: Published) -> None:
        if values:
            dns.setdefault(name, {})[kind] = list(values)
        else:
            dns[name].pop(kind)

    return change


def spf(text: str) -> Callable[[Published], None]:
    return put(DOMAIN, "TXT", txt(text))


def dmarc(text: str) -> Callable[[Published], None]:
    return put(f"_dmarc.{DOMAIN}", "TXT", txt(text))


@pytest.mark.parametrize(
    ("change", "check", "state", "said"),
    [
        (put(DOMAIN, "MX"), "mx", PROBLEM, "nobody is named"),
        (put(DOMAIN, "MX", "0 ."), "mx", PROBLEM, "null MX"),
        (put(DOMAIN, "MX", "10 mx.elsewhere.example."), "mx", PROBLEM, "to mx.elsewhere.example, not to mx.here"),
        (put(DOMAIN, "MX", f"10 {HOST}.", "20 mx.b.example."), "mx", WARNING, "also to mx.b.example"),
        (put(HOST, "A", "198.51.100.8"), "address", PROBLEM, "198.51.100.8 is no address of this machine"),
        (put(HOST, "AAAA"), "address", WARNING, "2001:db8::7 is not named"),
        (put(POINTER, "PTR"), "pointer", PROBLEM, "has no name"),
        (put(POINTER, "PTR", "vm7.hoster.example."), "pointer", PROBLEM, "does not lead back"),
        (spf("google-site-verification=x"), "spf", PROBLEM, "does not say who may send"),
        (spf("v=spf1 ip4:192.0.2.9 -all"), "spf", PROBLEM, "198.51.100.7 may not send in its name (fail)"),
        (spf("v=spf1 mx +all"), "spf", PROBLEM, "lets everybody send"),
        (spf("v=spf1 mx ?all"), "spf", WARNING, "does not forbid others"),
        (spf("v=spf1 nonsense -all"), "spf", PROBLEM, "cannot be used"),
        (put(DOMAIN, "TXT", txt("v=spf1 mx -all"), txt("v=spf1 -all")), "spf", PROBLEM, "cannot be used"),
        (put(HOST, "TXT"), "spf", WARNING, "who may greet"),
        (put(KEY.name, "TXT"), "dkim", PROBLEM, "missing"),
        (put(KEY.name, "TXT", txt("v=DKIM1; k=ed25519; p=")), "dkim", PROBLEM, "revoked"),
        (dmarc("v=spf1"), "dmarc", PROBLEM, "no usable record"),
        (put(f"_dmarc.{DOMAIN}", "TXT"), "dmarc", PROBLEM, "no policy"),
        (dmarc(f"v=DMARC1; p=none; rua=mailto:a@{DOMAIN}"), "dmarc", WARNING, "only watches: others"),
        (dmarc("v=DMARC1; p=none"), "dmarc", WARNING, "only watches, and has no reports sent"),
        (dmarc("v=DMARC1; p=reject"), "dmarc", WARNING, "reject, but no reports come: nobody is named"),
        (dmarc("v=DMARC1; p=reject; rua=mailto:a@b.example"), "dmarc", WARNING, "have not agreed"),
        (put(f"_mta-sts.{DOMAIN}", "TXT"), "mta-sts", WARNING, "is not announced"),
        (put(f"_mta-sts.{DOMAIN}", "TXT", txt("v=STSv1; id=1")), "mta-sts", WARNING, "another policy is"),
        (put(f"_smtp._tls.{DOMAIN}", "TXT"), "tls-rpt", WARNING, "nobody is told"),
        (put(f"_imaps._tcp.{DOMAIN}", "SRV"), "services", WARNING, "do not find"),
        (put(f"_imaps._tcp.{DOMAIN}", "SRV", "0 1 993 mx.old.example."), "services", WARNING, "sent elsewhere"),
        (put(LISTED, "A", "127.0.0.2"), "lists", PROBLEM, "198.51.100.7 is on it: it does not say why"),
        (put(LISTED, "A", "127.255.255.254"), "lists", UNKNOWN, "a resolver of one's own"),
        (put(LISTED, "A", "203.0.113.5"), "lists", UNKNOWN, "a resolver of one's own"),  # a parked domain
        (put(f"_25._tcp.{HOST}", "TLSA", f"3 1 1 {CERTIFICATE.key}"), "dane", WARNING, "not signed by DNSSEC"),
    ],
)  # fmt: skip
def test_each_thing_broken_is_named_alone(
    change: Callable[[Published], None], check: str, state: State, said: str
) -> None:
    dns = published()
    change(dns)
    found = [each for each in looked(dns) if each.state is not State.OK]
    assert [(each.check, each.state) for each in found][:1] == [(check, state)]
    assert said in found[0].text
    assert {each.check for each in found} <= {check, "spf"}  # what an MX or address names, SPF goes by too


@pytest.mark.parametrize("change", [put(DOMAIN, "MX"), put(KEY.name, "TXT"), put(f"_dmarc.{DOMAIN}", "TXT")])
def test_what_it_says_to_add_mends_it(change: Callable[[Published], None]) -> None:
    dns = published()
    change(dns)
    for finding in looked(dns):
        for record in finding.add:
            dns.setdefault(record.name, {}).setdefault(record.kind, []).append(record.data)
    assert wrong(looked(dns)) == []


def test_a_listed_address_is_told_with_the_lists_reason() -> None:
    dns = published()
    dns[LISTED] = {"A": ["127.0.0.4"], "TXT": [txt("open relay, see https://list.example/198.51.100.7")]}
    (found,) = (each for each in looked(dns) if each.state is not State.OK)
    assert found.text == "198.51.100.7 is on it: open relay, see https://list.example/198.51.100.7"


def test_an_mx_that_is_an_alias_is_a_problem() -> None:
    dns = published()
    dns["real.here.example"] = dns.pop(HOST)
    dns[HOST] = {"CNAME": ["real.here.example."]}
    assert ("mx", State.PROBLEM) in wrong(looked(dns))


def test_an_address_with_another_name_that_leads_back_is_a_warning() -> None:
    dns = published()
    dns[POINTER] = {"PTR": ["vm7.hoster.example."]}
    dns["vm7.hoster.example"] = {"A": [IPS[0]]}
    assert wrong(looked(dns)) == [("pointer", State.WARNING)]


def test_a_dns_that_fails_is_unknown_and_never_a_problem() -> None:
    dns = published()
    names = dict.fromkeys((*dns, "list.example", LISTED), Fault.SERVFAIL)
    states = {each.state for each in looked(dns, faults=names) if each.check not in ("certificate", "lists")}
    assert states == {State.UNKNOWN}


@pytest.mark.parametrize(
    ("tlsa", "state"),
    [
        (f"3 1 1 {CERTIFICATE.key}", State.OK),
        (f"3 1 1 {'00' * 32}", State.PROBLEM),
        ("2 1 1 " + "00" * 32, State.UNKNOWN),
        ("", State.WARNING),
    ],
)
def test_keys_in_a_signed_zone_are_compared_with_the_certificate(tlsa: str, state: State) -> None:
    dns = published()
    if tlsa:
        dns[f"_25._tcp.{HOST}"] = {"TLSA": [tlsa]}
    assert [each.state for each in looked(dns, secure=True) if each.check == "dane"] == [state]


@pytest.mark.parametrize(
    ("days", "state"), [(60, State.OK), (20, State.WARNING), (6, State.PROBLEM), (-1, State.PROBLEM)]
)
def test_certificates_are_told_before_they_end(days: float, state: State) -> None:
    (found,) = (each for each in looked(house=ending(days)) if each.check == "certificate")
    assert found.state is state


@pytest.mark.parametrize(
    ("certificate", "states"),
    [
        (replace(CERTIFICATE, names=("other.example",)), [State.OK, State.PROBLEM]),
        (replace(CERTIFICATE, names=("*.here.example",)), [State.OK]),
        (replace(CERTIFICATE, self_signed=True), [State.WARNING]),
        (Unreadable(Path("mx.pem"), "Permission denied"), [State.UNKNOWN]),
    ],
)
def test_certificates_are_for_the_servers_name(certificate: object, states: list[State]) -> None:
    house = replace(HOUSE, certificates=(certificate,))  # type: ignore[arg-type]  # as the parameters say
    assert [each.state for each in looked(house=house) if each.check == "certificate"] == states


def of(house: House, check: str, **others: object) -> list[Finding]:
    return [each for each in looked(house=house, **others) if each.check == check]  # type: ignore[arg-type]  # as named


def test_a_policy_that_cannot_be_fetched_or_is_another_is_a_problem() -> None:
    async def refused(_domain: str) -> bytes:
        raise FetchFailed("mta-sts.here.example: 404")

    async def other(_domain: str) -> bytes:
        return b"version: STSv1\nmode: enforce\nmx: old.here.example\nmax_age: 604800\n"

    assert [(each.state, "404" in each.text) for each in of(HOUSE, "mta-sts", policy=refused)] == [(PROBLEM, True)]
    assert [each.state for each in of(HOUSE, "mta-sts", policy=other)] == [PROBLEM]
    assert [each.state for each in of(replace(HOUSE, policy=None), "mta-sts", dns=published())] == [PROBLEM]
    without = replace(HOUSE, policy=None)
    assert [each.state for each in of(without, "mta-sts", dns=published(without))] == [WARNING]


def test_keys_that_wait_are_a_warning_and_a_domain_without_any_a_problem() -> None:
    waiting = PublishedKey(DOMAIN, "s2", KEY.algorithm, KEY.record, begins_at=None)
    found = of(replace(HOUSE, keys=(KEY, waiting)), "dkim", dns=published())
    assert [each.state for each in found] == [State.OK, WARNING]
    assert found[1].add[0].name == "s2._domainkey.here.example"
    (nothing,) = of(replace(HOUSE, keys=()), "dkim")
    assert (nothing.state, "gatepost dkim new here.example" in nothing.text) == (PROBLEM, True)


def test_a_server_without_a_full_name_is_told_so() -> None:
    (found,) = of(replace(HOUSE, hostname="localhost"), "address")
    assert "[server] hostname" in found.text


def test_behind_nat_the_addresses_are_those_of_the_dns() -> None:
    assert wrong(looked(published(), replace(HOUSE, addresses=()))) == []


def test_a_backup_that_joined_is_to_be_named() -> None:
    found = of(replace(HOUSE, backups=("mx2.far.example",)), "mx", dns=published())
    assert [(each.state, [record.value for record in each.add]) for each in found][-1] == (
        WARNING,
        ["20 mx2.far.example."],
    )
