"""OpenBGPD, BIRD and GoBGP as route servers, each in a network namespace of its own, a wire away from us."""

import itertools
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from struct import pack
from typing import Final

from tests.support.peers import cannot, program

RS_AS: Final = 65066
OUR_AS: Final = 65500
START_S: Final = 15.0
_NUMBERS: Final = itertools.count(1)


class Namespace:
    """A network namespace with a wire to ours: `near` is our address, `far` the one inside."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.wire = f"{name}w"[-15:]
        net = f"198.{18 + number // 256}.{number % 256}"  # RFC 2544: for tests
        self.near, self.far = f"{net}.1", f"{net}.2"
        self.near6, self.far6 = f"fd13:213:{number:x}::1", f"fd13:213:{number:x}::2"

    def words(self, *words: str) -> list[str]:
        """Return a command that runs inside."""
        return ["ip", "netns", "exec", self.name, *words]


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace, and take it away whatever happens."""
    if os.geteuid() != 0:
        cannot("namespaces need root")
    number = (7 * os.getpid() + next(_NUMBERS)) % 512  # others may test beside us
    place = Namespace(f"gp{os.getpid() % 10_000_000}-{number}", number)
    if subprocess.run(["ip", "netns", "add", place.name], capture_output=True, check=False).returncode != 0:
        cannot("no network namespaces")
    try:
        inside = f"{place.wire}i"[-15:]
        for words in (
            ["ip", "link", "add", place.wire, "type", "veth", "peer", "name", inside],
            ["ip", "link", "set", inside, "netns", place.name],
            ["ip", "addr", "add", f"{place.near}/24", "dev", place.wire],
            ["ip", "addr", "add", f"{place.near6}/64", "dev", place.wire, "nodad"],
            ["ip", "link", "set", place.wire, "up"],
            place.words("ip", "addr", "add", f"{place.far}/24", "dev", inside),
            place.words("ip", "addr", "add", f"{place.far6}/64", "dev", inside, "nodad"),
            place.words("ip", "link", "set", inside, "up"),
            place.words("ip", "link", "set", "lo", "up"),
        ):
            subprocess.run(words, check=True)
        yield place
    finally:
        subprocess.run(["ip", "netns", "del", place.name], check=False)
        subprocess.run(["ip", "link", "del", place.wire], check=False, capture_output=True)


Announced = Mapping[str, str]
"""Communities by prefix."""


class Daemon(ABC):
    """A route server that announces what it is told, and waits to be called."""

    def __init__(self, place: Namespace, folder: Path) -> None:
        self.place = place
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def configure(self, announced: Announced) -> list[str]:
        """Write the configuration; return the command to start it."""

    @abstractmethod
    def alive(self) -> bool:
        """Tell whether it answers its own control program."""

    @abstractmethod
    def add(self, prefix: str, community: str) -> None:
        """Announce one more."""

    @abstractmethod
    def remove(self, prefix: str) -> None:
        """Withdraw one that was added."""

    def load(self, announced: Announced) -> None:  # noqa: B027  (for most they are a part of the configuration)
        """Take the routes that are no part of the configuration."""

    def start(self, announced: Announced) -> None:
        """Start it and wait until it answers."""
        words = self.place.words(*self.configure(announced))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        ends = time.monotonic() + START_S
        while not self.alive():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < ends, self.log()
            time.sleep(0.05)
        self.load(announced)

    def kill(self) -> None:
        """End it without giving it time for a last word."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # its own session, made by `start`
            self.process.wait()
            self.process = None

    def log(self) -> str:
        """Return the end of what it said."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command beside it."""
        return subprocess.run(
            self.place.words(*words), capture_output=True, text=True, check=False, cwd=self.folder, timeout=60
        )


