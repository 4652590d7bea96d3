"""The keys that a database knows: something in it may be encrypted under each of them.

Before anything is encrypted under a key it is written down, with a proof: a known text encrypted under it. A server
that has not all keys which are written down does not start, so that no mail is accepted under a key beside which
the waiting ones could not be read. A key is struck out when nothing is under it any more.
"""

from pathlib import Path
from typing import Final

import apsw

from gatepost.base.clock import Instant
from gatepost.blobs.keys import Key, Keys, Unreadable
from gatepost.blobs.sql import ADD_KEY, COUNT_BY_KEY, KEYS, KEYS_NAMED
from gatepost.db.unit import Database, Step, Unit

PROOF: Final = b"gatepost"


class KeyRefused(ValueError):
    """The keys at hand cannot read what is stored; the text is for the operator."""


async def admit(database: Database, keys: Keys, now: Instant) -> None:
    """See that `keys` read everything that is stored, and write the first of them down; raises KeyRefused."""
    known = await known_keys(database)
    for name, proof in known.items():
        _prove(keys, name, proof)
    if keys.first is not None and keys.first.name not in known:
        await database.commit(Unit((add_step(keys.first, now),)))


def named_in(path: Path) -> list[str]:
    """Return the names of the keys that are written down in a database's file, whoever has it open."""
    if not path.exists():
        return []
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.CantOpenError:  # not ours to read
        return []
    try:
        connection.set_busy_timeout(10_000)
        return [str(name) for (name,) in connection.execute(KEYS_NAMED)]
    except apsw.Error:  # of a gatepost that did not encrypt; a database that is none is reported by who opens it
        return []
    finally:
        connection.close()


def check_named(keys: Keys, path: Path) -> None:
    """See that `keys` has all that are written down in a database's file; raises KeyRefused."""
    for name in named_in(path):
        if keys.key(name) is None:
            raise _missing(keys, name)


async def in_force(database: Database, keys: Keys) -> Keys:
    """Return `keys` as a command may use them beside a server that runs.

    They encrypt under the newest key that was written down, or nothing where none was: what a command wrote under a
    key that was just put into the file could not be read by a server that was started before.
    """
    known = [name for name in await known_keys(database) if keys.key(name) is not None]
    return keys.under(known[-1] if known else "")


async def known_keys(database: Database) -> dict[str, bytes]:
    """Return the proofs of all keys that are written down, by their names, the oldest first."""
    found: dict[str, bytes] = {}
    for name, proof in await database.read(KEYS, {}):
        assert isinstance(proof, bytes)
        found[str(name)] = proof
    return found


async def count_by_key(database: Database) -> dict[str, int]:
    """Return how many bodies are under each key, "" standing for none. Reads the whole table, off the loop."""
    return {str(name): int(str(count)) for name, count in await database.read_long(COUNT_BY_KEY, {})}


def add_step(key: Key, now: Instant) -> Step:
    """Return the step that writes a key down; nothing happens where it is there."""
    return Step(ADD_KEY, {"name": key.name, "proof": key.seal(PROOF), "now": now})


def _prove(keys: Keys, name: str, proof: bytes) -> None:
    key = keys.key(name)
    if key is None:
        raise _missing(keys, name)
    try:
        if key.open(proof) == PROOF:
            return
    except Unreadable:
        pass
    raise KeyRefused(f"what is written down of key {name} is damaged: gatepost verify tells what else is")


def _missing(keys: Keys, name: str) -> KeyRefused:
    if keys.first is None:
        why = f"mail here is encrypted under key {name}, and no key file is set"
        return KeyRefused(f"{why}: set encryption_key_file to the file with that key")
    why = f"mail here is encrypted under key {name}, which is not in the key file (it has {', '.join(keys.names)})"
    return KeyRefused(f"{why}: put that key below the first one; gatepost queue key rotate makes it needless")
