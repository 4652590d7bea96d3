"""What the commands that read the reports of others share: of files, or of the mails that a mailbox has."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Final, Protocol, TypeVar, cast

import typer

from gatepost.accounts.verbs import find_user
from gatepost.base.clock import DAY
from gatepost.base.ids import MailId, Minter
from gatepost.blobs.bodies import Blobs, Damaged, Missing
from gatepost.cli.common import ConfigOption, Failed, now, with_databases
from gatepost.codec.reportfile import PACKED_MAX, BadReport
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.queue.atrest import keys_of
from gatepost.store.mailbox import NEVER, Mailboxes
from gatepost.store.model import NoSuchMailbox

EPOCH: Final = date(1970, 1, 1).toordinal()
REPORTS_MAX: Final = 100_000  # a mailbox has more than that only when nobody ever looked into it

FilesArgument = Annotated[
    list[Path],
    typer.Argument(help="Documents, packed or not, or whole mails that bring one.", show_default=False),
]
DayOption = Annotated[str, typer.Option("--day", help="2026-11-24, in UTC; without it, today.")]
DaysOption = Annotated[int, typer.Option("--days", min=1, help="How old mails may be.")]
MailboxOption = Annotated[str, typer.Option("--mailbox", help="The mailbox of the account that has them.")]


class Report(Protocol):
    """What tells a report from others."""

    @property
    def organization(self) -> str: ...
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=Report)


def of_files(files: Sequence[Path], read: Callable[[bytes], R]) -> tuple[list[R], list[str]]:
    """Return the reports of files, and a line for each file that is none."""
    found: list[R] = []
    problems: list[str] = []
    for file in files:
        try:
            found.append(read(_octets(file)))
        except (OSError, BadReport) as wrong:
            problems.append(f"{file}: {getattr(wrong, 'strerror', None) or wrong}")
    return found, problems


def of_mailbox(
    config: ConfigOption, address: str, mailbox: str, days: int, read: Callable[[bytes], R]
) -> tuple[list[R], int]:
    """Return the reports that came to an address in the last days, each once, and how many mails bring none."""

    async def work(databases: Databases, settings: Config) -> tuple[list[R], int]:
        found: dict[tuple[str, str], R] = {}
        others = 0
        async for octets in _mails(databases, settings, address, mailbox, days):
            try:
                report = read(octets)
            except BadReport:
                others += 1
            else:
                found.setdefault((report.organization, report.id), report)
        return list(found.values()), others

    return with_databases(config, work)


async def _mails(
    databases: Databases, settings: Config, address: str, mailbox: str, days: int
) -> AsyncIterator[bytes]:
    account = await find_user(databases.mail, address)
    blobs = Blobs(databases.mail, settings.data_dir / "bodies", keys=keys_of(settings.queue))
    mailboxes = Mailboxes(databases.mail, blobs, Minter(0))
    try:
        folder = await mailboxes.find(account.id, mailbox)
    except NoSuchMailbox:
        raise Failed(f"{address} has no mailbox {mailbox}") from None
    oldest, count = now() - days * DAY, 0
    async for page in mailboxes.listing(folder.id, ((1, NEVER),)):
        for _, body, _, size, internal_date, *_ in cast("list[tuple[int, ...]]", page):
            if internal_date < oldest or size > PACKED_MAX:
                continue
            if (count := count + 1) > REPORTS_MAX:
                raise Failed(f"more than {REPORTS_MAX} mails: take fewer --days")
            try:
                yield await mailboxes.content(MailId(body))
            except (Damaged, Missing) as wrong:
                raise Failed(f"a mail of {address} cannot be read: {wrong}") from wrong


def day_of(text: str) -> int:
    """Return a day, counted from 1970; raises Failed."""
    if not text:
        return now() // DAY
    try:
        return date.fromisoformat(text).toordinal() - EPOCH
    except ValueError:
        raise Failed(f"--day: {text!r} is no day: write 2026-11-24") from None


def told(problems: Sequence[str]) -> None:
    """End the command with what went wrong, after what went well was shown."""
    if problems:
        raise Failed("; ".join(problems))


def lines(reports: Sequence[R], rows: Callable[[R], Iterator[Sequence[object]]]) -> list[Sequence[object]]:
    """Return the rows of all reports, each with its reporter first."""
    return [(report.organization, *row) for report in reports for row in rows(report)]


def _octets(file: Path) -> bytes:
    """Read a file, and no more than a report may have; raises OSError."""
    with file.open("rb") as source:
        return source.read(PACKED_MAX + 1)
