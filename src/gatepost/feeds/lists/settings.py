"""The list feed's settings: which lists, from where, how often."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Final

from gatepost.base.units import Octets, Seconds
from gatepost.gate.decide import TABLE_NAMES

NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,31}")
CHANNEL_PORT: Final = 8026  # services(5) of OpenBSD: spamd-cfg


class ListKind(Enum):
    """What being on a list means."""

    BLACK = "black"
    WHITE = "white"


class Method(Enum):
    """How a list is read."""

    FILE = "file"
    HTTP = "http"
    HTTPS = "https"
    EXEC = "exec"


@dataclass(frozen=True, slots=True)
class ListSettings:
    """One list: `[[feeds.lists.list]]`, in the order in which they count (`all` of spamd.conf)."""

    name: str
    """Its name; a black list is the table of that name."""

    kind: ListKind
    """`black`, or `white`: taken out of the black list before it, and of no other."""

    source: str
    """A path, an address (`www.example.org/list.gz`, with or without its scheme), or a program with its arguments,
    which is run without a shell. What is compressed by gzip is unpacked."""

    method: Method = Method.FILE
    """`file`, `http`, `https` or `exec`."""

    message: str = ""
    """What members of a black list are told: `%A` is their address, a line's end begins another line."""

    message_file: str = ""
    """A file with the message, instead of it."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError("name must have 1 to 31 letters, digits or any of _.-")
        if self.kind is ListKind.BLACK and self.name in TABLE_NAMES:
            raise ValueError(f"{self.name!r} is one of the gate's own tables: call the list otherwise")
        if not self.source.strip() or "\0" in self.source:
            raise ValueError("source must be a path, an address or a program")
        if self.kind is ListKind.BLACK and not (self.message or self.message_file):
            raise ValueError(f"no message for black list {self.name!r}: its members must be told why")

    @property
    def url(self) -> str:
        """Return the address of a list from the web."""
        return self.source if "://" in self.source else f"{self.method.value}://{self.source}"


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """One table that is written to a file before each refresh: `[[feeds.lists.exports]]`."""

    table: str
    """The table."""

    file: str
    """The file: an IPv4 address or network a line, as spamd-setup reads them."""


@dataclass(frozen=True, slots=True)
class ListsSettings:
    """Lists of addresses, as spamd-setup(8) reads them: `[feeds.lists]`."""

    conf: str = ""
    """A spamd.conf(5) whose lists come first."""

    list: tuple[ListSettings, ...] = ()
    """Lists."""

    refresh: Seconds = Seconds(1200)
    """How often lists are read anew, with a tenth more or less by chance; 0 is only when told to."""

    timeout: Seconds = Seconds(120)
    """How long the fetching of a list, or its program, may take."""

    size_max: Octets = Octets(64 << 20)
    """The most that a list may have as it comes."""

    unpacked_max: Octets = Octets(256 << 20)
    """The most that a list may have when unpacked."""

    shrink_max: int = 90
    """A list that lost more than so many hundredths of its addresses at once is not believed; 100 believes all."""

    fill_spamd: bool = False
    """Also put all black lists together into the table `spamd`, as spamd-setup -b does."""

    exports: tuple[ExportSettings, ...] = ()
    """Tables to write to files, before lists are read."""

    channel: str = ""
    """Where programs made for spamd may send lists, usually `127.0.0.1:8026`; empty is nowhere."""

    def __post_init__(self) -> None:
        if not 0 <= self.shrink_max <= 100:
            raise ValueError("shrink_max must be between 0 and 100")
        if 0 < self.refresh < 10:
            raise ValueError("refresh must be 0, or 10s at least")
        for name, count in Counter(each.name for each in dict.fromkeys(self.list)).items():
            if count > 1:
                raise ValueError(f"two different lists are called {name!r}")
        if self.channel:
            split_channel(self.channel)

    @property
    def wanted(self) -> bool:
        """Tell whether there is anything to do."""
        return bool(self.conf or self.list or self.exports or self.channel)


@dataclass(frozen=True, slots=True)
class Group:
    """A black list and the white ones that are taken out of it."""

    black: ListSettings
    whites: tuple[ListSettings, ...] = ()

    @property
    def members(self) -> tuple[ListSettings, ...]:
        """Return all its lists."""
        return (self.black, *self.whites)


def groups(lists: tuple[ListSettings, ...]) -> Iterator[Group]:
    """Return black lists, each with the white ones behind it; of two of one name the last counts, in its place."""
    found: dict[str, Group] = {}
    last = ""
    for each in lists:
        if each.kind is ListKind.BLACK:
            found[each.name] = Group(each)
            last = each.name
        elif last:
            found[last] = Group(found[last].black, (*found[last].whites, each))
    yield from found.values()


def idle(lists: tuple[ListSettings, ...]) -> tuple[str, ...]:
    """Return the white lists before any black one: there is nothing that they could be taken out of."""
    names = []
    for each in lists:
        if each.kind is ListKind.BLACK:
            break
        names.append(each.name)
    return tuple(names)


def split_channel(text: str) -> tuple[str, int]:
    """Read the channel's address; ValueError where others than this machine could reach it."""
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, str(CHANNEL_PORT)
    try:
        near = ip_address(host.strip("[]")).is_loopback
    except ValueError:
        near = False
    if not near or re.fullmatch(r"[0-9]{1,5}", port) is None or int(port) > 65_535:
        raise ValueError(f"channel must be an address of this machine with a port, as 127.0.0.1:8026, not {text!r}")
    return host.strip("[]"), int(port)
