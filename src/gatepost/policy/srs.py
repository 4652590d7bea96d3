"""Rewrite the senders of what our addresses forward, and lead reports about it back: `[policy.srs]`."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gatepost.base.address import Address, fold_domain
from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.base.settings import BadSetting
from gatepost.codec.srs import DAY_S, DAYS_CYCLE, Expired, NotOurs, Secrets, forward, reverse, rewritten

KEYS_MAX: Final = 16
KEY_LEAST: Final = 16  # characters: four digits of hash are guarded by the rest of the key
FILE_MAX: Final = 64 << 10

FORGED: Final = Reply(Code.NO_SUCH_MAILBOX, "5.1.1", "This rewritten address was not made here")
TOO_OLD: Final = Reply(Code.NO_SUCH_MAILBOX, "5.1.1", "This rewritten address has expired")


@dataclass(frozen=True, slots=True)
class SrsSettings:
    """Senders of forwarded mail: `[policy.srs]`. Without a key file they go out as they are, and fail SPF."""

    key_file: str = ""
    """A file of mode 0600 with a key on each line; the first makes addresses, all check them. `gatepost srs key`
    makes one. The MXs of a domain need the same file."""

    domain: str = ""
    """The domain of rewritten addresses; its MX must lead here. Empty is `server.hostname`."""

    days: int = 21
    """How long reports to a rewritten address are taken."""

    def __post_init__(self) -> None:
        if not 1 <= self.days < DAYS_CYCLE:
            raise ValueError(f"days must be from 1 to {DAYS_CYCLE - 1}")


class Rewriter:
    """Makes and reads rewritten addresses."""

    def __init__(self, secrets: Secrets, domain: str, days: int) -> None:
        self._secrets = secrets
        self.domain = domain
        self._days = days

    def at(self, hostname: str) -> "Rewriter":
        """Return one whose domain is this server's name, where the settings name none."""
        return self if self.domain else Rewriter(self._secrets, fold_domain(hostname), self._days)

    def outgoing(self, sender: Address, now: Instant) -> Address:
        """Return the sender to show; the true one where the rewritten address would be too long."""
        return forward(sender, self.domain, self._secrets, _day(now)) or sender

    def ours(self, address: Address) -> bool:
        """Tell whether an address is one that only we may have made."""
        return fold_domain(address.domain) == self.domain and rewritten(address)

    def owner(self, address: Address, now: Instant) -> Address:
        """Return whom mail to a rewritten address of ours is for; raises Refusal."""
        try:
            return reverse(address, self._secrets, _day(now), self._days)
        except NotOurs as wrong:
            raise Refusal(FORGED, detail=f"{address}: {wrong}") from wrong
        except Expired as old:
            raise Refusal(TOO_OLD, detail=f"{address}: {old}") from old


def load_rewriter(settings: SrsSettings) -> Rewriter | None:
    """Read the keys; None where there are none. Raises BadSetting. Without a domain it is for `at` to give one."""
    if not settings.key_file:
        return None
    secrets = Secrets(_keys(Path(settings.key_file)))
    return Rewriter(secrets, fold_domain(settings.domain), settings.days)


def _keys(path: Path) -> tuple[bytes, ...]:
    where = ("policy", "srs", "key_file")
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = file.read(FILE_MAX + 1)
    except OSError as wrong:
        raise BadSetting(where, f"{path}: {wrong.strerror}", f"make one: gatepost srs key {path}") from wrong
    if mode & 0o077:
        raise BadSetting(where, f"{path} is readable by others", f"chmod 600 {path}")
    keys = tuple(line.strip() for line in content.split(b"\n") if line.strip() and not line.startswith(b"#"))
    if not keys or len(keys) > KEYS_MAX or len(content) > FILE_MAX:
        raise BadSetting(where, f"{path} must have 1 to {KEYS_MAX} keys, one a line", "gatepost srs key makes one")
    short = next((at for at, key in enumerate(keys, 1) if len(key) < KEY_LEAST), None)
    if short is not None:
        problem = f"key {short} of {path} has less than {KEY_LEAST} characters"
        raise BadSetting(where, problem, "take one that nobody guesses: gatepost srs key")
    return keys


def _day(now: Instant) -> int:
    return now // MICROSECONDS // DAY_S
