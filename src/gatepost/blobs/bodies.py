"""Bodies at rest: compressed, checked by digest, inline in their row or, when large, in a file of their own.

A small body is committed with the unit that names it: one fsync for both. A large one is written to
`bodies/xx/ID`, the file and its folders are synced, and only then may a unit name it: a crash in between leaves a
file that no row names, which `sweep` removes when it is a day old; never a row without its file.
"""

import asyncio
import hashlib
import os
import threading
from pathlib import Path
from typing import Final

import zstandard

from gatepost.base.clock import DAY, Instant
from gatepost.base.ids import MailId, id_text, parse_id
from gatepost.blobs.spool import Buffer, Spool
from gatepost.blobs.sql import ADD_USE, AFTER, DROP_UNUSED, DROP_USE, GET, KNOWN, PUT, RELEASE, USE
from gatepost.db.room import Floor
from gatepost.db.unit import Database, NoRoom, Step, Unhealthy, Value

INLINE_MAX: Final = 128 << 10
OFF_LOOP_OCTETS: Final = 64 << 10
LEVEL: Final = 1  # level 3 costs twice the time for a mail that is 4 % smaller
CHUNK: Final = 1 << 20
SWEEP_TURN: Final = 100  # files between two turns of the loop
INLINE: Final = 0
FILE: Final = 1


class Missing(Exception):
    """There is no such body."""


class Damaged(Exception):
    """What is stored is not what was stored: its digest does not match, or its file is gone."""


