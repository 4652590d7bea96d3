"""Where a list comes from, and what is kept of it: DATA_DIR/lists/NAME.list is the last one that could be used.

    read (file, web, program) --> unpack, read its lines --> is it to be believed? --> keep it
            |                              |                        |
            +------------------------------+------------------------+--> no: the kept one is used on, the error told

A list is not believed when it is a web page, when none of its lines is an address, when it covers half of the
Internet, or when it lost more than `shrink_max` hundredths of its addresses at once.
"""

import asyncio
import io
import os
import re
import shlex
import signal
import ssl
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from gatepost.aio.fetch import Fetched, FetchFailed, Unchanged, fetch
from gatepost.aio.offload import offload
from gatepost.aio.tls import client_context
from gatepost.base.clock import Clock, Instant
from gatepost.codec.spamd.addresses import LINE_MAX, AddressList, parse, subtract
from gatepost.feeds.lists.settings import ListKind, ListSettings, ListsSettings, Method

GZIP: Final = b"\x1f\x8b"
PIECE: Final = 1 << 16
SHRINK_FROM: Final = 100  # addresses: a shorter list is somebody's own, and may lose all of them
WIDE: Final = 1 << 31
MESSAGE_MAX: Final = 8192
COMPLAINT_MAX: Final = 200
EXEC_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/"}
_PAGE: Final = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<")


class Unusable(Exception):
    """A list that cannot be used as it came; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a list besides the list."""

    source: str = ""
    count: int = 0
    """Lines with an address or more."""
    used: Instant = Instant(0)
    """When the kept copy was read; 0 for never."""
    tried: Instant = Instant(0)
    etag: str = ""
    last_modified: str = ""
    error: str = ""
    """Why the last try brought nothing."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A list: fresh, or with `error` the one that was kept; `addresses` None where there is none at all."""

    settings: ListSettings
    addresses: AddressList | None
    error: str = ""


