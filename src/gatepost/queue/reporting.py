"""What reports to other domains share, whatever they tell: who reports, when, and the mail that brings it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, Self

from gatepost.aio.offload import Overfull
from gatepost.base.address import Address
from gatepost.base.clock import HOUR, Instant
from gatepost.base.ids import MailId
from gatepost.base.ports import Log
from gatepost.codec.mail.reportmail import Parcel
from gatepost.db.unit import Database, NotCommitted, Unit
from gatepost.queue.bounce import Filed

SPREAD: Final = 4 * HOUR  # RFC 8460 §4.1: not all of the world at midnight
ROUND_S: Final = 900.0
A_ROUND: Final = 500  # reports


class Mailer(Protocol):
    """Takes a mail of this server's own; queue.bounce.Reporter does."""

    async def mail(self, to: Address, domain: str, write: Callable[[MailId], bytes], now: Instant) -> Filed:
        """Return what sends a mail to anybody, signed for `domain`; nothing where no rule lets it go."""
        ...


class Reporting(Protocol):
    """The settings that all reports have."""

    @property
    def sender(self) -> str: ...
    @property
    def contact(self) -> str: ...
    @property
    def organization(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Who reports."""

    organization: str
    sender: str
    contact: str

    @property
    def submitter(self) -> str:
        """Return the domain that the report is of (RFC 8460 §5.1, RFC 9990 §3.5.2)."""
        return self.contact.rpartition("@")[2]

    @classmethod
    def of(cls, settings: Reporting, hostname: str, postmaster: str) -> Self:
        """Return who it is by the settings; `postmaster` may be "", for that of the server."""
        sender = settings.sender or postmaster or f"postmaster@{hostname}"
        return cls(settings.organization or hostname, sender, settings.contact or sender)


async def keep(work: Callable[[], Awaitable[None]], log: Log, failed: str) -> None:
    """Do a round now and then, for ever; what it could not do is logged as `failed` and left to the next."""
    while True:
        await asyncio.sleep(ROUND_S)
        try:
            await work()
        except (NotCommitted, Overfull) as problem:
            log.warning(failed, problem=str(problem))


async def mail_parcel(
    database: Database, mailer: Mailer, parcel: Parcel, sender: str, address: str, now: Instant
) -> None:
    """Queue a report for an address that a stranger chose; raises ValueError for none, NotCommitted."""
    local, at, host = address.rpartition("@")
    if not (local and at and host) or not (local + host).isprintable() or not (local + host).isascii():
        raise ValueError(f"{address!r} is no address")
    to = Address(local, host)
    filed = await mailer.mail(
        to, sender.rpartition("@")[2], partial(parcel.mail, sender=sender, to=to, now=now), now
    )
    if not filed.steps:
        raise ValueError(f"no rule lets a mail to {to} go")
    await database.commit(Unit(filed.steps, filed.notices))
