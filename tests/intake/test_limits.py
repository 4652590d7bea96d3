"""Send limits, from the wire to the queue: what is too much is held, people are told once, nothing is lost."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gatepost.allowance.allowance import Allowance
from gatepost.allowance.settings import AllowanceSettings
from gatepost.base.address import Address
from gatepost.base.ids import MailId
from gatepost.diary.verbs import trace
from tests.intake.world import PLAIN_BOB, World, world
from tests.support.loop import run

MAIL = b"From: bob@here.example\r\nSubject: x\r\n\r\nhi\r\n"
SENDER = "<bob@here.example>"


@dataclass
class Letters:
    """Remembers what people were told."""

    told: list[tuple[str, str, list[str]]] = field(default_factory=list)

    async def begin(self, name: str, subject: str, text: str, to: Sequence[Address] = ()) -> bool:
        """Tell them."""
        self.told.append((name.partition(":")[0], subject, [str(each) for each in to]))
        return True


def limited(here: World, **settings: int) -> Letters:
    """Put limits in force; accounts of these tests are new."""
    letters = Letters()
    chosen = AllowanceSettings(**{"new_per_hour": 2, "held": 1, **settings})
    here.services = replace(here.services, allowance=Allowance(chosen, here.database), letters=letters)
    return letters


async def states(here: World) -> list[tuple[object, ...]]:
    """Return (recipient, held, why) of what waits."""
    rows = await here.rows("SELECT recipient, state, last_error FROM queue_rcpt ORDER BY mail, position")
    return [tuple(row) for row in rows]


def test_the_mail_over_the_limit_is_held_and_the_one_after_the_last_place_is_put_off() -> None:
    async def scene() -> None:
        async with world() as here:
            letters = limited(here)
            async with here.client("submission", tls=True) as talk:
                await talk.say(PLAIN_BOB)
                replies = [await talk.mail(MAIL, SENDER, f"x{n}@far.example") for n in range(4)]
                assert replies == ["250 2.0.0", "250 2.0.0", "250 2.0.0", "452 4.7.1"]
            why = "held: 2 recipients in the last hour, and 1 more: the limit is 2"
            assert await states(here) == [
                ("x0@far.example", 0, ""),
                ("x1@far.example", 0, ""),
                ("x2@far.example", 1, why),
            ]
            assert letters.told == [
                ("sending", "bob@here.example has sent very much: mail is held", ["bob@here.example"])
            ]
            ((mail,),) = await here.rows("SELECT mail FROM queue_rcpt WHERE state = 1")
            events = [line.event for line in await trace(here.database, MailId(int(str(mail))))]
            assert "held" in events

    run(scene())


def test_all_recipients_of_a_mail_count_and_it_is_held_whole() -> None:
    async def scene() -> None:
        async with world() as here:
            limited(here)
            async with here.client("submission", tls=True) as talk:
                await talk.say(PLAIN_BOB)
                to = ("a@far.example", "b@far.example", "c@far.example")
                assert await talk.mail(MAIL, SENDER, *to) == "250 2.0.0"
            assert [state for _, state, _ in await states(here)] == [1, 1, 1]

    run(scene())


def test_mail_between_mailboxes_here_is_not_counted_and_goes_on() -> None:
    async def scene() -> None:
        async with world() as here:
            limited(here)
            async with here.client("submission", tls=True) as talk:
                await talk.say(PLAIN_BOB)
                for _ in range(5):
                    assert await talk.mail(MAIL, SENDER, "alice@here.example") == "250 2.0.0"
                to = ("alice@here.example", "a@far.example", "b@far.example", "c@far.example")
                assert await talk.mail(MAIL, SENDER, *to) == "250 2.0.0"
            assert len(await here.mails("alice")) == 6
            assert [state for _, state, _ in await states(here)] == [1, 1, 1]

    run(scene())


def test_strangers_whose_mail_is_forwarded_are_not_counted() -> None:
    async def scene() -> None:
        async with world() as here:
            limited(here, new_per_hour=1, per_hour=1)
            async with here.client() as talk:
                for _ in range(3):
                    assert await talk.mail(MAIL, "<a@sender.example>", "team@here.example") == "250 2.0.0"
            assert {state for _, state, _ in await states(here)} == {0}

    run(scene())
