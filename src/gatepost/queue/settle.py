"""Record what became of recipients: one unit with the rows, the body's uses, the diary's line and the report.

    delivered         row deleted
    failed            row deleted, the sender told in the same unit
    deferred          due again by schedule; given up at the end of the lifetime, which is failing
    last row deleted  the mail deleted, the body's last use given back

Every step on a row asks for the lease (`owner`): who lost it changes nothing, and the unit is undone as a whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gatepost.base.clock import Instant, seconds
from gatepost.base.envelope import Notify, Recipient
from gatepost.base.ids import id_text
from gatepost.base.ports import Log
from gatepost.base.reply import Reply
from gatepost.codec.mail.dsn import Kind as Action
from gatepost.codec.mail.dsn import Reported
from gatepost.db.unit import Notice, Step, Unit
from gatepost.diary import add
from gatepost.queue.bounce import Bodies, Filed, Reporter, gives_up_at
from gatepost.queue.model import Kind, QueuedMail, QueuedRecipient
from gatepost.queue.schedule import QUICK_BASE, RELAY_BASE, expired, next_attempt, warn_due
from gatepost.queue.settings import QueueSettings
from gatepost.queue.sql import DEFER, DONE, DROP_MAIL, TOUCH
from gatepost.relay.model import Fate, Result

ERROR_MAX: Final = 500
"""Letters of an answer that a row and the diary keep."""

Pair = tuple[QueuedRecipient, Result]


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Results by what they lead to."""

    delivered: tuple[Pair, ...]
    failed: tuple[Pair, ...]
    late: tuple[Pair, ...]
    warned: tuple[Pair, ...]
    """Those of `late` whose sender hears of it now."""


class Settler:
    """Turns results into units."""

    def __init__(self, settings: QueueSettings, bodies: Bodies, reporter: Reporter, log: Log) -> None:
        self._settings = settings
        self._bodies = bodies
        self._reporter = reporter
        self._log = log

    async def unit(
        self, mail: QueuedMail, pairs: Sequence[Pair], owner: int, now: Instant, *, steady: bool = True
    ) -> Unit:
        """Return the unit that records `pairs`. `steady`: ages can be trusted, the clock has not jumped."""
        found = self._sort(mail, pairs, now, steady=steady)
        try:
            filed = await self._reports(mail, found, now)
        except Exception:
            # Without its report a failure would be a loss: try again later rather than say nothing.
            self._log.exception("report_failed", message=id_text(mail.id))
            found = _Sorted(found.delivered, (), (*found.late, *found.failed), ())
            filed = Filed(())
        steps = [*self._row_steps(mail, found, owner, now), *_diary_steps(mail, found, now), *filed.steps]
        return Unit(tuple(steps), filed.notices)

    def lifetime(self, mail: QueuedMail) -> int:
        """Return how long a mail is tried, in microseconds."""
        settings = self._settings
        return seconds(settings.bounce_lifetime if mail.kind is Kind.BOUNCE else settings.lifetime)

    def _sort(self, mail: QueuedMail, pairs: Sequence[Pair], now: Instant, *, steady: bool) -> _Sorted:
        delivered, failed, late, warned = [], [], [], []
        lifetime, after = self.lifetime(mail), seconds(self._settings.warn_after)
        for recipient, result in pairs:
            if result.fate is Fate.DELIVERED:
                delivered.append((recipient, result))
            elif result.fate is Fate.FAILED:
                failed.append((recipient, result))
            elif expired(mail.created, now, recipient.attempts + 1, lifetime=lifetime, steady=steady):
                failed.append((recipient, _given_up(result)))
            else:
                late.append((recipient, result))
                if warn_due(mail.created, now, after=after, warned=recipient.warned, steady=steady):
                    warned.append((recipient, result))
        return _Sorted(tuple(delivered), tuple(failed), tuple(late), tuple(warned))

    def _row_steps(self, mail: QueuedMail, found: _Sorted, owner: int, now: Instant) -> Iterable[Step]:
        gone = (*found.delivered, *found.failed)
        if len(gone) + len(found.late) < mail.recipients:
            # Units of one mail's other recipients may run beside this one: the row is their lock, so that the last
            # of them sees that it is the last.
            yield Step(TOUCH, {"mail": mail.id, "now": now})
        for recipient, _ in gone:
            yield Step(DONE, {"mail": mail.id, "position": recipient.position, "owner": owner})
        warned = {recipient.position for recipient, _ in found.warned}
        for recipient, result in found.late:
            yield Step(
                DEFER,
                {
                    "mail": mail.id,
                    "position": recipient.position,
                    "owner": owner,
                    "now": now,
                    "due": self._next(mail, recipient, now),
                    "warned": int(recipient.warned or recipient.position in warned),
                    "error": _line(result.reply),
                },
            )
        if gone:
            yield Step(DROP_MAIL, {"mail": mail.id})
            yield from self._bodies.release(mail.body, len(gone))

    def _next(self, mail: QueuedMail, recipient: QueuedRecipient, now: Instant) -> Instant:
        quick = mail.kind is Kind.BOUNCE or recipient.route.lmtp
        base = QUICK_BASE if quick else RELAY_BASE
        return next_attempt(mail.created, now, base=base, lifetime=self.lifetime(mail))

    async def _reports(self, mail: QueuedMail, found: _Sorted, now: Instant) -> Filed:
        until = gives_up_at(mail, self.lifetime(mail))
        told = (
            (Action.FAILED, [pair for pair in found.failed if _wants(pair, Notify.FAILURE, unasked=True)]),
            (Action.DELAYED, [pair for pair in found.warned if _wants(pair, Notify.DELAY, unasked=True)]),
            # RFC 3461 §5.2.2: who hands a mail to a server without DSN says so, once, where success was asked for.
            (Action.RELAYED, [pair for pair in found.delivered if _says_relayed(pair)]),
        )
        steps: list[Step] = []
        notices: list[Notice] = []
        for action, pairs in told:
            if not pairs:
                continue
            quiet = action is not Action.FAILED and (mail.sender is None or mail.kind is Kind.BOUNCE)
            if quiet:
                continue
            reported = tuple(_reported(recipient.recipient, result) for recipient, result in pairs)
            filed = await self._reporter.report(mail, action, reported, now, until)
            steps += filed.steps
            notices += filed.notices
        return Filed(tuple(steps), tuple(notices))


