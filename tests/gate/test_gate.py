"""The gate over both databases: from the first 451 to the white table, traps, bans, and other workers."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.base.units import Seconds
from gatepost.gate.settings import Ipv6, RateSettings
from gatepost.gate.verbs import (
    add_entries,
    add_spamtraps,
    add_trapped,
    delete_entries,
    delete_records,
    grey_records,
    show_table,
    spamdb_line,
)
from tests.gate.world import QUIET, SENDER, START, World, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

S = START // 1_000_000
MINUTE = 60.0


async def _lines(here: World) -> list[str]:
    return [spamdb_line(record) for record in await grey_records(here.database)]


@each_engine
@pytest.mark.row("GR-01", "GR-06", "GR-13", "SYNC-09")
def test_a_sender_that_comes_back_in_time_becomes_white(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            assert "451 Temporary failure" in here.offer()
            here.clock.move(25 * MINUTE)
            here.offer()
            assert await here.scan() == 0
            here.clock.move(1)
            here.offer()
            assert here.verdict() == "grey"
            assert await here.scan() == 1
            assert here.verdict() == "pass"
            now = S + 25 * 60 + 1
            counts = f"{S}|{now}|{{}}|3|0"
            assert await _lines(here) == [
                f"WHITE|{SENDER}|||{counts.format(now + 36 * 86_400)}",
                f"GREY|{SENDER}|mail.example.net|<joe@example.net>|<ann@example.org>|{counts.format(S + 4 * 3600)}",
            ]

    run(scene())


@pytest.mark.row("GR-06")
def test_deleting_the_white_record_does_not_help_while_the_tuple_lives() -> None:
    async def scene() -> None:
        async with world() as here:
            here.offer()
            here.clock.move(26 * MINUTE)
            here.offer()
            await here.scan()
            assert await delete_records(here.database, [SENDER]) == []
            await here.learn()
            assert here.verdict() == "grey"
            assert await here.scan() == 1
            assert here.verdict() == "pass"

    run(scene())


@each_engine
@pytest.mark.row("GR-10")
def test_writing_to_a_trap_makes_the_sender_black_for_a_day(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            await add_spamtraps(here.database, ["Old-Address@Example.ORG"], here.now)
            await here.learn()
            here.offer(recipient="OLD-address@example.org")
            await here.scan()
            assert here.verdict() == "black"
            assert set(await _lines(here)) == {"SPAMTRAP|old-address@example.org", f"TRAPPED|{SENDER}|{S + 86_400}"}
            wire = here.connect()
            wire.send(b"HELO x\r\nDATA\r\n.\r\n")
            assert wire.text.endswith(f"450 Your address {SENDER} has mailed to spamtraps here\r\n")
            assert here.journal.texts[-1] == f"{SENDER}: connected (1/1), lists: spamd-greytrap"
            here.clock.move(86_400)
            await here.scan()
            assert here.verdict() == "grey"

    run(scene())


@pytest.mark.row("GR-10")
def test_a_recipient_outside_the_allowed_domains_is_a_trap() -> None:
    async def scene() -> None:
        async with world(replace(QUIET, trap_domains=("example.org",))) as here:
            here.offer()
            here.offer("192.0.2.1", "ann@elsewhere.example")
            await here.scan()
            assert (here.verdict(), here.verdict("192.0.2.1")) == ("grey", "black")

    run(scene())


@pytest.mark.row("PF-12")
def test_a_black_sender_makes_no_tuples() -> None:
    async def scene() -> None:
        async with world() as here:
            await add_entries(here.database, "spamd", [SENDER], here.now)
            await here.learn()
            here.connect().send(b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")
            await here.learn()
            assert await _lines(here) == []

    run(scene())


@pytest.mark.row("LG-01", "LG-03")
def test_a_trapped_sender_stays_trapped_when_it_mails_and_ipv6_is_not_recorded_while_it_passes() -> None:
    async def scene() -> None:
        async with world() as here:
            await add_trapped(here.database, [SENDER], here.now, QUIET)
            here.gate.mailed_us(SENDER)
            here.gate.mailed_us("2001:db8::1")
            here.gate.mailed_us("127.0.0.1")
            await here.scan()
            assert await _lines(here) == [f"TRAPPED|{SENDER}|{S + 86_400}"]

    run(scene())


@pytest.mark.row("PF-19")
def test_ipv6_is_greylisted_by_64() -> None:
    async def scene() -> None:
        async with world(replace(QUIET, ipv6=Ipv6.GREYLIST)) as here:
            here.offer("2001:db8::1")
            here.clock.move(26 * MINUTE)
            here.offer("2001:db8::2")
            await here.scan()
            assert here.verdict("2001:db8::3") == "pass"
            assert here.verdict("2001:db8:0:1::1") == "grey"
            assert (await _lines(here))[0].startswith("WHITE|2001:db8::/64|||")

    run(scene())


@pytest.mark.row("PF-08", "PF-10")
def test_a_source_with_too_many_connections_is_banned_and_all_it_has_is_cut() -> None:
    async def scene() -> None:
        async with world() as here:
            assert [here.gate.opened(SENDER, "imap") for _ in range(50)] == [""] * 50
            assert here.cut == []
            assert here.gate.opened(SENDER, "imap") == "more than 50 connections"
            assert here.cut == [SENDER]
            assert here.verdict(kind="submission") == "block"
            await here.learn()
            [entry] = await show_table(here.database, "bruteforce")
            assert (entry.text, entry.since) == (SENDER, here.now)
            await delete_entries(here.database, "bruteforce", [SENDER])
            await here.learn()
            assert here.verdict(kind="submission") == "pass"

    run(scene())


def test_exempt_networks_are_not_limited_and_an_ipv6_source_is_banned_by_64() -> None:
    async def scene() -> None:
        rates = {"submission": RateSettings(connections=1)}
        async with world(replace(QUIET, rates=rates)) as here:
            assert [here.gate.opened("127.0.0.1", "submission") for _ in range(9)] == [""] * 9
            assert [here.gate.opened("203.0.113.1", "imap") for _ in range(9)] == [""] * 9
            here.gate.opened("2001:db8::1", "submission")
            assert here.gate.opened("2001:db8::2", "submission")
            assert here.verdict("2001:db8::3", "imap") == "block"
            assert here.cut == ["2001:db8::/64"]
            here.gate.closed("2001:db8::1", "submission")

    run(scene())


@pytest.mark.row("PF-03", "PF-04")
def test_a_file_fills_its_table_and_is_read_again(tmp_path: Path) -> None:
    async def scene() -> None:
        file = tmp_path / "nospamd"
        file.write_text("203.0.113.0/24 # friends\n!203.0.113.9\n")
        settings = replace(QUIET, tables={"nospamd": str(file)})
        async with world(settings) as here:
            assert [here.verdict(f"203.0.113.{at}") for at in (1, 9)] == ["pass", "grey"]
            await add_entries(here.database, "nospamd", ["198.51.100.1"], here.now)
            await here.learn()
            assert [here.verdict(ip) for ip in ("203.0.113.1", "198.51.100.1")] == ["pass", "pass"]
            file.write_text("203.0.113.9\n")
            here.gate.renew(settings)
            await here.gate.start()
            assert [here.verdict(f"203.0.113.{at}") for at in (1, 9)] == ["grey", "pass"]

    run(scene())


def test_a_running_gate_writes_scans_and_survives_what_fails() -> None:
    async def scene() -> None:
        settings = replace(QUIET, scan_interval=Seconds(0.05), pass_time=Seconds(0), low_priority_mx="")
        async with world(settings) as here:
            here.offer()
            here.clock.move(1)
            here.offer()

            async def broken() -> int:
                raise RuntimeError("a bug")

            task = asyncio.get_running_loop().create_task(here.gate.run())
            async with asyncio.timeout(10):
                while here.verdict() != "pass":
                    await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(scene())
