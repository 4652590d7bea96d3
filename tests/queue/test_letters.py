"""Letters about what must be mended: one for each incident, into mailboxes here."""

from email import message_from_bytes, policy
from pathlib import Path

from gatepost.base.ids import parse_id
from gatepost.diary.verbs import trace
from gatepost.queue.logins import LoginLetters
from tests.policy.world import People
from tests.queue.world import World, address, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

OURS = People(aliases={"postmaster@here.example": ("joe@here.example",)})


def letters_of(w: World) -> list[tuple[str, str]]:
    """Return (to, subject) of what was filed."""
    found = [message_from_bytes(content, policy=policy.default) for _, content in w.boxes.filed]
    return [(str(each["To"]), str(each["Subject"])) for each in found]


@each_engine
def test_an_incident_is_told_once_until_it_is_over(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, people=OURS) as w:
            letters = w.letters()
            assert await letters.begin("x", "Something is wrong", "Mend it.\n", [address("ann@here.example")])
            assert not await letters.begin("x", "Something is wrong", "Mend it.\n")
            told = [("ann@here.example", "Something is wrong"), ("postmaster@here.example", "Something is wrong")]
            assert letters_of(w) == told
            assert not await w.letters().begin("x", "After a restart", "")
            await letters.end("x")
            assert await letters.begin("x", "Again", "")
            assert len(w.boxes.filed) == 3

    run(play())


@each_engine
def test_a_letter_is_a_plain_mail_that_no_vacation_answers_and_has_a_story(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, people=OURS) as w:
            await w.letters().begin("x", "Größe", "One line.\nÄnother.\n")
            ((_, content),) = w.boxes.filed
            assert content.startswith(b"X-Sealed: mx.here.example\r\n")
            mail = message_from_bytes(content, policy=policy.default)
            assert not mail.defects
            assert mail["Auto-Submitted"] == "auto-generated"
            assert mail.get_content() == "One line.\r\nÄnother.\r\n"
            number = str(mail["Message-ID"]).strip("<>").partition("@")[0]
            assert [line.event for line in await trace(w.database, parse_id(number))] == ["letter"]
            assert (await w.counts())[:2] == (0, 0)

    run(play())


@each_engine
def test_an_address_without_a_mailbox_here_gets_no_letter(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, people=OURS) as w:
            assert await w.letters().begin("x", "Hello", "", [address("x@far.example")])
            assert letters_of(w) == [("postmaster@here.example", "Hello")]
            assert await w.rows() == []

    run(play())


@each_engine
def test_a_refused_password_is_told_once_and_again_after_it_has_worked(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, people=OURS) as w:
            logins = LoginLetters(w.letters())
            for _ in range(3):
                await logins.refused("me", "smtp.provider.example", "535 no")
            await LoginLetters(w.letters()).refused("me", "smtp.provider.example", "535 no")  # after a restart
            assert len(w.boxes.filed) == 1
            assert b'the line "me" of relay.credentials' in w.boxes.filed[0][1]
            await logins.worked("me")
            await logins.worked("me")
            await logins.refused("me", "smtp.provider.example", "535 no")
            assert len(w.boxes.filed) == 2

    run(play())
