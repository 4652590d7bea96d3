"""One IMAP connection: reads commands, lets those through that its state allows, tells the news between them.

NOT_AUTHENTICATED --LOGIN, AUTHENTICATE--> AUTHENTICATED --SELECT, EXAMINE--> SELECTED --CLOSE, UNSELECT--> back
any --LOGOUT, a limit, silence--> OVER
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Final

from gatepost.accounts.model import Account
from gatepost.blobs.bodies import Damaged, Missing
from gatepost.codec.imap.names import BadName as BadWireName
from gatepost.codec.imap.reader import (
    AFTER_LOGIN,
    BEFORE_LOGIN,
    GoOn,
    Message,
    Piece,
    Reader,
    TooBig,
    Whole,
)
from gatepost.codec.imap.tokens import BadSyntax, Tokens
from gatepost.db.unit import NoRoom, NotCommitted
from gatepost.store.model import (
    BadName,
    Busy,
    MailboxExists,
    NoSuchMailbox,
    NoSuchMessage,
    NotAllowed,
    OverQuota,
    StoreRefusal,
    TooMany,
)
from gatepost.view.imap.selected import Selected
from gatepost.view.imap.upload import Upload
from gatepost.view.services import Login, Services, Wire

BAD_COMMANDS_MAX: Final = 20
NEWS_POLL_S: Final = 2 * 60.0
"""How often IDLE looks for news of other processes, and says that it is still there (as Dovecot does)."""

_LINE_END: Final = re.compile(rb"[\r\n]+")


class State(Enum):
    """RFC 3501 §3."""

    NOT_AUTHENTICATED = 1
    AUTHENTICATED = 2
    SELECTED = 3
    OVER = 4


ANY: Final = frozenset((State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED))
OUTSIDE: Final = frozenset((State.NOT_AUTHENTICATED,))
INSIDE: Final = frozenset((State.AUTHENTICATED, State.SELECTED))
OPENED: Final = frozenset((State.SELECTED,))


class No(Exception):
    """The command is refused: tagged NO with an optional response code."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


class Bad(Exception):
    """The command makes no sense here: tagged BAD."""


class Answered(Exception):
    """The command has said its own tagged answer."""


Run = Callable[["ImapSession", Tokens, bool], Awaitable[str]]
"""A command: takes the session, its arguments and whether UID stood before it; returns the text behind OK."""

CODES: Final[Mapping[type[StoreRefusal], str]] = {
    NoSuchMailbox: "NONEXISTENT",
    MailboxExists: "ALREADYEXISTS",
    BadName: "CANNOT",
    NotAllowed: "CANNOT",
    OverQuota: "OVERQUOTA",
    TooMany: "LIMIT",
    NoSuchMessage: "EXPUNGEISSUED",
    Busy: "INUSE",
}


