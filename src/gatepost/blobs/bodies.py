"""Bodies at rest: compressed, checked by digest, inline in their row or, when large, in a file of their own.

A small body is committed with the unit that names it: one fsync for both. A large one is written to
`bodies/xx/ID`, the file and its folders are synced, and only then may a unit name it: a crash in between leaves a
file that no row names, which `sweep` removes when it is a day old; never a row without its file.

With keys every body that is put is encrypted, whoever uses it (the queue and ten mailboxes may share one), after it
was compressed; what was put before stays as it is, and is read as it is, until `reseal`.
"""

import asyncio
import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

import zstandard

from gatepost.base.clock import DAY, Instant
from gatepost.base.ids import MailId, id_text, parse_id
from gatepost.blobs.keys import NO_KEYS, Key, Keys, Sink, Unreadable
from gatepost.blobs.spool import Buffer, Spool
from gatepost.blobs.sql import ADD_USE, AFTER, DROP_UNUSED, DROP_USE, GET, KNOWN, PUT, RELEASE, RESEAL, USE
from gatepost.db.room import Floor
from gatepost.db.unit import Database, NoRoom, Row, Step, Unhealthy, Unit, Unmet, Value

INLINE_MAX: Final = 128 << 10
OFF_LOOP_OCTETS: Final = 64 << 10
LEVEL: Final = 1  # level 3 costs twice the time for a mail that is 4 % smaller
CHUNK: Final = 1 << 20
SWEEP_TURN: Final = 100  # files between two turns of the loop
INLINE: Final = 0
FILE: Final = 1
RAW: Final = 3
"""Added to INLINE or FILE where a body is kept as it came, not compressed."""


class Missing(Exception):
    """There is no such body."""


class Damaged(Exception):
    """What is stored is not what was stored: its digest does not match, or its file is gone, or no key opens it."""


