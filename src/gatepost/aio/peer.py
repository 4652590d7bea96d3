"""Addresses of peers as text: one form each, and what counts as one peer."""

import socket
import struct


def plain_ip(ip: str) -> str:
    """Return an address as the kernel gives it without scope, and a v4-mapped one as IPv4."""
    if ip.startswith("::ffff:") and "." in ip:
        return ip[7:]
    return ip.partition("%")[0]


def is_loopback(ip: str) -> bool:
    """Tell whether the address is this machine's loopback."""
    return ip.startswith("127.") or ip == "::1"


def peer_key(ip: str) -> str | bytes:
    """Return what counts as one peer: an IPv4 address, or the /64 of an IPv6 one."""
    return socket.inet_pton(socket.AF_INET6, ip)[:8] if ":" in ip else ip


def peer_uid(sock: socket.socket) -> int:
    """Return the user at the other end of a Unix socket, as he was when he connected (unix(7), SO_PEERCRED)."""
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
