"""The worker: lease what is due, deliver it, record the results; any number of them share one queue.

    rows due --LEASE--> ours for `lease` seconds, renewed while we work --deliver--> --settle--> gone, or due again
                 `--crash--> due again when the lease ends; leased as `suspect`: possible duplicate

The docs/queue.md page argues each transition. A worker holds no more recipients than its lanes can soon use, so
many workers share the load and one dead destination is in nobody's way.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from gatepost.base.clock import Clock, later, seconds
from gatepost.base.ids import MailId, Minter, id_text
from gatepost.base.ports import Log
from gatepost.base.reply import Code, Reply
from gatepost.blobs.bodies import Damaged, Missing
from gatepost.db.unit import Database, NotCommitted, Params, Row, Rows, Step, Unit, Unmet
from gatepost.policy.action import Route, RouteKind
from gatepost.queue.bounce import Bodies
from gatepost.queue.handover import RECIPIENTS_MAX, SIZE_MAX, AtHand, Offer
from gatepost.queue.home import AT_HOME, NOT_NOW
from gatepost.queue.lanes import Lane, Lanes
from gatepost.queue.model import QueuedMail, QueuedRecipient, unpack_mail, unpack_recipient
from gatepost.queue.schedule import Steadiness, horizon, overdue
from gatepost.queue.settings import QueueSettings
from gatepost.queue.settle import Pair, Settler, answer_line
from gatepost.queue.sql import (
    ALL_DUE_LANES,
    DUE_LANES,
    EACH_LANE,
    EVERYTHING,
    GIVE_BACK,
    HOLD_UNREADABLE,
    LEASE,
    LEASE_ALL,
    MAIL,
    NEVER,
    NEXT_DUE,
    PARK,
    PARKED,
    PAUSES,
    RENEW,
    REPAIR,
    REST,
    RETRY_LANE,
    RETURNED,
    STILL_MINE,
    WAKE,
)
from gatepost.queue.submit import NOTICE
from gatepost.relay.model import Consignment, Fate, Result
from gatepost.relay.settings import RelaySettings
from gatepost.relay.transaction import TOO_LATE

LEASED_MAX: Final = 1_000  # recipients in the hands of one worker
MAIL_COLUMNS: Final = ("body", "now", "kind", "recipients", "packed")
"""What MAIL reads, by the names under which ADD_MAIL was given it."""
LANES_READ: Final = 200
LANES_READ_LONG: Final = 10_000
LANES_WALKED: Final = 1_000
LOOK_AGAIN: Final = 60.0  # s at most between two looks
AFTER_TROUBLE: Final = 1.0  # s
RETRY_COMMIT: Final = (0.5, 1, 2, 5, 10, 30)  # s; the last for ever
UNDER_REPAIR: Final = Reply(Code.LOCAL_ERROR, "4.3.0", "internal error, see the log")
PARKED_AT_ONCE: Final = 1_000
BY_ORDER: Final = Result(
    Fate.FAILED, Reply(Code.FAILED, "5.3.0", "returned by the operator of this server"), said=False
)
ENVELOPE_LOST: Final = Reply(Code.LOCAL_ERROR, "4.3.0", "the stored envelope cannot be read: damaged, or no key")
BODY_DAMAGED: Final = Reply(Code.LOCAL_ERROR, "4.3.0", "the stored text cannot be read: damaged, or no key")
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
        self._paused: frozenset[str] = frozenset()
        """Lanes that the operator has paused; EVERYTHING among them means all."""
        self._obeys_until = float("-inf")
        self._looked = clock.now()
        """Until when what fell due was seen."""
        self._levels = True
        """Whether some of what waits is more urgent than the rest, or less."""
        self._stopping = asyncio.Event()
        self._held: dict[tuple[MailId, int], bool] = {}
        """What we have leased, and whether its delivery has begun."""
        self._deliveries: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Work until `stop`; afterwards nothing is leased by us any more."""
        unlisten = (
            self._database.listen("queue", lambda _: self._wake.set()),
            self._database.listen("queue_retry", self._retried),
            self._database.listen("queue_pause", self._pauses_changed),
        )
        try:
            await self._repair()
            async with asyncio.TaskGroup() as around:
                renewing = around.create_task(self._renew())
                async with asyncio.TaskGroup() as deliveries:
                    self._deliveries = deliveries
                    while not self._stopping.is_set():
                        self._wake.clear()
                        if not await self._look(deliveries):
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

    # Mail that comes from the intake of this process

    def offer(self, destinations: Sequence[str], size: int) -> Offer | None:
        """Take a place for each recipient of a mail that is about to be committed, by its destination.

        None where it shall wait its turn: a destination rests or has enough, or the mail is large. What is offered
        is to be given to `take` or to `withdraw`.
        """
        if self._deliveries is None or self._stopping.is_set() or size > SIZE_MAX:
            return None
        if len(destinations) > min(RECIPIENTS_MAX, LEASED_MAX - len(self._held)):
            return None
        places = Counter(destinations)
        steady = self._clock.steady()
        for name, count in places.items():
            lane = self._lanes.of(name)
            if lane.room < count or lane.rests(steady) or self._is_paused(name):
                return None
        for name, count in places.items():
            self._lanes.of(name).leased += count
        return Offer(self._owner, later(self._clock.now(), seconds(self._lease)), places)

    def withdraw(self, offer: Offer) -> None:
        """Give the places of an offer back: its mail was not committed."""
        for name, count in offer.places.items():
            self._lanes.of(name).leased -= count

    async def take(self, offer: Offer, steps: Sequence[Step], content: bytes) -> None:
        """Deliver a mail whose `submit_steps` were committed with `offer`; give its rows back where we stop."""
        self.withdraw(offer)
        first, *rows = (step.params for step in steps)
        mail = _queued(MailId(_int(first["id"])), tuple(first[name] for name in MAIL_COLUMNS))
        by_lane: dict[str, list[QueuedRecipient]] = defaultdict(list)
        for row in rows:
            recipient = _recipient((row["mail"], row["position"], 0, 0, 0, row["packed"], row["urgency"]))
            by_lane[str(row["lane"])].append(recipient)
        if self._deliveries is None or self._stopping.is_set():
            await self._return([(mail.id, each.position) for found in by_lane.values() for each in found])
            return
        at_hand = AtHand(mail, content)
        for name, recipients in by_lane.items():
            self._start(self._deliveries, self._lanes.of(name), recipients, at_hand)

    # Looking for work

    async def _look(self, group: asyncio.TaskGroup) -> int:
        """Lease what is due and start to deliver it; return 0 when there was nothing."""
        try:
            await self._obey()
            due = await self._due_lanes()
            parked = await self._park([name for name in due if name in self._paused])
            wanted = self._wanted([name for name in due if not self._is_paused(name)])
            leased = await self._lease_lanes(group, wanted) if wanted else 0
        except NotCommitted as error:
            self._log.warning("queue_not_leased", problem=str(error))
        except Exception:
            self._log.exception("queue_not_leased")  # a database that cannot even be read
        else:
            self._lanes.forget_idle(self._clock.steady())
            return leased + parked
        await asyncio.sleep(AFTER_TROUBLE)
        return 1

    async def _obey(self) -> None:
        """Read what is paused: after a notice, and now and then, for a notice is no promise."""
        steady = self._clock.steady()
        if steady >= self._obeys_until:
            self._obeys_until = steady + LOOK_AGAIN  # before the read: a notice that comes meanwhile counts
            self._paused = frozenset(str(row[0]) for row in await self._database.read(PAUSES, {}))

    def _is_paused(self, name: str) -> bool:
        return name != RETURNED and (name in self._paused or EVERYTHING in self._paused)

    async def _park(self, names: Sequence[str]) -> int:
        """Put what is due in paused lanes out of the way of the others; return how much."""
        if not names:
            return 0
        facts = {"now": self._clock.now(), "parked": PARKED, "most": PARKED_AT_ONCE}
        found = await self._database.commit(Unit(tuple(Step(PARK, facts | {"lane": name}) for name in names)))
        return sum(map(len, found))

    def _wanted(self, names: Sequence[str]) -> dict[str, int]:
        """Return how many recipients to lease for each destination."""
        wanted: dict[str, int] = {}
        left = LEASED_MAX - len(self._held)
        for name in names:
            most = min(self._lanes.of(name).room, left)
            if most > 0:
                wanted[name] = most
                left -= most
        return wanted

    async def _due_lanes(self) -> list[str]:
        """Return destinations with due mail that have room; looks at all only when the first are full."""
        now = self._looked = self._clock.now()
        if EVERYTHING in self._paused:
            self._levels = True
            return [RETURNED]
        rows = await self._database.read(DUE_LANES, {"now": now, "most": LANES_READ})
        self._levels = bool(rows and rows[0][1])
        names = list(dict.fromkeys(str(row[0]) for row in rows))
        roomy = [name for name in names if self._lanes.of(name).room]
        if roomy or len(rows) < LANES_READ:
            return roomy
        if not self._levels and (found := await self._each_lane()) is not None:
            return found
        rows = await self._database.read_long(ALL_DUE_LANES, {"now": now, "most": LANES_READ_LONG})
        return [str(row[0]) for row in rows if self._lanes.of(str(row[0])).room]

    async def _each_lane(self) -> list[str] | None:
        """Return destinations with due mail that have room, the longest due first; None: there are very many."""
        rows = await self._database.read_long(EACH_LANE, {"most": LANES_WALKED})
        if len(rows) > LANES_WALKED:
            return None
        due = ((_int(row[1]), str(row[0])) for row in rows if row[1] is not None and _int(row[1]) <= self._looked)
        return [name for _, name in sorted(due) if self._lanes.of(name).room]

    async def _lease_lanes(self, group: asyncio.TaskGroup, wanted: Mapping[str, int]) -> int:
        """Lease for all destinations in one unit; return how many recipients."""
        now = self._clock.now()
        until = later(now, seconds(self._lease))
        facts = {"owner": self._owner, "until": until, "now": now}
        statement = LEASE_ALL if self._levels else LEASE
        steps = tuple(Step(statement, facts | {"lane": name, "most": most}) for name, most in wanted.items())
        found = await self._database.commit(Unit(steps))
        for name, rows in zip(wanted, found, strict=True):
            recipients = sorted(await self._readable(rows), key=_turn)
            self._start(group, self._lanes.of(name), recipients)
        return sum(map(len, found))

    async def _readable(self, rows: Rows) -> list[QueuedRecipient]:
        """Return the recipients of rows that were leased; those that cannot be read are held."""
        found, others = [], []
        for row in rows:
            try:
                found.append(_recipient(row))
            except ValueError:
                others.append((MailId(_int(row[0])), _int(row[1])))
        if others:
            await self._hold_unreadable(others, ENVELOPE_LOST)
        return found

    async def _hold_unreadable(self, rows: Sequence[tuple[MailId, int]], why: Reply) -> None:
        """Keep for the operator what only he can mend: what is damaged, and what has its key missing."""
        facts: Params = {"owner": self._owner, "never": NEVER, "error": answer_line(why)}
        for mail, position in rows:
            self._log.error("unreadable_held", message=id_text(mail), position=position, why=why.text)
        steps = (Step(HOLD_UNREADABLE, {**facts, "mail": mail, "position": position}) for mail, position in rows)
        try:
            await self._database.commit(Unit(tuple(steps)))
        except NotCommitted as error:
            self._log.warning("unreadable_not_held", problem=str(error))  # the lease ends, and it is found again

    def _start(
        self,
        group: asyncio.TaskGroup,
        lane: Lane,
        leased: Sequence[QueuedRecipient],
        at_hand: AtHand | None = None,
    ) -> None:
        """Begin one task for each mail and route; `at_hand` is the mail where it need not be read."""
        together: dict[tuple[MailId, Route], list[QueuedRecipient]] = defaultdict(list)
        for each in leased:
            together[each.mail, each.route].append(each)
            self._held[each.mail, each.position] = False
            if each.suspect:
                to = str(each.recipient.address)
                self._log.warning("possible_duplicate", message=id_text(each.mail), to=to, why="lease ended")
        lane.leased += len(leased)
        for (mail, route), recipients in together.items():
            group.create_task(self._carry(mail, route, tuple(recipients), lane, at_hand))

    async def _sleep(self) -> None:
        """Wait for a notice, an ended delivery, or the next time something is due."""
        try:
            async with asyncio.timeout(await self._patience()):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _patience(self) -> float:
        """Return how long nothing will be due, in seconds; what fell due since the last look is due at once."""
        try:
            rows = await self._database.read(NEXT_DUE, {"now": self._looked})
        except Exception:
            self._log.exception("queue_not_read")
            return AFTER_TROUBLE
        if not rows or not isinstance(rows[0][0], int):
            return LOOK_AGAIN
        return min(LOOK_AGAIN, max(0.01, (rows[0][0] - self._clock.now()) / seconds(1)))

    # One group of recipients

    async def _carry(
        self,
        mail_id: MailId,
        route: Route,
        recipients: tuple[QueuedRecipient, ...],
        lane: Lane,
        at_hand: AtHand | None,
    ) -> None:
        """Deliver one mail to recipients of one lane and record what became of them."""
        try:
            try:
                mail = await self._mail(mail_id) if at_hand is None else at_hand.mail
            except ValueError:
                self._let_go(recipients)
                await self._hold_unreadable([(each.mail, each.position) for each in recipients], ENVELOPE_LOST)
                return
            if mail is None:
                self._log.error("queue_row_without_mail", message=id_text(mail_id))
                self._let_go(recipients)
                return
            content = None if at_hand is None else at_hand.content
            results = await self._deliver(mail, route, recipients, lane, content)
            if results is not None and results[0].reply is BODY_DAMAGED:
                self._let_go(recipients)
                await self._hold_unreadable([(each.mail, each.position) for each in recipients], BODY_DAMAGED)
            elif results is not None:
                await self._record(mail, tuple(zip(recipients, results, strict=True)))
            elif not self._stopping.is_set():
                self._let_go(recipients)
                await self._return([(each.mail, each.position) for each in recipients])
        except Exception:
            # Nobody renews what is not held: the lease ends, and another attempt is made as after a crash.
            self._log.exception("queue_broke", message=id_text(mail_id))
            self._let_go(recipients)
        finally:
            lane.leased -= len(recipients)
            self._wake.set()

    async def _deliver(
        self,
        mail: QueuedMail,
        route: Route,
        recipients: tuple[QueuedRecipient, ...],
        lane: Lane,
        content: bytes | None,
    ) -> tuple[Result, ...] | None:
        """Deliver when it is our turn; None when we stop, or are paused, before."""
        if lane is self._lanes.of(RETURNED):
            return tuple(BY_ORDER for _ in recipients)
        if route.kind is RouteKind.MAILBOX:
            return tuple(AT_HOME for _ in recipients)
        destination = route.destination(recipients[0].recipient.address)
        if overdue(mail.wishes.by, self._clock.now()) and self._steady():
            return tuple(Result(Fate.FAILED, TOO_LATE, said=False) for _ in recipients)
        async with lane.slot(recipients[0].urgency):
            if self._stopping.is_set() or self._is_paused(destination):
                return None
            if lane.rests(self._clock.steady()) and lane.answer is not None:
                return tuple(lane.answer for _ in recipients)
            async with self._sessions:
                for each in recipients:
                    self._held[each.mail, each.position] = True
                results = await self._try(mail, route, recipients, content)
            if lane.learn(results, self._clock.steady()):
                await self._flush(destination)
            elif lane.rests(self._clock.steady()):
                await self._tell_rest(destination, lane)
            return results

    async def _tell_rest(self, destination: str, lane: Lane) -> None:
        """Write down for people that a destination is left alone."""
        until = later(self._clock.now(), seconds(lane.rests_until - self._clock.steady()))
        answer = "" if lane.answer is None else answer_line(lane.answer.reply)
        try:
            await self._database.commit(
                Unit((Step(REST, {"lane": destination, "until": until, "answer": answer}),))
            )
        except NotCommitted as error:
            self._log.warning("rest_not_noted", destination=destination, problem=str(error))

    async def _flush(self, destination: str) -> None:
        """Make all mail of a destination due that was dead and has come back."""
        try:
            step = Step(RETRY_LANE, {"lane": destination, "now": self._clock.now()})
            (rows,) = await self._database.commit(Unit((step, Step(WAKE, {"lane": destination})), (NOTICE,)))
        except NotCommitted as error:
            self._log.warning("queue_not_flushed", destination=destination, problem=str(error))
            return
        self._log.info("destination_is_back", destination=destination, recipients=len(rows))

    async def _try(
        self, mail: QueuedMail, route: Route, recipients: tuple[QueuedRecipient, ...], content: bytes | None
    ) -> tuple[Result, ...]:
        async def load() -> bytes:
            return await self._bodies.get(mail.body) if content is None else content

        consignment = Consignment(
            mail.id,
            mail.sender,
            tuple(each.recipient for each in recipients),
            route,
            load=load,
            size=mail.size,
            eight_bit=mail.eight_bit,
            smtputf8=mail.smtputf8,
            ret=mail.ret,
            envid=mail.envid,
            client=mail.client,
            wishes=mail.wishes,
        )
        try:
            return await self._relay.deliver(consignment)
        except Damaged as wrong:
            self._log.error("body_damaged", message=id_text(mail.id), problem=str(wrong))
            reply = BODY_DAMAGED
        except Missing as wrong:
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
            steady = self._steady()
            try:
                await self._database.commit(await self._settler.unit(mail, pairs, self._owner, now, steady=steady))
            except Unmet:
                ours = await self._still_ours(mail, pairs)
                if not ours:
                    return
                # All of them are: then it was a mailbox that had just gone.
                pairs = [_not_home(each) for each in ours] if len(ours) == len(pairs) else ours
            except NotCommitted as error:
                self._log.error("result_not_recorded", message=id_text(mail.id), problem=str(error))
                await asyncio.sleep(RETRY_COMMIT[min(attempt, len(RETRY_COMMIT) - 1)])
            else:
                self._let_go([recipient for recipient, _ in pairs])
                return

    def _steady(self) -> bool:
        """Tell whether the wall clock can be trusted."""
        return self._steadiness.observe(self._clock.now(), self._clock.steady())

    async def _still_ours(self, mail: QueuedMail, pairs: Sequence[Pair]) -> Sequence[Pair]:
        """Return the results of those rows that nobody removed or took over meanwhile."""
        rows = await self._database.read(STILL_MINE, {"mail": mail.id, "owner": self._owner})
        left = {row[0] for row in rows}
        lost = [recipient for recipient, _ in pairs if recipient.position not in left]
        self._let_go(lost)
        for recipient in lost:
            self._log.warning("lease_lost", message=id_text(mail.id), to=str(recipient.recipient.address))
        return [pair for pair in pairs if pair[0].position in left]

    def _let_go(self, recipients: Sequence[QueuedRecipient]) -> None:
        for each in recipients:
            self._held.pop((each.mail, each.position), None)

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
        facts = {"now": now, "horizon": horizon(now), "parked": PARKED}
        try:
            (rows,) = await self._database.commit(Unit((Step(REPAIR, facts),)))
        except NotCommitted as error:
            self._log.warning("queue_not_repaired", problem=str(error))
            return
        if rows:
            self._log.warning(
                "queue_repaired", recipients=len(rows), why="due beyond any schedule: the clock stepped"
            )

    async def _give_back(self) -> None:
        """Give back what was leased. A delivery that was cut short keeps its owner: it may have gone out."""
        unbegun = [held for held, begun in self._held.items() if not begun]
        if unbegun:
            await self._return(unbegun)

    async def _return(self, rows: Sequence[tuple[MailId, int]]) -> None:
        """Make rows due that we leased and have not begun with."""
        facts = {"owner": self._owner, "now": self._clock.now()}
        steps = [Step(GIVE_BACK, facts | {"mail": mail, "position": position}) for mail, position in rows]
        try:
            await self._database.commit(Unit(tuple(steps)))
        except NotCommitted as error:
            self._log.warning("leases_not_given_back", problem=str(error))

    def _retried(self, _: int) -> None:
        self._lanes.wake_all()
        self._wake.set()

    def _pauses_changed(self, _: int) -> None:
        self._obeys_until = float("-inf")
        self._wake.set()


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _recipient(row: Row) -> QueuedRecipient:
    mail, position, attempts, suspect, warned, packed, urgency = row
    assert isinstance(mail, int)
    assert isinstance(position, int)
    assert isinstance(attempts, int)
    assert isinstance(packed, bytes)
    assert isinstance(urgency, int)
    recipient, route = unpack_recipient(packed)
    told = attempts, bool(suspect), bool(warned), urgency
    return QueuedRecipient(MailId(mail), position, recipient, route, *told)


def _not_home(pair: Pair) -> Pair:
    return (pair[0], NOT_NOW) if pair[1] is AT_HOME else pair


def _turn(recipient: QueuedRecipient) -> tuple[int, int, int]:
    """Return by what leased recipients are put in order."""
    return recipient.urgency, recipient.mail, recipient.position


def _queued(mail: MailId, row: Row) -> QueuedMail:
    body, created, kind, recipients, packed = row
    assert isinstance(body, int)
    assert isinstance(created, int)
    assert isinstance(kind, int)
    assert isinstance(recipients, int)
    assert isinstance(packed, bytes)
    return unpack_mail(mail, body, created, kind, recipients, packed)
