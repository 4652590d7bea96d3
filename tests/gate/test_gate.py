"""The gate over both databases: from the first 451 to the white table, traps, bans, and other workers."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.base.units import Seconds
from gatepost.db.unit import Database, Rows, Unhealthy, Unit
from gatepost.gate import backlog, sql
from gatepost.gate.bans import Ban
from gatepost.gate.prefix import Prefix, parse_prefix
from gatepost.gate.settings import GateSettings, Ipv6, RateSettings
from gatepost.gate.table import BadEntry, TableFull
from gatepost.gate.verbs import (
    add_entries,
    add_spamtraps,
    add_trapped,
    delete_entries,
    delete_records,
    grey_records,
    show_table,
    spamdb_lines,
)
from tests.gate.world import QUIET, SENDER, START, Journal, World, make, world
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run
from tests.support.wire import MovedClock

S = START // 1_000_000
MINUTE = 60.0


async def _lines(here: World) -> list[str]:
    return spamdb_lines(await grey_records(here.database)).decode().split("\n")[:-1]


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


@each_engine
@pytest.mark.row("SYNC-09", "GR-02")
def test_a_sender_that_does_not_come_back_is_forgotten_and_never_white(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            here.offer()
            await here.learn()
            here.clock.move(4 * 3600 - 1)
            assert await here.scan() == 0
            assert len(await _lines(here)) == 1
            here.clock.move(1)
            assert await here.scan() == 0
            assert await _lines(here) == []
            assert here.verdict() == "grey"

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
            assert (here.verdict(), here.verdict(kind="submission")) == ("black", "pass")
            assert await _lines(here) == ["SPAMTRAP|old-address@example.org", f"TRAPPED|{SENDER}|{S + 86_400}"]
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


@each_engine
@pytest.mark.row("GR-10")
def test_only_a_tuple_never_seen_before_is_trapped_at_the_least_preferred_mx(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        low = "192.0.2.99"
        async with world(replace(QUIET, low_priority_mx=low), open_db) as here:
            here.offer("192.0.2.1", dialled=low)  # within the first minute
            here.clock.move(61)
            here.offer("192.0.2.2")
            here.offer("192.0.2.2", dialled=low)  # a mail server goes on to the next MX
            here.offer("192.0.2.3", dialled=low)
            await here.scan()
            assert [here.verdict(f"192.0.2.{at}") for at in (1, 2, 3)] == ["grey", "grey", "black"]
            assert [line.split("|")[0] for line in await _lines(here)] == ["TRAPPED", "GREY", "GREY"]
            assert (await grey_records(here.database))[2].blocked == 2

    run(scene())


@pytest.mark.row("GR-11")
def test_a_listed_sender_is_never_made_white_and_loses_it() -> None:
    async def scene() -> None:
        async with world() as here:
            for ip in ("192.0.2.1", "192.0.2.2"):
                here.offer(ip)
            here.clock.move(26 * MINUTE)
            for ip in ("192.0.2.1", "192.0.2.2"):
                here.offer(ip)
            await here.learn()
            await add_entries(here.database, "bgp_spamd", ["192.0.2.1"], here.now)
            await here.learn()
            assert await here.scan() == 1
            assert (here.verdict("192.0.2.1"), here.verdict("192.0.2.2")) == ("black", "pass")
            await add_entries(here.database, "spamd", ["192.0.2.0/24"], here.now)
            await here.learn()
            assert await here.scan() == 0
            assert here.verdict("192.0.2.2") == "black"
            assert "192.0.2.2: blacklisted, removing from whitelist" in here.journal.texts
            assert await _lines(here) == []

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


@each_engine
@pytest.mark.row("SYNC-07")
def test_one_network_keeps_a_thousand_tuples_and_what_comes_back_stays(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        settings = replace(QUIET, net_rows=200)
        async with world(settings, open_db) as here:
            here.offer(recipient="real@example.org")
            for turn in range(6):
                here.clock.move(5 * MINUTE)
                for at in range(100):
                    here.offer(f"198.51.100.{at}", f"random{turn}-{at}@example.org")
                here.offer(recipient="real@example.org")
                await here.learn()
                rows = (await here.database.read(sql.COUNT, {}))[0][0]
                assert isinstance(rows, int)
                assert rows <= 200
            assert await here.scan() == 1
            assert here.verdict() == "pass"

    run(scene())


@each_engine
@pytest.mark.row("SYNC-07")
def test_a_flood_pushes_out_what_did_not_come_back_the_longest_unseen_first(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(replace(QUIET, rows=5), open_db) as here:
            here.offer("10.0.0.1")
            here.clock.move(26 * MINUTE)
            here.offer("10.0.0.1")
            for at in range(2, 12):
                here.clock.move(1)
                here.offer(f"10.{at}.0.1")
            await here.learn()
            await here.gate._backlog.evict()
            records = await grey_records(here.database)
            assert sorted(record.ip for record in records) == [
                "10.0.0.1",
                "10.10.0.1",
                "10.11.0.1",
                "10.8.0.1",
                "10.9.0.1",
            ]

    run(scene())


@pytest.mark.row("LG-01", "LG-02")
def test_mail_keeps_a_sender_white_and_our_own_mail_makes_one() -> None:
    async def scene() -> None:
        async with world() as here:
            here.gate.contacted("203.0.113.7")
            await here.scan()
            assert here.verdict("203.0.113.7") == "pass"
            assert await _lines(here) == [f"WHITE|203.0.113.7|||{S}|{S}|{S + 36 * 86_400}|1|0"]
            here.clock.move(100)
            for _ in range(3):
                here.gate.mailed_us("203.0.113.7")
            await here.learn()
            assert await _lines(here) == [f"WHITE|203.0.113.7|||{S}|{S}|{S + 100 + 36 * 86_400}|1|3"]

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
            held = here.connect()
            assert [here.gate.opened(SENDER, "imap") for _ in range(50)] == [""] * 50
            assert here.cut == []
            assert here.gate.opened(SENDER, "imap") == "more than 50 connections"
            assert here.cut == [parse_prefix(SENDER)]
            assert held.reset
            assert here.verdict(kind="submission") == "block"
            await here.learn()
            [entry] = await show_table(here.database, "bruteforce")
            assert (entry.text, entry.since, entry.note) == (SENDER, here.now, "imap: more than 50 connections")
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
            assert here.cut == [parse_prefix("2001:db8::/64")]
            here.gate.closed("2001:db8::1", "submission")

    run(scene())


@pytest.mark.row("PF-03", "PF-10")
def test_another_worker_hears_of_a_ban_and_cuts_too() -> None:
    async def scene() -> None:
        async with world() as here:
            cut: list[Prefix] = []
            other = make(QUIET, here.database, here.clock, Journal(), cut.append)
            await other.start()
            for _ in range(51):
                here.gate.opened(SENDER, "imap")
            await here.gate.flush()
            await other.refresh()
            assert other.decide(SENDER, "imap").verdict.value == "block"
            assert cut == [parse_prefix(SENDER)]
            await add_entries(here.database, "bruteforce", ["192.0.2.1"], here.now)
            await other.refresh()
            assert cut == [parse_prefix(SENDER)]  # by hand: pfctl cuts nobody
            third = make(QUIET, here.database, here.clock, Journal(), cut.append)
            await third.start()
            assert third.decide(SENDER, "imap").verdict.value == "block"
            assert cut == [parse_prefix(SENDER)]

    run(scene())


@pytest.mark.row("PF-05")
def test_a_ban_that_finds_no_place_still_ends_the_connection() -> None:
    async def scene() -> None:
        async with world(replace(QUIET, tables_max=0)) as here:
            for _ in range(50):
                here.gate.opened(SENDER, "imap")
            assert here.gate.opened(SENDER, "imap")
            assert [line[0] for line in here.journal.lines] == ["gate_table_full"]

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
            await here.gate.reload(settings)
            assert [here.verdict(f"203.0.113.{at}") for at in (1, 9)] == ["grey", "pass"]
            file.write_text("nobody\n")
            with pytest.raises(BadEntry, match="line 1"):
                await here.gate.reload(replace(settings, greylist=False))
            assert [here.verdict(f"203.0.113.{at}") for at in (1, 9)] == ["grey", "pass"]
            file.write_text("203.0.113.1 203.0.113.2 203.0.113.3")
            with pytest.raises(TableFull):
                await here.gate.reload(replace(settings, tables_max=2))
            assert [here.verdict(f"203.0.113.{at}") for at in (1, 9)] == ["grey", "pass"]

    run(scene())


def test_renewed_settings_keep_the_counts_of_limits_that_stay() -> None:
    async def scene() -> None:
        async with world() as here:
            for _ in range(50):
                here.gate.opened(SENDER, "imap")
            here.gate.renew(replace(QUIET, greylist=False))
            assert here.verdict() == "pass"
            assert here.gate.opened(SENDER, "imap")

    run(scene())


@pytest.mark.row("GR-12", "PF-22")
def test_the_gate_explains_itself_and_counts() -> None:
    async def scene() -> None:
        async with world() as here:
            await add_entries(here.database, "spamd", ["198.51.100.0/24", "!198.51.100.9"], here.now)
            await here.learn()
            found = here.gate.explain(SENDER, "mx")
            assert found.decision.verdict.value == "black"
            assert found.entries == (("spamd", "198.51.100.0/24"),)
            assert here.gate.explain("198.51.100.9", "mx").entries == (("spamd", "!198.51.100.9"),)
            assert here.gate.sizes()["spamd"] == 2
            for _ in range(2):
                here.verdict()
            await here.gate._learn_counts()
            await here.learn()
            entry = (await show_table(here.database, "spamd"))[0]
            assert (entry.text, entry.blocked) == ("198.51.100.0/24", 2)

    run(scene())


class Ailing:
    """A database that cannot commit for a while."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.ailing = False

    async def commit(self, unit: Unit) -> tuple[Rows, ...]:
        """Commit, or not."""
        if self.ailing:
            raise Unhealthy("the disk is away")
        return await self._database.commit(unit)

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)