class Shelf:
    """The kept lists. Blocks: call it off the loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, name: str) -> Kept:
        """Return what is known of a list."""
        try:
            return msgspec.json.decode(self._path(name, "json").read_bytes(), type=Kept)
        except (OSError, msgspec.DecodeError):
            return Kept()

    def copy(self, name: str) -> bytes | None:
        """Return the last list that could be used."""
        try:
            return self._path(name, "list").read_bytes()
        except OSError:
            return None

    def keep(self, name: str, octets: bytes) -> None:
        """Keep a list in place of the one before."""
        self._write(self._path(name, "list"), octets)

    def note(self, name: str, kept: Kept) -> None:
        """Keep what is known of it."""
        self._write(self._path(name, "json"), msgspec.json.encode(kept))

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / f"{name}.{kind}"

    def _write(self, path: Path, octets: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, octets)


class Sources:
    """Reads lists."""

    def __init__(self, settings: ListsSettings, folder: Path, clock: Clock) -> None:
        self._settings = settings
        self._shelf = Shelf(folder)
        self._clock = clock
        self._tls: ssl.SSLContext | None = None

    async def load(self, which: ListSettings, *, force: bool = False, dry: bool = False) -> Loaded:
        """Read a list; `force` believes any, `dry` keeps nothing."""
        known = await offload(self._shelf.known, which.name)
        before = known if known.source == _origin(which) else Kept()
        now = self._clock.now()
        try:
            octets, found = await self._read(which, before)
            addresses = await offload(self._examine, octets, before.count, which, force)
        except (Unusable, FetchFailed) as wrong:
            if not dry:
                await offload(self._shelf.note, which.name, replace(before, tried=now, error=str(wrong)))
            return Loaded(which, await self._kept(which, before), str(wrong))
        if not dry:
            kept = Kept(_origin(which), len(addresses), now, now, found.etag, found.last_modified)
            await offload(self._keep, which.name, octets, kept)
        return Loaded(which, addresses)

    async def message(self, which: ListSettings) -> str:
        """Return what members of a black list are told; raises Unusable."""
        if not which.message_file:
            return which.message
        try:
            octets = await offload(_read_file, Path(which.message_file), MESSAGE_MAX)
        except Unusable as wrong:
            raise Unusable(f"Can't open message from {which.message_file}: {wrong}") from None
        return octets.decode("utf-8", "replace")

    async def _read(self, which: ListSettings, before: Kept) -> tuple[bytes, Fetched]:
        """Return a list as it came, or the kept one where nothing changed, and its validators."""
        match which.method:
            case Method.FILE:
                found = Fetched(await offload(_read_file, Path(which.source), self._settings.size_max))
            case Method.EXEC:
                found = Fetched(await run_program(which.source, self._settings.size_max, self._settings.timeout))
            case Method.HTTP | Method.HTTPS:
                found = await self._fetch(which, before)
        return found.octets, found

    async def _fetch(self, which: ListSettings, before: Kept) -> Fetched:
        if self._tls is None:
            self._tls = await offload(client_context, True)
        copy = await offload(self._shelf.copy, which.name) if before.used else None
        known = before if copy is not None else Kept()
        found = await fetch(
            which.url,
            most=self._settings.size_max,
            within=self._settings.timeout,
            tls=self._tls,
            etag=known.etag,
            last_modified=known.last_modified,
        )
        if not isinstance(found, Unchanged):
            return found
        if copy is None:
            raise FetchFailed(f"{which.url}: the server says 304 and was not asked whether anything changed")
        return Fetched(copy, before.etag, before.last_modified)

    def _examine(self, octets: bytes, count: int, which: ListSettings, force: bool) -> AddressList:
        """Unpack a list and read its lines; raises Unusable. In a thread."""
        addresses = parse(lines(octets, self._settings.unpacked_max))
        if len(addresses) == 0 and (addresses.ignored or _PAGE.match(octets[:100])):
            page = "it is a web page" if _PAGE.match(octets[:100]) else "none of its lines is an address"
            raise Unusable(f"{which.source}: this is no list, {page}")
        if force:
            return addresses
        if _PAGE.match(octets[:100]):
            raise Unusable(f"{which.source}: this is no list, it is a web page")
        lost = 100 * (count - len(addresses))
        if count >= SHRINK_FROM and lost > self._settings.shrink_max * count:
            raise Unusable(
                f"{which.source}: {len(addresses)} addresses where there were {count}: not believed."
                f" If it is right: gatepost lists update --force"
            )
        if which.kind is ListKind.BLACK:
            covered = sum(behind - start for start, behind in subtract(addresses.ranges))
            if covered >= WIDE:
                raise Unusable(f"{which.source}: it lists half of the Internet: not believed (--force believes it)")
        return addresses

    async def _kept(self, which: ListSettings, before: Kept) -> AddressList | None:
        copy = await offload(self._shelf.copy, which.name) if before.used else None
        if copy is None:
            return None
        try:
            return await offload(self._examine, copy, 0, which, True)
        except Unusable:
            return None

    def _keep(self, name: str, octets: bytes, kept: Kept) -> None:
        if self._shelf.copy(name) != octets:
            self._shelf.keep(name, octets)
        self._shelf.note(name, kept)


def lines(octets: bytes, most: int) -> Iterator[bytes]:
    """Return the lines of a list, unpacked where it is compressed; raises Unusable beyond `most` octets."""
    pieces = _gunzipped(octets, most) if octets[:2] == GZIP else _pieces(octets, most)
    rest = b""
    for piece in pieces:
        found = (rest + piece).split(b"\n")
        rest = found.pop()[:LINE_MAX]
        yield from found
    if rest:
        yield rest


def _pieces(octets: bytes, most: int) -> Iterator[bytes]:
    if len(octets) > most:
        raise Unusable(f"more than {most} octets")
    source = io.BytesIO(octets)
    while piece := source.read(PIECE):
        yield piece


def _gunzipped(octets: bytes, most: int) -> Iterator[bytes]:
    """Unpack all members of a gzip file (RFC 1952 §2.2) a piece at a time; what is behind the last is ignored."""
    source, size = io.BytesIO(octets), 0
    while source.read(2) == GZIP:
        source.seek(-2, io.SEEK_CUR)
        for piece in _member(source):
            size += len(piece)
            if size > most:
                raise Unusable(f"unpacked it has more than {most} octets")
            yield piece


def _member(source: io.BytesIO) -> Iterator[bytes]:
    """Unpack a member, and leave `source` behind it."""
    member, waiting = zlib.decompressobj(16 + zlib.MAX_WBITS), b""
    while True:
        waiting = waiting or source.read(PIECE)
        try:
            piece = member.decompress(waiting, PIECE)
        except zlib.error as error:
            raise Unusable(f"it is compressed, but damaged: {error}") from None
        yield piece
        if member.eof:
            source.seek(-len(member.unused_data), io.SEEK_CUR)
            return
        if not waiting and not piece:
            raise Unusable("it is compressed, but its end is missing")
        waiting = member.unconsumed_tail


async def run_program(command: str, most: int, within: float) -> bytes:
    """Run a program without a shell, in a session of its own, and return what it prints; raises Unusable."""
    words = command.split()
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=EXEC_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise Unusable(f"Can't open {shlex.join(words)} by exec method: {error}") from error
    try:
        async with asyncio.timeout(within):
            octets = await _output(process, most, command)
            status = await process.wait()
    except TimeoutError:
        raise Unusable(f"{command}: not done within {within:g} s") from None
    finally:
        await _end(process)
    if status != 0:
        raise Unusable(f"{command}: ended with status {status}")
    return octets


async def _output(process: asyncio.subprocess.Process, most: int, command: str) -> bytes:
    assert process.stdout is not None
    pieces, size = [], 0
    while piece := await process.stdout.read(PIECE):
        size += len(piece)
        if size > most:
            raise Unusable(f"{command}: more than {most} octets")
        pieces.append(piece)
    return b"".join(pieces)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a program with all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # all of it is gone
        pass
    if process.stdout is not None:
        process._transport.close()  # type: ignore[attr-defined]  # its own way out: a grandchild may hold the pipe
    await process.wait()


def _read_file(path: Path, most: int) -> bytes:
    """Read a file that is no device and not too large; raises Unusable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unusable(f"Can't open {path} by file method: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unusable(f"{path}: no file")
        octets = bytearray()
        while piece := os.read(descriptor, PIECE):
            octets += piece
            if len(octets) > most:
                raise Unusable(f"{path}: more than {most} octets")
        return bytes(octets)
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def write_whole(path: Path, octets: bytes) -> None:
    """Write a file so that whoever reads it finds the old one or the new one, whole."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _origin(which: ListSettings) -> str:
    return f"{which.method.value} {which.source}"
