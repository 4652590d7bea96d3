"""The wire format of answers, with dnspython as the oracle."""

import dns.message
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from dns.rdtypes.ANY.TXT import TXT
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.aio.dns import Looping, Malformed, Mx, Type, name_octets, parse_reply, query, reverse_name


@pytest.fixture(autouse=True, params=["no loop"])
def each_loop() -> None:
    """Nothing here waits."""


def wire(name: str, kind: str, *sets: tuple[str, str, str], number: int = 7) -> bytes:
    question = dns.message.make_query(name, kind)
    question.id = number
    answer = dns.message.make_response(question)
    for owner, its_kind, value in sets:
        answer.answer.append(dns.rrset.from_text(owner, 300, "IN", its_kind, value))
    return answer.to_wire()


def test_a_query_is_what_dnspython_reads() -> None:
    message = dns.message.from_wire(query(4242, "Bücher.example.", Type.MX))
    assert message.id == 4242
    assert message.question[0].to_text() == "xn--bcher-kva.example. IN MX"
    assert message.payload == 1232


@pytest.mark.parametrize("name", ["a..b", ".a", "x" * 64 + ".example", ".".join(["x" * 60] * 5), "snow☃man\x00..x"])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        name_octets(name)


def test_records_are_read() -> None:
    octets = wire("a.example", "MX", ("a.example.", "MX", "10 MX.b.example."), ("a.example.", "MX", "0 ."))
    assert parse_reply(octets, 7, "a.example", Type.MX).records == (Mx(10, "mx.b.example"), Mx(0, ""))
    octets = wire("a.example", "TXT", ("a.example.", "TXT", '"v=spf1 " "-all"'))
    assert parse_reply(octets, 7, "A.example", Type.TXT).records == (b"v=spf1 -all",)
    octets = wire("a.example", "AAAA", ("a.example.", "AAAA", "2001:db8:0:0::1"))
    assert parse_reply(octets, 7, "a.example", Type.AAAA).records == ("2001:db8::1",)


@pytest.mark.row("DNS-03")
def test_only_the_end_of_the_alias_chain_counts() -> None:
    octets = wire(
        "a.example",
        "A",
        ("victim.example.", "A", "203.0.113.66"),
        ("a.example.", "CNAME", "b.example."),
        ("b.example.", "A", "192.0.2.1"),
    )
    reply = parse_reply(octets, 7, "a.example", Type.A)
    assert (reply.records, reply.name, reply.chased) == (("192.0.2.1",), "b.example", 1)


@pytest.mark.row("DNS-03")
@pytest.mark.parametrize("length", [8, 9, 20])
def test_alias_chains_stop_at_eight(length: int) -> None:
    chain = [(f"n{at}.example.", "CNAME", f"n{at + 1}.example.") for at in range(length)]
    octets = wire("n0.example", "A", *chain, (f"n{length}.example.", "A", "192.0.2.1"))
    if length == 8:
        assert parse_reply(octets, 7, "n0.example", Type.A).records == ("192.0.2.1",)
    else:
        with pytest.raises(Looping):
            parse_reply(octets, 7, "n0.example", Type.A)


@pytest.mark.row("DNS-03")
def test_an_alias_loop_ends() -> None:
    loop = (("a.example.", "CNAME", "b.example."), ("b.example.", "CNAME", "a.example."))
    with pytest.raises(Looping):
        parse_reply(wire("a.example", "A", *loop), 7, "a.example", Type.A)


def test_compression_that_leads_forward_or_round_is_malformed() -> None:
    good = wire("a.example", "A", ("a.example.", "A", "192.0.2.1"))
    for pointer in (b"\xc0\x1b", b"\xc0\xff", b"\xff\xff", b"\x80\x00"):
        with pytest.raises(Malformed):
            parse_reply(good[:27] + pointer + good[29:], 7, "a.example", Type.A)


@settings(max_examples=200)
@given(st.data())
def test_broken_answers_are_malformed_and_nothing_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(Type)))
    octets = bytearray(
        wire(
            "a.example",
            kind.name,
            ("a.example.", "CNAME", "b.example."),
            ("b.example.", "MX", "10 mx.b.example."),
            ("b.example.", "TXT", '"some" "text"'),
            ("b.example.", "TLSA", "3 1 1 " + "ab" * 32),
        )
    )
    for _ in range(data.draw(st.integers(0, 4))):
        octets[data.draw(st.integers(12, len(octets) - 1))] = data.draw(st.integers(0, 255))
    cut = octets[: data.draw(st.integers(0, len(octets)))] if data.draw(st.booleans()) else octets
    try:
        parse_reply(bytes(cut), 7, "a.example", kind)
    except (Malformed, Looping):
        pass


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_octets_are_malformed_and_nothing_else(octets: bytes) -> None:
    head = b"\x00\x07\x81\x80\x00\x01\x00\x03\x00\x01\x00\x00\x01a\x07example\x00\x00\x10\x00\x01"
    try:
        parse_reply(head + octets, 7, "a.example", Type.TXT)
    except (Malformed, Looping):
        pass


@settings(max_examples=100)
@given(st.lists(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=3), min_size=1, max_size=4))
def test_txt_is_what_dnspython_wrote(values: list[list[bytes]]) -> None:
    question = dns.message.make_query("a.example", "TXT")
    question.id = 7
    answer = dns.message.make_response(question)
    rdatas = [TXT(dns.rdataclass.IN, dns.rdatatype.TXT, strings) for strings in values]
    rrset = dns.rrset.from_rdata_list("a.example.", 300, rdatas)
    answer.answer.append(rrset)
    reply = parse_reply(answer.to_wire(), 7, "a.example", Type.TXT)
    assert sorted(reply.records, key=repr) == sorted((b"".join(rdata.strings) for rdata in rrset), key=repr)


def test_reverse_names() -> None:
    assert reverse_name("192.0.2.1") == "1.2.0.192.in-addr.arpa"
    assert reverse_name("::ffff:192.0.2.1") == "1.2.0.192.in-addr.arpa"
    assert reverse_name("2001:db8::1").endswith(".8.b.d.0.1.0.0.2.ip6.arpa")