def test_what_is_learnt_waits_while_the_database_cannot_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "RETRY_S", 0.005)
    monkeypatch.setattr(backlog, "GATHER_S", 0.001)
    monkeypatch.setattr(backlog, "BACKLOG_MAX", 2)

    async def scene() -> None:
        async with open_sqlite((sql.SCHEMA,)) as database:
            ailing, clock, journal = Ailing(database), MovedClock(), Journal()
            gate = make(QUIET, ailing, clock, journal, lambda _: None)  # type: ignore[arg-type]  # by __getattr__
            await gate.start()
            here = World(gate, database, clock, journal, [])
            ailing.ailing = True
            task = asyncio.get_running_loop().create_task(gate._backlog.run())
            for at in range(1, 5):
                here.offer(f"192.0.2.{at}")
            await asyncio.sleep(0.02)
            assert (gate.counts().waiting, gate.counts().forgotten) == (2, 2)
            ailing.ailing = False
            async with asyncio.timeout(5):
                while gate.counts().waiting:
                    await asyncio.sleep(0.005)
            here.offer("192.0.2.9")
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [each.ip for each in await grey_records(database)] == ["192.0.2.1", "192.0.2.2", "192.0.2.9"]

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


def test_the_settings_of_the_article() -> None:
    rates = GateSettings().rates
    assert (rates["imaps"].connections, rates["imaps"].count, rates["submission"].count) == (50, 50, 25)
    for wrong in ({"refuse_code": 500}, {"stutter": 11}, {"grey_time": 60}, {"scale": 0}, {"grey_stutter": 91}):
        with pytest.raises(ValueError, match=r"must|is 450"):
            GateSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.row("PF-10")
