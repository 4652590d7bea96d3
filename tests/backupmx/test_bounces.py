"""What a backup cannot deliver: who is told, and what is kept."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gatepost.aio.drive import Wire
from gatepost.aio.listen import Limits, Listener
from gatepost.base.clock import Instant, seconds
from gatepost.base.units import Seconds
from gatepost.base.verdict import Finding, Result
from gatepost.diary.verbs import trace
from gatepost.intake.auth import Throttle
from gatepost.intake.receive import _proves
from gatepost.intake.settings import IntakeSettings
from gatepost.queue import verbs
from gatepost.queue.bounce import Reporter
from gatepost.queue.model import Kind
from gatepost.queue.settings import QueueSettings, Unproven
from gatepost.queue.settle import Settler
from tests.queue.world import DOWN, LATER, NO, T0, Scripted, Unsealed, World, world
from tests.relay.world import Journal
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run

DAY = 86_400
USUAL = QueueSettings()


@asynccontextmanager
async def backup(
    open_db: OpenDatabase, folder: Path, unproven: Unproven, answers: Scripted, settings: QueueSettings = USUAL
) -> AsyncIterator[tuple[World, Settler]]:
    """A queue that treats what is unproven as a backup does."""
    async with world(open_db, folder, relay=answers, settings=settings) as w:
        reporter = Reporter(
            w.settings,
            w.blobs,
            w.rules,
            w.people,
            w.boxes,
            Unsealed(),
            minter=w.minter,
            hostname="mx2.here.example",
            postmaster="ann@here.example",
            log=w.log,
            unproven=unproven,
        )
        yield w, Settler(w.settings, w.blobs, reporter, w.log, unproven=unproven)


@pytest.mark.row("OUT-04")
@each_engine
def test_quarantine_keeps_what_nobody_may_be_told_of_until_the_operator_decides(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        answers = Scripted({"no@far.example": NO})
        async with backup(open_db, tmp_path, Unproven.QUARANTINE, answers) as (w, settler):
            forged = await w.submit("no@far.example", "yes@far.example", returnable=False)
            from_nobody = await w.submit("no@far.example", sender=None)
            await w.submit("no@far.example", kind=Kind.BOUNCE)
            await w.submit("no@far.example")
            await w.work(w.worker(settler=settler), until=lambda: len(w.boxes.filed) == 2)
            held = [row for row in await verbs.list_queue(w.database) if row.held]
            assert {row.mail for row in held} == {forged, from_nobody}
            assert all(row.last_error.startswith("550 5.1.1") for row in held)
            assert w.relay.delivered == ["yes@far.example"]
            assert "quarantined" in [line.event for line in await trace(w.database, forged)]
            answers.answers.clear()
            assert await verbs.release(w.database, forged, w.clock.now()) == 1
            await w.work(w.worker(settler=settler), until=lambda: "no@far.example" in w.relay.delivered)

    run(play())


@pytest.mark.parametrize(("unproven", "filed"), [(Unproven.POSTMASTER, 1), (Unproven.DISCARD, 0)])
def test_the_postmaster_is_told_instead_or_nobody_is(unproven: Unproven, filed: int, tmp_path: Path) -> None:
    async def play() -> None:
        answers = Scripted({"no@far.example": NO})
        async with backup(open_sqlite, tmp_path, unproven, answers) as (w, settler):
            await w.submit("no@far.example", sender="victim@far.example", returnable=False)
            await w.work(w.worker(settler=settler))
            assert len(w.boxes.filed) == filed
            assert w.relay.delivered == []
            assert (await w.counts())[:2] == (0, 0)

    run(play())


@pytest.mark.row("BM-02")
def test_a_mail_is_held_for_two_weeks_without_a_warning_and_then_one_report_is_made(tmp_path: Path) -> None:
    async def play() -> None:
        answers = Scripted({"ann@far.example": DOWN, "bob@far.example": LATER})
        patience = QueueSettings(lifetime=Seconds(14 * DAY), warn_after=Seconds(0))
        async with backup(open_sqlite, tmp_path, Unproven.QUARANTINE, answers, patience) as (w, settler):
            await w.submit("ann@far.example", "bob@far.example")
            for day in (0, 1, 4, 8, 13, 14.01):
                w.clock.at = Instant(T0 + seconds(day * DAY))
                await verbs.retry_all(w.database, w.clock.now())
                assert w.boxes.filed == []
                await w.work(w.worker(settler=settler))
            assert len(w.boxes.filed) == 1
            assert (await w.counts())[:2] == (0, 0)

    run(play())


# Who is proven


@pytest.mark.row("OUT-04")
@pytest.mark.parametrize(
    ("method", "result", "signer", "proven"),
    [
        ("spf", Result.PASS, "sender.example", True),
        ("spf", Result.SOFTFAIL, "sender.example", False),
        ("dkim", Result.PASS, "sender.example", True),
        ("dkim", Result.PASS, "Example", True),
        ("dkim", Result.PASS, "list.sender.example", False),
        ("dkim", Result.PASS, "nder.example", False),
        ("dkim", Result.PASS, "", False),
        ("dkim", Result.FAIL, "sender.example", False),
    ],
)
def test_a_sender_is_proven_by_spf_or_by_a_signature_of_its_domain(
    method: str, result: Result, signer: str, proven: bool
) -> None:
    assert _proves(Finding(method, result, signer), "sender.example") is proven


def test_our_backups_may_bring_as_much_as_they_held() -> None:
    throttle = Throttle(IntakeSettings(mails_per_minute=2), ours=lambda ip: ip == "198.51.100.2")
    assert [throttle.mail_allowed("198.51.100.2", T0) for _ in range(5)] == [True] * 5
    assert [throttle.mail_allowed("198.51.100.3", T0) for _ in range(3)] == [True, True, False]


def test_our_backups_may_connect_as_often_as_they_need() -> None:
    async def play(ours: bool) -> list[bytes]:
        log, wires = Journal(), list[Wire]()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            limits = Limits(10, 2, 2, loopback_exempt=False)
            listener = Listener(
                sock, wires.append, limits=limits, name="mx", log=log, busy=b"421 busy\r\n", exempt=lambda _: ours
            )
            listener.start()
            streams = [await asyncio.open_connection(*sock.getsockname()) for _ in range(4)]
            while len(wires) + listener.refused < 4:
                await asyncio.sleep(0)
            for wire in wires:
                wire.abort()
            said = []
            for reader, writer in streams:
                with suppress(ConnectionError):
                    said.append(await reader.read())
                writer.close()
            await listener.drain(0)
            return [each for each in said if each]

    assert run(play(ours=True)) == []
    assert len(run(play(ours=False))) == 2
