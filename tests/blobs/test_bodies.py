"""Bodies at rest: what is put is what is got, or Damaged; a body lives as long as somebody uses it."""

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from gatepost.base.clock import DAY, Instant
from gatepost.base.ids import MailId, Minter, id_text
from gatepost.blobs import bodies
from gatepost.blobs.bodies import FILE, INLINE, INLINE_MAX, OFF_LOOP_OCTETS, Blobs, Damaged, Missing
from gatepost.blobs.spool import Spool, SpoolBudget
from gatepost.blobs.sql import GET, SCHEMA
from gatepost.db.sqlite import open_database
from gatepost.db.unit import Database, NoRoom, Statement, Unhealthy, Unit, Unmet
from gatepost.db.writer import Floor
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

NOW: Final = Instant(1_795_420_800_000_000)
MINTER: Final = Minter(1)
SMALL: Final = b"Subject: peas\r\n\r\nThe peas are in.\r\n"
LARGE: Final = random.Random(7).randbytes(INLINE_MAX + 1000)  # what compresses to less stays inline
SPOIL: Final = Statement("t.spoil", "UPDATE body SET content = CAST(:content AS {OCTETS}) WHERE id = :id")
RESIZE: Final = Statement("t.resize", "UPDATE body SET size = :size WHERE id = :id")
USES: Final = Statement("t.uses", "SELECT id, uses FROM body_use")
SCHEMAS: Final = (SCHEMA, type(SCHEMA)("t", (), (SPOIL, RESIZE, USES)))


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Blobs, Database]]:
    """Bodies in a folder, as a process that starts finds them."""
    database = await open_database(folder / "mail.db", SCHEMAS, steady=time.monotonic, floor=Floor(0))
    try:
        yield Blobs(database, folder / "bodies"), database
    finally:
        await database.close()


async def stored(blobs: Blobs, database: Database, content: bytes, uses: int = 1) -> MailId:
    """Put a body and commit it."""
    body = MINTER.mint(NOW)
    await database.commit(Unit(await blobs.put(body, content, uses)))
    return body


def files_of(folder: Path) -> list[Path]:
    """What lies below `bodies`."""
    return [path for path in (folder / "bodies").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        SMALL,
        b"y" * OFF_LOOP_OCTETS,
        b"y" * (OFF_LOOP_OCTETS + 1),
        LARGE,
        b"z" * (8 * INLINE_MAX),
        b"z" * (8 * INLINE_MAX + 1),
        bytes(range(256)) * 12_000,
    ],
    ids=len,
)
@each_engine
def test_what_is_put_is_got(open_db: OpenDatabase, tmp_path: Path, content: bytes) -> None:
    async def scene() -> bytes:
        async with open_db(SCHEMAS) as database:
            blobs = Blobs(database, tmp_path / "bodies")
            return await blobs.get(await stored(blobs, database, content))

    assert run(scene()) == content


def test_small_ones_are_in_their_row_and_large_ones_in_a_file(tmp_path: Path) -> None:
    async def scene() -> list[object]:
        async with opened(tmp_path) as (blobs, database):
            found: list[object] = []
            for content in (SMALL, b"a" * INLINE_MAX * 2, LARGE):
                body = await stored(blobs, database, content)
                found.append((await database.read(GET, {"id": body}))[0][2])
            return found

    assert run(scene()) == [INLINE, INLINE, FILE]
    (path,) = files_of(tmp_path)
    assert path.parent.name == path.name[-2:]


@pytest.mark.parametrize("size", [2000, 3 << 20])
def test_a_spool_is_put_from_memory_or_its_file(tmp_path: Path, size: int) -> None:
    content = random.Random(1).randbytes(size)

    async def scene() -> bytes:
        async with opened(tmp_path) as (blobs, database):
            spool = Spool(tmp_path / "spool", SpoolBudget(8 << 20, 8 << 20))
            for at in range(0, size, 100_000):
                spool.write(content[at : at + 100_000])
            body = MINTER.mint(NOW)
            await database.commit(Unit(await blobs.put(body, spool, 1)))
            spool.close()
            return await blobs.get(body)

    assert run(scene()) == content


