"""Two network namespaces joined by a cable, and sockets in them: a server's machine, and its clients'."""

import ctypes
import os
import secrets
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from gatepost.aio.original import original_destination
from tests.support.peers import cannot, program

T = TypeVar("T")
SERVER4: Final = "198.51.100.1"
SERVER6: Final = "2001:db8:1::1"
WHITE, LISTED, UNKNOWN, ABUSER, OTHER = (f"198.51.100.{last}" for last in (10, 11, 12, 13, 14))
SIX: Final = tuple(f"2001:db8:1:{net}::7" for net in ("a", "b", "c"))
WHITE6, LISTED6, UNKNOWN6 = SIX
_SERVER_CARD, _CLIENT_CARD = "02:00:00:00:00:01", "02:00:00:00:00:02"
FOREIGN: Final = "203.0.113.5"
"""An address of the client's that the server would not answer on this cable."""
_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET
_REACH_S: Final = 5.0
_SILENCE_S: Final = 0.4


class Dropped(Exception):
    """Nobody answered."""


class Refused(Exception):
    """A reset was the answer."""


@dataclass
class Reached:
    """A connection: both ends, the port that took it, and where the client had dialled."""

    client: socket.socket
    served: socket.socket
    port: int
    dialled: tuple[str, int]

    def close(self) -> None:
        """Close both ends."""
        self.client.close()
        self.served.close()


