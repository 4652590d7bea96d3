"""The PROXY header: both versions, every way of being wrong, and no packet boundary matters."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatepost.codec.proxy import (
    LOCAL,
    SIGNATURE_2,
    V1_MAX,
    V2_HEAD,
    V2_MAX,
    Malformed,
    Opening,
    Origin,
    Proxied,
    crc32c,
)

FOUR = Proxied("192.0.2.9", 56324, "198.51.100.1", 25)
SIX = Proxied("2001:db8::9", 56324, "2001:db8::1", 25)


def v2(
    origin: Proxied, *, command: int = 0x21, family: int = 0, values: bytes = b"", checksum: bool = False
) -> bytes:
    """Write a binary header."""
    source, destination = ip_address(origin.ip), ip_address(origin.local_ip)
    addresses = source.packed + destination.packed + struct.pack("!HH", origin.port, origin.local_port)
    family = family or (0x11 if source.version == 4 else 0x21)
    if checksum:
        values = b"\x03\x00\x04" + bytes(4) + values
    whole = SIGNATURE_2 + bytes((command, family)) + struct.pack("!H", len(addresses + values)) + addresses + values
    if not checksum:
        return whole
    at = V2_HEAD + len(addresses) + 3
    return whole[:at] + crc32c(whole).to_bytes(4) + whole[at + 4 :]


def read(octets: bytes, size: int = 1 << 20) -> tuple[Origin | str | None, bytes]:
    """Return the origin, or "malformed", and what stands behind the header."""
    opening, origin = Opening(), None
    for at in range(0, len(octets), size):
        try:
            origin = opening.receive(octets[at : at + size])
        except Malformed:
            return "malformed", b""
        if origin is not None:
            return origin, opening.rest + octets[at + size :]
    return origin, opening.rest


@pytest.mark.parametrize(
    ("line", "origin"),
    [
        (b"PROXY TCP4 192.0.2.9 198.51.100.1 56324 25\r\n", FOUR),
        (b"PROXY TCP6 2001:db8::9 2001:db8::1 56324 25\r\n", SIX),
        (b"PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:0009 2001:db8::1 56324 25\r\n", SIX),
        (b"PROXY TCP6 ::ffff:192.0.2.9 ::ffff:198.51.100.1 56324 25\r\n", FOUR),
        (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", Proxied("0.0.0.0", 0, "255.255.255.255", 65535)),
        (b"PROXY UNKNOWN\r\n", LOCAL),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", LOCAL),
    ],
)
def test_version_1_is_read(line: bytes, origin: Origin) -> None:
    assert read(line) == (origin, b"")


@pytest.mark.parametrize(
    "line",
    [
        b"EHLO client.example\r\n",
        b"proxy TCP4 192.0.2.9 198.51.100.1 56324 25\r\n",
        b" PROXY TCP4 192.0.2.9 198.51.100.1 56324 25\r\n",
        b"PROXY \r\n",
        b"PROXY  TCP4 192.0.2.9 198.51.100.1 56324 25\r\n",
        b"PROXY TCP4  192.0.2.9 198.51.100.1 56324 25\r\n",
        b"PROXY TCP4 192.0.2.9 198.51.100.1 56324 25 \r\n",
        b"PROXY TCP4 192.0.2.9 198.51.100.1 56324\r\n",
        b"PROXY TCP4 192.0.2.9 198.51.100.1 56324 25 x\r\n",
        b"PROXY UDP4 192.0.2.9 198.51.100.1 56324 25\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY TCP4 2001:db8::9 198.51.100.1 56324 25\r\n",
        b"PROXY TCP6 192.0.2.9 2001:db8::1 56324 25\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::1 56324 25\r\n",
        b"PROXY TCP4 192.0.2.09 198.51.100.1 56324 25\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.1 56324 25\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.1 56324 25\r\n",
        b"PROXY TCP4 192.0.2.9\n 198.51.100.1 56324 25\r\n",
        b"PROXY TCP4 \xb2.0.2.9 198.51.100.1 56324 25\r\n",
        b"PROXY TCP4 192.0.2.9 198.51.100.1 65536 25\r\n",
        b"PROXY TCP4 192.0.2.9 198.51.100.1 056 25\r\n",
        b"PROXY TCP4 192.0.2.9 198.51.100.1 +56 25\r\n",
        b"PROXY TCP4 192.0.2.9 198.51.100.1 -1 25\r\n",
        b"PROXY TCP4 192.0.2.9 198.51.100.1 5\xb26 25\r\n",
    ],
)
def test_what_is_no_version_1_header_is_refused(line: bytes) -> None:
    assert read(line) == ("malformed", b"")


def test_version_1_has_107_octets_and_not_one_more() -> None:
    line = b"PROXY UNKNOWN ".ljust(V1_MAX - 2, b"x") + b"\r\n"
    assert read(line) == (LOCAL, b"")
    assert read(line[:-1])[0] is None
    assert read(line[:-2] + b"x\r\n")[0] == "malformed"
    assert read(b"PROXY UNKNOWN ".ljust(V1_MAX - 1, b"x"))[0] is None
    assert read(b"PROXY UNKNOWN ".ljust(V1_MAX, b"x"))[0] == "malformed"


def test_an_lf_alone_does_not_end_the_line() -> None:
    assert read(b"PROXY TCP4 192.0.2.9 198.51.100.1 56324 25\nEHLO x\r\n")[0] == "malformed"


@pytest.mark.parametrize("origin", [FOUR, SIX])
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize(
    "values", [b"", b"\x04\x00\x00", b"\x01\x00\x02h2\x05\x00\x80" + b"u" * 128, b"\xee\x00\x01x"]
)
def test_version_2_is_read(origin: Proxied, checksum: bool, values: bytes) -> None:
    assert read(v2(origin, values=values, checksum=checksum) + b"EHLO x\r\n") == (origin, b"EHLO x\r\n")


def test_a_mapped_address_is_the_ipv4_one() -> None:
    mapped = Proxied("::ffff:192.0.2.9", 1, "::ffff:198.51.100.1", 2)
    assert read(v2(mapped)) == (Proxied("192.0.2.9", 1, "198.51.100.1", 2), b"")


@pytest.mark.parametrize(
    "header",
    [
        v2(FOUR, command=0x20),
        v2(FOUR, command=0x20, family=0xFF, values=b"what stands here is skipped"),
        SIGNATURE_2 + b"\x20\x00\x00\x00",
        SIGNATURE_2 + b"\x21\x00\x00\x00",
        SIGNATURE_2 + b"\x21\x00\x00\x07\x03\x00\x04abcd",
        SIGNATURE_2 + b"\x21\x31\x00\xd8" + bytes(216),
        SIGNATURE_2 + b"\x21\x10\x00\x0c" + bytes(12),
    ],
    ids=["local", "local-odd", "local-short", "unspec", "unspec-values", "unix", "no-transport"],
)
def test_a_balancer_that_speaks_for_itself_is_local(header: bytes) -> None:
    assert read(header + b"QUIT\r\n") == (LOCAL, b"QUIT\r\n")


@pytest.mark.parametrize(
    "header",
    [
        v2(FOUR, command=0x11),
        v2(FOUR, command=0x31),
        v2(FOUR, command=0x22),
        v2(FOUR, family=0x41),
        v2(FOUR, family=0x12),
        v2(FOUR, family=0x13),
        v2(FOUR, family=0x21),
        v2(FOUR, values=b"\x04"),
        v2(FOUR, values=b"\x04\x00"),
        v2(FOUR, values=b"\x04\x00\x02x"),
        v2(FOUR, values=b"\x05\x00\x81" + b"u" * 129),
        v2(FOUR, values=b"\x03\x00\x04abcd"),
        v2(FOUR, values=b"\x03\x00\x03abc"),
        v2(FOUR, values=b"\x03\x00\x04" + bytes(4), checksum=True),
        SIGNATURE_2 + b"\x21\x11\x00\x0b" + bytes(11),
        SIGNATURE_2[:-1] + b"\r" + b"\x21\x11\x00\x0c" + bytes(12),
    ],
)
def test_what_is_no_version_2_header_is_refused(header: bytes) -> None:
    assert read(header) == ("malformed", b"")


def test_a_changed_octet_breaks_the_checksum() -> None:
    header = v2(SIX, checksum=True, values=b"\x02\x00\x04mail")
    for at in range(V2_HEAD, len(header)):
        broken = header[:at] + bytes((header[at] ^ 0x40,)) + header[at + 1 :]
        if at not in range(V2_HEAD + 36, V2_HEAD + 39):  # its kind or size: then it is no checksum any more
            assert read(broken)[0] == "malformed", at


def test_version_2_is_bounded() -> None:
    room = V2_MAX - V2_HEAD - 12 - 3
    assert read(v2(FOUR, values=b"\x04" + struct.pack("!H", room) + bytes(room)))[0] == FOUR
    assert (
        read(v2(FOUR, values=b"\x04" + struct.pack("!H", room + 1) + bytes(room + 1))[:V2_HEAD])[0] == "malformed"
    )


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 §B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


addresses = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
)
ports = st.integers(0, 65_535)


@given(addresses, ports, ports, st.booleans(), st.booleans(), st.binary(max_size=40), st.integers(1, 60))
@settings(max_examples=150)
def test_a_header_that_is_written_is_read_whatever_the_packets(
    both: tuple[object, object], port: int, local_port: int, binary: bool, checksum: bool, rest: bytes, size: int
) -> None:
    ip, local_ip = (getattr(each, "ipv4_mapped", None) or each for each in both)
    if type(ip) is not type(local_ip):
        return
    origin = Proxied(str(ip), port, str(local_ip), local_port)
    family = 4 if ":" not in origin.ip else 6
    header = f"PROXY TCP{family} {ip} {local_ip} {port} {local_port}\r\n".encode()
    if binary:
        header = v2(origin, checksum=checksum)
    assert read(header + rest, size) == (origin, rest)


HEADERS = [
    b"PROXY TCP4 192.0.2.9 198.51.100.1 56324 25\r\nEHLO x\r\n",
    b"PROXY UNKNOWN\r\n",
    v2(FOUR, checksum=True),
    v2(SIX, values=b"\x20\x00\x05\x01\x00\x00\x00\x00"),
]


@given(
    st.sampled_from(HEADERS), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=4), st.data()
)
@settings(max_examples=300)
@example(HEADERS[2], [(13, 0x11)], None)
def test_broken_headers_are_told_and_do_not_depend_on_packets(
    header: bytes, changes: list[tuple[int, int]], data: st.DataObject | None
) -> None:
    octets = bytearray(header)
    for at, octet in changes:
        octets[at % len(octets)] = octet
    size = 5 if data is None else data.draw(st.integers(1, 90))
    assert read(bytes(octets), size) == read(bytes(octets))


@given(st.binary(max_size=200), st.integers(1, 200))
@settings(max_examples=200)
def test_noise_is_refused_or_waited_for(octets: bytes, size: int) -> None:
    for lead in (b"", b"PROXY ", SIGNATURE_2, SIGNATURE_2 + b"\x21\x11"):
        assert read(lead + octets, size) == read(lead + octets)
