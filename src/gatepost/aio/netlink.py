"""One socket to the kernel's packet filter (netlink(7), NETLINK_NETFILTER): batches out, their answers in.

Calls wait for the kernel, which answers while it is called: 30 µs for one element. They belong into a process that
serves nobody meanwhile.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Final, Self

from gatepost.codec import nft

_NETLINK_NETFILTER: Final = 12
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 10, 11
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_READ_OCTETS: Final = 1 << 18
_RECEIVE_OCTETS: Final = 4 << 20
_SEND_OCTETS: Final = 1 << 20
_PATIENCE_S: Final = 30  # a commit of 400,000 elements takes one or two
_ENOENT: Final = 2


class NetlinkError(OSError):
    """The kernel refused a batch, of which nothing is done, or did not answer."""


class Netfilter:
    """The socket. Needs CAP_NET_ADMIN in its network namespace, or every call raises NetlinkError (EPERM)."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.settimeout(_PATIENCE_S)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0
        self._room = 0
        self._force(_SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_OCTETS)
        self._make_room(_SEND_OCTETS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; rules and sets stay."""
        self._socket.close()

    def apply(self, changes: Sequence[nft.Change]) -> None:
        """Commit changes, all or none; raises NetlinkError."""
        if not changes:
            return
        batch = nft.batch(changes, self._next(len(changes) + 2))
        self._make_room(len(batch.octets))
        self._send(batch.octets)
        while True:
            for message in self._receive():
                if not batch.begin <= message.sequence <= batch.last or message.kind != nft.ERROR:
                    continue
                said = nft.answer(message)
                if said.error:
                    self._drain()
                    raise _error(said)
                if message.sequence == batch.last:
                    return

    def table(self, name: str) -> int | None:
        """Return the handle of an inet table; None where there is none."""
        sequence = self._next()
        self._send(nft.ask_table(name, sequence))
        try:
            return nft.handle(self._one(sequence))
        except NetlinkError as refused:
            if refused.errno == _ENOENT:
                return None
            raise

    def elements(self, table: str, name: str) -> list[nft.Element]:
        """Return what a set holds."""
        sequence = self._next()
        self._send(nft.ask_elements(table, name, sequence))
        return [element for message in self._dump(sequence) for element in nft.elements(message)]

    def cut(self, version: int, first: int, last: int) -> int:
        """Forget every connection that a source from `first` to `last` opened; return how many there were.

        What the kernel then sees of them is new to it, and meets the rules.
        """
        sequence = self._next()
        self._send(nft.ask_connections(version, sequence))
        found = []
        for message in self._dump(sequence):
            opener = nft.source(message, version)
            if opener is not None and first <= opener <= last:
                found.append(message)
        return sum(self._forget(message) for message in found)

    def _forget(self, connection: nft.Message) -> bool:
        sequence = self._next()
        self._send(nft.delete_connection(connection, sequence))
        try:
            self._one(sequence)
        except NetlinkError as refused:
            if refused.errno == _ENOENT:
                return False
            raise
        return True

    def _next(self, count: int = 1) -> int:
        """Return the first of `count` fresh numbers."""
        first = self._sequence + 1
        if first + count > 0x7FFFFFFF:
            first = 1
        self._sequence = first + count - 1
        return first

    def _one(self, sequence: int) -> nft.Message:
        """Return the one message that answers; an acknowledgement is one."""
        while True:
            for message in self._receive():
                if message.sequence != sequence:
                    continue
                if message.kind == nft.ERROR and (said := nft.answer(message)).error:
                    raise _error(said)
                return message

    def _dump(self, sequence: int) -> Iterator[nft.Message]:
        while True:
            for message in self._receive():
                if message.sequence != sequence:
                    continue
                if message.kind in (nft.ERROR, nft.DONE):
                    said = nft.answer(message)
                    if said.error:
                        raise _error(said)
                    return
                yield message

    def _send(self, octets: bytes) -> None:
        try:
            self._socket.sendto(octets, (0, 0))
        except OSError as refused:
            raise NetlinkError(refused.errno, f"netlink: {refused.strerror}") from refused

    def _receive(self) -> list[nft.Message]:
        try:
            return list(nft.messages(self._socket.recv(_READ_OCTETS)))
        except OSError as refused:
            raise NetlinkError(refused.errno, f"netlink: {refused.strerror or 'no answer'}") from refused

    def _drain(self) -> None:
        """Read what else the kernel said of a batch that it refused."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(_READ_OCTETS):
                pass
        except BlockingIOError:
            pass
        finally:
            self._socket.settimeout(_PATIENCE_S)

    def _make_room(self, octets: int) -> None:
        """See that a batch fits into the send buffer: the kernel takes it in one piece."""
        if octets > self._room:
            self._room = octets + (octets >> 2)
            self._force(_SO_SNDBUFFORCE, socket.SO_SNDBUF, self._room)

    def _force(self, force: int, plain: int, octets: int) -> None:
        """Set a buffer's size over the system's limit, which takes CAP_NET_ADMIN in the first namespace of all."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, force, octets)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, plain, octets)


def _error(said: nft.Answer) -> NetlinkError:
    return NetlinkError(
        said.error, f"netlink: {os.strerror(said.error)}" + (f" ({said.text})" if said.text else "")
    )