@dataclass
class Cable:
    """The two namespaces by name, and the server's listeners."""

    server: str
    client: str
    listeners: dict[int, socket.socket] = field(default_factory=dict)
    open: list[socket.socket] = field(default_factory=list)

    def on_server(self, work: Callable[[], T]) -> T:
        """Run `work` on the server's machine: sockets that it makes stay there."""
        return _inside(self.server, work)

    def listen(self, *ports: int) -> None:
        """Listen on ports of the server's, of both families."""
        for port in ports:
            make = partial(socket.create_server, ("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
            self.listeners[port] = self.on_server(make)

    def dial(self, source: str, port: int, *, patience: float = _SILENCE_S) -> socket.socket:
        """Connect from one of the client's addresses; raises Dropped or Refused."""
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        client = _inside(self.client, lambda: socket.socket(family))
        self.open.append(client)
        client.bind((source, 0))
        client.settimeout(patience)
        try:
            client.connect((SERVER6 if ":" in source else SERVER4, port))
        except TimeoutError:
            raise Dropped(f"{source} to {port}") from None
        except (ConnectionRefusedError, ConnectionResetError):
            raise Refused(f"{source} to {port}") from None
        client.settimeout(_REACH_S)
        return client

    def reach(self, source: str, port: int, *, patience: float = _SILENCE_S) -> Reached:
        """Connect to a stand-in and tell which listener took it."""
        client = self.dial(source, port, patience=patience)
        own = client.getsockname()[:2]
        while True:
            ready, _, _ = select.select(list(self.listeners.values()), [], [], _REACH_S)
            assert ready, f"nobody took {source} to {port}"
            for listener in ready:
                served, peer = listener.accept()
                self.open.append(served)
                if (peer[0].removeprefix("::ffff:"), peer[1]) == own:
                    served.settimeout(_REACH_S)
                    taken = served.getsockname()[1]
                    return Reached(client, served, taken, original_destination(served))

    def outcome(self, source: str, port: int) -> int | str:
        """Tell which port took a connection, or that it was dropped or refused."""
        try:
            reached = self.reach(source, port)
        except Dropped:
            return "dropped"
        except Refused:
            return "refused"
        reached.close()
        return reached.port

    def udp(self, source: str, port: int) -> socket.socket:
        """Return a client's datagram socket that sends to a port of the server's."""
        made = _inside(self.client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.open.append(made)
        made.bind((source, 0))
        made.connect((SERVER4, port))
        made.settimeout(_REACH_S)
        return made

    def icmp(self, source: str, kind: int) -> socket.socket:
        """Send an ICMP message of a type, with nothing in it; return the socket, which hears what comes back."""
        six = ":" in source
        family, protocol = (
            (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
        )
        made = _inside(self.client, lambda: socket.socket(family, socket.SOCK_RAW, protocol))
        self.open.append(made)
        made.bind((source, 0))
        checksum = 0 if six else 0xFFFF - (kind << 8)  # the kernel makes ICMPv6's
        made.sendto(bytes((kind, 0)) + checksum.to_bytes(2) + bytes(4), (SERVER6 if six else SERVER4, 0))
        return made

    def ping(self, source: str) -> bool:
        """Tell whether an echo request is answered."""
        six = ":" in source
        made = self.icmp(source, 128 if six else 8)
        made.settimeout(_SILENCE_S)
        try:
            while True:
                packet = made.recv(2048)
                if packet[0 if six else 20] == (129 if six else 0):
                    return True
        except TimeoutError:
            return False


@contextmanager
def cable() -> Iterator[Cable]:
    """Make both namespaces; leave the test out where the machine does not allow it."""
    ip = program("ip", "/usr/sbin/ip")
    if os.geteuid() != 0:
        cannot("only root may make network namespaces")
    tag = f"{os.getpid()}-{threading.get_ident() & 0xFFFF:x}"
    server, client = f"gp-s-{tag}", f"gp-c-{tag}"

    def run(*words: str) -> None:
        done = subprocess.run([ip, *words], capture_output=True, text=True)
        assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"

    with ExitStack() as stack:
        for name in (server, client):
            if subprocess.run([ip, "netns", "add", name], capture_output=True).returncode != 0:
                cannot("no network namespaces can be made")
            stack.callback(subprocess.run, [ip, "netns", "del", name], capture_output=True)
        ends = ("wire", "address", _SERVER_CARD), ("wire", "address", _CLIENT_CARD, "netns", client)
        run("-n", server, "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        run("-n", server, "link", "add", "wide", "type", "veth", "peer", "name", "far")  # the way to everybody else
        here = [(SERVER4, "24"), (SERVER6, "48")]
        theirs = [(each, "24") for each in (WHITE, LISTED, UNKNOWN, ABUSER, OTHER)]
        theirs += [(each, "48") for each in SIX] + [(FOREIGN, "32")]
        for name, addresses in ((server, here), (client, theirs)):
            for address, length in addresses:
                words = ("nodad",) if ":" in address else ()
                run("-n", name, "addr", "add", f"{address}/{length}", "dev", "wire", *words)
            for device in ("lo", "wire", *(("wide", "far") if name == server else ())):
                run("-n", name, "link", "set", device, "up")
        for name, address, card in (
            (client, SERVER6, _SERVER_CARD),
            *((server, each, _CLIENT_CARD) for each in SIX),
        ):
            # Or the first question for a neighbour is lost while the cable is new, and a second passes.
            run("-n", name, "neigh", "add", address, "lladdr", card, "dev", "wire", "nud", "permanent")
        run("-n", server, "route", "add", "default", "dev", "wide")
        for setting in ("all", "default", "wire"):
            _inside(server, partial(Path(f"/proc/sys/net/ipv4/conf/{setting}/rp_filter").write_text, "0"))
        made = Cable(server, client)
        try:
            yield made
        finally:
            for sock in (*made.open, *made.listeners.values()):
                with suppress(OSError):
                    sock.close()


def _in(namespace: str) -> list[str]:
    return [program("ip", "/usr/sbin/ip"), "netns", "exec", namespace]


def in_namespace(namespace: str, *words: str) -> list[str]:
    """Return the argv that runs a program in a namespace."""
    return [*_in(namespace), *words]


@contextmanager
def alone() -> Iterator[str]:
    """Make a namespace with nothing but loopback, and give its name."""
    ip, name = program("ip", "/usr/sbin/ip"), f"gp-a-{os.getpid()}-{secrets.token_hex(2)}"
    if subprocess.run([ip, "netns", "add", name], capture_output=True).returncode != 0:
        cannot("no network namespaces can be made")
    try:
        subprocess.run([ip, "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run([ip, "netns", "del", name], capture_output=True)


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Return what `work` returns; it runs in a thread that has entered a namespace, sockets that it makes too."""
    return _inside(namespace, work)


def _inside(namespace: str, work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own that has entered a namespace: setns(2) is for one thread."""
    results: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with Path(f"/run/netns/{namespace}").open("rb") as handle:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(handle.fileno(), _NEW_NETWORK) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(work())
        except BaseException as error:  # whatever it was: told to who waits
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
