"""Stories of accepted mails: told once, continued, found again, and forgotten in time."""

from dataclasses import replace

from gatepost import diary
from gatepost.base.address import Address
from gatepost.base.clock import DAY, MINUTE, Instant, later, seconds
from gatepost.base.ids import Minter
from gatepost.db.unit import Database, Statement, Unit
from gatepost.diary.packing import LINES_OCTETS_MAX, Line, fingerprint, pack, unpack
from gatepost.diary.settings import DiarySettings
from gatepost.diary.sql import SCHEMA
from gatepost.diary.story import LINES_MAX, first_id_at
from gatepost.diary.verbs import newest, sweep, trace
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

NOW = Instant(1_795_420_800_123_456)
ANN = Address("Ann", "sender.example")
JOE, PAT = Address("joe", "example.org"), Address("pat", "example.org")


async def count(database: Database, table: str) -> int:
    """Return how many rows a table has."""
    return int(str((await database.read(Statement("test.count", f"SELECT COUNT(*) FROM {table}"), {}))[0][0]))


@each_engine
def test_a_mail_is_found_by_its_id_and_by_everybody_it_concerns(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with open_db((SCHEMA,)) as database:
            mail = Minter(0).mint(NOW)
            story = diary.Story(mail, ANN)
            story.for_recipient(JOE)
            story.for_recipient(PAT)
            story.tell("intake", "received", at=later(NOW, seconds(2)), size=5120, tls="TLSv1.3")
            story.tell("judge", "judged", spf="pass")
            await database.commit(Unit(story.steps()))
            sent = diary.add(mail, "relay", "sent", at=later(NOW, MINUTE), host="mx.example")
            again = diary.add(mail, "relay", "sent", at=later(NOW, MINUTE), host="mx2.example")
            await database.commit(Unit((sent, again)))
            whole = await trace(database, mail)
            assert [(line.stage, line.event) for line in whole] == [
                ("intake", "received"),
                ("judge", "judged"),
                ("relay", "sent"),
                ("relay", "sent"),
            ]
            assert whole[0].fields == (("size", 5120), ("tls", "TLSv1.3"))
            assert whole[0].at == whole[1].at == NOW // 1000 * 1000 + seconds(2)
            for who in (ANN, Address("ann", "SENDER.example"), JOE, PAT):
                assert await trace(database, who) == whole
            assert await trace(database, Address("eve", "example.org")) == []
            assert await newest(database) == [(mail, whole[:2])]

    run(play())


@each_engine
def test_old_stories_go_with_all_that_belongs_to_them(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with open_db((SCHEMA,)) as database:
            minter = Minter(0)
            for day in range(40):
                mail = minter.mint(later(NOW, day * DAY))
                story = diary.Story(mail)
                story.for_recipient(JOE)
                story.for_recipient(PAT)
                line = diary.add(mail, "relay", "sent", at=later(NOW, day * DAY))
                await database.commit(Unit((*story.steps(), line)))
            assert await sweep(database, DiarySettings(), later(NOW, 39 * DAY)) == 9
            assert [await count(database, each) for each in ("story", "story_party", "story_line")] == [31] * 3
            settings = DiarySettings(stories_max=1000)
            assert await sweep(database, settings, later(NOW, 39 * DAY)) == 0
            assert await sweep(database, replace(settings, keep_accepted=DiarySettings().keep_refused), NOW) == 0

    run(play())


@each_engine
def test_above_the_limit_of_rows_the_oldest_go(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with open_db((SCHEMA,)) as database:
            minter = Minter(0)
            mails = [minter.mint(later(NOW, n * MINUTE)) for n in range(1100)]
            await database.commit(Unit(tuple(diary.Story(mail).step() for mail in mails)))
            assert await sweep(database, DiarySettings(stories_max=1000), later(NOW, DAY)) == 100
            assert await count(database, "story") == 1000
            assert await trace(database, mails[99]) == []
            assert len(await newest(database, 5000)) == 1000

    run(play())


def test_a_story_has_an_end() -> None:
    story = diary.Story(Minter(0).mint(NOW))
    for n in range(3 * LINES_MAX):
        story.tell("intake", "line", n=n)
    assert len(story.lines) <= LINES_MAX
    wordy = diary.Story(Minter(0).mint(NOW))
    for _ in range(1000):
        wordy.tell("intake", "said", text="x" * 100_000)
    assert all(len(str(line.fields["text"])) == 500 for line in wordy.lines)
    assert len(unpack(pack(list(wordy.lines)))) == len(wordy.lines)
    assert sum(len(str(line.fields)) for line in wordy.lines) < LINES_OCTETS_MAX


def test_packing_loses_nothing() -> None:
    for lines in (
        [],
        [Line(0, "a", "b", {})],
        [Line(-5, "gate", "passed", {"ip": "192.0.2.1", "n": 1 << 40})] * 50,
    ):
        assert unpack(pack(lines)) == lines
    assert len(pack([Line(1, "intake", "received", {"size": 1})] * 50)) < 200


def test_fingerprints_and_ids_have_the_right_range() -> None:
    assert fingerprint("") == 0
    assert -(1 << 63) <= fingerprint("ann@sender.example") < 1 << 63
    assert fingerprint("\ud800@x") != 0
    assert first_id_at(NOW) <= Minter(0).mint(NOW) < first_id_at(later(NOW, 1000))
    assert first_id_at(Instant(0)) == 0
