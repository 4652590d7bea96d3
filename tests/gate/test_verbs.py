"""pfctl's and spamdb's verbs, in their words."""

from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.base.clock import Instant, later, seconds
from gatepost.gate import verbs
from gatepost.gate.decide import TABLE_NAMES
from gatepost.gate.grey import Kind, Record, State
from gatepost.gate.table import TableFull
from gatepost.gate.verbs import GateRefusal, NoSuchTable
from tests.gate.world import QUIET, START, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

T = START
S = START // 1_000_000


@each_engine
@pytest.mark.row("PF-21", "PF-22", "PF-23")
def test_tables_are_changed_in_pfctls_words(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            db = here.database

            async def show() -> list[str]:
                return [verbs.shown(entry) for entry in await verbs.show_table(db, "spamd")]

            added = await verbs.add_entries(
                db, "spamd", ["192.0.2.1", "192.0.2.0/24", "!2001:db8::1", "192.0.2.1"], T
            )
            assert (added.done, added.text) == (3, "3/4 addresses added.")
            assert await show() == ["   192.0.2.0/24", "   192.0.2.1", "  !2001:db8::1"]
            assert (await verbs.add_entries(db, "spamd", ["!192.0.2.1"], T)).text == "0/1 addresses added."
            assert (await verbs.delete_entries(db, "spamd", ["192.0.2.0/25", "2001:db8::1"])).text == (
                "0/2 addresses deleted."
            )
            assert (await verbs.delete_entries(db, "spamd", ["!2001:db8::1"])).text == "1/1 addresses deleted."
            replaced = await verbs.replace_entries(db, "spamd", ["!192.0.2.1", "10/8", "10.0.0.1"], T)
            assert replaced.text == ("2 addresses added.\n1 addresses deleted.\n1 addresses changed.")
            assert await show() == ["   10.0.0.0/8", "   10.0.0.1", "  !192.0.2.1"]
            assert (await verbs.replace_entries(db, "spamd", ["!192.0.2.1", "10/8", "10.0.0.1"], T)).text == (
                "no changes."
            )
            tested = await verbs.test_entries(db, "spamd", ["10.0.0.1", "192.0.2.1"], None, None)
            assert (tested.done, tested.asked, tested.text) == (1, 2, "1/2 addresses match.")
            with pytest.raises(GateRefusal, match="illegal test address"):
                await verbs.test_entries(db, "spamd", ["10.0.0.0/24"], None, None)
            assert (await verbs.flush_table(db, "spamd")).text == "3 addresses deleted."

    run(scene())


@pytest.mark.row("PF-03")
def test_tables_are_made_when_needed_and_unknown_ones_are_no_tables(tmp_path: Path) -> None:
    async def scene() -> None:
        async with world() as here:
            db = here.database
            done = await verbs.add_entries(db, "mine", ["192.0.2.1"], T)
            assert done.text == "1 table created.\n1/1 addresses added."
            assert ("mine", 1) in await verbs.list_tables(db, QUIET)
            file = tmp_path / "list"
            file.write_text("192.0.2.0/24 # a net\n10.0.0.1\n")
            filled = replace(QUIET, tables={"mine": str(file)})
            assert [each.text for each in await verbs.show_table(db, "mine", filled)] == [
                "10.0.0.1",
                "192.0.2.0/24",
                "192.0.2.1",
            ]
            assert ("mine", 3) in await verbs.list_tables(db, filled)
            assert (await verbs.test_entries(db, "mine", ["192.0.2.7", "10.0.0.2"], filled, None)).done == 1
            await verbs.delete_entries(db, "mine", ["192.0.2.1"])
            assert (await verbs.flush_table(db, "mine")).text == "0 addresses deleted."
            assert (await verbs.kill_table(db, "mine")).text == "1 table deleted."
            for work in (verbs.flush_table(db, "mine"), verbs.test_entries(db, "mine", ["10.0.0.1"], None, None)):
                with pytest.raises(NoSuchTable, match=r"Table does not exist\."):
                    await work
            assert [name for name, _ in await verbs.list_tables(db, QUIET)] == sorted(TABLE_NAMES)
            with pytest.raises(GateRefusal, match="31 letters"):
                await verbs.add_entries(db, "x" * 32, ["192.0.2.1"], T)

    run(scene())


@pytest.mark.row("PF-21")
def test_expire_is_by_age_since_added_or_cleared_even_when_still_hit() -> None:
    async def scene() -> None:
        async with world() as here:
            db = here.database
            await verbs.add_entries(db, "bruteforce", ["192.0.2.1"], T)
            at = [later(T, seconds(86_400)), later(T, seconds(86_401))]
            await verbs.add_entries(db, "bruteforce", ["192.0.2.2"], at[0])
            assert (await verbs.expire_entries(db, "bruteforce", 86_400, at[0])).text == "0/2 addresses expired."
            assert (await verbs.expire_entries(db, "bruteforce", 86_400, at[1])).text == "1/2 addresses expired."
            late = later(at[1], seconds(86_400))
            assert (await verbs.zero_table(db, "bruteforce", late)).text == "1 table/stats cleared."
            assert (await verbs.expire_entries(db, "bruteforce", 86_400, late)).done == 0
            [entry] = await verbs.show_table(db, "bruteforce")
            assert (
                verbs.shown(entry, verbose=True)
                .split("\n")[1]
                .startswith("\tCleared:     Wed Nov 25 08:00:01 2026")
            )

    run(scene())


@each_engine
@pytest.mark.row("PF-05")
def test_too_many_entries_are_refused_whole(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            db = here.database
            many = [f"10.{at // 250}.{at % 250}.1" for at in range(2_500)]
            assert (await verbs.add_entries(db, "spamd", many, T, tables_max=2_500)).done == 2_500
            with pytest.raises(TableFull):
                await verbs.add_entries(db, "nospamd", ["192.0.2.1"], T, tables_max=2_500)
            with pytest.raises(TableFull):
                await verbs.replace_entries(db, "spamd", [*many[1:], "192.0.2.1", "192.0.2.2"], T, tables_max=2_500)
            await here.learn()
            assert here.gate.sizes()["spamd"] == 2_500
            assert (await verbs.replace_entries(db, "spamd", many[:10], T, tables_max=2_500)).text == (
                "2490 addresses deleted."
            )
            assert len(await verbs.show_table(db, "spamd")) == 10

    run(scene())


@each_engine
@pytest.mark.row("GR-09")
def test_the_greylist_is_kept_by_hand_in_spamdbs_words(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            db, hour = here.database, later(T, seconds(3600))
            await verbs.add_white(db, ["192.0.2.1"], T, QUIET)
            await verbs.add_white(db, ["192.0.2.1"], hour, QUIET)
            await verbs.add_trapped(db, ["192.0.2.2"], T, QUIET)
            await verbs.add_spamtraps(db, ["<Trap@Example.ORG>"], T)
            assert verbs.spamdb_lines(await verbs.grey_records(db)) == (
                b"SPAMTRAP|trap@example.org\n"
                + f"WHITE|192.0.2.1|||{S}|{S + 3600}|{S + 3600 + 36 * 86_400}|1|1\n".encode()
                + f"TRAPPED|192.0.2.2|{S + 86_400}\n".encode()
            )
            found = await verbs.grey_records(db, ["192.0.2.2", "TRAP@example.org", "192.0.2.9"])
            assert [record.state for record in found] == [State.TRAPPED, State.SPAMTRAP]
            states = await verbs.grey_states(db)
            assert (states[State.WHITE], states[State.TRAPPED], states[State.SPAMTRAP], states[State.GREY]) == (
                1,
                1,
                1,
                0,
            )
            assert await verbs.delete_records(db, ["192.0.2.1", "trap@example.org", "192.0.2.9"]) == ["192.0.2.9"]
            with pytest.raises(GateRefusal, match="invalid ip address nobody"):
                await verbs.add_white(db, ["192.0.2.4", "nobody"], T, QUIET)
            with pytest.raises(GateRefusal, match="not an email address: nobody"):
                await verbs.add_spamtraps(db, ["nobody"], T)
            assert len(await verbs.grey_records(db)) == 1

    run(scene())


@pytest.mark.row("GR-09")
def test_one_tuple_of_a_host_is_deleted_at_a_time() -> None:
    async def scene() -> None:
        async with world() as here:
            for name in ("ann", "bob"):
                here.offer(recipient=f"{name}@example.org")
                here.clock.move(1)
            await here.learn()
            assert await verbs.delete_grey(here.database, ["198.51.100.7"]) == []
            assert [b"bob" in record.key for record in await verbs.grey_records(here.database)] == [True]
            assert await verbs.delete_grey(here.database, ["198.51.100.7"]) == []
            assert await verbs.delete_grey(here.database, ["198.51.100.7"]) == ["198.51.100.7"]

    run(scene())


@pytest.mark.row("GR-09", "SMTP-24")
def test_a_grey_line_has_what_the_client_said_octet_for_octet() -> None:
    key = b"192.0.2.1\n\n<\xff|'@b>\n<c@d>"
    record = Record(key, Kind.TUPLE, "192.0.2.1", T, Instant(T + 1), Instant(T + 2_000_000), 3, 0)
    assert verbs.spamdb_octets(record) == b"GREY|192.0.2.1||<\xff|'@b>|<c@d>|%d|%d|%d|3|0" % (S, S, S + 2)
    assert verbs.spamdb_line(record).startswith("GREY|192.0.2.1||<\\xff|'@b>|<c@d>|")
