"""How much an account may send: counts that slide, limits of its own, what is held."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gatepost.accounts.model import AccountId
from gatepost.allowance.allowance import USUAL, Allowance, Limits, let_go_step
from gatepost.allowance.settings import AllowanceSettings
from gatepost.allowance.sql import SCHEMA
from gatepost.base.clock import DAY, HOUR, MINUTE, Instant, later
from gatepost.base.ids import MailId, Minter
from gatepost.db.unit import Database, Unit
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

NOW = Instant(1_790_000_000_000_000)
OLD = AccountId(Minter(0).mint(later(NOW, -100 * DAY)))
NEW = AccountId(Minter(0).mint(later(NOW, -3 * DAY)))
SETTINGS = AllowanceSettings(per_hour=10, per_day=25, new_days=7, new_per_hour=3, new_per_day=5, held=2)


@asynccontextmanager
async def allowance(open_db: OpenDatabase) -> AsyncIterator[tuple[Allowance, Database]]:
    """Make one in a fresh database."""
    async with open_db((SCHEMA,)) as database:
        yield Allowance(SETTINGS, database), database


class Sender:
    """Sends mails of one account."""

    def __init__(self, found: tuple[Allowance, Database], account: AccountId = OLD) -> None:
        self.allowance, self.database = found
        self.account = account
        self._next = 0

    async def send(self, recipients: int, now: Instant = NOW) -> str:
        """Send a mail; tell what became of it."""
        self._next += 1
        ruling = await self.allowance.rule(self.account, MailId(self._next), recipients, now)
        if ruling.full:
            return "full"
        await self.database.commit(Unit(ruling.steps))
        return "held" if ruling.why else "sent"


@each_engine
def test_what_is_more_than_the_limit_is_held_and_then_put_off(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with allowance(open_db) as found:
            sender = Sender(found)
            assert [await sender.send(5) for _ in range(5)] == ["sent", "sent", "held", "held", "full"]
            standing = await sender.allowance.standing(OLD, NOW)
            assert (standing.hour, standing.day, standing.held) == (10, 10, (3, 4))
            assert standing.limits == Limits(10, 25)
            assert standing.share == 1.0

    run(play())


@each_engine
def test_the_hour_and_the_day_slide(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with allowance(open_db) as found:
            sender = Sender(found)
            assert await sender.send(10) == "sent"
            assert await sender.send(1, later(NOW, HOUR // 2)) == "held"
            assert await sender.send(10, later(NOW, HOUR + 10 * MINUTE)) == "sent"
            assert await sender.send(10, later(NOW, 3 * HOUR)) == "held"  # 20 of 25 in the day
            assert await sender.send(5, later(NOW, 3 * HOUR)) == "sent"
            assert await sender.send(10, later(NOW, DAY + 10 * MINUTE)) == "sent"
            rows = await sender.allowance.standing(OLD, later(NOW, DAY + 10 * MINUTE))
            assert rows.day == 25

    run(play())


@each_engine
def test_a_mail_that_would_pass_the_limit_leaves_room_for_a_smaller_one(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with allowance(open_db) as found:
            sender = Sender(found)
            assert await sender.send(8) == "sent"
            assert await sender.send(3) == "held"
            assert await sender.send(2) == "sent"

    run(play())


@each_engine
def test_a_new_account_may_send_less(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with allowance(open_db) as found:
            sender = Sender(found, NEW)
            assert [await sender.send(3), await sender.send(1)] == ["sent", "held"]
            assert await sender.send(10, later(NOW, 5 * DAY)) == "sent"

    run(play())


@each_engine
def test_an_account_may_have_limits_of_its_own(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with allowance(open_db) as found:
            sender = Sender(found)
            await sender.allowance.set_own(OLD, per_hour=0, per_day=None)
            assert (await sender.allowance.standing(OLD, NOW)).limits == Limits(0, 25)
            assert await sender.send(25) == "sent"
            await sender.allowance.set_own(OLD, per_hour=None, per_day=1000)
            assert (await sender.allowance.standing(OLD, NOW)).limits == Limits(0, 1000)
            await sender.allowance.set_own(OLD, per_hour=USUAL, per_day=USUAL)
            assert (await sender.allowance.standing(OLD, NOW)).limits == Limits(10, 25)
            assert await sender.allowance.busy(NOW) == [OLD]

    run(play())


@each_engine
def test_what_is_let_go_is_not_held_and_old_counts_are_forgotten(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with allowance(open_db) as found:
            sender = Sender(found)
            await sender.send(10)
            await sender.send(10)
            await sender.database.commit(Unit((let_go_step(MailId(2)),)))
            assert (await sender.allowance.standing(OLD, NOW)).held == ()
            for day in range(1, 5):
                await sender.send(1, later(NOW, day * (DAY + HOUR)))
            assert (await sender.allowance.standing(OLD, later(NOW, 4 * (DAY + HOUR)))).day == 1

    run(play())


def test_settings_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="below 0"):
        AllowanceSettings(per_hour=-1)
