"""One POP3 connection (RFC 1939) over INBOX.

    AUTHORIZATION --USER+PASS, AUTH--> TRANSACTION --QUIT--> UPDATE: what was marked is expunged in one go
Anything else than QUIT at the end (a lost connection, silence) deletes nothing.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, cast

from gatepost.accounts.model import Account
from gatepost.base.ids import MailId
from gatepost.blobs.bodies import Damaged, Missing
from gatepost.codec.line import LineBuffer, LineTooLong
from gatepost.codec.pop3 import AUTH_LINE_MAX, Command, multiline, parse_command, parse_number, top
from gatepost.codec.sasl import Credentials, Malformed, Plain, decode_response
from gatepost.db.unit import NotCommitted
from gatepost.store.flags import SEEN
from gatepost.store.model import Mailbox, StoreRefusal
from gatepost.store.uids import runs
from gatepost.view.services import Login, LoginRefused, Services, Wire

BAD_COMMANDS_MAX: Final = 20
NOT_IN_THE_CLEAR: Final = "[AUTH] Plaintext authentication disallowed on non-secure (SSL/TLS) connections."


class Err(Exception):
    """The command is refused: -ERR."""


class Pop3Session:
    """See the module's words."""

    def __init__(self, wire: Wire, services: Services) -> None:
        self._wire = wire
        self._services = services
        self._login = Login(services, wire, "pop3")
        self._lines = LineBuffer(AUTH_LINE_MAX)
        self._user = b""
        self._account: Account | None = None
        self._mailbox: Mailbox | None = None
        self._messages: list[tuple[int, MailId, int]] = []
        self._marked: set[int] = set()
        self._read: set[int] = set()
        self._bad = 0
        self._opened_at = services.clock.steady()
        self._line_due = self._opened_at + services.settings.login_line_time
        self._shaking = False
        self._over = False

    async def serve(self) -> None:
        """Speak until the client leaves."""
        self._wire.goodbye = b"-ERR [SYS/TEMP] The server is going down, come back in a moment\r\n"
        self._say("+OK gatepost ready.")
        try:
            while not self._over:
                line = await self._line()
                if line is None:
                    break
                await self._take(line)
                await self._wire.drain(self._services.clock.steady() + self._services.settings.write_time)
        except TimeoutError:
            self._say("-ERR [SYS/TEMP] Disconnected for inactivity.")
        except LineTooLong:
            self._say("-ERR Line too long.")
        except ConnectionError:
            pass  # the client is gone: nothing is deleted
        finally:
            self._login.leave()
            self._wire.close()

    async def _line(self) -> bytes | None:
        while True:
            line = self._lines.line()
            if line is not None:
                return line
            settings = self._services.settings
            deadline = min(self._line_due, self._opened_at + settings.login_time)
            if self._account is not None:
                deadline = self._services.clock.steady() + settings.pop3_idle_time
            octets = await self._wire.read(deadline)
            if not octets:
                return None
            self._lines.feed(octets)

    async def _take(self, line: bytes) -> None:
        await self._obey(line)
        settings = self._services.settings
        patience = 2 if self._shaking else 1
        self._shaking = False
        self._line_due = self._services.clock.steady() + patience * settings.login_line_time

    async def _obey(self, line: bytes) -> None:
        command = parse_command(line)
        commands = TRANSACTION if self._account is not None else AUTHORIZATION
        run = commands.get(command.verb) if command is not None else None
        if command is None or run is None:
            self._misunderstood()
            return
        try:
            await run(self, command)
        except Err as refused:
            self._say(f"-ERR {refused}")
        except LoginRefused as refused:
            kind = "AUTH" if refused.code == "AUTHENTICATIONFAILED" else "SYS/TEMP"
            self._say(f"-ERR [{kind}] {refused}")
            self._over |= refused.final
        except (StoreRefusal, NotCommitted) as refused:
            self._say(f"-ERR [SYS/TEMP] {refused}")
        except (Damaged, Missing) as damage:
            self._services.log.error("body_damaged", error=str(damage))
            self._say("-ERR [SYS/PERM] This message is damaged; the postmaster was told.")
        except (ConnectionError, TimeoutError, LineTooLong):
            raise
        except Exception:
            self._services.log.exception("pop3_bug")
            self._say("-ERR [SYS/TEMP] Internal error, reported.")

    def _misunderstood(self) -> None:
        self._bad += 1
        self._say("-ERR Unknown command.")
        self._over |= self._bad >= BAD_COMMANDS_MAX

    def _say(self, text: str) -> None:
        self._wire.write(text.encode("utf-8", "replace") + b"\r\n")

    # --- AUTHORIZATION --------------------------------------------------------------------------------------

    async def _capa(self, command: Command) -> None:
        words = ["TOP", "UIDL", "RESP-CODES", "PIPELINING", "AUTH-RESP-CODE"]
        if self._account is None:
            if self._wire.tls is None and self._services.certificates is not None:
                words.append("STLS")
            if self._login.secured:
                words += ["USER", "SASL PLAIN"]
        words.append("IMPLEMENTATION gatepost")
        self._wire.write(b"+OK\r\n" + "".join(f"{word}\r\n" for word in words).encode() + b".\r\n")

    async def _stls(self, command: Command) -> None:
        certificates = self._services.certificates
        if self._wire.tls is not None or certificates is None:
            raise Err("TLS is active or not offered.")
        if len(self._lines):
            self._over = True
            raise Err("Plaintext behind STLS.")
        self._say("+OK Begin TLS negotiation now.")
        self._user = b""
        self._shaking = True
        self._wire.start_tls(certificates.context)

    async def _user_name(self, command: Command) -> None:
        self._check_secured()
        self._user = command.rest
        self._say("+OK")

    async def _password(self, command: Command) -> None:
        self._check_secured()
        if not self._user:
            raise Err("No username given.")
        await self._enter(self._user.decode("utf-8", "replace"), command.rest)

    async def _auth(self, command: Command) -> None:
        words = command.words()
        if not words:
            self._wire.write(b"+OK\r\n" + (b"PLAIN\r\n" if self._login.secured else b"") + b".\r\n")
            return
        self._check_secured()
        if words[0].upper() != b"PLAIN":
            raise Err("Unsupported authentication mechanism.")
        response: bytes | None = words[1] if len(words) > 1 else None
        if response is None:
            self._wire.write(b"+ \r\n")
            response = await self._line()
        if response is None or response == b"*":
            raise Err("Authentication cancelled.")
        try:
            step = Plain().step(b"" if response == b"=" else decode_response(response))
        except Malformed as wrong:
            raise Err(str(wrong)) from wrong
        if not isinstance(step, Credentials) or step.authorize_as not in ("", step.user):
            raise Err("[AUTH] Authentication failed.")
        await self._enter(step.user, step.password)

    async def _enter(self, user: str, password: bytes) -> None:
        account = await self._login.attempt(user, password)
        mailboxes = self._services.mailboxes
        self._mailbox = await mailboxes.get(await mailboxes.inbox(account.id))
        everything = ((1, max(1, self._mailbox.uidnext - 1)),)
        async for rows in mailboxes.listing(self._mailbox.id, everything):
            self._messages += [cast(tuple[int, MailId, int], (row[0], row[1], row[3])) for row in rows]
        self._account = account
        self._say("+OK Logged in.")

    def _check_secured(self) -> None:
        if not self._login.secured:
            raise Err(NOT_IN_THE_CLEAR)

    # --- TRANSACTION ----------------------------------------------------------------------------------------

    async def _stat(self, command: Command) -> None:
        left = [size for at, (_, _, size) in enumerate(self._messages) if at not in self._marked]
        self._say(f"+OK {len(left)} {sum(left)}")

    async def _list(self, command: Command) -> None:
        if command.rest:
            at = self._index(command.rest)
            self._say(f"+OK {at + 1} {self._messages[at][2]}")
            return
        lines = [b"%d %d\r\n" % (at + 1, each[2]) for at, each in self._left()]
        self._wire.write(b"+OK %d messages:\r\n%b.\r\n" % (len(lines), b"".join(lines)))

    async def _uidl(self, command: Command) -> None:
        assert self._mailbox is not None
        validity = self._mailbox.uidvalidity
        if command.rest:
            at = self._index(command.rest)
            self._say(f"+OK {at + 1} {self._messages[at][0]:08X}{validity:08X}")
            return
        lines = [b"%d %08X%08X\r\n" % (at + 1, each[0], validity) for at, each in self._left()]
        self._wire.write(b"+OK\r\n" + b"".join(lines) + b".\r\n")

    async def _retr(self, command: Command) -> None:
        at = self._index(command.rest)
        content = await self._content(at)
        self._read.add(self._messages[at][0])
        self._wire.write(b"+OK %d octets\r\n%b" % (self._messages[at][2], multiline(content)))

    async def _top(self, command: Command) -> None:
        words = command.words()
        lines = 0 if len(words) == 2 and words[1] == b"0" else parse_number(words[1]) if len(words) == 2 else None
        if lines is None:
            raise Err("TOP takes a message and a number of lines.")
        at = self._index(words[0])
        content = await self._content(at)
        self._wire.write(b"+OK\r\n" + multiline(top(content, lines)))

    async def _content(self, at: int) -> bytes:
        """Return a message's octets; raises NoSuchMessage when another session has expunged it."""
        assert self._mailbox is not None
        return await self._services.mailboxes.body(self._mailbox.id, self._messages[at][0])

    async def _dele(self, command: Command) -> None:
        self._marked.add(self._index(command.rest))
        self._say("+OK Marked to be deleted.")

    async def _rset(self, command: Command) -> None:
        self._marked.clear()
        self._say("+OK")

    async def _noop(self, command: Command) -> None:
        self._say("+OK")

    async def _quit(self, command: Command) -> None:
        self._over = True
        if self._mailbox is None:
            self._say("+OK Logging out")
            return
        mailboxes, mailbox = self._services.mailboxes, self._mailbox.id
        gone = {self._messages[at][0] for at in self._marked}
        if seen := self._read - gone:
            await mailboxes.change_flags(mailbox, runs(seen), add=SEEN)
        if gone:
            await mailboxes.expunge(mailbox, runs(gone), whatever_flags=True)
        self._say("+OK Logging out, messages deleted." if gone else "+OK Logging out.")

    def _left(self) -> list[tuple[int, tuple[int, MailId, int]]]:
        return [(at, each) for at, each in enumerate(self._messages) if at not in self._marked]

    def _index(self, text: bytes) -> int:
        number = parse_number(text)
        if number is None or number > len(self._messages):
            raise Err("There's no such message.")
        if number - 1 in self._marked:
            raise Err("Message is deleted.")
        return number - 1


_Run = Callable[[Pop3Session, Command], Awaitable[None]]
AUTHORIZATION: Final[Mapping[str, _Run]] = {
    "CAPA": Pop3Session._capa,
    "STLS": Pop3Session._stls,
    "USER": Pop3Session._user_name,
    "PASS": Pop3Session._password,
    "AUTH": Pop3Session._auth,
    "QUIT": Pop3Session._quit,
}
TRANSACTION: Final[Mapping[str, _Run]] = {
    "CAPA": Pop3Session._capa,
    "STAT": Pop3Session._stat,
    "LIST": Pop3Session._list,
    "UIDL": Pop3Session._uidl,
    "RETR": Pop3Session._retr,
    "TOP": Pop3Session._top,
    "DELE": Pop3Session._dele,
    "RSET": Pop3Session._rset,
    "NOOP": Pop3Session._noop,
    "QUIT": Pop3Session._quit,
}


async def serve(wire: Wire, services: Services) -> None:
    """Speak POP3 on a connection until it ends."""
    await Pop3Session(wire, services).serve()
