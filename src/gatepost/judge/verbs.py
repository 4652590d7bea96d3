"""What an operator does with DKIM keys.

    new, waits ──the DNS shows it──▸ signs ──a successor signs──▸ retired ──LEAVE_PUBLISHED──▸ gone

A key signs at once, or waits until the world can verify it. A retired one's record stays in the zone as long as
mail that it signed may be under way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from gatepost.base.address import fold_domain
from gatepost.base.clock import DAY, MICROSECONDS, Instant
from gatepost.db.unit import Database, Notice, Statement, Step, Unit
from gatepost.judge import keys
from gatepost.judge.keys import KeyFile
from gatepost.judge.sql import ALL_KEYS, BEGIN_KEY, DROP_KEY, END_KEY

ALGORITHMS: Final = {"rsa": "rsa-sha256", "ed": "ed25519-sha256"}
"""Kinds of keys as selectors name them."""

LEAVE_PUBLISHED: Final = 14 * DAY
STRING_MAX: Final = 250  # of a TXT record; the limit is 255


class Turn(Enum):
    """What a key is doing."""

    WAITS = "waits for the DNS"
    SIGNS = "signs"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """One key as DNS must show it: a TXT record with `record` at `name`."""

    domain: str
    selector: str
    algorithm: str
    record: str
    made_at: Instant = Instant(0)
    begins_at: Instant | None = Instant(0)
    ends_at: Instant | None = None

    @property
    def name(self) -> str:
        """Return the owner name of the TXT record."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def kind(self) -> str:
        """Return rsa or ed, as selectors say it."""
        return "ed" if self.algorithm == "ed25519-sha256" else "rsa"

    @property
    def turn(self) -> Turn:
        """Return what it is doing."""
        if self.ends_at is not None:
            return Turn.RETIRED
        return Turn.WAITS if self.begins_at is None else Turn.SIGNS

    def zone_line(self) -> str:
        """Return the record as a zone file has it, in strings of at most 250 characters."""
        pieces = [self.record[at : at + STRING_MAX] for at in range(0, len(self.record), STRING_MAX)]
        strings = "\n\t  ".join(f'"{piece}"' for piece in pieces)
        comment = f"; ----- DKIM key {self.selector} for {self.domain}"
        return f"{self.selector}._domainkey\tIN\tTXT\t( {strings} )  {comment}"


async def list_keys(database: Database, domain: str = "") -> list[PublishedKey]:
    """Return all keys, or those of `domain`, by domain and oldest first."""
    wanted = fold_domain(domain)
    rows = await database.read(ALL_KEYS, {})
    return [
        PublishedKey(
            *cast("tuple[str, str, str, str]", tuple(row[:4])),
            made_at=Instant(cast(int, row[4])),
            begins_at=None if row[5] is None else Instant(cast(int, row[5])),
            ends_at=None if row[6] is None else Instant(cast(int, row[6])),
        )
        for row in rows
        if not wanted or row[0] == wanted
    ]


def new_key_steps(key_file: KeyFile, domain: str, now: Instant, prefix: str = "gp") -> tuple[Step, ...]:
    """Return the steps that give a new domain its two keys, RSA and Ed25519; follow them with `notice()`."""
    domain = fold_domain(domain)
    made = ((kind, keys.generate(algorithm)) for kind, algorithm in ALGORITHMS.items())
    return tuple(keys.add_step(key_file, domain, f"{prefix}-{kind}", private, now) for kind, private in made)


async def add_key(
    database: Database,
    key_file: KeyFile,
    domain: str,
    selector: str,
    private: RSAPrivateKey | Ed25519PrivateKey,
    now: Instant,
    *,
    waits: bool = False,
) -> PublishedKey:
    """Store a key, new or brought along; Clash where the selector is taken."""
    domain = fold_domain(domain)
    step = keys.add_step(key_file, domain, selector, private, now, waits=waits)
    await database.commit(Unit((step,), (notice(),)))
    begins = None if waits else now
    return PublishedKey(domain, selector, keys.algorithm_of(private), keys.record_text(private), now, begins)


def dated_selector(known: Sequence[PublishedKey], kind: str, now: Instant) -> str:
    """Return a selector that a domain with these keys never had: gp20261124-rsa, then gp20261124b-rsa."""
    day = datetime.fromtimestamp(now / MICROSECONDS, UTC).strftime("gp%Y%m%d")
    taken = {key.selector for key in known}
    named = (f"{day}{letter}-{kind}" for letter in ("", *"bcdefghijklmnopqrstuvwxyz"))
    return next(name for name in named if name not in taken)


def successors(known: Sequence[PublishedKey]) -> list[PublishedKey]:
    """Return the signing keys of a domain that no waiting key is to follow: the newest of each algorithm."""
    waiting = {key.algorithm for key in known if key.turn is Turn.WAITS}
    newest = {key.algorithm: key for key in known if key.turn is Turn.SIGNS}
    return [key for algorithm, key in newest.items() if algorithm not in waiting]


async def make_successor(
    database: Database, key_file: KeyFile, key: PublishedKey, known: Sequence[PublishedKey], now: Instant
) -> PublishedKey:
    """Store a key that waits for `key`'s turn; Clash where another process made it."""
    private = keys.generate(key.algorithm)
    selector = dated_selector(known, key.kind, now)
    return await add_key(database, key_file, key.domain, selector, private, now, waits=True)


async def take_over(
    database: Database, key: PublishedKey, known: Sequence[PublishedKey], now: Instant
) -> list[PublishedKey]:
    """Let `key` sign from now on, and no other of its domain and algorithm; return those that it retired."""
    before = [
        each
        for each in known
        if (each.domain, each.algorithm) == (key.domain, key.algorithm)
        and each.turn is Turn.SIGNS
        and each.selector != key.selector
    ]
    steps = [_turn_step(BEGIN_KEY, key, now), *(_turn_step(END_KEY, each, now) for each in before)]
    await database.commit(Unit(tuple(steps), (notice(),)))
    return before


async def retire(database: Database, domain: str, selector: str, now: Instant) -> None:
    """Let a key sign no more; Unmet where there is none."""
    step = Step(END_KEY, {"domain": fold_domain(domain), "selector": selector, "now": now})
    await database.commit(Unit((step,), (notice(),)))


async def drop_key(database: Database, domain: str, selector: str) -> None:
    """Forget a key; Unmet where there is none."""
    step = Step(DROP_KEY, {"domain": fold_domain(domain), "selector": selector})
    await database.commit(Unit((step,), (notice(),)))


def _turn_step(statement: Statement, key: PublishedKey, now: Instant) -> Step:
    return Step(statement, {"domain": key.domain, "selector": key.selector, "now": now})


def notice() -> Notice:
    """Return the news that keys changed."""
    return Notice(keys.TOPIC)
