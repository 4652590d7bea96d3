"""What an operator does with DKIM keys."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from gatepost.base.address import fold_domain
from gatepost.base.clock import Instant
from gatepost.db.unit import Database, Notice, Step, Unit
from gatepost.judge import keys
from gatepost.judge.keys import KeyFile
from gatepost.judge.sql import ALL_KEYS, DROP_KEY


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """One key as DNS must show it: a TXT record with `record` at `name`."""

    domain: str
    selector: str
    algorithm: str
    record: str

    @property
    def name(self) -> str:
        """Return the owner name of the TXT record."""
        return f"{self.selector}._domainkey.{self.domain}"

    def zone_line(self) -> str:
        """Return the record as a zone file has it, in strings of at most 250 characters."""
        pieces = [self.record[at : at + 250] for at in range(0, len(self.record), 250)]
        strings = "\n\t  ".join(f'"{piece}"' for piece in pieces)
        comment = f"; ----- DKIM key {self.selector} for {self.domain}"
        return f"{self.selector}._domainkey\tIN\tTXT\t( {strings} )  {comment}"


async def list_keys(database: Database) -> list[PublishedKey]:
    """Return all keys by domain, oldest first."""
    rows = await database.read(ALL_KEYS, {})
    return [PublishedKey(str(row[0]), str(row[1]), str(row[2]), str(row[3])) for row in rows]


def new_key_steps(key_file: KeyFile, domain: str, now: Instant, prefix: str = "gp") -> tuple[Step, ...]:
    """Return the steps that give a new domain its two keys, RSA and Ed25519; follow them with `notice()`."""
    domain = fold_domain(domain)
    made = (("rsa", keys.generate("rsa-sha256")), ("ed", keys.generate("ed25519-sha256")))
    return tuple(keys.add_step(key_file, domain, f"{prefix}-{kind}", private, now) for kind, private in made)


async def add_key(
    database: Database,
    key_file: KeyFile,
    domain: str,
    selector: str,
    private: RSAPrivateKey | Ed25519PrivateKey,
    now: Instant,
) -> PublishedKey:
    """Store a key, new or brought along; Clash where the selector is taken."""
    step = keys.add_step(key_file, fold_domain(domain), selector, private, now)
    await database.commit(Unit((step,), (notice(),)))
    return PublishedKey(fold_domain(domain), selector, keys.algorithm_of(private), keys.record_text(private))


async def drop_key(database: Database, domain: str, selector: str) -> None:
    """Forget a key; Unmet where there is none."""
    step = Step(DROP_KEY, {"domain": fold_domain(domain), "selector": selector})
    await database.commit(Unit((step,), (notice(),)))


def notice() -> Notice:
    """Return the news that keys changed."""
    return Notice(keys.TOPIC)
