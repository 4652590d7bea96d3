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
from gatepost.base.envelope import DeliverBy, Notify, Recipient
from gatepost.base.ids import id_text
from gatepost.base.ports import Log
from gatepost.base.reply import Reply
from gatepost.codec.mail.dsn import Kind as Action
from gatepost.codec.mail.dsn import Reported
from gatepost.db.unit import Notice, Step, Unit
from gatepost.diary import add
from gatepost.policy.action import Route, RouteKind
from gatepost.queue.bounce import Bodies, Filed, Reporter, gives_up_at
from gatepost.queue.home import AT_HOME, NOT_NOW, Homes
from gatepost.queue.model import Kind, QueuedMail, QueuedRecipient
from gatepost.queue.schedule import (
    QUICK_BASE,
    RELAY_BASE,
    expired,
    late,
    next_attempt,
    not_after,
    overdue,
    warn_due,
)
from gatepost.queue.settings import QueueSettings, Unproven
from gatepost.queue.sql import DEFER, DONE, DROP_MAIL, NEVER, QUARANTINE, TOUCH
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
    held: tuple[Pair, ...] = ()
    """Those that failed, and nobody may be told: the operator decides."""


class Settler:
    """Turns results into units."""

    def __init__(
        self,
        settings: QueueSettings,
        bodies: Bodies,
        reporter: Reporter,
        log: Log,
        *,
        unproven: Unproven = Unproven.DISCARD,
        homes: Homes | None = None,
    ) -> None:
        """Make it; `unproven`: what becomes of a mail that fails, and whose sender may be forged.

        Without `homes` there is no mail for mailboxes here among what waits.
        """
        self._homes = homes
        self._unproven = unproven
        self._settings = settings
        self._bodies = bodies
        self._reporter = reporter
        self._log = log

    async def unit(
        self, mail: QueuedMail, pairs: Sequence[Pair], owner: int, now: Instant, *, steady: bool = True
    ) -> Unit:
        """Return the unit that records `pairs`. `steady`: ages can be trusted, the clock has not jumped."""
        pairs, home = await self._put_home(mail, pairs, now)
        found = self._sort(mail, pairs, now, steady=steady)
        try:
            filed = await self._reports(mail, found, now)
        except Exception:
            # Without its report a failure would be a loss: try again later rather than say nothing.
            self._log.exception("report_failed", message=id_text(mail.id))
            found = _Sorted(found.delivered, (), (*found.late, *found.failed), (), found.held)
            filed = Filed(())
        steps = [*self._row_steps(mail, found, owner, now), *_diary_steps(mail, found, now), *filed.steps]
        return Unit((*steps, *home.steps), (*filed.notices, *home.notices))

    def _lifetime(self, mail: QueuedMail, route: Route) -> int:
        return self._settings.lifetime_of(bounce=mail.kind is Kind.BOUNCE, route=route)

    async def _put_home(
        self, mail: QueuedMail, pairs: Sequence[Pair], now: Instant
    ) -> tuple[Sequence[Pair], Filed]:
        """Return what puts mail into mailboxes here, and the results: what cannot be put there now waits."""
        if all(recipient.route.kind is not RouteKind.MAILBOX for recipient, _ in pairs):
            return pairs, Filed(())
        settled: list[Pair] = []
        steps: list[Step] = []
        notices: list[Notice] = []
        for recipient, result in pairs:
            if result is not AT_HOME or self._homes is None:
                settled.append((recipient, result))
                continue
            try:
                filed = await self._homes.file(mail, recipient, now)
            except Exception:
                self._log.exception("mailbox_not_written", message=id_text(mail.id), account=recipient.route.auth)
                settled.append((recipient, NOT_NOW))
            else:
                settled.append((recipient, result))
                steps += filed.steps
                notices += filed.notices
        return settled, Filed(tuple(steps), tuple(notices))

    def _sort(self, mail: QueuedMail, pairs: Sequence[Pair], now: Instant, *, steady: bool) -> _Sorted:
        delivered, failed, late, warned = [], [], [], []
        for recipient, result in pairs:
            lifetime = self._lifetime(mail, recipient.route)
            if result.fate is Fate.DELIVERED:
                delivered.append((recipient, result))
            elif result.fate is Fate.FAILED:
                failed.append((recipient, result))
            elif expired(mail.begins, now, recipient.attempts + 1, lifetime=lifetime, steady=steady) or (
                steady and overdue(mail.wishes.by, now)
            ):
                failed.append((recipient, _given_up(result)))
            else:
                late.append((recipient, result))
                if self._warns(mail, recipient, now, steady=steady):
                    warned.append((recipient, result))
        if failed and self._quarantines(mail):
            self._log.warning("mail_quarantined", message=id_text(mail.id), recipients=len(failed))
            return _Sorted(tuple(delivered), (), tuple(late), tuple(warned), tuple(failed))
        return _Sorted(tuple(delivered), tuple(failed), tuple(late), tuple(warned))

    def _warns(self, mail: QueuedMail, recipient: QueuedRecipient, now: Instant, *, steady: bool) -> bool:
        """Tell whether the sender hears now that a mail is late, by its own time or by the settings."""
        by, after = mail.wishes.by, seconds(self._settings.warn_after)
        if by is not None and not by.returns:
            return late(by, now, warned=recipient.warned, steady=steady)
        return warn_due(mail.begins, now, after=after, warned=recipient.warned, steady=steady)

    def _quarantines(self, mail: QueuedMail) -> bool:
        """Tell whether what fails is kept, because nobody may be told and it is no report of ours."""
        silent = mail.sender is None or not mail.returnable
        return silent and mail.kind is Kind.MAIL and self._unproven is Unproven.QUARANTINE

    def _row_steps(self, mail: QueuedMail, found: _Sorted, owner: int, now: Instant) -> Iterable[Step]:
        gone = (*found.delivered, *found.failed)
        if len(gone) + len(found.late) + len(found.held) < mail.recipients:
            # Units of one mail's other recipients may run beside this one: the row is their lock, so that the last
            # of them sees that it is the last.
            yield Step(TOUCH, {"mail": mail.id, "now": now})
        for recipient, _ in gone:
            yield Step(DONE, {"mail": mail.id, "position": recipient.position, "owner": owner})
        for recipient, result in found.held:
            which = {"mail": mail.id, "position": recipient.position, "owner": owner}
            yield Step(QUARANTINE, which | {"never": NEVER, "now": now, "error": answer_line(result.reply)})
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
                    "error": answer_line(result.reply),
                },
            )
        if gone:
            yield Step(DROP_MAIL, {"mail": mail.id})
            yield from self._bodies.release(mail.body, len(gone))

    def _next(self, mail: QueuedMail, recipient: QueuedRecipient, now: Instant) -> Instant:
        quick = mail.kind is Kind.BOUNCE or recipient.route.quick
        base = QUICK_BASE if quick else RELAY_BASE
        planned = next_attempt(mail.begins, now, base=base, lifetime=self._lifetime(mail, recipient.route))
        return not_after(planned, mail.wishes.by, now)

    async def _reports(self, mail: QueuedMail, found: _Sorted, now: Instant) -> Filed:
        told_until = [gives_up_at(mail, self._lifetime(mail, recipient.route)) for recipient, _ in found.warned]
        until = max(told_until, default=now)
        told = (
            (Action.FAILED, [pair for pair in found.failed if _wants(pair, Notify.FAILURE, unasked=True)]),
            (Action.DELAYED, [pair for pair in found.warned if _wants(pair, Notify.DELAY, unasked=True)]),
            # RFC 3461 §5.2.2: who hands a mail to a server without DSN says so, once, where success was asked for.
            (Action.RELAYED, [pair for pair in found.delivered if _says_handed_on(mail, pair)]),
            (Action.DELIVERED, [pair for pair in found.delivered if _says_relayed(pair) and _on_disk(pair)]),
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
    kinds = ("delivered", found.delivered), ("failed", found.failed), ("deferred", found.late)
    for event, pairs in (*kinds, ("quarantined", found.held)):
        answers: dict[tuple[str, str, bool], list[Pair]] = {}
        for pair in pairs:
            answers.setdefault((pair[1].host, answer_line(pair[1].reply), pair[1].in_doubt), []).append(pair)
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


def _says_handed_on(mail: QueuedMail, pair: Pair) -> bool:
    return not _on_disk(pair) and (_says_relayed(pair) or _says_time_is_open(mail.wishes.by, pair))


def _says_time_is_open(by: DeliverBy | None, pair: Pair) -> bool:
    """Tell whether the sender hears that a mail is with a server that does not know its time, or is traced."""
    recipient, result = pair
    if by is None or recipient.route.lmtp:  # which is delivery
        return False
    if result.by_passed:
        return by.trace and recipient.recipient.notify != frozenset((Notify.NEVER,))
    return _wants(pair, Notify.FAILURE if by.returns else Notify.DELAY, unasked=True)


def _on_disk(pair: Pair) -> bool:
    """Tell whether it ended here, in a program or a file: that is no relaying (RFC 3461 §5.2.3)."""
    return pair[0].route.on_disk


def _reported(recipient: Recipient, result: Result) -> Reported:
    reply = result.reply
    status = reply.enhanced or f"{reply.code // 100}.0.0"
    if result.fate is Fate.FAILED and not status.startswith("5"):
        status = "5.4.7"  # RFC 3463 §3.5: delivery time expired
    return Reported(
        recipient.address,
        status,
        diagnostic=answer_line(reply),
        remote=result.host if result.said else "",
        orcpt=recipient.orcpt,
    )


def _given_up(result: Result) -> Result:
    """Turn the last of many deferrals into a failure; the answer stays the one that was given."""
    return replace(result, fate=Fate.FAILED)


def answer_line(reply: Reply) -> str:
    """Return an answer as rows and the diary keep it: one printable line of at most ERROR_MAX letters."""
    text = " ".join(part for part in (str(reply.code), reply.enhanced, reply.text.replace("\n", " ")) if part)
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:ERROR_MAX]
