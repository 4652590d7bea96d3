"""The addresses of this machine's network interfaces, asked of the kernel (rtnetlink(7), RTM_GETADDR)."""

import socket
import struct
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Final

_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_HEADER: Final = struct.Struct("=IHHII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2  # on a point-to-point link the first is the other end
_READ_OCTETS: Final = 1 << 16


def addresses() -> Mapping[str, tuple[str, ...]]:
    """Return the addresses of each interface that has any; link-local ones of IPv6 are left out.

    Those need the interface beside them, and no mail is sent to them. Raises OSError.
    """
    found: dict[str, list[str]] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        kernel.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _REQUEST_DUMP, 1, 0) + body)
        for message in _answers(kernel):
            index, octets = _one(message)
            address = ip_address(octets)
            if not address.is_link_local or address.version == 4:
                found.setdefault(socket.if_indextoname(index), []).append(str(address))
    return {name: tuple(each) for name, each in found.items()}


def _answers(kernel: socket.socket) -> Iterator[bytes]:
    """Yield the bodies of the kernel's messages up to the end of its answer."""
    while True:
        octets = kernel.recv(_READ_OCTETS)
        while octets:
            length, kind, _, _, _ = _HEADER.unpack_from(octets)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                raise OSError(-struct.unpack_from("=i", octets, _HEADER.size)[0], "the kernel names no addresses")
            if kind == _RTM_NEWADDR:
                yield octets[_HEADER.size : length]
            octets = octets[_aligned(length) :]


def _one(message: bytes) -> tuple[int, bytes]:
    """Return the index of the interface and the address in network order."""
    index = _ADDRESS.unpack_from(message)[4]
    attributes: dict[int, bytes] = {}
    at = _ADDRESS.size
    while at < len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        attributes[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return index, attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
