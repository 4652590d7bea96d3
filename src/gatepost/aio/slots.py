"""Listening sockets that outlive every worker: one a slot, all on the same address.

The supervisor makes them (SO_REUSEPORT) and never closes them, so a client that the kernel has queued for a worker
that dies is served by the one that takes its place. A steered listener carries a classic BPF program that picks the
slot by the client's source, so that what a worker counts about a source is all there is.

    ldb  [NET+0]; rsh 4; jeq 6 -> six
    four: ldw [NET+12] (source);  its first octet 127 -> any;  -> mix
    six:  ldw [NET+8] ^ ldw [NET+12] (the /64; ::1 has 0 -> any)
    mix:  * 0x9E3779B1; >> 16; % slots; ret A
    any:  random % slots; ret A

Standard library only.
"""

import ctypes
import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gatepost.aio.plan import Plan, TcpPlan, UnixPlan

BACKLOG: Final = 1024
BIND_PATIENCE: Final = 5.0  # s to wait for a predecessor that is on its way out
_SO_ATTACH_REUSEPORT_CBPF: Final = 51  # asm-generic/socket.h
_NET: Final = 0xFFF00000  # SKF_NET_OFF, linux/filter.h
_RANDOM: Final = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_LD_B_ABS, _LD_W_ABS, _TAX, _RET_A = 0x30, 0x20, 0x07, 0x16
_RSH, _MUL, _MOD, _XOR_X = 0x74, 0x24, 0x94, 0xAC
_JEQ, _TXA = 0x15, 0x87
_GOLDEN: Final = 0x9E3779B1


class Unbound(OSError):
    """An address that cannot be listened on; the text tells the operator which and why."""


@dataclass(slots=True)
class Place:
    """One listener's sockets, by slot. `key` is its address in the plan: ("tcp", host, port) or ("unix", path).

    `lent`: systemd has bound them and listens on when we end.
    """

    name: str
    key: tuple[str | int, ...]
    sockets: list[socket.socket]
    lent: bool = False

    def shut(self) -> None:
        """Refuse new clients at once, in all processes that hold these sockets."""
        for sock in () if self.lent else self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def bind_plan(plan: Plan, kept: Sequence[Place], activated: Iterable[socket.socket] = ()) -> list[Place]:
    """Return the places of `plan`: those of `kept` with the same address (more slots when needed), new ones else.

    `activated` are sockets that systemd has bound. Raises Unbound, and then has closed what it had opened itself.
    Places that the plan no longer has are the caller's to close.
    """
    known = {place.key: place for place in kept}
    given = _by_address(activated)
    opened: list[socket.socket] = []
    places: list[Place] = []
    try:
        for tcp in plan.listeners:
            place = known.get(("tcp", tcp.host, tcp.port)) or Place(tcp.name, ("tcp", tcp.host, tcp.port), [])
            lent = given.get((tcp.host, tcp.port), [])
            sockets = place.sockets or lent
            if not sockets or (place.sockets and len(sockets) < plan.workers):
                fresh = _more_slots(tcp, sockets, plan.workers)
                opened += fresh
                sockets = sockets + fresh
            if tcp.steer and len(sockets) > 1:
                _steer(sockets)
            places.append(Place(tcp.name, place.key, sockets, place.lent or (bool(lent) and not place.sockets)))
        for unix in plan.unix:
            kept_unix = known.get(("unix", unix.path))
            lent = given.get((unix.path, 0), [])
            sockets = kept_unix.sockets if kept_unix else lent
            if not sockets:
                sockets = [_bind_unix(unix)]
                opened += sockets
            places.append(
                Place(unix.name, ("unix", unix.path), sockets, kept_unix.lent if kept_unix else bool(lent))
            )
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return places