class OpenBgpd(Daemon):
    """OpenBGPD (portable)."""

    def configure(self, announced: Announced) -> list[str]:
        daemon = program("bgpd", "/usr/sbin/bgpd")
        Path("/run/openbgpd").mkdir(mode=0o755, exist_ok=True)  # where it locks itself up
        lines = [f"network {prefix} set community {community}" for prefix, community in announced.items()]
        file = self.folder / "bgpd.conf"
        file.write_text(
            "\n".join(
                (
                    f"AS {RS_AS}",
                    f"router-id {self.place.far}",
                    "fib-update no",
                    f'socket "{self.folder}/control"',
                    f"listen on {self.place.far}",
                    *lines,
                    f"neighbor {self.place.near} {{",
                    f"    remote-as {OUR_AS}",
                    "    passive",
                    "    announce IPv4 unicast",
                    "    announce IPv6 unicast",
                    f"    local-address {self.place.far}",
                    "}",
                    "allow to any",
                    "",
                )
            )
        )
        file.chmod(0o600)
        return [daemon, "-d", "-f", str(file)]

    def alive(self) -> bool:
        return self._control("show").returncode == 0

    def add(self, prefix: str, community: str) -> None:
        done = self._control("network", "add", prefix, "community", community)
        assert done.returncode == 0, done.stderr

    def remove(self, prefix: str) -> None:
        done = self._control("network", "delete", prefix)
        assert done.returncode == 0, done.stderr

    def _control(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.run(program("bgpctl", "/usr/sbin/bgpctl"), "-s", f"{self.folder}/control", *words)


class Bird(Daemon):
    """BIRD 2, with graceful restart."""

    announced: dict[str, str]

    def configure(self, announced: Announced) -> list[str]:
        self.announced = dict(announced)
        self._write()
        daemon = program("bird", "/usr/sbin/bird")
        return [daemon, "-f", "-c", f"{self.folder}/bird.conf", "-s", f"{self.folder}/control"]

    def alive(self) -> bool:
        return self._control("show", "status").returncode == 0

    def add(self, prefix: str, community: str) -> None:
        self.announced[prefix] = community
        self._renew()

    def remove(self, prefix: str) -> None:
        del self.announced[prefix]
        self._renew()

    def _renew(self) -> None:
        self._write()
        done = self._control("configure")
        assert "Reconfigured" in done.stdout or "in progress" in done.stdout, done.stdout

    def _write(self) -> None:
        four, six = (
            [
                f"  route {prefix} blackhole {{ bgp_community.add(({community.replace(':', ',')})); }};"
                for prefix, community in self.announced.items()
                if ip_network(prefix).version == version
            ]
            for version in (4, 6)
        )
        (self.folder / "bird.conf").write_text(
            "\n".join(
                (
                    f"router id {self.place.far};",
                    "protocol device {}",
                    "protocol static four { ipv4;",
                    *four,
                    "}",
                    "protocol static six { ipv6;",
                    *six,
                    "}",
                    "protocol bgp gate {",
                    f"  local {self.place.far} as {RS_AS};",
                    f"  neighbor {self.place.near} as {OUR_AS};",
                    "  passive on;",
                    "  graceful restart on;",
                    "  graceful restart time 60;",
                    "  ipv4 { import none; export all; };",
                    f"  ipv6 {{ import none; export all; next hop address {self.place.far6}; }};",
                    "}",
                    "",
                )
            )
        )

    def _control(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.run(program("birdc", "/usr/sbin/birdc"), "-s", f"{self.folder}/control", *words)


class GoBgpd(Daemon):
    """GoBGP."""

    def configure(self, announced: Announced) -> list[str]:
        daemon = program("gobgpd")
        (self.folder / "gobgpd.toml").write_text(
            f"""
[global.config]
  as = {RS_AS}
  router-id = "{self.place.far}"
  local-address-list = ["{self.place.far}"]
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{self.place.near}"
    peer-as = {OUR_AS}
  [neighbors.transport.config]
    passive-mode = true
    local-address = "{self.place.far}"
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 60
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
"""
        )
        return [daemon, "-f", f"{self.folder}/gobgpd.toml", "--pprof-disable", "--log-plain"]

    def alive(self) -> bool:
        return self._control("global").returncode == 0

    def load(self, announced: Announced) -> None:
        four = {prefix: community for prefix, community in announced.items() if ":" not in prefix}
        (self.folder / "routes.mrt").write_bytes(table_dump(four, self.place))
        for prefix, community in announced.items():
            if ":" in prefix:
                self.add(prefix, community)
        ends = time.monotonic() + START_S
        while (count := self._count()) != len(four):  # `mrt inject` may end before all that it sent was taken
            assert time.monotonic() < ends, count
            done = self._control("mrt", "inject", "global", f"{self.folder}/routes.mrt")
            assert done.returncode == 0, done.stdout + done.stderr

    def _count(self) -> int:
        return int(self._control("global", "rib", "summary").stdout.partition("Path: ")[2] or 0)

    def add(self, prefix: str, community: str) -> None:
        done = self._control("global", "rib", *self._family(prefix), "add", prefix, "community", community)
        assert done.returncode == 0, done.stdout + done.stderr

    def remove(self, prefix: str) -> None:
        done = self._control("global", "rib", *self._family(prefix), "del", prefix)
        assert done.returncode == 0, done.stdout + done.stderr

    @staticmethod
    def _family(prefix: str) -> Sequence[str]:
        return ("-a", "ipv6") if ":" in prefix else ("-a", "ipv4")

    def _control(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.run(program("gobgp"), *words)


def table_dump(announced: Announced, place: Namespace) -> bytes:
    """Write IPv4 routes as an MRT file, TABLE_DUMP_V2 (RFC 6396 §4.3), with one peer."""
    router = bytes(map(int, place.far.split(".")))
    peer = b"\x02" + router + router + pack(">I", 65_001)  # an IPv4 peer with a four-octet AS
    records = [_record(1, router + pack(">HH", 0, 1) + peer)]
    for number, (prefix, community) in enumerate(announced.items()):
        network = ip_network(prefix)
        high, low = map(int, community.split(":"))
        attributes = bytes.fromhex("40010100") + b"\x40\x02\x06\x02\x01" + pack(">I", 65_001)
        attributes += b"\x40\x03\x04" + router
        attributes += b"\xc0\x08\x04" + pack(">HH", high, low)
        octets = network.network_address.packed[: (network.prefixlen + 7) // 8]
        entry = pack(">HIH", 0, 0, len(attributes)) + attributes
        body = pack(">IB", number, network.prefixlen) + octets + pack(">H", 1) + entry
        records.append(_record(2, body))
    return b"".join((*records, *records[:0:-1]))  # twice, for its reader may leave out the end


def _record(subtype: int, body: bytes) -> bytes:
    return pack(">IHHI", 0, 13, subtype, len(body)) + body


DAEMONS: Final[Mapping[str, Callable[[Namespace, Path], Daemon]]] = {
    "openbgpd": OpenBgpd,
    "bird2": Bird,
    "gobgpd": GoBgpd,
}


@contextmanager
def daemon(kind: str, folder: Path, announced: Announced) -> Iterator[Daemon]:
    """Run a route server in a namespace of its own."""
    folder.mkdir(mode=0o755, exist_ok=True)
    with namespace() as place:
        running = DAEMONS[kind](place, folder)
        try:
            running.start(announced)
            yield running
        finally:
            running.kill()
            shutil.rmtree(folder, ignore_errors=True)