def test_a_banned_network_is_cut_whole_and_own_networks_never_are() -> None:
    async def scene() -> None:
        settings = replace(QUIET, backups=("203.0.113.5",))
        async with world(settings) as here:
            await add_entries(here.database, "nospamd", ["192.0.2.9"], here.now)
            await here.learn()
            wires = [here.connect(ip) for ip in ("198.51.100.7", "198.51.100.200", "198.51.101.1")]
            here.gate.ban(Ban(parse_prefix("198.51.100.0/24"), "bruteforce", "200 failures"))
            assert [wire.reset for wire in wires] == [True, True, False]
            assert here.verdict("198.51.100.99", kind="imap") == "block"
            shielded = ("127.0.0.0/8", "192.0.2.9", "192.0.2.0/24", "203.0.113.5", "203.0.0.0/16")
            assert [here.gate.shields(parse_prefix(each)) for each in (*shielded, "192.0.2.8")] == [True] * 5 + [
                False
            ]
            assert here.verdict("203.0.113.5") == "pass"
            for each in ("192.0.2.9", "203.0.113.5", "192.0.2.0/24"):
                here.gate.ban(Ban(parse_prefix(each), "bruteforce", "too many connections"))
            assert [each.text for each in await show_table(here.database, "bruteforce")] in (
                [],
                ["198.51.100.0/24"],
            )
            assert here.verdict("203.0.113.5", kind="imap") == "pass"

    run(scene())
