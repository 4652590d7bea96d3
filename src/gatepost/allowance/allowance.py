"""Count what an account sends, and say when it is too much.

The count is a step of the unit that accepts the mail, so neither is there without the other. It is read before: two
sessions of one account that end a mail in the same moment may both find room. What is sent beyond the limit is then
no more than those sessions' recipients. Slots are ten minutes long, and the one that an hour began in counts whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gatepost.accounts.model import AccountId
from gatepost.allowance import sql
from gatepost.allowance.settings import AllowanceSettings
from gatepost.base.clock import DAY, HOUR, MINUTE, Instant
from gatepost.base.ids import MailId, minted_at
from gatepost.db.unit import Database, Step, Unit

SLOT: Final = 10 * MINUTE
HOUR_SLOTS: Final = HOUR // SLOT
DAY_SLOTS: Final = DAY // SLOT
USUAL: Final = -1
"""An account's own limit that is none: the settings' counts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Recipients in an hour and in a day; 0 is no limit."""

    per_hour: int
    per_day: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an account stands: recipients of the last hour and day, its limits, and its mails that are held."""

    hour: int
    day: int
    limits: Limits
    held: tuple[MailId, ...] = ()

    def too_many(self, recipients: int) -> str:
        """Return which limit so many more would pass, in words; empty for none."""
        for sent, most, span in ((self.hour, self.limits.per_hour, "hour"), (self.day, self.limits.per_day, "day")):
            if most and sent + recipients > most:
                return f"{sent} recipients in the last {span}, and {recipients} more: the limit is {most}"
        return ""

    @property
    def share(self) -> float:
        """Return the largest share of a limit that is used, 1.0 for all of it."""
        pairs = ((self.hour, self.limits.per_hour), (self.day, self.limits.per_day))
        return max((sent / most for sent, most in pairs if most), default=0.0)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is done with a mail: `steps` belong into its unit. `why` says why it is held; empty: it is sent."""

    steps: tuple[Step, ...]
    why: str = ""
    full: bool = False
    """So much is held already that it is not taken at all."""


class Allowance:
    """Ask `rule` for each mail of an account that goes elsewhere."""

    def __init__(self, settings: AllowanceSettings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def renew(self, settings: AllowanceSettings) -> None:
        """Rule by these from now on."""
        self._settings = settings

    async def rule(self, account: AccountId, mail: MailId, recipients: int, now: Instant) -> Ruling:
        """Decide about a mail to so many recipients elsewhere."""
        standing = await self.standing(account, now)
        why = standing.too_many(recipients)
        if not why:
            return Ruling(_count_steps(account, recipients, now))
        if len(standing.held) >= self._settings.held:
            return Ruling((), why, full=True)
        return Ruling((Step(sql.HOLD, {"mail": mail, "account": account}),), why)

    async def standing(self, account: AccountId, now: Instant) -> Standing:
        """Return where an account stands."""
        slot = _slot(now)
        ((hour, day),) = await self._database.read(
            sql.SENT, {"account": account, "hour": slot - HOUR_SLOTS, "day": slot - DAY_SLOTS}
        )
        held = await self._database.read(sql.HELD, {"account": account})
        limits = await self._limits(account, now)
        return Standing(_number(hour), _number(day), limits, tuple(MailId(_number(row[0])) for row in held))

    async def _limits(self, account: AccountId, now: Instant) -> Limits:
        chosen = self._settings
        new = now - minted_at(account) < chosen.new_days * DAY
        hour, day = (chosen.new_per_hour, chosen.new_per_day) if new else (chosen.per_hour, chosen.per_day)
        own = await self._database.read(sql.OWN, {"account": account})
        if own:
            own_hour, own_day = _number(own[0][0]), _number(own[0][1])
            hour, day = hour if own_hour == USUAL else own_hour, day if own_day == USUAL else own_day
        return Limits(hour, day)

    async def set_own(self, account: AccountId, *, per_hour: int | None, per_day: int | None) -> None:
        """Give an account limits of its own, USUAL for none; what is None stays as it is."""
        own = await self._database.read(sql.OWN, {"account": account})
        old_hour, old_day = (_number(own[0][0]), _number(own[0][1])) if own else (USUAL, USUAL)
        params = {
            "account": account,
            "per_hour": old_hour if per_hour is None else per_hour,
            "per_day": old_day if per_day is None else per_day,
        }
        await self._database.commit(Unit((Step(sql.SET_OWN, params),)))

    async def busy(self, now: Instant) -> Sequence[AccountId]:
        """Return the accounts that sent in the last day, have mail held, or have limits of their own."""
        rows = await self._database.read(sql.BUSY, {"day": _slot(now) - DAY_SLOTS})
        return [AccountId(_number(row[0])) for row in rows]


def let_go_step(mail: MailId) -> Step:
    """Return the step after which a mail is not held for its account's sake any more."""
    return Step(sql.LET_GO, {"mail": mail})


def _count_steps(account: AccountId, recipients: int, now: Instant) -> tuple[Step, ...]:
    slot = _slot(now)
    return (
        Step(sql.COUNT, {"account": account, "slot": slot, "recipients": recipients}),
        Step(sql.FORGET, {"account": account, "day": slot - DAY_SLOTS}),
    )


def _slot(now: Instant) -> int:
    return now // SLOT


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value
