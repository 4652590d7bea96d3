"""From which addresses a user may write, and where that is checked."""

from dataclasses import replace

import pytest

from gatepost.base.settings import BadSetting
from gatepost.intake.settings import SenderCheck
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load
from gatepost.policy.settings import PolicySettings
from gatepost.policy.table import TableSettings
from tests.intake.world import PLAIN_BOB, World, world
from tests.support.loop import run

TABLE = {"bob@here.example": "info@club.example, @team.example", "alice": "*@*"}


def ruled(here: World) -> None:
    """Put a table of senders in force."""
    settings = PolicySettings(tables={"senders": TableSettings(entries=TABLE)}, senders="senders")
    here.services = replace(here.services, policy=Policy(settings, load(settings), own_names=("mx.example",)))


def sent(check: SenderCheck, envelope: str, author: str) -> str:
    """Let Bob send a mail; return the code of the first refusal, or of the end."""

    async def scene() -> str:
        async with world(sender_check=check) as here:
            ruled(here)
            async with here.client("submission", tls=True) as talk:
                await talk.say(PLAIN_BOB)
                (answer,) = await talk.say(f"MAIL FROM:<{envelope}>")
                if not answer.startswith("250"):
                    return answer
                await talk.say("RSET")
                mail = f"From: {author}\r\nSubject: x\r\n\r\nhi\r\n".encode()
                return await talk.mail(mail, f"<{envelope}>", "out@far.example")

    return run(scene())


@pytest.mark.parametrize(
    ("check", "envelope", "author", "answer"),
    [
        (SenderCheck.BOTH, "bob@here.example", "bob@here.example", "250 2.0.0"),
        (SenderCheck.BOTH, "bob+list@here.example", "bob@here.example", "250 2.0.0"),
        (SenderCheck.BOTH, "info@club.example", "Info <INFO@club.example>", "250 2.0.0"),
        (SenderCheck.BOTH, "any@team.example", "bob@here.example", "250 2.0.0"),
        (SenderCheck.BOTH, "other@club.example", "bob@here.example", "553 5.7.1"),
        (SenderCheck.BOTH, "bob@here.example", "alice@here.example", "553 5.7.1"),
        (SenderCheck.BOTH, "bob@here.example", "bob@here.example, alice@here.example", "553 5.7.1"),
        (SenderCheck.ENVELOPE, "bob@here.example", "alice@here.example", "250 2.0.0"),
        (SenderCheck.ENVELOPE, "alice@here.example", "bob@here.example", "553 5.7.1"),
        (SenderCheck.OFF, "alice@here.example", "x@far.example", "250 2.0.0"),
    ],
)
def test_who_may_write_as_whom(check: SenderCheck, envelope: str, author: str, answer: str) -> None:
    assert sent(check, envelope, author) == answer


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({}, "there is no table 'senders'"),
        ({"senders": TableSettings(entries={"bob": ""})}, "'bob' has no"),
        ({"senders": TableSettings(entries={"bob": "a b"})}, "'a b' is no address"),
    ],
)
def test_a_table_of_senders_that_makes_no_sense_is_named(tables: dict[str, TableSettings], problem: str) -> None:
    with pytest.raises(BadSetting, match=problem):
        load(PolicySettings(tables=tables, senders="senders"))
