"""Bodies that are encrypted: read by who has the key, Damaged for all others, and never without their file."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatepost.base.clock import DAY, Instant
from gatepost.base.ids import id_text
from gatepost.blobs import bodies
from gatepost.blobs.bodies import INLINE_MAX, OFF_LOOP_OCTETS, Blobs, Damaged
from gatepost.blobs.keys import NO_KEYS, Key, Keys
from gatepost.blobs.sql import GET
from gatepost.db.unit import Step, Unhealthy, Unit
from tests.blobs.test_bodies import LARGE, MINTER, NOW, SMALL, SPOIL, files_of, opened, stored
from tests.support.loop import run

ONE, TWO = (Key(letter * 32) for letter in (b"1", b"2"))
SIZES = [b"", SMALL, b"y" * (OFF_LOOP_OCTETS + 1), LARGE, b"z" * (8 * INLINE_MAX + 1), bytes(range(256)) * 12_000]


def late() -> Instant:
    return Instant(time.time_ns() // 1000 + DAY + 60_000_000)


@pytest.mark.row("MT-01", "MT-02")
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("content", SIZES, ids=len)
def test_what_is_put_is_got_by_who_has_the_key(tmp_path: Path, content: bytes, compress: bool) -> None:
    async def scene() -> None:
        async with opened(tmp_path) as (_, database):
            blobs = Blobs(database, tmp_path / "bodies", keys=Keys((ONE,)), compress=compress)
            body = await stored(blobs, database, content)
            assert await Blobs(database, tmp_path / "bodies", keys=Keys((TWO, ONE))).get(body) == content
            for keys in (NO_KEYS, Keys((TWO,))):
                with pytest.raises(Damaged, match=f"{id_text(body)}: it is encrypted under key {ONE.name}"):
                    await Blobs(database, tmp_path / "bodies", keys=keys).get(body)

    run(scene())


@pytest.mark.row("MT-02")
def test_a_changed_octet_is_damage_in_a_row_and_in_a_file(tmp_path: Path) -> None:
    async def scene() -> None:
        async with opened(tmp_path) as (_, database):
            blobs = Blobs(database, tmp_path / "bodies", keys=Keys((ONE,)))
            small, large = await stored(blobs, database, SMALL), await stored(blobs, database, LARGE)
            frame = (await database.read(GET, {"id": small}))[0][3]
            assert isinstance(frame, bytes)
            (path,) = files_of(tmp_path)
            whole = path.read_bytes()
            for at in (0, 5, -1):
                for octets in (frame, whole):
                    spoilt = bytearray(octets)
                    spoilt[at] ^= 1
                    if octets is frame:
                        await database.commit(Unit((Step(SPOIL, {"id": small, "content": bytes(spoilt)}),)))
                    else:
                        path.write_bytes(spoilt)
                for body in (small, large):
                    with pytest.raises(Damaged):
                        await blobs.get(body)
            path.write_bytes(whole[:-1])
            with pytest.raises(Damaged):
                await blobs.get(large)
            assert await blobs.check_all(bodies.Progress()) == [id_text(small), id_text(large)]

    run(scene())


@pytest.mark.row("MT-02")
def test_the_encrypted_file_is_synced_with_its_folders_before_a_unit_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        real_sync(handle)

    def renamed(path: Path, target: Path) -> Path:
        done.append(f"rename to {target.name}")
        return real_rename(path, target)

    async def scene() -> str:
        async with opened(tmp_path) as (_, database):
            monkeypatch.setattr(os, "fsync", synced)
            monkeypatch.setattr(Path, "rename", renamed)
            body = MINTER.mint(NOW)
            await Blobs(database, tmp_path / "bodies", keys=Keys((ONE,))).put(body, LARGE, 1)
            return id_text(body)

    name = run(scene())
    file = f"{name}.{ONE.name}"
    first, *folders = done[0], *done[2:]
    assert (first, done[1]) == (f"sync {file}.new", f"rename to {file}")
    assert folders == [f"sync {name[-2:]}", "sync bodies", f"sync {tmp_path.name}"]


@pytest.mark.process
@pytest.mark.row("MT-02")
@pytest.mark.parametrize("point", ["renaming", "written", "committed"])
def test_killed_between_file_and_commit_there_is_never_a_row_without_its_file(tmp_path: Path, point: str) -> None:
    died = subprocess.run(
        [sys.executable, "-m", "tests.blobs.killed", str(tmp_path), point, "1" * 32], cwd=Path(__file__).parents[2]
    )
    assert died.returncode == -9
    assert len(files_of(tmp_path)) == 1

    async def scene() -> tuple[list[str], int]:
        async with opened(tmp_path) as (_, database):
            blobs = Blobs(database, tmp_path / "bodies", keys=Keys((ONE,)))
            return await blobs.check_all(bodies.Progress()), await blobs.sweep(late())

    bad, swept = run(scene())
    assert bad == []
    assert swept == (0 if point == "committed" else 1)


@pytest.mark.row("MT-02")
def test_a_rotation_that_is_not_committed_leaves_the_old_file_and_one_to_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(unit: Unit) -> None:
        raise Unhealthy("no")

    async def scene() -> None:
        async with opened(tmp_path) as (_, database):
            old = Blobs(database, tmp_path / "bodies", keys=Keys((ONE,)))
            new = Blobs(database, tmp_path / "bodies", keys=Keys((TWO, ONE)))
            body = await stored(old, database, LARGE)
            with monkeypatch.context() as broken:
                broken.setattr(database, "commit", fail)
                with pytest.raises(Unhealthy):
                    await new.reseal(body)
            assert len(files_of(tmp_path)) == 2
            assert await old.get(body) == LARGE
            assert await new.sweep(late()) == 1
            assert await old.get(body) == LARGE
            assert await new.reseal(body)
            assert [path.suffix for path in files_of(tmp_path)] == [f".{TWO.name}"]
            assert not await new.reseal(body)
            assert await new.get(body) == LARGE
            assert await new.sweep(late()) == 0
            assert not await new.reseal(MINTER.mint(NOW))

    run(scene())


def test_who_reads_while_a_file_is_encrypted_anew_reads_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with opened(tmp_path) as (_, database):
            new = Blobs(database, tmp_path / "bodies", keys=Keys((TWO, ONE)))
            body = await stored(Blobs(database, tmp_path / "bodies", keys=Keys((ONE,))), database, LARGE)
            before = await database.read(GET, {"id": body})
            await new.reseal(body)
            real, asked = database.read, 0

            async def first_the_old(*words: object) -> object:
                nonlocal asked
                asked += 1
                return before if asked == 1 else await real(*words)  # type: ignore[arg-type]  # passed on

            monkeypatch.setattr(database, "read", first_the_old)
            assert await new.get(body) == LARGE

    run(scene())
