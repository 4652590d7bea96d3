"""Give keys successors in time, and let each sign as soon as the world can see it.

    a key is `rotate` old          a successor is made, and the postmaster told what to publish
    the DNS shows the successor    it signs, its forerunner is retired
    LEAVE_PUBLISHED later          the forerunner's private half is gone, and its record may go

Nothing signs that cannot be verified: a postmaster on leave delays a rotation and breaks no mail.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from gatepost.base.address import Address
from gatepost.base.clock import MICROSECONDS, Clock
from gatepost.base.ports import Log
from gatepost.db.unit import Database, NotCommitted
from gatepost.judge import verbs
from gatepost.judge.dkim import KeyNames
from gatepost.judge.keys import KeyFile
from gatepost.judge.published import Seen, look
from gatepost.judge.settings import SigningSettings
from gatepost.judge.verbs import LEAVE_PUBLISHED, PublishedKey, Turn

ROUND_S: Final = 900.0


class Letters(Protocol):
    """Tells the postmaster once of each thing."""

    def begin(self, name: str, subject: str, text: str, to: Sequence[Address] = ()) -> Awaitable[bool]:
        """Write, unless it was written."""
        ...


class Rotation:
    """Looks at all keys each round; one process does it for all."""

    def __init__(
        self,
        database: Database,
        key_file: KeyFile,
        names: KeyNames,
        letters: Letters,
        settings: Callable[[], SigningSettings],
        clock: Clock,
        log: Log,
    ) -> None:
        self._database = database
        self._key_file = key_file
        self._names = names
        self._letters = letters
        self._settings = settings
        self._clock = clock
        self._log = log

    async def run(self) -> None:
        """Look again and again."""
        while True:
            try:
                await self.round()
            except (NotCommitted, OSError) as problem:
                self._log.warning("dkim_rotation_failed", problem=type(problem).__name__, text=str(problem))
            await asyncio.sleep(ROUND_S)

    async def round(self) -> None:
        """Do what is due now."""
        domains: dict[str, list[PublishedKey]] = defaultdict(list)
        for key in await verbs.list_keys(self._database):
            domains[key.domain].append(key)
        for known in domains.values():
            await self._begin_seen(known)
            await self._make_due(known)
            await self._drop_old(known)

    async def _begin_seen(self, known: Sequence[PublishedKey]) -> None:
        for key in known:
            if key.turn is Turn.WAITS and await look(self._names, key) is Seen.MATCHES:
                retired = await verbs.take_over(self._database, key, known, self._clock.now())
                self._log.info("dkim_key_signs", key=key.name, retired=[each.selector for each in retired])

    async def _make_due(self, known: Sequence[PublishedKey]) -> None:
        rotate, now = self._settings().rotate, self._clock.now()
        if not rotate:
            return
        for key in verbs.successors(known):
            if (key.begins_at or key.made_at) + int(rotate * MICROSECONDS) <= now:
                made = await verbs.make_successor(self._database, self._key_file, key, known, now)
                self._log.info("dkim_key_made", key=made.name)
                await self._letters.begin(f"dkim:{made.name}", f"publish {made.name}", _publish(made, key))

    async def _drop_old(self, known: Sequence[PublishedKey]) -> None:
        for key in known:
            if key.ends_at is not None and key.ends_at + LEAVE_PUBLISHED <= self._clock.now():
                await verbs.drop_key(self._database, key.domain, key.selector)
                self._log.info("dkim_key_dropped", key=key.name)
                text = f"No mail signed with it can be under way any more. Take {key.name} out of the zone.\r\n"
                await self._letters.begin(f"dkim-gone:{key.name}", f"{key.name} may go from the DNS", text)


def _publish(made: PublishedKey, before: PublishedKey) -> str:
    record = made.zone_line().replace("\n", "\r\n")
    return (
        f"The DKIM key {before.selector} of {made.domain} is due for a successor. Add this to the zone:\r\n\r\n"
        f"{record}\r\n\r\n"
        f"As soon as the DNS shows it, it signs. Leave the record of {before.selector} where it is: another\r\n"
        "letter says when it may go. Until then nothing changes.\r\n"
    )
