"""The records of a domain are told alike as a zone file, as JSON and to nsupdate."""

from dataclasses import replace

import dns.rdatatype
import dns.zone

from gatepost.watch import records
from gatepost.watch.records import Need, Record, wanted
from tests.watch.world import DOMAIN, HOST, HOUSE, KEY

SOA = f"$ORIGIN {DOMAIN}.\n@ 300 IN SOA ns hostmaster 1 1 1 1 1\n@ 300 IN NS ns.{DOMAIN}.\n"


def kinds(domain: str) -> list[tuple[str, str]]:
    return [(record.name, record.kind) for record in wanted(HOUSE, domain)]


def test_a_domain_has_what_mail_needs_and_the_servers_own_name_stands_in_its_zone_alone() -> None:
    ours = kinds(DOMAIN)
    for needed in (
        (DOMAIN, "MX"), (HOST, "A"), (HOST, "AAAA"), (DOMAIN, "TXT"), (KEY.name, "TXT"),
        (f"_dmarc.{DOMAIN}", "TXT"), (f"_25._tcp.{HOST}", "TLSA"), (f"_imaps._tcp.{DOMAIN}", "SRV"),
        (f"mta-sts.{DOMAIN}", "CNAME"),
    ):  # fmt: skip
        assert needed in ours
    theirs = kinds("club.example")
    assert not [name for name, _ in theirs if name.endswith(DOMAIN)]
    assert ("club.example", "MX") in theirs


def test_a_zone_file_is_read_as_it_was_meant() -> None:
    text = SOA + "\n".join(records.bind(wanted(HOUSE, DOMAIN)))
    zone = dns.zone.from_text(text, DOMAIN, relativize=False)
    for record in wanted(HOUSE, DOMAIN):
        found = zone.get_rdataset(record.name + ".", record.kind)
        assert (found is None) == (record.need is Need.SIGNED)
    key = zone.get_rdataset(KEY.name + ".", dns.rdatatype.TXT)
    assert key is not None
    assert b"".join(key[0].strings).decode() == KEY.record


def test_what_is_only_safe_in_a_signed_zone_is_a_comment() -> None:
    for lines in (records.bind(wanted(HOUSE, DOMAIN)), records.nsupdate(wanted(HOUSE, DOMAIN), DOMAIN)):
        assert [line.startswith(";") for line in lines if "TLSA" in line] == [True]


def test_long_texts_are_cut_and_quotes_escaped() -> None:
    record = Record("x.example", "TXT", "a" * 250 + '"\\', "why")
    assert record.data == '"' + "a" * 250 + '" "\\"\\\\"'
    assert record.facts()["value"] == "a" * 250 + '"\\'


def test_a_server_that_greets_with_another_name_lets_that_send_too() -> None:
    assert records.spf(replace(HOUSE, helo="out.here.example"), DOMAIN).value == "v=spf1 mx a:out.here.example -all"
