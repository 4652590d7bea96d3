"""The call to the primary: what its answers mean, how long they hold, and what it costs."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from gatepost.accounts.verbs import parse_address
from gatepost.backupmx.callahead import REFUSED_MAX, REST_S, CallAhead
from gatepost.backupmx.settings import BackupSettings
from gatepost.base.units import Seconds
from gatepost.codec.recipients import Known
from gatepost.policy.action import Route
from tests.queue.world import Clock
from tests.relay.world import Journal, relay
from tests.support.loop import run
from tests.support.nexthop import DROP, HANG, NextHop

YES, NO, OPEN = Known.YES, Known.NO, Known.OPEN
SETTINGS = BackupSettings(call_time=Seconds(2))


@dataclass
class Phone:
    """A backup that calls."""

    ahead: CallAhead
    clock: Clock
    log: Journal

    async def ask(self, local: str = "bob") -> Known:
        return await self.ahead.ask(parse_address(f"{local}@there.example"), Route())


@asynccontextmanager
async def phone(hop: NextHop, settings: BackupSettings = SETTINGS) -> AsyncIterator[Phone]:
    clock, log = Clock(), Journal()
    ahead = CallAhead(relay(hop.port).reach, settings, clock=clock, log=log)
    try:
        yield Phone(ahead, clock, log)
    finally:
        ahead.close()


@pytest.mark.parametrize(
    ("answers", "known"),
    [
        ({"RCPT": b"250 2.1.5 ok\r\n"}, YES),
        ({"RCPT": b"251 2.1.5 will forward\r\n"}, YES),
        ({"RCPT": b"550 5.1.1 who?\r\n"}, NO),
        ({"RCPT": b"550 who?\r\n"}, NO),
        ({"RCPT": b"450 4.2.0 greylisted\r\n"}, OPEN),
        ({"RCPT": b"552 5.2.2 full\r\n"}, OPEN),
        ({"RCPT": b"550 5.7.1 not from you\r\n"}, OPEN),
        ({"RCPT": b"421 4.3.2 leaving\r\n"}, OPEN),
        ({"MAIL": b"550 5.7.1 no sender, no mail\r\n", "RCPT": b"503 5.5.1 MAIL first\r\n"}, OPEN),
        ({"greeting": b"554 5.7.1 go away\r\n"}, OPEN),
        ({"RCPT": DROP}, OPEN),
    ],
)
def test_only_a_clear_answer_is_one(answers: Mapping[str, object], known: Known) -> None:
    async def story() -> None:
        async with NextHop(answers) as hop, phone(hop) as here:
            assert await here.ask() is known

    run(story())


def test_a_primary_that_says_nothing_keeps_nobody_waiting() -> None:
    async def story() -> None:
        settings = BackupSettings(call_time=Seconds(0.1))
        async with NextHop({"RCPT": HANG}) as hop, phone(hop, settings) as here:
            assert await here.ask() is OPEN

    run(story())


def test_answers_are_remembered_each_for_its_time() -> None:
    async def story() -> None:
        async with NextHop(recipients={"nobody@there.example": b"550 5.1.1 who?\r\n"}) as hop, phone(hop) as here:

            def asked() -> int:
                return sum(line.startswith(b"RCPT") for line in hop.commands)

            for _ in range(3):
                assert (await here.ask("bob"), await here.ask("nobody")) == (YES, NO)
            assert asked() == 2
            here.clock.pass_by(3 * 3600 + 1)
            assert (await here.ask("bob"), await here.ask("nobody")) == (YES, NO)
            assert asked() == 3
            here.clock.pass_by(7 * 86_400)
            assert await here.ask("bob") is YES
            assert asked() == 4

    run(story())


def test_one_question_is_asked_once_for_all_who_wait_and_on_one_connection() -> None:
    async def story() -> None:
        async with NextHop() as hop, phone(hop) as here:
            found = await asyncio.gather(*(here.ask(f"user{n % 5}") for n in range(50)))
            assert set(found) == {YES}
            assert sum(line.startswith(b"RCPT") for line in hop.commands) == 5
            assert sum(line.startswith(b"EHLO") for line in hop.commands) == 1
            assert not any(line.startswith(b"DATA") for line in hop.commands)

    run(story())


def test_a_session_ends_before_the_primary_is_annoyed_by_refusals() -> None:
    async def story() -> None:
        async with NextHop({"RCPT": b"550 5.1.1 who?\r\n"}) as hop, phone(hop) as here:
            for n in range(3 * REFUSED_MAX):
                assert await here.ask(f"guess{n}") is NO
            assert sum(line.startswith(b"EHLO") for line in hop.commands) == 3

    run(story())


def test_a_primary_that_is_away_is_left_alone_for_a_while_and_then_asked_again() -> None:
    async def story() -> None:
        async with NextHop({"greeting": DROP}) as hop, phone(hop) as here:
            for n in range(20):
                assert await here.ask(f"user{n}") is OPEN
            assert here.log.words().count("recipient_not_asked") == 1
            hop.answers = {}
            here.clock.pass_by(REST_S + 1)
            assert await here.ask() is YES

    run(story())
