"""The keeper: a process of its own that alone writes one SQLite file, for all workers.

One thread, one loop: take every frame that has arrived, commit all of those units together, answer them, tell
the news. What arrives during the fsync waits in the sockets and makes the next batch, so the slower the disk,
the larger the batch.
"""

import contextlib
import os
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gatepost.db.frames import (
    BadFrame,
    FrameReader,
    Request,
    answer_frame,
    leave_frame,
    let_go_frame,
    news_frame,
    read_request,
)
from gatepost.db.unit import NotCommitted
from gatepost.db.writer import NOBODY, Writer

READ_OCTETS: Final = 1 << 18
BATCH_UNITS: Final = 512
BATCH_OCTETS: Final = 16 << 20
WAITING_UNITS: Final = 4096  # while more wait, nothing is read: the sockets hold the rest
UNSENT_MAX: Final = 64 << 20  # a client that does not read its answers is cut off
FAREWELL_S: Final = 1.0


class _Peer:
    """One connected process."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.frames = FrameReader()
        self.unsent = bytearray()
        self.left = False


class Keeper:
    """Serves a Writer on a unix socket until `stop` is called from a signal handler."""

    def __init__(self, writer: Writer, listener: socket.socket) -> None:
        self._writer = writer
        writer.let_go = self._let_go
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._peers: set[_Peer] = set()
        self._waiting: deque[tuple[_Peer, Request, int]] = deque()
        self._ends = False

    def stop(self) -> None:
        """End after what has arrived is committed; safe in a signal handler."""
        self._ends = True
        with contextlib.suppress(OSError):
            self._waker.send(b"x")

    def run(self) -> None:
        """Serve until `stop`, then commit what is left, close the file and return."""
        while not self._ends:
            self._take(self._patience())
            if self._waiting:
                self._commit()
            self._writer.between_batches()
        self._part()
        self._selector.close()
        self._writer.close()

    def _part(self) -> None:
        """Tell every peer to leave; answer what each has sent until it has, for FAREWELL_S at most."""
        for sock in (self._listener, self._wake):
            self._selector.unregister(sock)
        for sock in (self._listener, self._wake, self._waker):
            sock.close()
        for peer in tuple(self._peers):
            peer.unsent += leave_frame()
            self._send(peer)
        ends = time.monotonic() + FAREWELL_S
        while self._peers and time.monotonic() < ends:
            self._take(0 if self._waiting else FAREWELL_S)
            while self._waiting:
                self._commit()
            for peer in [each for each in self._peers if each.left]:
                self._farewell(peer)
        for peer in tuple(self._peers):
            self._farewell(peer)

    def _patience(self) -> float | None:
        """Return how long to wait for a frame."""
        if self._waiting:
            return 0
        return NOBODY if self._writer.unwell else None

    def _take(self, timeout: float | None) -> None:
        """Read all that has arrived."""
        for key, mask in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake:
                self._wake.recv(64)
            elif isinstance(key.data, _Peer):
                if mask & selectors.EVENT_WRITE:
                    self._send(key.data)
                if mask & selectors.EVENT_READ and key.data in self._peers:
                    self._receive(key.data)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # gone again, or no descriptor is left: it waits in the backlog
        if not peer_allowed(sock):
            sock.close()
            return
        sock.setblocking(False)
        peer = _Peer(sock)
        self._peers.add(peer)
        self._selector.register(sock, selectors.EVENT_READ, peer)
        if self._writer.unwell:
            peer.unsent += let_go_frame(closed=True)
            self._send(peer)

    def _receive(self, peer: _Peer) -> None:
        if len(self._waiting) > WAITING_UNITS:
            return
        try:
            octets = peer.sock.recv(READ_OCTETS)
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        if not octets:
            peer.left = True
            if not self._ends:  # else it has obeyed, and waits for its last answers
                self._drop(peer)
            return
        try:
            for content in peer.frames.feed(octets):
                self._waiting.append((peer, read_request(content), len(content)))
        except BadFrame:
            self._drop(peer)

    def _commit(self) -> None:
        """Commit a batch, answer it, tell its news."""
        batch: list[tuple[_Peer, Request]] = []
        octets = 0
        while self._waiting and len(batch) < BATCH_UNITS and octets < BATCH_OCTETS:
            peer, request, size = self._waiting.popleft()
            batch.append((peer, request))
            octets += size
        outcomes = self._writer.commit_batch([tuple(request.steps) for _, request in batch])
        news: dict[tuple[str, int], None] = {}
        answered: set[_Peer] = set()
        for (peer, request), outcome in zip(batch, outcomes, strict=True):
            peer.unsent += answer_frame(request.number, outcome)
            answered.add(peer)
            if not isinstance(outcome, NotCommitted):
                news.update(dict.fromkeys(request.notices))
        if news:
            frame = news_frame(list(news))
            for peer in self._peers:
                peer.unsent += frame
            answered |= self._peers
        for peer in answered:
            self._send(peer)

    def _let_go(self, closed: bool) -> None:
        """Tell every process to close the file for reading, or that it may open it."""
        for peer in tuple(self._peers):
            peer.unsent += let_go_frame(closed=closed)
            self._send(peer)

    def _send(self, peer: _Peer) -> None:
        if peer not in self._peers:
            return
        try:
            if peer.unsent:
                sent = peer.sock.send(peer.unsent)
                del peer.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer)
            return
        if len(peer.unsent) > UNSENT_MAX:
            self._drop(peer)
            return
        wants = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        if self._selector.get_key(peer.sock).events != wants:
            self._selector.modify(peer.sock, wants, peer)

    def _farewell(self, peer: _Peer) -> None:
        """Send a peer its last answers: what is committed should not be told twice."""
        with contextlib.suppress(OSError):
            peer.sock.settimeout(FAREWELL_S)
            peer.sock.sendall(peer.unsent)
        self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._peers.discard(peer)
            self._selector.unregister(peer.sock)
            peer.sock.close()


def listen_at(path: Path) -> socket.socket:
    """Make the unix socket that workers and commands of the same user connect to (mode 0600)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(str(fresh))
    finally:
        os.umask(mask)
    listener.listen(128)
    listener.setblocking(False)
    fresh.rename(path)  # the one before, if any, goes on with the processes that are connected to it
    return listener


def peer_allowed(sock: socket.socket) -> bool:
    """Tell whether the process at the other end is ours: the same user, or root."""
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (os.geteuid(), 0)


def keep(open_writer: Callable[[], Writer], listener: socket.socket, ready: Callable[[Keeper], None]) -> None:
    """Be the keeper of this process: open the file, say that it is ready, serve until stopped."""
    keeper = Keeper(open_writer(), listener)
    ready(keeper)
    keeper.run()


def socket_path(database: Path) -> Path:
    """Return where the keeper of a database file listens."""
    return database.parent / "run" / f"{database.stem}.sock"
