"""What `gatepost doctor --watch` does when something is wrong: one letter for each thing, one when it is mended."""

import asyncio
from collections.abc import Sequence
from typing import cast

from gatepost.base.clock import Instant
from gatepost.cli.sendmail import Away, Unsent, hand_over
from gatepost.codec.mail.build import field
from gatepost.codec.mail.date import format_date
from gatepost.config import Config
from gatepost.db.unit import Database, NotCommitted, Unit
from gatepost.incidents.sql import OPEN, begin_step, end_step
from gatepost.intake import offline
from gatepost.intake.local import local_dir
from gatepost.intake.offline import Slip
from gatepost.watch.finding import Finding, State

PREFIX = "doctor "


class Alarm:
    """Tells the postmaster, and remembers what was told: also over a restart."""

    def __init__(self, mail: Database, settings: Config) -> None:
        self._mail = mail
        self._folder = local_dir(settings.intake.local_dir, settings.data_dir)
        self._hostname = settings.hostname
        self._to = settings.accounts.postmaster or f"postmaster@{settings.hostname}"

    async def hear(self, findings: Sequence[Finding], now: Instant) -> list[str]:
        """Write of what is new and what is mended; return lines that say what was written.

        What could not be looked at changes nothing: it is neither wrong nor mended.
        """
        told = {cast(str, row[0]): cast(str, row[2]) for row in await self._mail.read(OPEN, {})}
        known = {name: text for name, text in told.items() if name.startswith(PREFIX)}
        wrong = {each.incident: each for each in findings if each.state is State.PROBLEM}
        seen = {each.incident for each in findings if each.state is not State.UNKNOWN}
        new = [each for name, each in wrong.items() if name not in known]
        mended = {name: text for name, text in known.items() if name in seen and name not in wrong}
        lines: list[str] = []
        text = "\r\n".join(map(_words, new))
        if new and await self._write(f"{_things(len(new))} wrong", text, now, lines):
            steps = tuple(begin_step(each.incident, each.text, now) for each in new)
            await self._commit(Unit(steps), lines)
        text = "".join(f"{name.removeprefix(PREFIX)}: it was that {told}\r\n" for name, told in mended.items())
        if mended and await self._write(f"{_things(len(mended))} mended", text, now, lines):
            await self._commit(Unit(tuple(end_step(name) for name in mended)), lines)
        return lines

    async def _commit(self, unit: Unit, lines: list[str]) -> None:
        try:
            await self._mail.commit(unit)
        except NotCommitted as wrong:
            lines.append(f"it will be told again: {type(wrong).__name__}")

    async def _write(self, subject: str, text: str, now: Instant, lines: list[str]) -> bool:
        """Put a letter into the postmaster's mailbox; False where that does not work now."""
        to = self._to
        letter = [
            field(b"From", f"The doctor <{to}>".encode()),
            field(b"To", to.encode()),
            field(b"Subject", f"[{self._hostname}] {subject}".encode()),
            field(b"Date", format_date(now).encode()),
            field(b"Auto-Submitted", b"auto-generated"),
            field(b"MIME-Version", b"1.0"),
            field(b"Content-Type", b"text/plain; charset=utf-8"),
            b"\r\n",
            text.encode(),
            b"\r\nAll of it: gatepost doctor\r\n",
        ]
        try:
            await asyncio.to_thread(hand_over, self._folder / offline.SOCKET, Slip("", (to,)), b"".join(letter))
        except (Away, Unsent) as wrong:
            lines.append(f"no letter could be written ({wrong}): {subject}")
            return False
        lines.append(f"a letter to {to}: {subject}")
        return True


def _things(count: int) -> str:
    return "1 thing is" if count == 1 else f"{count} things are"


def _words(finding: Finding) -> str:
    lines = [
        f"{finding.check} {finding.subject}: {finding.text}",
        *(f"    {record.line}" for record in finding.add),
    ]
    return "\r\n".join(lines) + "\r\n"
