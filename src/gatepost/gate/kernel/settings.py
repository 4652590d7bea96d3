"""Settings of the gate in the kernel."""

from dataclasses import dataclass
from enum import Enum

PORT_MAX = 65_535


class KernelMode(Enum):
    """Who decides first."""

    OFF = "off"
    NFTABLES = "nftables"


class Refusal(Enum):
    """How a banned source is turned away."""

    DROP = "drop"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """The gate in the kernel too: `[gate.kernel]`. It takes root, and nftables' library (Debian: libnftables1)."""

    mode: KernelMode = KernelMode.OFF
    """`nftables`: banned sources are refused by the kernel on every port, and listed ones (with `mode = "spamd"`
    unknown ones too) are redirected to `port`. What the kernel lets through the gate in the workers decides as
    ever; without the kernel's part nothing is lost but speed."""

    port: int = 8025
    """The port that sources are redirected to; it must be a listener, on all addresses. Who dials it is refused."""

    devices: tuple[str, ...] = ()
    """Only what comes in on these interfaces is looked at, e.g. `eth0`; empty: on all but `lo`."""

    banned: Refusal = Refusal.DROP
    """What members of `bruteforce` meet: `drop` says nothing, `reset` refuses at once (PF's `block return`). Each
    leaves the kernel when it was a member for `gate.bans.ban_time`."""

    limits: bool = False
    """Count new connections (`count` and `within` of `[gate.rates]`) in the kernel too, and ban there. It counts
    completed handshakes as PF does, but with a token bucket, which forgives a source that pauses sooner than PF's
    average does. The workers count exactly anyway, and they alone count how many a source holds."""

    block_rest: bool = False
    """Refuse everything that is not ours: all ports but the listeners' and those in `open` and `open_udp`. What is
    established, ICMP, and answers to what we began go on."""

    open: tuple[int, ...] = (22,)
    """TCP ports that `block_rest` leaves open."""

    open_udp: tuple[int, ...] = ()
    """UDP ports that `block_rest` leaves open, e.g. 8025 for the sync of greylists."""

    urpf: bool = False
    """Drop what comes from an address that the machine would not answer on that interface (PF's `urpf-failed`)."""

    def __post_init__(self) -> None:
        for port in (self.port, *self.open, *self.open_udp):
            if not 0 < port <= PORT_MAX:
                raise ValueError(f"{port} is not a port")
        for device in self.devices:
            if not 0 < len(device) < 16 or not all(letter.isalnum() or letter in "._-@" for letter in device):
                raise ValueError(f"{device!r} is no name of an interface")
