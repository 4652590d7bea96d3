"""The session as a whole: any octets, stress, and who is told what."""

import random
from dataclasses import replace

import pytest

from gatepost.base.verdict import Action, Verdict
from gatepost.diary.refused import sql as refused_sql
from tests.intake.world import PLAIN_BOB, code, world
from tests.support.loop import run

MAIL = b"From: Ann <a@sender.example>\r\nSubject: x\r\n\r\nbody\r\n"
WORDS = (
    b"EHLO c\r\n",
    b"MAIL FROM:<a@sender.example>\r\n",
    b"MAIL FROM:<> SMTPUTF8\r\n",
    b"RCPT TO:<bob@here.example>\r\n",
    b"RCPT TO:<team@here.example>\r\n",
    b"DATA\r\n",
    b"BDAT 9\r\n",
    b"BDAT 2 LAST\r\n",
    b"From: a@x\r\n\r\n",
    b".\r\n",
    b"\r\n.\r\n",
    b"RSET\r\n",
    b"STARTTLS\r\n",
    b"AUTH LOGIN\r\n",
    b"Ym9i\r\n",
    PLAIN_BOB.encode() + b"\r\n",
    b"\0\xff\n",
    b"x",
)


@pytest.mark.parametrize("seed", range(4))
def test_any_octets_are_answered_and_nothing_is_unforeseen(seed: int) -> None:
    async def scene() -> None:
        dice = random.Random(seed)
        async with world() as here:
            for _ in range(40):
                port = dice.choice(("mx", "submission", "lmtp"))
                async with here.client(
                    port, tls=dice.random() < 0.5, ip=f"2001:db8:{dice.randrange(9)}::1"
                ) as talk:
                    for _ in range(dice.randrange(12)):
                        said = await talk.send(b"".join(dice.choices(WORDS, k=dice.randrange(1, 4))))
                        assert all(line[:3].isdigit() for line in said.split(b"\r\n") if line)
                        if talk.wire.closed:
                            break
            assert here.log.events("intake_failed") == []
            assert (here.budget.memory, here.budget.disk) == (64 << 20, 256 << 20)

    run(scene())


def test_under_stress_sessions_are_given_less_patience() -> None:
    async def scene() -> None:
        async with world() as here:
            here.services = replace(here.services, crowded=lambda: True)
            async with here.client() as talk:
                assert code(await talk.wait(10.0)) == "421 4.4.2"
            async with here.client() as talk:
                assert await talk.say("FOO") == ["421 4.7.0"]

    run(scene())


def test_refusals_are_counted_and_told() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            await talk.say("MAIL FROM:<a@sender.example>", "RCPT TO:<nobody@here.example>")
            unit = here.refusals.unit()
            assert unit is not None
            names = [step.statement for step in unit.steps]
            assert names == [refused_sql.ADD_COUNT, refused_sql.ADD_STORY]
            assert unit.steps[0].params["reason"] == "recipient"
            assert unit.steps[0].params["net"] == "192.0.2.0/24"
            (line,) = here.log.events("refused")
            assert line["detail"] == "nobody@here.example is no account"
            assert line["reply"] == "550 5.1.1 Invalid recipient"

    run(scene())


class Opinion:
    """A judge with one opinion."""

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    async def examine(self, *_: object) -> Verdict:
        """Give it."""
        return self._verdict


@pytest.mark.parametrize(
    ("action", "recipients", "expected"),
    [
        (Action.REFUSE, ("alice@here.example",), "550 5.7.1"),
        (Action.REFUSE, ("alice@here.example", "postmaster@here.example"), "550 5.7.1"),
        (Action.REFUSE, ("postmaster@here.example",), "250 2.0.0"),
        (Action.DEFER, ("postmaster@here.example",), "451 4.7.1"),
        (Action.JUNK, ("bob@here.example",), "250 2.0.0"),
    ],
)
def test_the_judge_is_heard(action: Action, recipients: tuple[str, ...], expected: str) -> None:
    async def scene() -> None:
        async with world() as here:
            verdict = Verdict(action, score=9.0, header=b"X-Spam-Flag: YES\r\n", strip=((0, 12),))
            here.services = replace(here.services, judge=Opinion(verdict))
            async with here.client() as talk:
                assert await talk.mail(b"X-Spam: no\r\n" + MAIL, "<a@sender.example>", *recipients) == expected
            assert await here.mails("bob") == await here.mails("alice") == []
            filed = await here.mails("bob", "Junk")
            assert len(filed) == expected.startswith("250")
            assert all(b"\r\nX-Spam-Flag: YES\r\nReceived: " in each for each in filed)
            assert not any(b"X-Spam: no" in each for each in filed)

    run(scene())


def test_a_judge_that_breaks_puts_the_mail_off() -> None:
    class Broken:
        async def examine(self, *_: object) -> Verdict:
            raise TimeoutError("the judge's own")

    async def scene() -> None:
        async with world() as here:
            here.services = replace(here.services, judge=Broken())
            async with here.client() as talk:
                assert await talk.mail(MAIL) == "451 4.3.0"
                assert await talk.say("NOOP") == ["250 2.0.0"]
            assert len(here.log.events("intake_failed")) == 1

    run(scene())
