"""The worker: lease what is due, deliver it, record the results; any number of them share one queue.

    rows due --LEASE--> ours for `lease` seconds, renewed while we work --deliver--> --settle--> gone, or due again
                 `--crash--> due again when the lease ends; leased as `suspect`: possible duplicate

The docs/queue.md page argues each transition. A worker holds no more recipients than its lanes can soon use, so
many workers share the load and one dead destination is in nobody's way.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, Protocol

from gatepost.base.clock import Clock, later, seconds
from gatepost.base.ids import MailId, Minter, id_text
from gatepost.base.ports import Log
from gatepost.base.reply import Code, Reply
from gatepost.blobs.bodies import Damaged, Missing
from gatepost.db.unit import Database, NotCommitted, Row, Step, Unit, Unmet
from gatepost.policy.action import Route
from gatepost.queue.bounce import Bodies
from gatepost.queue.lanes import Lane, Lanes
from gatepost.queue.model import QueuedMail, QueuedRecipient, unpack_mail, unpack_recipient
from gatepost.queue.schedule import Steadiness, horizon
from gatepost.queue.settings import QueueSettings
from gatepost.queue.settle import Pair, Settler
from gatepost.queue.sql import (
    ALL_DUE_LANES,
    DUE_LANES,
    GIVE_BACK,
    LEASE,
    MAIL,
    NEXT_DUE,
    RENEW,
    REPAIR,
    STILL_MINE,
)
from gatepost.relay.model import Consignment, Fate, Result
from gatepost.relay.settings import RelaySettings

LEASED_MAX: Final = 1_000  # recipients in the hands of one worker
LANES_READ: Final = 200
LANES_READ_LONG: Final = 10_000
LOOK_AGAIN: Final = 60.0  # s at most between two looks
RETRY_COMMIT: Final = (0.5, 1, 2, 5, 10, 30)  # s; the last for ever
UNDER_REPAIR: Final = Reply(Code.LOCAL_ERROR, "4.3.0", "internal error, see the log")
BODY_LOST: Final = Reply(Code.LOCAL_ERROR, "4.3.0", "the stored mail cannot be read, see the log")


class Deliverer(Protocol):
    """What the worker needs of the relay."""

    async def deliver(self, consignment: Consignment) -> tuple[Result, ...]:
        """Try once; return one result for each recipient."""
        ...

    def close(self) -> None:
        """End the kept connections."""
        ...


class Worker:
    """Empties the queue until `stop` is called. One in each process."""

    def __init__(
        self,
        database: Database,
        bodies: Bodies,
        relay: Deliverer,
        settler: Settler,
        *,
        settings: QueueSettings,
        sending: RelaySettings,
        minter: Minter,
        clock: Clock,
        log: Log,
    ) -> None:
        self._database = database
        self._bodies = bodies
        self._relay = relay
        self._settler = settler
        self._clock = clock
        self._log = log
        self._lease = settings.lease
        self._owner = int(minter.mint(clock.now()))
        self._lanes = Lanes(sending.sessions_first, sending.sessions_most)
        self._sessions = asyncio.Semaphore(sending.sessions)
        self._steadiness = Steadiness(clock.now(), clock.steady())
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._held: dict[tuple[MailId, int], bool] = {}
        """What we have leased, and whether its delivery has begun."""

    async def run(self) -> None:
        """Work until `stop`; afterwards nothing is leased by us any more."""
        unlisten = (
            self._database.listen("queue", lambda _: self._wake.set()),
            self._database.listen("queue_retry", self._retried),
        )
        try:
            await self._repair()
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(self._renew())
                while not self._stopping.is_set():
                    self._wake.clear()
                    if not await self._look(group):
                        await self._sleep()
                renewing.cancel()
        finally:
            for each in unlisten:
                each()
            await self._give_back()
            self._relay.close()

    async def stop(self) -> None:
        """Lease nothing more; `run` returns when what is under way has ended. To end sooner, cancel `run`."""
        self._stopping.set()
        self._wake.set()

    # Looking for work

    async def _look(self, group: asyncio.TaskGroup) -> int:
        """Lease what is due and start to deliver it; return how many recipients."""
        leased = 0
        try:
            for name in await self._due_lanes():
                most = min(self._lanes.of(name).room, LEASED_MAX - len(self._held))
                if most > 0 and not self._stopping.is_set():
                    leased += await self._lease_lane(group, name, most)
        except NotCommitted as error:
            self._log.warning("queue_not_leased", problem=str(error))
            return 0
        self._lanes.forget_idle(self._clock.steady())
        return leased

    async def _due_lanes(self) -> list[str]:
        """Return destinations with due mail that have room; looks at all only when the first are full."""
        now = self._clock.now()
        rows = await self._database.read(DUE_LANES, {"now": now, "most": LANES_READ})
        names = list(dict.fromkeys(str(row[0]) for row in rows))
        roomy = [name for name in names if self._lanes.of(name).room]
        if roomy or len(rows) < LANES_READ:
            return roomy
        rows = await self._database.read_long(ALL_DUE_LANES, {"now": now, "most": LANES_READ_LONG})
        return [str(row[0]) for row in rows if self._lanes.of(str(row[0])).room]

    async def _lease_lane(self, group: asyncio.TaskGroup, name: str, most: int) -> int:
        now = self._clock.now()
        until = later(now, seconds(self._lease))
        step = Step(LEASE, {"owner": self._owner, "until": until, "now": now, "lane": name, "most": most})
        (rows,) = await self._database.commit(Unit((step,)))
        lane = self._lanes.of(name)
        together: dict[tuple[MailId, Route], list[QueuedRecipient]] = defaultdict(list)
        for row in rows:
            each = _recipient(row)
            together[each.mail, each.route].append(each)
            self._held[each.mail, each.position] = False
            if each.suspect:
                self._log.warning(
                    "possible_duplicate",
                    message=id_text(each.mail),
                    to=str(each.recipient.address),
                    why="lease ended",
                )
        lane.leased += len(rows)
        for (mail, route), recipients in together.items():
            recipients.sort(key=lambda each: each.position)
            group.create_task(self._carry(mail, route, tuple(recipients), lane))
        return len(rows)

    async def _sleep(self) -> None:
        """Wait for a notice, an ended delivery, or the next time something is due."""
        now = self._clock.now()
        rows = await self._database.read(NEXT_DUE, {"now": now})
        patience = LOOK_AGAIN
        if rows and isinstance(rows[0][0], int):
            patience = min(patience, max(0.01, (rows[0][0] - now) / seconds(1)))
        try:
            async with asyncio.timeout(patience):
                await self._wake.wait()
        except TimeoutError:
            pass

    # One group of recipients

    async def _carry(
        self, mail_id: MailId, route: Route, recipients: tuple[QueuedRecipient, ...], lane: Lane
    ) -> None:
        """Deliver one mail to recipients of one lane and record what became of them."""
        try:
            mail = await self._mail(mail_id)
            if mail is None:
                self._log.error("queue_row_without_mail", message=id_text(mail_id))
                return
            results = await self._deliver(mail, route, recipients, lane)
            await self._record(mail, tuple(zip(recipients, results, strict=True)))
        finally:
            lane.leased -= len(recipients)
            self._wake.set()

    async def _deliver(
        self, mail: QueuedMail, route: Route, recipients: tuple[QueuedRecipient, ...], lane: Lane
    ) -> tuple[Result, ...]:
        async with lane.slot():
            if lane.rests(self._clock.steady()) and lane.answer is not None:
                return tuple(lane.answer for _ in recipients)
            async with self._sessions:
                for each in recipients:
                    self._held[each.mail, each.position] = True
                results = await self._try(mail, route, recipients)
            lane.learn(results, self._clock.steady())
            return results

    async def _try(
        self, mail: QueuedMail, route: Route, recipients: tuple[QueuedRecipient, ...]
    ) -> tuple[Result, ...]:
        consignment = Consignment(
            mail.id,
            mail.sender,
            tuple(each.recipient for each in recipients),
            route,
            load=lambda: self._bodies.get(mail.body),
            size=mail.size,
            eight_bit=mail.eight_bit,
            smtputf8=mail.smtputf8,
            ret=mail.ret,
            envid=mail.envid,
        )
        try:
            return await self._relay.deliver(consignment)
        except (Missing, Damaged) as wrong:
            self._log.error("body_lost", message=id_text(mail.id), problem=str(wrong))
            reply = BODY_LOST
        except Exception:
            self._log.exception("delivery_broke", message=id_text(mail.id))
            reply = UNDER_REPAIR
        return tuple(Result(Fate.DEFERRED, reply, said=False) for _ in recipients)

    async def _record(self, mail: QueuedMail, pairs: Sequence[Pair]) -> None:
        """Commit the results; while the database cannot, try for as long as it takes: the mail is out."""
        for attempt in range(1_000_000):
            now = self._clock.now()
            steady = self._steadiness.observe(now, self._clock.steady())
            try:
                await self._database.commit(await self._settler.unit(mail, pairs, self._owner, now, steady=steady))
            except Unmet:
                pairs = await self._still_ours(mail, pairs)
                if not pairs:
                    return
            except NotCommitted as error:
                self._log.error("result_not_recorded", message=id_text(mail.id), problem=str(error))
                await asyncio.sleep(RETRY_COMMIT[min(attempt, len(RETRY_COMMIT) - 1)])
            else:
                for recipient, _ in pairs:
                    self._held.pop((recipient.mail, recipient.position), None)
                return

    async def _still_ours(self, mail: QueuedMail, pairs: Sequence[Pair]) -> Sequence[Pair]:
        """Return the results of those rows that nobody removed or took over meanwhile."""
        rows = await self._database.read(STILL_MINE, {"mail": mail.id, "owner": self._owner})
        left = {row[0] for row in rows}
        lost = [recipient for recipient, _ in pairs if recipient.position not in left]
        for recipient in lost:
            self._held.pop((recipient.mail, recipient.position), None)
            self._log.warning("lease_lost", message=id_text(mail.id), to=str(recipient.recipient.address))
        return [pair for pair in pairs if pair[0].position in left]

    async def _mail(self, mail: MailId) -> QueuedMail | None:
        rows = await self._database.read(MAIL, {"mail": mail})
        return _queued(mail, rows[0]) if rows else None

    # Around it

    async def _renew(self) -> None:
        """Keep the leases of what takes long."""
        while True:
            await asyncio.sleep(self._lease / 3)
            mails = {mail for mail, _ in self._held}
            until = later(self._clock.now(), seconds(self._lease))
            steps = (Step(RENEW, {"mail": mail, "owner": self._owner, "until": until}) for mail in mails)
            try:
                if mails:
                    await self._database.commit(Unit(tuple(steps)))
            except NotCommitted as error:
                self._log.warning("leases_not_renewed", problem=str(error))

    async def _repair(self) -> None:
        """Bring back what a clock far ahead has planned."""
        now = self._clock.now()
        try:
            (rows,) = await self._database.commit(Unit((Step(REPAIR, {"now": now, "horizon": horizon(now)}),)))
        except NotCommitted as error:
            self._log.warning("queue_not_repaired", problem=str(error))
            return
        if rows:
            self._log.warning(
                "queue_repaired", recipients=len(rows), why="due beyond any schedule: the clock stepped"
            )

    async def _give_back(self) -> None:
        """Give back what was leased. A delivery that was cut short keeps its owner: it may have gone out."""
        steps = [
            Step(GIVE_BACK, {"mail": mail, "position": position, "owner": self._owner, "now": self._clock.now()})
            for (mail, position), begun in self._held.items()
            if not begun
        ]
        if not steps:
            return
        try:
            await self._database.commit(Unit(tuple(steps)))
        except NotCommitted as error:
            self._log.warning("leases_not_given_back", problem=str(error))

    def _retried(self, _: int) -> None:
        self._lanes.wake_all()
        self._wake.set()


def _recipient(row: Row) -> QueuedRecipient:
    mail, position, attempts, suspect, warned, packed = row
    assert isinstance(mail, int)
    assert isinstance(position, int)
    assert isinstance(attempts, int)
    assert isinstance(packed, bytes)
    recipient, route = unpack_recipient(packed)
    return QueuedRecipient(MailId(mail), position, recipient, route, attempts, bool(suspect), bool(warned))


def _queued(mail: MailId, row: Row) -> QueuedMail:
    body, created, kind, recipients, packed = row
    assert isinstance(body, int)
    assert isinstance(created, int)
    assert isinstance(kind, int)
    assert isinstance(recipients, int)
    assert isinstance(packed, bytes)
    return unpack_mail(mail, body, created, kind, recipients, packed)
