"""Where a redirected connection was meant to go: the address its client dialled, before the kernel's NAT."""

import socket
from struct import Struct
from typing import Final

SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h
_SOCKADDR_IN: Final = Struct("!2xH4s8x")  # family in the machine's order; port; address
_SOCKADDR_IN6: Final = Struct("!2xH4x16s4x")


def original_destination(sock: socket.socket) -> tuple[str, int]:
    """Return (address, port) that the peer of an accepted TCP connection dialled; an IPv4 one is written as such.

    Where nothing redirected the connection, or the kernel does not remember it (no connection tracking), this is
    the socket's own address.
    """
    own = sock.getsockname()
    mapped = sock.family == socket.AF_INET6 and own[0].startswith("::ffff:")
    try:
        if sock.family == socket.AF_INET or mapped:
            found = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, _SOCKADDR_IN.size)
            port, address = _SOCKADDR_IN.unpack(found)
            return socket.inet_ntop(socket.AF_INET, address), port
        found = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, _SOCKADDR_IN6.size)
        port, address = _SOCKADDR_IN6.unpack(found)
        return socket.inet_ntop(socket.AF_INET6, address), port
    except OSError:
        return own[0].removeprefix("::ffff:") if mapped else own[0], own[1]
