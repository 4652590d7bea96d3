"""The last good list on the disk of the backup, and what is known of the attempts to renew it.

One process writes (`pull.Puller`), all read. The list is the signed document as it came, so who changes it on the
disk without the key is found out; the notes beside it are JSON for people.
"""

import asyncio
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from gatepost.aio.offload import offload
from gatepost.base.clock import Clock, Instant
from gatepost.base.ports import Log
from gatepost.codec import recipients
from gatepost.codec.recipients import BadList, Keys, RecipientList
from gatepost.feeds.lists.source import write_whole

LOOK_S: Final = 1.0
"""How often a process looks whether the file has changed."""


class KeyUnusable(ValueError):
    """The key file cannot be used; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Notes:
    """What came of the attempts. Times are 0 for never."""

    confirmed: Instant = Instant(0)
    """When the primary last said that this is its list."""
    tried: Instant = Instant(0)
    etag: str = ""
    problem: str = ""
    """Why the last attempt changed nothing."""


@dataclass(slots=True)
class _Seen:
    stamp: tuple[int, int, int]
    listed: RecipientList | None
    notes: Notes


class Kept:
    """The list as a worker sees it."""

    def __init__(self, folder: Path, keys: Keys, *, clock: Clock, log: Log) -> None:
        self.keys = keys
        self._folder = folder
        self._clock = clock
        self._log = log
        self._look_at = float("-inf")
        self._seen: _Seen | None = None
        self._looking = asyncio.Lock()

    async def current(self) -> tuple[RecipientList | None, Notes]:
        """Return the list, None where there is none that can be read, and the notes."""
        if self._clock.steady() >= self._look_at:
            async with self._looking:
                if self._clock.steady() >= self._look_at:
                    await self._look()
        return (self._seen.listed, self._seen.notes) if self._seen is not None else (None, Notes())

    async def _look(self) -> None:
        stamp = _stamp(self._folder)
        notes = read_notes(self._folder)
        if self._seen is None or self._seen.stamp != stamp:
            try:
                listed = await offload(read_list, self._folder, self.keys)
            except BadList as wrong:
                self._log.error("recipients_unreadable", file=str(list_file(self._folder)), problem=str(wrong))
                listed = None
            self._seen = _Seen(stamp, listed, notes)
        else:
            self._seen.notes = notes
        self._look_at = self._clock.steady() + LOOK_S


def folder_of(data_dir: Path) -> Path:
    """Return where a backup keeps its list."""
    return data_dir / "backup-mx"


def list_file(folder: Path) -> Path:
    """Return the file of the list."""
    return folder / "recipients"


def read_key(file: str) -> bytes:
    """Return the key that both servers have; raises KeyUnusable."""
    try:
        key = bytes.fromhex(Path(file).read_text("ascii").strip())
    except (OSError, ValueError) as wrong:
        raise KeyUnusable(f"backup.key_file {file} cannot be used: {wrong}") from wrong
    if len(key) < 16:
        raise KeyUnusable(f"backup.key_file {file} is no key: gatepost join writes one")
    return key


def read_list(folder: Path, keys: Keys) -> RecipientList | None:
    """Return the list, None where there is none yet; raises BadList."""
    try:
        octets = list_file(folder).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as wrong:
        raise BadList(str(wrong)) from wrong
    return recipients.read(octets, keys)


def read_notes(folder: Path) -> Notes:
    """Return the notes; what cannot be read is as if it had never been written."""
    try:
        given = json.loads((folder / "notes.json").read_text("utf-8"))
        return Notes(**{field.name: given[field.name] for field in fields(Notes) if field.name in given})
    except (OSError, ValueError, AttributeError, TypeError):
        return Notes()


def write_list(folder: Path, octets: bytes) -> None:
    """Keep a document."""
    _make(folder)
    write_whole(list_file(folder), octets)


def write_notes(folder: Path, notes: Notes) -> None:
    """Keep notes."""
    _make(folder)
    write_whole(folder / "notes.json", (json.dumps(asdict(notes), indent=1) + "\n").encode())


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _stamp(folder: Path) -> tuple[int, int, int]:
    try:
        found = list_file(folder).stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size
