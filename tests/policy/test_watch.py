"""Changed table files are taken while mail flows: all of them or none."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.base.settings import fill
from gatepost.base.units import Seconds
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load
from gatepost.policy.settings import PolicySettings
from gatepost.policy.watch import watch
from tests.policy.world import STRANGER, People, address_of
from tests.relay.world import Journal
from tests.support.loop import run


class Watched:
    """A policy with two table files, and a clock in the test's hand: `look` is one look at the files."""

    def __init__(self, folder: Path, seconds: float = 5) -> None:
        self.users, self.domains = folder / "users", folder / "domains"
        self.users.write_text("joe@here.example ann\n")
        self.domains.write_text("here.example\n")
        settings = fill(
            PolicySettings,
            {
                "watch": seconds,
                "tables": {"users": {"file": str(self.users)}, "domains": {"file": str(self.domains)}},
                "actions": {"virtual": {"do": "deliver", "virtual": "users"}},
                "rules": [{"match": {"from": "any", "for": "<domains>"}, "action": "virtual"}],
            },
            ("policy",),
        )
        self.policy = Policy(settings, load(settings))
        self.log = Journal()
        self.pauses: list[float] = []
        self._turn, self._looked = asyncio.Event(), asyncio.Event()

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._looked.set()
        await self._turn.wait()
        self._turn.clear()

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            self._looked.clear()
            self._turn.set()
            await asyncio.wait_for(self._looked.wait(), 10)

    async def known(self, recipient: str) -> bool:
        try:
            return bool(await self.policy.route(STRANGER, None, address_of(recipient), directory=People()))
        except Exception:
            return False


def play(watched: Watched, scene: Callable[[], Awaitable[None]]) -> None:
    async def played() -> None:
        task = asyncio.get_running_loop().create_task(watch(watched.policy, watched.log, watched.pause))
        await asyncio.wait_for(watched._looked.wait(), 10)
        await scene()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(played())


def change(file: Path, text: str) -> None:
    """Write a file so that it looks changed also where the clock of the file system is coarse."""
    file.write_text(text)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000))


@pytest.mark.row("MT-07")
def test_a_changed_file_is_read_when_it_has_come_to_rest(tmp_path: Path) -> None:
    watched = Watched(tmp_path)

    async def scene() -> None:
        change(watched.users, "joe@here.example ann\nnew@here.example ann\n")
        await watched.look()
        assert not await watched.known("new@here.example")
        change(watched.users, "joe@here.example ann\nnew@here.example ann\nmore@here.example joe\n")
        await watched.look()
        assert not await watched.known("new@here.example")
        await watched.look()
        assert await watched.known("more@here.example")
        await watched.look(3)
        assert watched.log.words() == ["tables_read"]

    play(watched, scene)


@pytest.mark.row("MT-10")
def test_all_or_nothing_and_the_mistake_is_named_once(tmp_path: Path) -> None:
    watched = Watched(tmp_path)

    async def scene() -> None:
        change(watched.domains, "here.example\nother.example\n")
        change(watched.users, "joe@here.example |/bin/rm\n")
        await watched.look(4)
        assert watched.log.words() == ["tables_refused"]
        assert f"{watched.users} line 1" in str(watched.log.events[0][1]["error"])
        assert await watched.known("joe@here.example")
        watched.users.unlink()
        await watched.look(2)
        assert watched.log.words() == ["tables_refused"] * 2
        assert await watched.known("joe@here.example")
        watched.users.write_text("new@other.example ann@here.example\njoe@here.example joe\n")
        await watched.look(2)
        assert watched.log.words()[-1] == "tables_read"
        assert await watched.known("joe@here.example")

    play(watched, scene)


def test_it_can_be_switched_off_and_on(tmp_path: Path) -> None:
    watched = Watched(tmp_path, seconds=0)

    async def scene() -> None:
        change(watched.users, "new@here.example ann\n")
        await watched.look(3)
        assert not await watched.known("new@here.example")
        settings = replace(watched.policy.settings, watch=Seconds(1))
        watched.policy.renew(settings, load(settings))
        await watched.look()
        change(watched.users, "other@here.example ann\n")
        await watched.look(2)
        assert await watched.known("other@here.example")
        assert watched.pauses[0] == 60
        assert watched.pauses[-1] == 1

    play(watched, scene)