def _diary_steps(mail: QueuedMail, found: _Sorted, now: Instant) -> Iterable[Step]:
    """Return one line for each different answer, with all recipients who got it."""
    for event, pairs in (("delivered", found.delivered), ("failed", found.failed), ("deferred", found.late)):
        answers: dict[tuple[str, str, bool], list[Pair]] = {}
        for pair in pairs:
            answers.setdefault((pair[1].host, _line(pair[1].reply), pair[1].in_doubt), []).append(pair)
        for (host, said, in_doubt), same in answers.items():
            result = same[0][1]
            fields: dict[str, str | int] = {
                "to": ", ".join(str(recipient.recipient.address) for recipient, _ in same[:20]),
                "recipients": len(same),
                "host": host,
                "ip": result.ip,
                "tls": result.tls.version if result.tls is not None else "",
                "reply": said,
                "attempt": same[0][0].attempts + 1,
            }
            if in_doubt:
                fields["possible_duplicate"] = 1
            if result.why:
                fields["tls_asked"] = result.why
            if result.changed:
                fields["changed"] = result.changed
            yield add(mail.id, "relay", event, at=now, **fields)


def _wants(pair: Pair, notify: Notify, *, unasked: bool) -> bool:
    wanted = pair[0].recipient.notify
    return unasked if wanted is None else notify in wanted


def _says_relayed(pair: Pair) -> bool:
    return not pair[1].dsn_passed and _wants(pair, Notify.SUCCESS, unasked=False)


def _reported(recipient: Recipient, result: Result) -> Reported:
    reply = result.reply
    status = reply.enhanced or f"{reply.code // 100}.0.0"
    if result.fate is Fate.FAILED and not status.startswith("5"):
        status = "5.4.7"  # RFC 3463 §3.5: delivery time expired
    return Reported(
        recipient.address,
        status,
        diagnostic=_line(reply),
        remote=result.host if result.said else "",
        orcpt=recipient.orcpt,
    )


def _given_up(result: Result) -> Result:
    """Turn the last of many deferrals into a failure; the answer stays the one that was given."""
    return replace(result, fate=Fate.FAILED)


def _line(reply: Reply) -> str:
    text = " ".join(part for part in (str(reply.code), reply.enhanced, reply.text.replace("\n", " ")) if part)
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:ERROR_MAX]