class Blobs:
    """Puts and gets bodies; `folder` holds the large ones, and none is put below the `floor` of free space.

    The first of `keys` encrypts what is put; `compress` False keeps it as long as it came.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        floor: Floor | None = None,
        *,
        keys: Keys = NO_KEYS,
        compress: bool = True,
    ) -> None:
        self._database = database
        self._folder = folder
        self._floor = (floor or Floor()).octets
        self._keys = keys
        self._compress = compress

    async def put(self, body_id: MailId, content: Buffer | Spool, uses: int) -> tuple[Step, ...]:
        """Return the steps that store a body with `uses` users; a large body is on the disk when this returns.

        Raises NoRoom or Unhealthy where the disk does not take it.
        """
        whole = content.view() if isinstance(content, Spool) else content
        if len(whole) <= OFF_LOOP_OCTETS:
            digest = hashlib.sha256(whole).digest()
            stored: bytes | None = self._sealed(self._pack(whole))
        else:
            digest, stored = await asyncio.to_thread(self._put_large, body_id, whole)
        key = self._keys.first
        form = INLINE if stored is not None else FILE
        params: dict[str, Value] = {
            "id": body_id,
            "digest": digest if key is None else key.mark(digest),
            "size": len(whole),
            "form": form if self._compress else form + RAW,
            "content": stored,
            "sealed_by": "" if key is None else key.name,
        }
        return Step(PUT, params), Step(USE, {"id": body_id, "uses": uses})

    async def get(self, body_id: int) -> bytes:
        """Return a body's octets; raises Missing or Damaged, Unhealthy where it cannot be read now."""
        rows = await self._database.read(GET, {"id": body_id})
        if not rows:
            raise Missing(id_text(body_id))
        try:
            return await self._read(body_id, rows[0])
        except Damaged:
            again = await self._database.read(GET, {"id": body_id})
            if not again or again[0] == rows[0]:
                raise
            return await self._read(body_id, again[0])  # it was encrypted anew, and its old file is gone

    async def reseal(self, body_id: int) -> bool:
        """Encrypt a body under the first key, or decrypt it where there is none; False where it is gone.

        Raises Damaged and leaves it as it is where it cannot be read, NotCommitted where it cannot be stored. A
        crash leaves the old one, and perhaps a file that no row names.
        """
        rows = await self._database.read(GET, {"id": body_id})
        if not rows:
            return False
        row = _Kept.of(rows[0])
        key = self._keys.first
        name = "" if key is None else key.name
        if row.sealed_by == name:
            return False
        content, digest = await asyncio.to_thread(self._anew, body_id, row)
        params: dict[str, Value] = {"id": body_id, "content": content, "digest": digest, "name": name}
        try:
            await self._database.commit(Unit((Step(RESEAL, params | {"old": row.sealed_by}),)))
        except Unmet:
            return False  # gone, or done by somebody else; the file goes with the next sweep
        if row.in_file:
            self._path(body_id, row.sealed_by).unlink(missing_ok=True)
        return True

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
        number, _, sealed_by = name.partition(".")
        try:
            body_id = parse_id(number)
        except ValueError:
            return False
        return bool(await self._database.read(KNOWN, {"id": body_id, "sealed_by": sealed_by}))

    def _path(self, body_id: int, sealed_by: str) -> Path:
        name = id_text(body_id)
        return self._folder / name[-2:] / (f"{name}.{sealed_by}" if sealed_by else name)

    def _pack(self, whole: Buffer) -> bytes:
        return _compressor().compress(bytes(whole)) if self._compress else bytes(whole)

    def _sealed(self, octets: bytes) -> bytes:
        key = self._keys.first
        return octets if key is None else key.seal(octets)

    def _put_large(self, body_id: MailId, whole: Buffer) -> tuple[bytes, bytes | None]:
        """Keep a large body; return its digest and what is for the row, None where it went to a file."""
        digest = hashlib.sha256(whole).digest()
        if len(whole) <= 8 * INLINE_MAX:
            packed = self._pack(whole)
            if len(packed) <= INLINE_MAX:
                return digest, self._sealed(packed)
        self._write(body_id, whole, compress=self._compress)
        return digest, None

    def _anew(self, body_id: int, row: "_Kept") -> tuple[bytes | None, bytes]:
        """Keep a stored body under the first key, or none; return what RESEAL is told: content and digest."""
        kept = self._opened(body_id, row)
        digest = hashlib.sha256(self._whole(body_id, row, kept)).digest()
        key = self._keys.first
        mark = digest if key is None else key.mark(digest)
        if not row.in_file:
            return self._sealed(kept), mark
        self._write(body_id, kept, compress=False)
        return None, mark

    def _write(self, body_id: int, octets: Buffer, *, compress: bool) -> None:
        """Put octets into the file of a body; raises NoRoom or Unhealthy."""
        key = self._keys.first
        try:
            disk = os.statvfs(self._folder.parent)
            if disk.f_bavail * disk.f_frsize < self._floor:
                raise NoRoom("the disk is nearly full")
            self._write_file(self._path(body_id, "" if key is None else key.name), octets, compress=compress)
        except OSError as error:
            raise (NoRoom if error.errno in (28, 122) else Unhealthy)(str(error)) from error  # ENOSPC, EDQUOT

    def _write_file(self, path: Path, octets: Buffer, *, compress: bool) -> None:
        """Write, sync, rename, sync the folders: in that order."""
        new_root = not self._folder.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        try:
            with fresh.open("wb") as file:
                _fill(file, octets, self._keys.first, compress=compress)
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

    async def _read(self, body_id: int, row: Row) -> bytes:
        kept = _Kept.of(row)
        if kept.in_file or kept.size > OFF_LOOP_OCTETS:
            return await asyncio.to_thread(self._unpack, body_id, kept)
        return self._unpack(body_id, kept)

    def _unpack(self, body_id: int, row: "_Kept") -> bytes:
        return self._whole(body_id, row, self._opened(body_id, row))

    def _opened(self, body_id: int, row: "_Kept") -> bytes:
        """Return what is stored of a body, decrypted and still compressed; raises Damaged or Unhealthy."""
        try:
            stored = self._path(body_id, row.sealed_by).read_bytes() if row.content is None else row.content
        except FileNotFoundError as wrong:
            raise Damaged(f"{id_text(body_id)}: {wrong}") from wrong
        except OSError as error:
            raise Unhealthy(str(error)) from error
        if not row.sealed_by:
            return stored
        key = self._keys.key(row.sealed_by)
        if key is None:
            raise Damaged(f"{id_text(body_id)}: it is encrypted under key {row.sealed_by}, which is not here")
        try:
            return key.open(stored)
        except Unreadable as wrong:
            raise Damaged(f"{id_text(body_id)}: {wrong}") from wrong

    def _whole(self, body_id: int, row: "_Kept", kept: bytes) -> bytes:
        """Return a body of what is stored of it; raises Damaged."""
        whole = kept
        if not row.raw:
            try:
                if zstandard.frame_content_size(kept) != row.size:  # it says how much memory is taken
                    raise Damaged(f"{id_text(body_id)}: its length does not match")
                whole = _decompressor().decompress(kept)
            except zstandard.ZstdError as wrong:
                raise Damaged(f"{id_text(body_id)}: {wrong}") from wrong
        digest = hashlib.sha256(whole).digest()
        key = self._keys.key(row.sealed_by)
        if len(whole) != row.size or (digest if key is None else key.mark(digest)) != row.digest:
            raise Damaged(f"{id_text(body_id)}: its digest does not match")
        return whole


@dataclass(frozen=True, slots=True)
class _Kept:
    """A row of body: `content` None where it is in a file, `raw` where it is not compressed."""

    digest: bytes
    size: int
    raw: bool
    content: bytes | None
    sealed_by: str

    @property
    def in_file(self) -> bool:
        return self.content is None

    @classmethod
    def of(cls, row: Row) -> "_Kept":
        digest, size, form, content, sealed_by = row
        assert isinstance(digest, bytes)
        assert isinstance(size, int)
        assert isinstance(form, int)
        assert content is None or isinstance(content, bytes)
        return cls(digest, size, form >= RAW, None if form in (FILE, FILE + RAW) else content, str(sealed_by))


def _fill(file: Sink, octets: Buffer, key: Key | None, *, compress: bool) -> None:
    """Write octets in steps: compressed, then encrypted."""
    sealing = None if key is None else key.sealing(file)
    sink: Sink = file if sealing is None else sealing
    packing = None
    if compress:
        packer = zstandard.ZstdCompressor(level=LEVEL)
        # It asks for IO and calls write alone.
        packing = packer.stream_writer(cast(IO[bytes], sink), size=len(octets), closefd=False)
    for at in range(0, len(octets), CHUNK):
        (packing or sink).write(octets[at : at + CHUNK])
    if packing is not None:
        packing.flush(zstandard.FLUSH_FRAME)
    if sealing is not None:
        sealing.finish()


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
