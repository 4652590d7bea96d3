"""Mail that waits for a program of this machine: how it is told of, and when it is tried again."""

import os
import pwd
from pathlib import Path

import pytest

from gatepost.base.envelope import Notify, Recipient
from gatepost.policy.action import Route, RouteKind
from gatepost.relay.program import Programs
from tests.queue.test_bounce import statuses
from tests.queue.world import Scripted, address, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

NOBODY = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


def ends(status: int) -> Route:
    return Route(RouteKind.PROGRAM, f"/bin/sh -c 'echo so it is; exit {status}'", auth=NOBODY)


@pytest.mark.row("MT-05")
@each_engine
def test_a_program_delivers_and_the_sender_who_asked_hears_so(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted()) as w:
            w.relay = Programs(w.relay, w.log, time_limit=10)  # type: ignore[assignment]  # the worker's Deliverer
            asked = Recipient(address("tickets@here.example"), frozenset((Notify.SUCCESS,)))
            await w.submit(recipients=(asked,), route=ends(0))
            await w.submit("tickets@here.example", route=ends(0))
            await w.work()
            assert [statuses(content) for _, content in w.boxes.filed] == [
                [("tickets@here.example", "delivered", "2.0.0")]
            ]

    run(play())


@each_engine
def test_one_that_fails_for_good_is_returned_with_its_words(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted()) as w:
            w.relay = Programs(w.relay, w.log, time_limit=10)  # type: ignore[assignment]  # the worker's Deliverer
            await w.submit("tickets@here.example", route=ends(67))
            await w.work()
            ((_, content),) = w.boxes.filed
            assert statuses(content) == [("tickets@here.example", "failed", "5.1.1")]
            assert b"so it is" in content

    run(play())


@each_engine
def test_one_that_cannot_now_is_tried_again_after_ten_seconds(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted()) as w:
            w.relay = Programs(w.relay, w.log, time_limit=10)  # type: ignore[assignment]  # the worker's Deliverer
            now = w.clock.now()
            await w.submit("tickets@here.example", route=ends(75))
            await w.work()
            ((*_, due),) = [row[:4] for row in await w.rows()]
            assert 10 <= (due - now) / 1_000_000 < 11
            assert w.boxes.filed == []

    run(play())
