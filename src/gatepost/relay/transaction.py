"""One mail over one session: MAIL, RCPTs, DATA or BDAT, the octets; one Result for each recipient.

First the mail is made fit for this host (relay/fit.py); what cannot be is not begun.

Only a 2yz after the dot means delivered. When the connection ends between the dot and that answer nobody can know
(RFC 1047): the recipients are deferred and marked `in_doubt`. Before the dot a lost connection has done nothing;
when it is lost before MAIL was taken, or MAIL is answered 421, the host is down and another may take the mail.
"""

from typing import Final

from gatepost.aio.offload import Overfull, offload
from gatepost.base.address import Address, fold_domain
from gatepost.base.clock import MICROSECONDS
from gatepost.base.envelope import Privacy, Recipient
from gatepost.base.reply import Code, Reply
from gatepost.codec.smtp import client as smtp
from gatepost.codec.smtp.client import HeardReply
from gatepost.codec.smtp.data import crlf_only
from gatepost.codec.smtp.wishes import By
from gatepost.codec.smtp.xforward import xforward
from gatepost.relay.client import Broken, Session, trouble
from gatepost.relay.fit import Fitted, fit
from gatepost.relay.model import Consignment, Fate, Result

BLOCK: Final = 65_536  # octets written before the peer must have taken most of them
BY_MOST: Final = 999_999_999  # s, RFC 2852 §3: nine digits
TOO_LATE: Final = Reply(Code.FAILED, "5.4.7", "not delivered by the time that its sender gave")
SMALL: Final = 32_768  # octets of a mail that is made fit on the loop: less than 1 ms


async def send(session: Session, consignment: Consignment, content: bytes) -> tuple[Result, ...]:
    """Do one transaction; return one result for each recipient, in order; `session.usable` says what is next."""
    session.mails += 1
    transaction = _Transaction(session, consignment, content)
    try:
        await transaction.run()
    except Broken as broken:
        session.abort()
        transaction.give_up(broken.reply)
    return transaction.results()