class Blobs:
    """Puts and gets bodies; `folder` holds the large ones, and none is put below the `floor` of free space."""

    def __init__(self, database: Database, folder: Path, floor: Floor | None = None) -> None:
        self._database = database
        self._folder = folder
        self._floor = (floor or Floor()).octets

    async def put(self, body_id: MailId, content: Buffer | Spool, uses: int) -> tuple[Step, ...]:
        """Return the steps that store a body with `uses` users; a large body is on the disk when this returns.

        Raises NoRoom or Unhealthy where the disk does not take it.
        """
        whole = content.view() if isinstance(content, Spool) else content
        if len(whole) <= OFF_LOOP_OCTETS:
            packed: bytes | None = _compressor().compress(bytes(whole))
            digest = hashlib.sha256(whole).digest()
        else:
            digest, packed = await asyncio.to_thread(self._pack, body_id, whole)
        form = INLINE if packed is not None else FILE
        params: dict[str, Value] = {
            "id": body_id,
            "digest": digest,
            "size": len(whole),
            "form": form,
            "content": packed,
        }
        return Step(PUT, params), Step(USE, {"id": body_id, "uses": uses})

    async def get(self, body_id: int) -> bytes:
        """Return a body's octets; raises Missing or Damaged, Unhealthy where it cannot be read now."""
        rows = await self._database.read(GET, {"id": body_id})
        if not rows:
            raise Missing(id_text(body_id))
        digest, size, form, content = rows[0]
        assert isinstance(digest, bytes)
        assert isinstance(size, int)
        if form == FILE or size > OFF_LOOP_OCTETS:
            return await asyncio.to_thread(self._unpack, body_id, digest, size, content)
        return self._unpack(body_id, digest, size, content)

    def add_use(self, body_id: int, uses: int = 1) -> tuple[Step, ...]:
        """Return the steps by which more rows use a body; the unit is Unmet where the body is gone."""
        return (Step(ADD_USE, {"id": body_id, "uses": uses}),)

    def release(self, body_id: int, uses: int = 1) -> tuple[Step, ...]:
        """Return the steps by which fewer rows use a body; it goes with its last user."""
        key = {"id": body_id}
        return Step(RELEASE, {"id": body_id, "uses": uses}), Step(DROP_UNUSED, key), Step(DROP_USE, key)

    async def sweep(self, now: Instant) -> int:
        """Remove files that no row has named for a day; return how many."""
        gone = 0
        for at, path in enumerate(await asyncio.to_thread(self._older_than, now - DAY)):
            if not await self._named(path.name):
                path.unlink(missing_ok=True)
                gone += 1
            if at % SWEEP_TURN == 0:
                await asyncio.sleep(0)
        return gone

    async def check_all(self, progress: "Progress") -> list[str]:
        """Read every body; return the ids of those that are damaged or missing."""
        bad, last = [], 0
        while rows := await self._database.read(AFTER, {"id": last}):
            for row in rows:
                last = int(str(row[0]))
                try:
                    await self.get(last)
                except (Damaged, Missing):
                    bad.append(id_text(last))
                progress(1)
        return bad

    async def _named(self, name: str) -> bool:
        try:
            body_id = parse_id(name)
        except ValueError:
            return False
        return bool(await self._database.read(KNOWN, {"id": body_id}))

    def _path(self, body_id: int) -> Path:
        name = id_text(body_id)
        return self._folder / name[-2:] / name

    def _pack(self, body_id: MailId, whole: Buffer) -> tuple[bytes, bytes | None]:
        """Compress a large body; return digest and content, or None as content when it went to a file."""
        digest = hashlib.sha256(whole).digest()
        if len(whole) <= 8 * INLINE_MAX:
            packed = _compressor().compress(bytes(whole))
            if len(packed) <= INLINE_MAX:
                return digest, packed
        try:
            disk = os.statvfs(self._folder.parent)
            if disk.f_bavail * disk.f_frsize < self._floor:
                raise NoRoom("the disk is nearly full")
            self._write(self._path(body_id), whole)
        except OSError as error:
            raise (NoRoom if error.errno in (28, 122) else Unhealthy)(str(error)) from error  # ENOSPC, EDQUOT
        return digest, None

    def _write(self, path: Path, whole: Buffer) -> None:
        """Write, sync, rename, sync the folders: in that order."""
        new_root = not self._folder.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        try:
            with fresh.open("wb") as file:
                sink = zstandard.ZstdCompressor(level=LEVEL).stream_writer(file, size=len(whole), closefd=False)
                for at in range(0, len(whole), CHUNK):
                    sink.write(whole[at : at + CHUNK])
                sink.flush(zstandard.FLUSH_FRAME)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        except OSError:
            fresh.unlink(missing_ok=True)  # on a full disk what is there of it is in the way
            raise
        _sync_folder(path.parent)
        _sync_folder(self._folder)
        if new_root:
            _sync_folder(self._folder.parent)

    def _older_than(self, instant: int) -> list[Path]:
        """Return the files that were last written before `instant`."""
        found = []
        for path in sorted(self._folder.glob("??/*")):
            try:
                if path.stat().st_mtime_ns // 1000 < instant:
                    found.append(path)
            except FileNotFoundError:
                continue
        return found

    def _unpack(self, body_id: int, digest: bytes, size: int, content: object) -> bytes:
        try:
            packed = content if isinstance(content, bytes) else self._path(body_id).read_bytes()
            if zstandard.frame_content_size(packed) != size:  # it says how much memory is taken
                raise Damaged(f"{id_text(body_id)}: its length does not match")
            whole = _decompressor().decompress(packed)
        except (FileNotFoundError, zstandard.ZstdError) as wrong:
            raise Damaged(f"{id_text(body_id)}: {wrong}") from wrong
        except OSError as error:
            raise Unhealthy(str(error)) from error
        if len(whole) != size or hashlib.sha256(whole).digest() != digest:
            raise Damaged(f"{id_text(body_id)}: its digest does not match")
        return whole


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Progress:
    """Told how many more were done."""

    def __call__(self, more: int) -> None:
        """Count `more`; the default tells nobody."""


_of_thread = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    made = getattr(_of_thread, "compressor", None)
    if made is None:
        made = _of_thread.compressor = zstandard.ZstdCompressor(level=LEVEL)
    assert isinstance(made, zstandard.ZstdCompressor)
    return made


def _decompressor() -> zstandard.ZstdDecompressor:
    made = getattr(_of_thread, "decompressor", None)
    if made is None:
        made = _of_thread.decompressor = zstandard.ZstdDecompressor()
    assert isinstance(made, zstandard.ZstdDecompressor)
    return made