def activated_sockets(environment: Mapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd passed, descriptors from 3 on (sd_listen_fds(3)); none if not for us."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environment.get("LISTEN_FDS", "0"))
    sockets = [socket.socket(fileno=descriptor) for descriptor in range(3, 3 + count)]
    for sock in sockets:
        sock.set_inheritable(False)
    return sockets


def _by_address(sockets: Iterable[socket.socket]) -> dict[tuple[str, int], list[socket.socket]]:
    found: dict[tuple[str, int], list[socket.socket]] = {}
    for sock in sockets:
        name = sock.getsockname()
        key = (os.fsdecode(name), 0) if sock.family == socket.AF_UNIX else (name[0], name[1])
        found.setdefault(key, []).append(sock)
    return found


def _more_slots(tcp: TcpPlan, have: Sequence[socket.socket], slots: int) -> list[socket.socket]:
    """Open the sockets from len(have) to `slots`; the order in which they listen is their number for the kernel."""
    port = have[0].getsockname()[1] if have else tcp.port
    if not have:
        _see_that_it_is_free(tcp)
    opened: list[socket.socket] = []
    try:
        for _ in range(slots - len(have)):
            sock = _tcp_socket(tcp.host)
            opened.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # what is accepted inherits it
            sock.bind((tcp.host, port))
            sock.listen(BACKLOG)
            port = sock.getsockname()[1]  # a plan with port 0 gets one port, not one a slot
    except OSError as error:
        for sock in opened:
            sock.close()
        raise _unbound(tcp, error) from error
    return opened


def _see_that_it_is_free(tcp: TcpPlan) -> None:
    """With SO_REUSEPORT another server of the same user would silently share our clients: bind once without."""
    end = time.monotonic() + BIND_PATIENCE
    while True:
        with _tcp_socket(tcp.host) as probe:
            try:
                probe.bind((tcp.host, tcp.port))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                    raise _unbound(tcp, error) from error
        time.sleep(0.1)


def _tcp_socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _unbound(tcp: TcpPlan, error: OSError) -> Unbound:
    hint = ""
    if error.errno == errno.EACCES:
        hint = " (ports below 1024 need a start as root, CAP_NET_BIND_SERVICE or a socket unit; a reload has none)"
    return Unbound(f"{tcp.name}: cannot listen on {tcp.host} port {tcp.port}: {error.strerror}{hint}")


def _bind_unix(unix: UnixPlan) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(unix.path):
            _remove_stale(unix)
        sock.bind(unix.path)
        os.chmod(unix.path, unix.mode)  # noqa: PTH101  (a path that was just made, in one of our directories)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise Unbound(f"{unix.name}: cannot listen on {unix.path}: {error.strerror or error}") from error
    return sock


def _remove_stale(unix: UnixPlan) -> None:
    if not stat.S_ISSOCK(os.lstat(unix.path).st_mode):
        raise Unbound(errno.EEXIST, "there is something that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(unix.path)
        except ConnectionRefusedError:
            os.unlink(unix.path)  # noqa: PTH108
            return
    raise Unbound(errno.EADDRINUSE, "another server listens there")


def steering(slots: int) -> list[tuple[int, int, int, int]]:
    """Return the program (code, jt, jf, k) that picks one of `slots` by source; see the module's docstring."""
    return [
        (_LD_B_ABS, 0, 0, _NET),
        (_RSH, 0, 0, 4),
        (_JEQ, 4, 0, 6),  # -> six
        (_LD_B_ABS, 0, 0, _NET + 12),
        (_JEQ, 10, 0, 127),  # -> any
        (_LD_W_ABS, 0, 0, _NET + 12),
        (_JEQ, 5, 5, 0),  # -> mix
        (_LD_W_ABS, 0, 0, _NET + 8),  # six
        (_TAX, 0, 0, 0),
        (_LD_W_ABS, 0, 0, _NET + 12),
        (_XOR_X, 0, 0, 0),
        (_JEQ, 3, 0, 0),  # ::1 -> any
        (_MUL, 0, 0, _GOLDEN),  # mix
        (_RSH, 0, 0, 16),
        (_JEQ, 1, 1, 0),  # -> choose
        (_LD_W_ABS, 0, 0, _RANDOM),  # any
        (_MOD, 0, 0, slots),  # choose
        (_RET_A, 0, 0, 0),
    ]


def _steer(sockets: Sequence[socket.socket]) -> None:
    """Attach the program to the group that `sockets` form, in the order in which they began to listen."""
    code = b"".join(struct.pack("HBBI", *step) for step in steering(len(sockets)))
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))
    sockets[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
