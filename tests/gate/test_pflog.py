"""The log of mail's connections: its lines, its bounds, its file."""

import asyncio
from pathlib import Path

import pytest

from gatepost.gate import pflog
from gatepost.gate.pflog import LINES_MAX, PfLog
from tests.gate.world import Journal
from tests.support.loop import run
from tests.support.wire import START, MovedClock

RULE = "pass in quick log (to pflog1) from <spamd-white> (line 65): in spamd-white"


def _channel(path: Path | str, journal: Journal | None = None) -> PfLog:
    return PfLog(str(path), clock=MovedClock(), log=journal or Journal())


@pytest.mark.row("PF-11", "PF-15", "PF-24")
def test_each_connection_is_a_line_with_time_direction_rule_and_both_ends(tmp_path: Path) -> None:
    file = tmp_path / "connections"
    channel = _channel(file)

    async def scene() -> None:
        channel.passed("192.0.2.7", "198.51.100.1", 25, RULE)
        channel.contacted("203.0.113.5")
        channel.passed("2001:db8::7", "2001:db8::1", 25, "a\nb\x1b[31m" + "x" * 500)
        await channel.flush()
        await channel.flush()

    run(scene())
    when = pflog.line(START, "", "", "", "", 0).split(" ")[0]
    first, second, third = file.read_text().splitlines()
    assert first == f"{when} in  {RULE}: 192.0.2.7 > 198.51.100.1 port 25"
    assert second == f"{when} out pass out to any port smtp: self > 203.0.113.5 port 25"
    assert "a?b?[31mxxx" in third
    assert len(third) < 300
    assert file.stat().st_mode & 0o777 == 0o640
    assert len(channel) == 0


def test_a_renamed_file_is_left_alone_and_another_made(tmp_path: Path) -> None:
    file = tmp_path / "connections"
    channel = _channel(file)

    async def scene() -> None:
        channel.contacted("203.0.113.5")
        await channel.flush()
        file.rename(tmp_path / "old")
        channel.contacted("203.0.113.6")
        await channel.flush()
        channel.renew(str(tmp_path / "new"))
        channel.contacted("203.0.113.7")
        await channel.flush()

    run(scene())
    ends = [(tmp_path / name).read_text().split(" > ")[1] for name in ("old", "connections", "new")]
    assert ends == ["203.0.113.5 port 25\n", "203.0.113.6 port 25\n", "203.0.113.7 port 25\n"]


def test_what_finds_no_place_is_counted_and_said(tmp_path: Path) -> None:
    journal = Journal()
    channel = _channel(tmp_path / "connections", journal)

    async def scene() -> None:
        for _ in range(LINES_MAX + 3):
            channel.contacted("203.0.113.5")
        assert (len(channel), channel.forgotten) == (LINES_MAX, 3)
        await channel.flush()

    run(scene())
    assert journal.lines == [("connection_log_full", {"forgotten": 3})]
    assert (tmp_path / "connections").read_text().count("\n") == LINES_MAX


def test_a_file_that_cannot_be_written_is_said_once_and_holds_nobody_up(tmp_path: Path) -> None:
    journal = Journal()
    channel = _channel(tmp_path / "none" / "connections", journal)

    async def scene() -> None:
        for _ in range(3):
            channel.contacted("203.0.113.5")
            await channel.flush()
        (tmp_path / "none").mkdir()
        channel.contacted("203.0.113.6")
        await channel.flush()

    run(scene())
    assert [event for event, _ in journal.lines] == ["connection_log_not_written"]
    assert (tmp_path / "none" / "connections").read_text().endswith("203.0.113.6 port 25\n")


def test_without_a_file_nothing_is_kept() -> None:
    channel = _channel("")
    channel.contacted("203.0.113.5")
    assert len(channel) == 0


def test_what_waits_at_the_end_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pflog, "GATHER_S", 0.0)
    file = tmp_path / "connections"
    channel = _channel(file)

    async def scene() -> None:
        running = asyncio.get_running_loop().create_task(channel.run())
        channel.contacted("203.0.113.5")
        async with asyncio.timeout(5):
            while not file.exists():
                await asyncio.sleep(0)
        channel.contacted("203.0.113.6")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(scene())
    assert file.read_text().count("\n") == 2
