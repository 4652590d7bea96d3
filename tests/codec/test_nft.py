"""Netlink messages to nf_tables and conntrack, octet by octet and as properties."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.codec import nft
from gatepost.codec.nft import Answer, BadMessage, Message, Range

TOP4 = (1 << 32) - 1


def spread(numbers: "list[int]", version: int) -> list[Range]:
    """Return disjoint ranges that do not touch, of numbers in any order."""
    ordered = sorted(set(numbers))
    pairs = list(zip(ordered[::2], ordered[1::2], strict=False))
    return [Range(first, last) for at, (first, last) in enumerate(pairs) if not at or first > pairs[at - 1][1] + 1]


def told(changes: "list[nft.Change]") -> list[nft.Element]:
    """Return the elements that changes speak of."""
    return [each for kind, flags, body in changes for each in nft.elements(Message(kind, flags, 0, body))]


def test_one_host_is_the_attributes_that_nft_sends() -> None:
    # strace of `nft add element inet gatepost h { 192.0.2.7 timeout 90s }` (1.0.6) shows these attributes, and
    # NFTA_SET_ELEM_LIST_SET_ID, which speaks of sets made in the same batch; there the timeout precedes the key.
    (change,) = nft.add("gatepost", "h", 4, [Range(0xC0000207, 0xC0000207, 90_000)], hosts=True)
    assert change.kind == 0x0A0C
    assert change.body == bytes.fromhex(
        "01000000"  # NFPROTO_INET, version 0, resource 0
        "0d000100 67617465706f737400 000000"  # NFTA_SET_ELEM_LIST_TABLE
        "06000200 6800 0000"  # NFTA_SET_ELEM_LIST_SET
        "20000380"  # NFTA_SET_ELEM_LIST_ELEMENTS, nested
        "1c000180 0c000180 08000100 c0000207"  # an element, its key, the key's value
        "0c000400 0000000000015f90"  # NFTA_SET_ELEM_TIMEOUT, milliseconds
    )


def test_a_range_is_its_first_address_and_the_one_behind_its_last() -> None:
    changes = list(nft.add("gatepost", "n", 4, [Range(0x0A000000, 0x0A0000FF)]))
    assert [(each.key, each.end) for each in told(changes)] == [(0x0A000000, False), (0x0A000100, True)]


def test_a_range_to_the_last_address_of_all_has_no_end() -> None:
    changes = list(nft.add("gatepost", "n", 4, [Range(0xF0000000, TOP4, 5)]))
    assert [(each.key, each.end) for each in told(changes)] == [(0xF0000000, False)]
    assert nft.ranges(told(changes), 4) == [Range(0xF0000000, TOP4)]


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data())
def test_what_is_added_is_what_is_read_back(version: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, (1 << nft.WIDTHS[version]) - 1), max_size=40))
    wanted = spread(numbers, version)
    assert nft.ranges(told(list(nft.add("t", "s", version, wanted))), version) == wanted
    assert nft.ranges(told(list(nft.delete("t", "s", version, wanted))), version) == wanted


def test_many_elements_go_in_messages_whose_attributes_fit_in_sixteen_bits() -> None:
    wanted = [Range(at << 4, (at << 4) + 3) for at in range(5_000)]
    changes = list(nft.add("gatepost", "n", 6, wanted))
    assert len(changes) > 1
    assert all(len(change.body) < 0xFFFF for change in changes)
    assert nft.ranges(told(changes), 6) == wanted


def test_a_batch_is_numbered_and_only_its_last_change_is_acknowledged() -> None:
    changes = [nft.clear("t", "a"), nft.clear("t", "b"), nft.clear("t", "c")]
    batch = nft.batch(changes, 7)
    found = list(nft.messages(batch.octets))
    assert [each.kind for each in found] == [0x10, 0x0A0E, 0x0A0E, 0x0A0E, 0x11]
    assert [each.sequence for each in found] == [7, 8, 9, 10, 11]
    assert [bool(each.flags & 0x4) for each in found] == [False, False, False, True, False]
    assert (batch.begin, batch.last) == (7, 10)
    assert found[0].body == found[-1].body == bytes.fromhex("0000000a")  # of the subsystem nf_tables


def test_an_error_says_its_number_and_the_kernels_words() -> None:
    header = struct.pack("=IHHII", 20, 0x0A0C, 5, 9, 0)
    text = struct.pack("=HH", 4 + 6, 1) + b"Busy!\0" + b"\0\0"
    capped = Message(nft.ERROR, 0x300, 9, struct.pack("=i", -16) + header + text)
    assert nft.answer(capped) == Answer(16, "Busy!")
    whole = Message(nft.ERROR, 0x200, 9, struct.pack("=i", -16) + header + b"\x01\0\0\0" + text)
    assert nft.answer(whole) == Answer(16, "Busy!")
    assert nft.answer(Message(nft.ERROR, 0, 9, struct.pack("=i", 0) + header)) == Answer(0, "")
    assert nft.answer(Message(nft.DONE, 0, 9, struct.pack("=i", -4))) == Answer(4, "")


@pytest.mark.parametrize(
    ("version", "kind", "address"), [(4, 1, bytes([192, 0, 2, 7])), (6, 3, bytes(15) + b"\7")], ids=["IPv4", "IPv6"]
)
def test_the_opener_of_a_connection_is_read_and_its_tuple_sent_back(
    version: int, kind: int, address: bytes
) -> None:
    addresses = struct.pack("=HH", 4 + len(address), kind) + address
    parted = struct.pack("=HH", 4 + len(addresses), 0x8001) + addresses
    original = struct.pack("=HH", 4 + len(parted), 0x8001) + parted
    status = struct.pack("=HHI", 8, 3, 14)
    number = struct.pack("=HHI", 8, 12, 77)
    found = Message(0x100, 2, 5, bytes([2, 0, 0, 0]) + original + status + number)
    assert nft.source(found, version) == int.from_bytes(address)
    assert nft.source(found, 10 - version) is None
    (request,) = nft.messages(nft.delete_connection(found, 6))
    assert (request.kind, request.sequence) == (0x102, 6)
    assert request.body == bytes([2, 0, 0, 0]) + original + number


@given(st.binary(max_size=200))
def test_what_no_kernel_sends_is_a_bad_message_and_nothing_else(octets: bytes) -> None:
    for read in (
        lambda: list(nft.messages(octets)),
        lambda: nft.answer(Message(nft.ERROR, 0x300, 1, octets)),
        lambda: nft.answer(Message(nft.ERROR, 0x200, 1, octets)),
        lambda: nft.handle(Message(0, 0, 1, octets)),
        lambda: list(nft.elements(Message(0, 0, 1, octets))),
        lambda: nft.source(Message(0, 0, 1, octets), 4),
        lambda: nft.delete_connection(Message(0, 0, 1, octets), 1),
    ):
        try:
            read()
        except BadMessage:
            pass
