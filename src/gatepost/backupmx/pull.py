"""Pull the list of recipients from the primary, and notice when the primary is back.

    304, or 200 with a list that holds   confirmed; kept where it is another
    an older serial                      refused: somebody replays, or the primary's clock went back
    far fewer addresses                  refused: a primary that lost its accounts must not lose its mail too
    no answer                            the last good list goes on; asked again after `retry`

The first answer after a silence makes all mail due: a retry by schedule may be hours away.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from gatepost.aio.fetch import FetchFailed, Unchanged, fetch
from gatepost.aio.offload import offload
from gatepost.aio.tls import client_context
from gatepost.backupmx.kept import Notes, read_list, read_notes, write_list, write_notes
from gatepost.backupmx.settings import BackupSettings
from gatepost.base.clock import MICROSECONDS, Clock
from gatepost.base.ports import Log
from gatepost.codec import recipients
from gatepost.codec.recipients import BadList, Keys, RecipientList

PATH: Final = "/.well-known/gatepost/recipients"
WITHIN_S: Final = 60.0
FEW: Final = 10
"""A list with fewer addresses may shrink as it likes, but not to none."""


class Refused(ValueError):
    """A list that is well made and yet not believed; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of one attempt. `reached`: the primary answered; `problem`: why the list was not renewed."""

    reached: bool
    changed: bool = False
    problem: str = ""
    listed: RecipientList | None = None


class Puller:
    """Keeps a backup's list new. `returned` is awaited when the primary answers again."""

    def __init__(
        self,
        settings: BackupSettings,
        name: str,
        folder: Path,
        keys: Keys,
        *,
        clock: Clock,
        log: Log,
        returned: Callable[[], Awaitable[object]] | None = None,
        size: int = 0,
    ) -> None:
        """Make it; `name` is ours at the primary, `size` how large a mail we take. Raises OSError."""
        self._settings = settings
        self._name = name
        self._folder = folder
        self._keys = keys
        self._clock = clock
        self._log = log
        self._returned = returned
        self._size = size
        self._tls = context(settings.certificate)
        self._away = True  # who starts does not know how long it was away itself

    async def run(self) -> None:
        """Pull for ever."""
        while True:
            try:
                pulled = await self.pull()
                await self._notice(pulled)
            except Exception:
                self._log.exception("recipients_broken")
                pulled = Pulled(reached=False)
            await asyncio.sleep(self._settings.refresh if pulled.reached else self._settings.retry)

    async def pull(self, *, force: bool = False) -> Pulled:
        """Try once. `force` believes a list that is older or far smaller than the one before."""
        notes = replace(read_notes(self._folder), tried=self._clock.now())
        old = await self._old()
        try:
            got = await fetch(
                self._url(),
                most=recipients.OCTETS_MAX,
                within=WITHIN_S,
                tls=self._tls,
                etag=notes.etag if old is not None and not force else "",
            )
        except FetchFailed as failed:
            return await self._failed(notes, str(failed), reached=False)
        if isinstance(got, Unchanged):
            await offload(write_notes, self._folder, replace(notes, confirmed=notes.tried, problem=""))
            return Pulled(reached=True, listed=old)
        try:
            listed = await offload(recipients.read, got.octets, self._keys)
            if not force:
                self._check(old, listed)
        except (BadList, Refused) as wrong:
            return await self._failed(notes, str(wrong), reached=True)
        await offload(write_list, self._folder, got.octets)
        await offload(write_notes, self._folder, Notes(notes.tried, notes.tried, got.etag))
        self._log.info("recipients_pulled", addresses=listed.addresses, domains=len(listed.domains))
        if self._size and listed.size > self._size:
            self._log.warning("size_below_primary", ours=self._size, primary=listed.size, text=SMALLER)
        return Pulled(reached=True, changed=True, listed=listed)

    async def _old(self) -> RecipientList | None:
        try:
            return await offload(read_list, self._folder, self._keys)
        except BadList as wrong:
            self._log.error("recipients_unreadable", folder=str(self._folder), problem=str(wrong))
            return None

    def _url(self) -> str:
        at = self._clock.now() // MICROSECONDS
        asked = {"backup": self._name, "time": at, "proof": self._keys.proof(self._name, at)}
        return f"{self._settings.primary.rstrip('/')}{PATH}?{urlencode(asked)}"

    def _check(self, old: RecipientList | None, new: RecipientList) -> None:
        """Raise Refused where the new list must not replace the old one."""
        if old is None:
            return
        if new.serial < old.serial:
            raise Refused(f"the list is older than ours (serial {new.serial} < {old.serial}): a replay? {REMEDY}")
        lost = old.addresses - new.addresses
        if lost > 0 and (
            not new.addresses or (old.addresses >= FEW and lost > self._settings.shrink * old.addresses)
        ):
            raise Refused(f"the list went from {old.addresses} addresses to {new.addresses}. {REMEDY}")

    async def _failed(self, notes: Notes, problem: str, *, reached: bool) -> Pulled:
        await offload(write_notes, self._folder, replace(notes, problem=problem))
        if reached:
            self._log.error("recipients_refused", problem=problem, text="The list before goes on.")
        else:
            self._log.warning("recipients_not_pulled", problem=problem)
        return Pulled(reached=reached, problem=problem)

    async def _notice(self, pulled: Pulled) -> None:
        if pulled.reached and self._away and self._returned is not None:
            await self._returned()
            self._log.info("primary_is_back", primary=self._settings.primary)
        self._away = not pulled.reached


REMEDY: Final = "If it is right: gatepost recipients pull --force"
SMALLER: Final = "Mail that only the primary would take is refused here: raise intake.max_size."


def context(certificate: str) -> ssl.SSLContext:
    """Return how to speak with the primary: with this very certificate, or with one that the system believes.

    A certificate that was pinned holds for whatever name the primary is reached by. Raises OSError (ssl.SSLError).
    """
    return pinned(Path(certificate).read_text("ascii")) if certificate else client_context(verify=True)


def pinned(certificate: str) -> ssl.SSLContext:
    """Return how to speak with the one server that has this certificate (PEM). Raises ssl.SSLError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.check_hostname = False
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    made.load_verify_locations(cadata=certificate)
    return made