class _Transaction:
    """One mail over one session, and what is known of each recipient so far."""

    def __init__(self, session: Session, consignment: Consignment, content: bytes) -> None:
        self._session = session
        self._consignment = consignment
        self._content = content
        self._utf8 = False
        self._changed = ""
        self._by: By | None = None
        self._results: list[Result | None] = [None] * len(consignment.recipients)
        self._begun = False
        self._dotted = False

    def results(self) -> tuple[Result, ...]:
        """Return what became of each recipient."""
        assert all(result is not None for result in self._results)
        return tuple(result for result in self._results if result is not None)

    def give_up(self, reply: Reply) -> None:
        """Defer all whose fate is open: the connection is gone."""
        self._close(reply, said=False)

    async def run(self) -> None:
        """Do it; raises Broken where the connection ends too early."""
        refusal = self._in_time() or await self._fit()
        if refusal is not None:
            self._close(refusal, said=False)
            return
        await self._introduce()
        if self._session.offered.pipelining:
            await self._pipelined()
        else:
            await self._step_by_step()

    def _in_time(self) -> Reply | None:
        """Note how much time this host has for the mail; return why it has none (RFC 2852 §4.2)."""
        by, least = self._consignment.wishes.by, self._session.offered.deliver_by
        if by is None:
            return None
        left = (by.at - self._session.now()) // MICROSECONDS
        if by.returns and left <= 0:
            return TOO_LATE
        if least is None:
            return None
        if by.returns and left < least:
            text = f"{self._session.hop.name} needs {least} s to deliver it, and {left} s are left"
            return Reply(Code.FAILED, "5.4.7", text)
        self._by = By(max(left, -BY_MOST) if left < 0 else min(left, BY_MOST), by.returns, by.trace)
        return None

    async def _introduce(self) -> None:
        """Tell a filter for whom we speak; what it says to that does not keep the mail back."""
        session, client = self._session, self._consignment.client
        if session.route.xforward and client is not None and session.offered.xforward:
            for command in xforward(client, session.offered.xforward):
                await session.ask(command, "XFORWARD", session.settings.command_time)

    async def _step_by_step(self) -> None:
        session, patience = self._session, self._session.settings.command_time
        reply = await session.ask(self._mail(), "MAIL", patience)
        if not self._sender_taken(reply):
            return
        for at, recipient in enumerate(self._consignment.recipients):
            reply = await session.ask(self._rcpt(recipient), "RCPT", patience)
            if not self._recipient_answered(at, reply):
                return
        if not self._open():
            await self._reset()
            return
        if self._chunked:
            await self._chunk()
            return
        reply = await session.ask(smtp.DATA, "DATA", session.settings.data_time)
        if self._data_taken(reply):
            await self._body()

    async def _pipelined(self) -> None:
        """Send MAIL, RCPTs and DATA in one group (RFC 2920 §3.1) and take the answers in order.

        BDAT waits for the answers: its octets follow it, and may be for nobody.
        """
        session, patience = self._session, self._session.settings.command_time
        rcpts = [self._rcpt(recipient) for recipient in self._consignment.recipients]
        session.wire.write(b"".join((self._mail(), *rcpts, b"" if self._chunked else smtp.DATA)))
        taken = self._sender_taken(await session.listen("MAIL", patience))
        for at in range(len(rcpts)):
            if session.broken:
                return
            reply = await session.listen("RCPT", patience)
            if taken and not self._recipient_answered(at, reply):
                return
        if self._chunked:
            if self._open():
                await self._chunk()
            elif taken:
                await self._reset()
            return
        reply = await session.listen("DATA", session.settings.data_time)
        if self._open():
            if self._data_taken(reply):
                await self._body()
        elif reply.code == Code.START_DATA:
            # RFC 2920 §3.1: a server that takes DATA without a recipient gets an empty mail, which it must refuse.
            await session.ask(session.dialogue.data_end(), "the empty mail", session.settings.end_time)
        elif taken:
            await self._reset()

    @property
    def _chunked(self) -> bool:
        return self._session.offered.chunking and self._session.settings.chunking

    async def _fit(self) -> Reply | None:
        """Make the mail fit for this host; return why it can never take it."""
        arguments = (self._consignment, self._content, self._session.offered, self._session.settings.eight_bit)
        try:
            fitted = fit(*arguments) if len(self._content) <= SMALL else await offload(fit, *arguments)
        except Overfull:
            return trouble("4.3.2", "too much work is waiting here")
        if not isinstance(fitted, Fitted):
            return fitted
        self._content, self._utf8, self._changed = fitted.content, fitted.utf8, fitted.changed
        return None

    def _mail(self) -> bytes:
        offered, consignment = self._session.offered, self._consignment
        utf8 = offered.smtputf8 and (consignment.smtputf8 or self._utf8)
        eight = offered.eight_bit and (consignment.eight_bit or utf8 or not self._content.isascii())
        sender = consignment.sender
        if sender is not None and not utf8:
            sender = _downgraded(sender)
        return smtp.mail(
            sender,
            size=len(self._content) if offered.size is not None else 0,
            eight_bit=eight,
            smtputf8=utf8,
            ret=consignment.ret if offered.dsn else "",
            envid=consignment.envid if offered.dsn else "",
            by=self._by,
            priority=consignment.wishes.priority if offered.priority else 0,
            requiretls=offered.requiretls and consignment.wishes.privacy is Privacy.REQUIRED,
        )

    def _rcpt(self, recipient: Recipient) -> bytes:
        offered = self._session.offered
        address = recipient.address if offered.smtputf8 else _downgraded(recipient.address)
        if not offered.dsn:
            return smtp.rcpt(address)
        return smtp.rcpt(address, notify=recipient.notify, orcpt=recipient.orcpt)

    def _sender_taken(self, reply: HeardReply) -> bool:
        if 200 <= reply.code < 300:
            self._begun = True
            return True
        # 421 says that the host goes, not that it has something against this mail: another may take it.
        self._close(reply.as_reply(), host_down=reply.code == Code.SHUTTING_DOWN)
        return False

    def _recipient_answered(self, at: int, reply: HeardReply) -> bool:
        """Note one recipient's answer; False when the server leaves."""
        if reply.code == Code.SHUTTING_DOWN:
            self._close(reply.as_reply())
            return False
        if reply.code == Code.TOO_BIG and reply.enhanced == "5.5.3":  # RFC 5321 §4.5.3.1.10: too many recipients
            self._results[at] = self._result(Reply(Code.NO_STORAGE, "4.5.3", reply.text))
        elif not 200 <= reply.code < 300:
            self._results[at] = self._result(reply.as_reply())
        return True

    def _data_taken(self, reply: HeardReply) -> bool:
        if reply.code == Code.START_DATA:
            return True
        answer = reply.as_reply()
        if reply.positive:
            answer = trouble("4.5.0", f"the server answered DATA with {reply}")
            self._session.broken = True
        self._close(answer, said=not reply.positive)
        return False

    async def _body(self) -> None:
        session, content = self._session, self._content
        last = max(0, len(content) - 1) // BLOCK * BLOCK
        for start in range(0, last, BLOCK):
            session.wire.write(session.dialogue.data_octets(content[start : start + BLOCK]))
            await session.drain()
        rest = session.dialogue.data_octets(content[last:])
        self._dotted = True
        session.wire.write(rest + session.dialogue.data_end())  # in one segment: half the work for a small mail
        await self._end()

    async def _chunk(self) -> None:
        """Send the mail as one chunk (RFC 3030 §2): octets counted, no dots stuffed."""
        session, content = self._session, self._content
        if not crlf_only(content):  # what DotStuffer does on the way of DATA
            content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        if not content.endswith(b"\r\n"):
            content += b"\r\n"
        session.wire.write(smtp.bdat(len(content), last=True))
        last = (len(content) - 1) // BLOCK * BLOCK
        for start in range(0, last, BLOCK):
            session.wire.write(content[start : start + BLOCK])
            await session.drain()
        self._dotted = True
        session.wire.write(content[last:])
        await self._end()

    async def _end(self) -> None:
        """Take the answer to the whole mail, or each recipient's of LMTP."""
        session = self._session
        if session.route.lmtp:
            for at in self._open():  # RFC 2033 §4.2: one answer for each recipient taken, in order
                self._ended(at, await session.listen("the mail", session.settings.end_time))
            return
        reply = await session.listen("the mail", session.settings.end_time)
        for at in self._open():
            self._ended(at, reply)

    def _ended(self, at: int, reply: HeardReply) -> None:
        answer = reply.as_reply()
        if 300 <= reply.code < 400:
            answer = trouble("4.5.0", f"the server answered the mail with {reply}")
        self._results[at] = self._result(answer)
        if reply.code == Code.SHUTTING_DOWN:
            self._session.broken = True

    async def _reset(self) -> None:
        """Make the session fit for the next mail."""
        session = self._session
        reply = await session.ask(smtp.RSET, "RSET", session.settings.command_time)
        if not reply.positive:
            session.broken = True

    def _open(self) -> list[int]:
        return [at for at, result in enumerate(self._results) if result is None]

    def _close(self, reply: Reply, *, said: bool = True, host_down: bool = False) -> None:
        if reply.code == Code.SHUTTING_DOWN:
            self._session.broken = True
        in_doubt = self._dotted and not said
        down = host_down or (reply.temporary and not self._begun and not said)
        for at in self._open():
            self._results[at] = self._result(reply, said=said, in_doubt=in_doubt, host_down=down)

    def _result(
        self, reply: Reply, *, said: bool = True, in_doubt: bool = False, host_down: bool = False
    ) -> Result:
        if 200 <= reply.code < 300:
            fate = Fate.DELIVERED
        elif 500 <= reply.code < 600:
            fate = Fate.FAILED
        else:
            fate = Fate.DEFERRED
        session = self._session
        hop, wire = session.hop, session.wire
        passed = fate is Fate.DELIVERED and session.offered.dsn
        shown = (hop.name, hop.ip, wire.tls, passed, in_doubt, host_down, said, self._changed, session.why)
        by_passed = fate is Fate.DELIVERED and self._by is not None
        return Result(fate, reply, *shown, by_passed=by_passed)


def _downgraded(address: Address) -> Address:
    return address if address.domain.isascii() else Address(address.local, fold_domain(address.domain))
