"""pfctl's and spamdb's verbs, in their words."""

import pytest

from gatepost.base.clock import Instant, later, seconds
from gatepost.gate import verbs
from gatepost.gate.grey import Kind, Record
from gatepost.gate.verbs import GateRefusal
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

            async def show() -> set[str]:
                entries = await verbs.show_table(db, "spamd")
                return {f"{'!' if entry.negated else ''}{entry.text}" for entry in entries}

            added = await verbs.add_entries(
                db, "spamd", ["192.0.2.1", "192.0.2.0/24", "!2001:db8::1", "192.0.2.1"], T
            )
            assert (added.done, added.text) == (3, "3/4 addresses added.")
            assert await show() == {"192.0.2.0/24", "192.0.2.1", "!2001:db8::1"}
            assert (await verbs.add_entries(db, "spamd", ["!192.0.2.1"], T)).text == "0/1 addresses added."
            assert (await verbs.delete_entries(db, "spamd", ["192.0.2.0/25"])).text == "0/1 addresses deleted."
            assert (await verbs.delete_entries(db, "spamd", ["!2001:db8::1"])).text == "1/1 addresses deleted."
            replaced = await verbs.replace_entries(db, "spamd", ["192.0.2.1", "10.0.0.0/8", "10.0.0.1"], T)
            assert replaced.text == "2 addresses added.\n1 addresses deleted."
            again = await verbs.replace_entries(db, "spamd", ["192.0.2.1", "10.0.0.0/8", "10.0.0.1"], T)
            assert again.text == "no changes."
            tested = await verbs.test_entries(db, "spamd", ["10.0.0.1", "203.0.113.1"])
            assert (tested.done, tested.asked, tested.text) == (1, 2, "1/2 addresses match.")
            with pytest.raises(GateRefusal, match="illegal test address"):
                await verbs.test_entries(db, "spamd", ["10.0.0.0/24"])
            assert (await verbs.flush_table(db, "spamd")).text == "3 addresses deleted."

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
            assert (await verbs.expire_entries(db, "bruteforce", 86_400, at[1])).done == 1
            late = later(at[1], seconds(86_400))
            assert (await verbs.zero_table(db, "bruteforce", late)).text == "1 table/stats cleared."
            assert (await verbs.expire_entries(db, "bruteforce", 86_400, late)).done == 0

    run(scene())


@each_engine
@pytest.mark.row("GR-09")
def test_the_greylist_is_kept_by_hand_in_spamdbs_words(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with world(open_db=open_db) as here:
            db = here.database
            await verbs.add_white(db, ["192.0.2.1"], T, QUIET)
            await verbs.add_trapped(db, ["192.0.2.2"], T, QUIET)
            await verbs.add_spamtraps(db, ["<Trap@Example.ORG>"], T)
            assert {verbs.spamdb_line(record) for record in await verbs.grey_records(db)} == {
                "SPAMTRAP|trap@example.org",
                f"WHITE|192.0.2.1|||{S}|{S}|{S + 36 * 86_400}|1|0",
                f"TRAPPED|192.0.2.2|{S + 86_400}",
            }
            assert await verbs.delete_records(db, ["192.0.2.1", "trap@example.org", "192.0.2.9"]) == ["192.0.2.9"]
            with pytest.raises(GateRefusal, match="invalid ip address nobody"):
                await verbs.add_white(db, ["192.0.2.4", "nobody"], T, QUIET)
            with pytest.raises(GateRefusal, match="not an email address: nobody"):
                await verbs.add_spamtraps(db, ["nobody"], T)
            assert len(await verbs.grey_records(db)) == 1

    run(scene())


@pytest.mark.row("GR-09", "SMTP-24")
def test_a_grey_line_has_what_the_client_said() -> None:
    key = b"192.0.2.1\n\n<a|'@b>\n<c@d>"
    record = Record(key, Kind.TUPLE, "192.0.2.1", T, Instant(T + 1), Instant(T + 2_000_000), 3, 0)
    assert verbs.spamdb_line(record) == f"GREY|192.0.2.1||<a|'@b>|<c@d>|{S}|{S}|{S + 2}|3|0"