@each_engine
def test_a_body_goes_with_its_last_user(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def scene() -> None:
        async with open_db(SCHEMAS) as database:
            blobs = Blobs(database, tmp_path / "bodies")
            body = await stored(blobs, database, SMALL, uses=2)
            await database.commit(Unit(blobs.release(body)))
            await database.commit(Unit(blobs.add_use(body)))
            await database.commit(Unit(blobs.release(body)))
            assert await blobs.get(body) == SMALL
            await database.commit(Unit(blobs.release(body)))
            with pytest.raises(Missing):
                await blobs.get(body)
            assert await database.read(USES, {}) == []
            with pytest.raises(Unmet):
                await database.commit(Unit(blobs.add_use(body)))

    run(scene())


Spoiler = Callable[[Path], None]


def _flip(path: Path) -> None:
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 0x10
    path.write_bytes(octets)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _swap(path: Path) -> None:
    """Another whole frame of the same length: only the digest tells."""
    octets = bytearray(path.read_bytes())
    octets[-100:-50] = bytes(reversed(octets[-100:-50]))
    path.write_bytes(octets)


@pytest.mark.row("STO-03")
@pytest.mark.parametrize("spoil", [_flip, _cut, _swap, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_spoilt_file_is_damaged_and_never_served(tmp_path: Path, spoil: Spoiler) -> None:
    async def scene() -> list[str]:
        async with opened(tmp_path) as (blobs, database):
            good = await stored(blobs, database, LARGE[::-1])
            kept = set(files_of(tmp_path))
            bad = await stored(blobs, database, LARGE)
            (path,) = set(files_of(tmp_path)) - kept
            spoil(path)
            with pytest.raises(Damaged, match=id_text(bad)):
                await blobs.get(bad)
            assert await blobs.get(good) == LARGE[::-1]
            return [*await blobs.check_all(bodies.Progress()), id_text(bad)]

    found, expected = run(scene())
    assert found == expected


@pytest.mark.row("STO-03")
@each_engine
def test_a_spoilt_row_is_damaged_and_never_served(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def scene() -> None:
        async with open_db(SCHEMAS) as database:
            blobs = Blobs(database, tmp_path / "bodies")
            other = await stored(blobs, database, SMALL[::-1])
            packed = (await database.read(GET, {"id": other}))[0][3]
            assert isinstance(packed, bytes)
            body = await stored(blobs, database, SMALL)
            for content in (packed, packed[:-3], b"", b"nothing", SMALL):
                await database.commit(Unit(((SPOIL, {"id": body, "content": content}),)))  # type: ignore[arg-type]  # a Step
                with pytest.raises(Damaged, match=id_text(body)):
                    await blobs.get(body)

    run(scene())


def test_a_row_that_claims_another_length_is_damaged_before_memory_is_taken(tmp_path: Path) -> None:
    async def scene() -> None:
        async with opened(tmp_path) as (blobs, database):
            body = await stored(blobs, database, SMALL)
            await database.commit(Unit(((RESIZE, {"id": body, "size": 1 << 50}),)))  # type: ignore[arg-type]  # a Step
            with pytest.raises(Damaged, match="length"):
                await blobs.get(body)

    run(scene())


@pytest.mark.parametrize(
    ("number", "answer"), [(errno.ENOSPC, NoRoom), (errno.EDQUOT, NoRoom), (errno.EIO, Unhealthy)]
)
def test_a_disk_that_refuses_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, answer: type[Exception]
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    async def scene() -> None:
        async with opened(tmp_path) as (blobs, _):
            monkeypatch.setattr(os, "fsync", refuse)
            with pytest.raises(answer):
                await blobs.put(MINTER.mint(NOW), LARGE, 1)
            monkeypatch.undo()

    run(scene())
    assert files_of(tmp_path) == []


def test_the_file_and_its_folders_are_synced_before_a_unit_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        real_sync(handle)

    def renamed(path: Path, target: Path) -> Path:
        done.append("rename")
        return real_rename(path, target)

    async def scene() -> str:
        async with opened(tmp_path) as (blobs, _):
            monkeypatch.setattr(os, "fsync", synced)
            monkeypatch.setattr(Path, "rename", renamed)
            body = MINTER.mint(NOW)
            await blobs.put(body, LARGE, 1)
            return id_text(body)

    name = run(scene())
    assert done == [f"sync {name}.new", "rename", f"sync {name[-2:]}", "sync bodies", f"sync {tmp_path.name}"]


@pytest.mark.process
@pytest.mark.row("REL-02")
@pytest.mark.parametrize("point", ["renaming", "written", "committed"])
def test_killed_while_storing_there_is_never_a_row_without_its_file(tmp_path: Path, point: str) -> None:
    died = subprocess.run(
        [sys.executable, "-m", "tests.blobs.killed", str(tmp_path), point], cwd=Path(__file__).parents[2]
    )
    assert died.returncode == -9
    left = len(files_of(tmp_path))
    assert left == 1

    async def scene() -> tuple[list[str], int, int]:
        async with opened(tmp_path) as (blobs, database):
            rows = await database.read(USES, {})
            bad = await blobs.check_all(bodies.Progress())
            soon = await blobs.sweep(Instant(time.time_ns() // 1000))
            later = await blobs.sweep(Instant(time.time_ns() // 1000 + DAY + 60_000_000))
            assert len(rows) == (1 if point == "committed" else 0)
            return bad, soon, later

    bad, soon, later = run(scene())
    assert bad == []
    assert soon == 0, "a file that was just written may belong to a unit that is under way"
    assert later == (0 if point == "committed" else 1)
    assert len(files_of(tmp_path)) == (1 if point == "committed" else 0)


def test_sweep_removes_old_files_that_no_row_names_and_no_other(tmp_path: Path) -> None:
    async def scene() -> int:
        async with opened(tmp_path) as (blobs, database):
            kept = await stored(blobs, database, LARGE)
            gone = await stored(blobs, database, LARGE[::-1])
            await database.commit(Unit(blobs.release(gone)))
            (tmp_path / "bodies" / "00").mkdir(exist_ok=True)
            (tmp_path / "bodies" / "00" / "no id at all").write_bytes(b"x")
            young = MINTER.mint(NOW)
            await blobs.put(young, LARGE, 1)
            late = Instant(time.time_ns() // 1000 + DAY + 60_000_000)
            for path in files_of(tmp_path):
                if path.name == id_text(young):
                    os.utime(path, ns=(late * 1000, late * 1000))
            removed = await blobs.sweep(late)
            assert {path.name for path in files_of(tmp_path)} == {id_text(kept), id_text(young)}
            assert await blobs.get(kept) == LARGE
            return removed

    assert run(scene()) == 2


def test_no_large_body_is_put_on_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    async def scene() -> None:
        async with opened(tmp_path) as (_, database):
            blobs = Blobs(database, tmp_path / "bodies", Floor(1 << 62))
            await stored(blobs, database, SMALL)  # the database has its own floor
            with pytest.raises(NoRoom, match="nearly full"):
                await stored(blobs, database, LARGE)
            assert not (tmp_path / "bodies").exists()

    run(scene())