class ImapSession:
    """See the module's words. `commands` maps a name to the states that allow it and the function that runs it."""

    def __init__(
        self, wire: Wire, services: Services, commands: Mapping[bytes, tuple[frozenset[State], Run]]
    ) -> None:
        self.wire = wire
        self.services = services
        self.state = State.NOT_AUTHENTICATED
        self.account: Account | None = None
        self.selected: Selected | None = None
        self.login = Login(services, wire, "imap")
        self.reader = Reader(BEFORE_LOGIN)
        self.tag = b""
        self.quiet_expunge = False
        self.condstore = False
        self.upload: Upload | None = None
        """The message of the APPEND that is being read or run."""
        self.shaking = False
        """A TLS handshake was begun: the next line may take longer."""
        self._commands = commands
        self._bad = 0
        self._news = asyncio.Event()
        self._unlisten: Callable[[], None] | None = None
        self._opened_at = services.clock.steady()
        self._line_due = self._opened_at + services.settings.login_line_time

    # --- the dialogue ---------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Speak until the client leaves."""
        self.wire.goodbye = b"* BYE The server is going down, come back in a moment\r\n"
        self.say(b"* OK [CAPABILITY %b] gatepost ready.\r\n" % self.capabilities())
        try:
            while self.state is not State.OVER:
                octets = await self.more()
                if not octets:
                    break
                await self._take(octets)
        except TimeoutError:
            self.say(b"* BYE Autologout; idle for too long\r\n")
        except ConnectionError:
            pass  # the client is gone, which is its right
        finally:
            self.login.leave()
            self.deselect()
            self._drop_upload()
            self.wire.close()

    async def more(self) -> bytes:
        """Return what the client sent next; b"" when it left. Raises TimeoutError."""
        settings, steady = self.services.settings, self.services.clock.steady()
        if self.state is State.NOT_AUTHENTICATED:
            return await self.wire.read(min(self._line_due, self._opened_at + settings.login_time))
        return await self.wire.read(steady + settings.idle_time)

    async def _take(self, octets: bytes) -> None:
        self.reader.feed(octets)
        while self.state is not State.OVER and (event := self.reader.next()) is not None:
            match event:
                case GoOn():
                    self.say(b"+ OK\r\n")
                case Message():
                    await self._announced(event)
                case Piece(octets=piece):
                    if self.upload is not None:
                        self.upload.write(piece)
                case TooBig():
                    self._drop_upload()
                    self._too_big(event)
                case Whole(octets=command):
                    await self._command(command)
                    self._drop_upload()
                    self._set_line_due()
        await self.wire.drain(self.services.clock.steady() + self.services.settings.write_time)

    async def _announced(self, message: Message) -> None:
        """Make room for a message, or say at once that there is none; what comes anyway is dropped."""
        self.upload = upload = Upload(self.services.spool())
        upload.foresee(message.size)
        if not upload.refused and not await self._within_quota(message.size):
            upload.refuse("Your mailboxes are full", "OVERQUOTA")
        if not message.synchronising:
            return
        if not upload.refused:
            self.say(b"+ OK\r\n")
            return
        self.reader.refuse()
        self.tag = message.tag
        self.answer(b"NO", f"[{upload.code}] {upload.refused}")
        self._drop_upload()

    async def _within_quota(self, size: int) -> bool:
        """Tell whether a message fits, as far as it is known now: the unit that stores it asks again."""
        if self.account is None or not self.account.quota.octets:
            return True
        try:
            octets, _ = await self.services.mailboxes.usage(self.account.id)
        except NotCommitted:
            return True
        return octets + size <= self.account.quota.octets

    def _drop_upload(self) -> None:
        if self.upload is not None:
            self.upload.close()
            self.upload = None

    def _set_line_due(self) -> None:
        patience = 2 if self.shaking else 1
        self.shaking = False
        self._line_due = self.services.clock.steady() + patience * self.services.settings.login_line_time

    def _too_big(self, event: TooBig) -> None:
        if event.fatal:
            self.say(b"* BYE [TOOBIG] %b\r\n" % event.text.encode())
            self.state = State.OVER
            return
        self.say(event.tag + b" NO [TOOBIG] %b\r\n" % event.text.encode())

    async def _command(self, octets: bytes) -> None:
        tokens = Tokens(octets)
        try:
            self.tag = tokens.tag()
        except BadSyntax:
            self.tag = b"*"
            self._misunderstood("expected a tag")
            return
        try:
            text = await self._run(tokens)
        except Answered:
            return
        except (BadSyntax, Bad) as wrong:
            self._misunderstood(str(wrong))
            return
        except BadWireName as wrong:
            self.answer(b"NO", f"[CANNOT] {wrong}")
        except No as refused:
            self.answer(b"NO", f"[{refused.code}] {refused}" if refused.code else str(refused))
        except StoreRefusal as refused:
            self.answer(b"NO", f"[{CODES.get(type(refused), 'CANNOT')}] {refused}")
        except NoRoom:
            self.answer(b"NO", "[OVERQUOTA] The disk is full; nothing was changed")
        except NotCommitted:
            self.answer(b"NO", "[UNAVAILABLE] The database is busy; nothing was changed, try again")
        except (Damaged, Missing) as damage:
            self.services.log.error("body_damaged", error=str(damage), user=self.user)
            self.answer(b"NO", "[SERVERBUG] This message is damaged; the postmaster was told")
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            raise
        except Exception:
            self.services.log.exception("imap_bug", user=self.user)
            self.answer(b"NO", "[SERVERBUG] Internal error, reported")
        else:
            if self.account is not None:
                self._bad = 0
            await self.tell_news()
            self.answer(b"OK", text)

    async def _run(self, tokens: Tokens) -> str:
        tokens.space()
        name = tokens.word()
        uid = name == b"UID"
        if uid:
            tokens.space()
            name = tokens.word()
            if name not in (b"FETCH", b"STORE", b"SEARCH", b"COPY", b"MOVE", b"EXPUNGE"):
                raise Bad("UID takes FETCH, STORE, SEARCH, COPY, MOVE or EXPUNGE")
        found = self._commands.get(name)
        if found is None:
            raise Bad("Unknown command")
        states, run = found
        if self.state not in states:
            raise Bad("Not now")
        self.quiet_expunge = not uid and name in (b"FETCH", b"STORE", b"SEARCH")
        return await run(self, tokens, uid)

    def _misunderstood(self, text: str) -> None:
        self.answer(b"BAD", text)
        self._bad += 1
        if self._bad >= BAD_COMMANDS_MAX or (self._bad >= 5 and self.state is State.NOT_AUTHENTICATED):
            self.say(b"* BYE Too many commands that make no sense\r\n")
            self.state = State.OVER

    # --- for the commands -----------------------------------------------------------------------------------

    def say(self, octets: bytes) -> None:
        """Write."""
        self.wire.write(octets)

    def answer(self, word: bytes, text: str) -> None:
        """Write the tagged answer."""
        self.say(b"%b %b %b\r\n" % (self.tag, word, _LINE_END.sub(b" ", text.encode("utf-8", "replace"))))

    async def flush(self) -> None:
        """Wait until the client has taken what was written."""
        await self.wire.drain(self.services.clock.steady() + self.services.settings.write_time)

    def capabilities(self) -> bytes:
        """Return what is offered now."""
        words = ["IMAP4rev1", "LITERAL+", "SASL-IR", "ID", "ENABLE"]
        if self.state is State.NOT_AUTHENTICATED:
            if self.wire.tls is None and self.services.certificates is not None:
                words.append("STARTTLS")
            words.append("AUTH=PLAIN" if self.login.secured else "LOGINDISABLED")
            return " ".join(words).encode()
        words += ["IDLE", "NAMESPACE", "CHILDREN", "UNSELECT", "UIDPLUS", "MOVE", "SPECIAL-USE"]
        words += ["CONDSTORE", "ESEARCH", "STATUS=SIZE", "LIST-EXTENDED", "LIST-STATUS"]
        words.append(f"APPENDLIMIT={self.services.settings.append_max}")
        return " ".join(words).encode()

    @property
    def user(self) -> str:
        """Return who is logged in."""
        return self.account.address if self.account is not None else ""

    @property
    def who(self) -> int:
        """Return the account's id; only in states that have one."""
        assert self.account is not None
        return self.account.id

    @property
    def open(self) -> Selected:
        """Return the selected mailbox; only in states that have one."""
        assert self.selected is not None
        return self.selected

    def entered(self, account: Account) -> None:
        """Somebody logged in."""
        self.account = account
        self.state = State.AUTHENTICATED
        self.reader.bounds = replace(AFTER_LOGIN, append=self.services.settings.append_max)

    def select(self, selected: Selected) -> None:
        """A mailbox was selected."""
        self.deselect()
        self.selected = selected
        selected.tells_modseq = self.condstore
        self.state = State.SELECTED
        self._unlisten = self.services.news.watch(selected.mailbox.id, self._news.set)
        self._news.set()  # something may have happened since the mailbox was read

    def enable_condstore(self) -> None:
        """Tell MODSEQ with every change of flags from now on (RFC 7162 §3.1)."""
        self.condstore = True
        if self.selected is not None:
            self.selected.tells_modseq = True

    def deselect(self) -> None:
        """No mailbox is selected any longer."""
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None
        self._news.clear()
        self.selected = None
        if self.state is State.SELECTED:
            self.state = State.AUTHENTICATED

    async def tell_news(self, *, forced: bool = False) -> None:
        """Tell what others did to the selected mailbox, as far as IMAP allows it now."""
        selected = self.selected
        if selected is None or not (self._news.is_set() or forced or selected.gone):
            return
        self._news.clear()
        mailboxes = self.services.mailboxes
        try:
            news = await mailboxes.news(selected.mailbox.id, selected.modseq, selected.uidnext)
        except NoSuchMailbox:
            self.say(b"* BYE The selected mailbox was deleted\r\n")
            self.state = State.OVER
            return
        if not news.complete:
            selected.compare(await mailboxes.rows(selected.mailbox.id))
        if any(row[1] >> 16 & ~sum(selected.keywords) >> 16 for row in news.rows):
            selected.learn(await mailboxes.keywords(selected.mailbox.id))
            self.say(flags_line(selected))
        for octets in selected.take(news, may_expunge=not self.quiet_expunge):
            self.say(octets)
            await asyncio.sleep(0)

    async def news_or_input(self, deadline: float) -> bytes | None:
        """In IDLE: return what the client sent (b"": it left), or None when there are news, or time to look.

        Raises TimeoutError at the deadline (steady clock).
        """
        look_at = min(deadline, self.services.clock.steady() + NEWS_POLL_S)
        reading = asyncio.ensure_future(self.wire.read(look_at))
        listening = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait({reading, listening}, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        except TimeoutError:
            if look_at >= deadline:
                raise
            self.say(b"* OK Still here\r\n")
            return None
        finally:
            listening.cancel()
            reading.cancel()


def flags_line(selected: Selected) -> bytes:
    """Return the untagged FLAGS of a mailbox."""
    return b"* FLAGS " + selected.rendered((1 << 10) - 1 | sum(selected.keywords)) + b"\r\n"
