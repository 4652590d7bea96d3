"""The settings of the sync with other mail servers."""

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address, ip_network
from typing import Final

from gatepost.base.units import Seconds

PORT: Final = 8025  # spamd-sync in OpenBSD's services(5)
GROUP: Final = "224.0.1.240"
_INTERFACE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}(:[0-9]{1,3})?")


class SyncMode(Enum):
    """What is spoken."""

    OWN = "own"
    SPAMD = "spamd"


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """Other mail servers that share their greylist with ours: `[feeds.sync]`. Each must name all others."""

    mode: SyncMode = SyncMode.OWN
    """`own`: signed, safe from replay, IPv6 too, and nothing is lost for good when the line between two is cut.
    `spamd`: version 2 of OpenBSD spamd's protocol, for its hosts."""

    listen: str = ""
    """The address to hear others at, `192.0.2.2` or `[2001:db8::2]:8025`; in spamd mode also an interface, `em0` or
    `em0:2` with a TTL: the group is joined there (spamd -y). Empty hears nobody."""

    peers: tuple[str, ...] = ()
    """Whom to tell, `198.51.100.2` or with a port; in spamd mode also an interface for multicast (spamd -Y)."""

    allow: tuple[str, ...] = ()
    """Whom to hear: addresses or networks. Empty is the peers; with multicast it is everybody who has the key."""

    key_files: tuple[str, ...] = ()
    """Files with the key, the same on all servers: `gatepost sync key FILE` makes one. What we send is signed with
    the first, what we hear may be signed with any: so a key is changed while all go on. spamd mode takes one, or
    none."""

    group: str = GROUP
    """The multicast group of spamd mode."""

    accept_v1: bool = False
    """Hear also version 1 of spamd's protocol, that of OpenBSD 4.1 to 4.3; what we send is version 2."""

    interval: Seconds = Seconds(30)
    """How often servers compare what they have (own mode)."""

    def __post_init__(self) -> None:
        if self.mode is SyncMode.OWN and self.wanted and not self.key_files:
            raise ValueError("mode = own needs key_files (gatepost sync key FILE makes one)")
        if self.mode is SyncMode.SPAMD and len(self.key_files) > 1:
            raise ValueError("spamd mode has one key")
        if self.interval <= 0:
            raise ValueError("interval must be more than 0")
        for each in self.allow:
            ip_network(each, strict=False)  # its ValueError says what is wrong
        if not ip_address(self.group).is_multicast or ":" in self.group:
            raise ValueError(f"group {self.group!r} is no multicast address of IPv4")
        for each in (*self.peers, *([self.listen] if self.listen else [])):
            place = parse_place(each)
            if place.interface and self.mode is SyncMode.OWN:
                raise ValueError(f"{each!r} is no address: only spamd mode has multicast")
        interfaces = {each for each in (self.listen, *self.peers) if each and parse_place(each).interface}
        if len(interfaces) > 1:
            raise ValueError("multicast interface does not match: listen and peers must name the same one and TTL")

    @property
    def wanted(self) -> bool:
        """Tell whether there is anybody to tell or to hear."""
        return bool(self.peers or self.listen)


@dataclass(frozen=True, slots=True)
class Place:
    """Where datagrams go or come to: an address with a port, or an interface with the TTL of what is sent there."""

    ip: str
    port: int
    interface: str = ""
    ttl: int = 1


def parse_place(text: str) -> Place:
    """Read `192.0.2.1`, `192.0.2.1:8025`, `[2001:db8::1]:8025`, `em0` or `em0:2`; raises ValueError."""
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1 and "." in text:
        host, _, port = text.partition(":")
    try:
        ip_address(host)
    except ValueError:
        if not _INTERFACE.fullmatch(text):
            raise ValueError(f"{text!r} is neither an address nor an interface") from None
        interface, _, ttl = text.partition(":")
        if ttl and not 1 <= int(ttl) <= 255:
            raise ValueError(f"{text!r}: a TTL is between 1 and 255") from None
        return Place("", PORT, interface, int(ttl or 1))
    if port and (re.fullmatch(r"[0-9]{1,5}", port) is None or not 0 < int(port) < 65_536):
        raise ValueError(f"{port!r} is no port")
    return Place(host, int(port or PORT))
