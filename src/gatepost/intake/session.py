"""The coroutine that drives one SMTP or LMTP session: octets between wire and dialogue, events to decisions.

Answers to a pipelined group leave together. Errors are caught at two places: what one event raises becomes its
answer (a Refusal its reply, a full disk 452, anything unforeseen 451 and a traceback in the log), and what the
connection raises ends the session. While a mail is coming in, or being stored, the session cannot be dismissed.
"""

from dataclasses import dataclass, replace
from typing import Final

from gatepost.accounts.model import AccountId, Mailbox, Overloaded
from gatepost.base.address import fold
from gatepost.base.clock import Instant
from gatepost.base.envelope import Client, Wishes
from gatepost.base.ids import id_text
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.codec.smtp.etrn import Etrn
from gatepost.codec.smtp.grammar import BadAddress, Hello, Mail, Rcpt, StartTls, parse_mailbox, path_text
from gatepost.codec.smtp.server import (
    NOT_WAITED,
    TOO_BIG,
    TOO_SLOW,
    Authenticating,
    BodyBegins,
    BodyEnds,
    BodyPart,
    Dialogue,
    Event,
    Misdeed,
    Phase,
    Reaction,
    Terms,
    TransactionReset,
)
from gatepost.codec.smtp.wishes import Asked
from gatepost.codec.smtp.xforward import Forwarded, Introduction, learn
from gatepost.db.unit import NotCommitted
from gatepost.gate.friendly import Say
from gatepost.intake import author, content, receive
from gatepost.intake.auth import delay_after
from gatepost.intake.etrn import etrn
from gatepost.intake.introduced import author_of, posed
from gatepost.intake.naming import confirmed_name
from gatepost.intake.ports import Services, Wire
from gatepost.intake.transaction import Transaction, granted, is_role
from gatepost.policy.action import Delivery, ToMailbox

GOODBYE: Final = Reply(Code.SHUTTING_DOWN, "4.3.2", "Service is restarting, try again")
COURTESY: Final = 5.0  # s in which a client that has delivered nothing yet may begin to while the server drains
WRITE_TIME: Final = 300.0  # s in which a client must take our answers; RFC 5321 §4.5.3.2.7
STRESSED_WAIT: Final = 3  # times less before the greeting, as postscreen's 6 s become 2
EXCESS: Final = 2  # a body this many times above the limit is no mistake: the session ends

AUTH_FAILED: Final = Reply(Code.AUTH_INVALID, "5.7.8", "Authentication failed")
AUTH_BUSY: Final = Reply(Code.AUTH_TEMPORARY, "4.7.0", "Too many logins at this moment, try again later")
AUTH_BLOCKED: Final = Reply(Code.SHUTTING_DOWN, "4.7.0", "Too many authentication failures from your network")
TOO_MANY_MAILS: Final = Reply(Code.MAILBOX_BUSY, "4.7.1", "Too many mails from your address, try again later")
ONE_BY_ONE: Final = Reply(Code.NO_STORAGE, "4.5.3", "A mail without a sender has one recipient")
PROTOCOL_ERROR: Final = Reply(Code.NO_SUCH_MAILBOX, "5.5.1", "Protocol error")
UNKNOWN_LOGIN: Final = Reply(Code.NO_SUCH_MAILBOX, "5.7.8", "LOGIN names nobody here")
NOT_LOCAL: Final = Reply(Code.NO_SUCH_MAILBOX, "5.7.1", "Only local recipients here")


@dataclass(frozen=True, slots=True)
class Port:
    """What sets one kind of listener apart.

    `named` looks up the client's name, `judged` has its mail examined, `gated` asks the gate about each recipient.
    """

    name: str
    tag: str
    named: bool
    judged: bool
    local_only: bool
    gated: bool = False
    author: str = ""
    """The user of this machine who is at the other end of a local socket."""


class Session:
    """One connection from its greeting to its end."""

    __slots__ = (
        "_account",
        "_client",
        "_dialogue",
        "_failures",
        "_forwarded",
        "_named",
        "_port",
        "_served",
        "_services",
        "_transaction",
        "_wire",
    )

    def __init__(self, wire: Wire, services: Services, terms: Terms, port: Port) -> None:
        self._wire = wire
        self._services = services
        self._port = port
        self._dialogue = Dialogue(terms, services.clock.steady(), tls=wire.tls is not None)
        self._client = Client(
            ip=wire.peer_ip,
            port=wire.peer_port,
            local_ip=wire.local_ip,
            local_port=wire.local_port,
            listener=port.name,
            tag=port.tag,
            tls=wire.tls,
            local_user=port.author,
        )
        self._named = not port.named
        self._account: AccountId | None = None
        self._transaction: Transaction | None = None
        self._forwarded: Forwarded | None = None
        self._failures = 0
        self._served = False

    async def run(self) -> None:
        """Serve the client until it leaves or is shown the door."""
        try:
            await self._greet()
            while not self._dialogue.closed and await self._listen():
                await self._answer()
        except (ConnectionError, TimeoutError):
            self._services.log.info("session_lost", ip=self._client.ip, listener=self._port.name)
        finally:
            self._end_transaction()
            self._wire.close()

    # Octets

    async def _greet(self) -> None:
        reaction, dialogue = self._services.settings.pregreet, self._dialogue
        early = await self._early()
        if early:
            dialogue.note(Misdeed.EARLY, reaction)
        if early and reaction is Reaction.DROP:
            dialogue.close(NOT_WAITED, "spoke before the greeting")
        else:
            dialogue.greet()
        await self._flush()
        if early and not dialogue.closed:
            dialogue.receive(early, self._services.clock.steady())
            await self._answer()

    async def _early(self) -> bytes:
        """Let a stranger wait for the greeting; return what it says meanwhile."""
        services, settings = self._services, self._services.settings
        wait = settings.greet_wait / (STRESSED_WAIT if services.crowded() else 1)
        if not wait or not self._port.named:
            return b""
        if settings.greet_teaser:
            self._wire.write(f"220-{services.hostname} {settings.greet_teaser}\r\n".encode("ascii", "replace"))
        try:
            return await self._wire.read(services.clock.steady() + wait)
        except TimeoutError:
            return b""

    async def _listen(self) -> bool:
        """Read once; tell whether there was something."""
        dialogue, wire = self._dialogue, self._wire
        wire.goodbye = b"" if dialogue.phase in (Phase.BODY, Phase.CHUNK) else _GOODBYE
        wire.courtesy = COURTESY if self._transaction is not None or not self._served else 0.0
        try:
            octets = await wire.read(dialogue.deadline)
        except TimeoutError:
            dialogue.close(TOO_SLOW, "too slow")
            octets = b""
            await self._flush()
        wire.goodbye = b""
        if not octets:
            return False
        dialogue.receive(octets, self._services.clock.steady())
        return True

    async def _answer(self) -> None:
        """Decide all that can be decided, then say it."""
        dialogue = self._dialogue
        while (event := dialogue.next_event()) is not None:
            if isinstance(event, StartTls):
                await self._start_tls()
                return
            try:
                await self._decide(event)
            except Refusal as refusal:
                self._refuse(event, refusal)
            except NotCommitted as problem:
                reply = receive.reply_for(problem)
                self._services.log.warning("mail_not_stored", reason=repr(problem), ip=self._client.ip)
                self._refuse(event, Refusal(reply, detail=repr(problem)))
            except Exception:
                self._services.log.exception("intake_failed", ip=self._client.ip, happened=type(event).__name__)
                self._refuse(event, Refusal(receive.NOT_NOW, detail="an error of ours"))
        await self._flush()

    async def _flush(self) -> None:
        delay = self._dialogue.take_delay()
        if delay:
            await self._services.pause(delay)
        octets = self._dialogue.output()
        if octets:
            self._wire.write(octets)
            await self._wire.drain(self._services.clock.steady() + WRITE_TIME)
        if self._dialogue.closed and self._dialogue.close_reason not in ("", "QUIT"):
            self._services.log.info("session_closed", ip=self._client.ip, reason=self._dialogue.close_reason)
        for misdeed in self._dialogue.take_misdeeds():
            self._tell_misdeed(misdeed)

    def _tell_misdeed(self, misdeed: Misdeed) -> None:
        """Tell who watches; users that have logged in are known otherwise."""
        services, ip, now = self._services, self._client.ip, self._services.clock.now()
        services.log.info("misbehaved", ip=ip, listener=self._port.name, what=misdeed.value)
        services.refusals.count(ip, "protocol", now)
        if self._account is None:
            services.watch.misbehaved(ip, misdeed.value, now)

    async def _start_tls(self) -> None:
        certificates = self._services.certificates
        assert certificates is not None, "STARTTLS is offered only with certificates"
        self._dialogue.accept()
        await self._flush()
        self._wire.start_tls(certificates.context)
        self._end_transaction()
        self._account = None
        self._client = replace(self._client, helo="", esmtp=False, user="")
        self._dialogue.secured()

    # For whom the client speaks

    async def _introduced(self, event: Introduction) -> None:
        """Take what XFORWARD or XCLIENT says; only who may say it comes here."""
        if event.verb == "XFORWARD":
            self._forwarded = learn(self._forwarded, event.given)
            self._dialogue.accept()
            return
        client, account = posed(self._client, event.given), self._account
        if "LOGIN" in event.given:
            found = await self._logged_in(event.given["LOGIN"])
            account = None if found is None else found.account
            client = replace(client, user="" if found is None else found.address)
        elif not client.user:
            account = None
        self._end_transaction()
        self._client, self._account = client, account
        self._named = not self._port.named or "NAME" in event.given
        self._services.log.info("xclient", ip=client.ip, via=client.via, user=client.user)
        self._dialogue.restart(authenticated=account is not None)

    async def _logged_in(self, login: str) -> Mailbox | None:
        """Return the account that the proxy has authenticated; raises Refusal where there is none of that name."""
        if not login:
            return None
        try:
            found = await self._services.directory.lookup(parse_mailbox(login.encode()), aliases=False)
        except BadAddress as bad:
            raise Refusal(UNKNOWN_LOGIN, detail=str(bad)) from bad
        if not isinstance(found, Mailbox) or found.detail:
            raise Refusal(UNKNOWN_LOGIN, detail=f"{login} is no account")
        return found

    def _seen_by_rules(self) -> Client:
        """Return whom `from` is about: on the way back from a filter the filter (see intake/introduced.py)."""
        if not self._client.via or not self._port.tag:
            return self._client
        wire = self._wire
        return replace(
            self._client,
            ip=wire.peer_ip,
            port=wire.peer_port,
            rdns="",
            local_ip=wire.local_ip,
            local_port=wire.local_port,
        )

    # Events

    async def _decide(self, event: Event) -> None:
        match event:
            case BodyPart(octets=octets):
                self._collect(octets)
            case BodyEnds():
                await self._body_ends(event)
            case Rcpt():
                await self._recipient(event)
            case Mail():
                await self._sender(event)
            case BodyBegins():
                self._body_begins()
            case Hello():
                self._hello(event)
            case Authenticating():
                await self._authenticate(event)
            case TransactionReset():
                self._end_transaction()
            case Introduction():
                await self._introduced(event)
            case Etrn():
                await self._turn(event)
            case StartTls():
                raise AssertionError("handled before")

    async def _turn(self, asked: Etrn) -> None:
        services, clock = self._services, self._services.clock
        reply = await etrn(services.database, services.turns, asked, clock.now(), clock.steady())
        services.log.info("etrn", ip=self._client.ip, node=asked.node, reply=reply.code)
        self._dialogue.accept(reply)

    def _hello(self, hello: Hello) -> None:
        self._end_transaction()
        esmtp = hello.verb != "HELO"
        self._client = replace(self._client, helo=hello.name, esmtp=esmtp, tls=self._wire.tls)
        self._dialogue.accept()

    async def _sender(self, mail: Mail) -> None:
        services, now = self._services, self._services.clock.now()
        if not self._named:
            self._client = replace(self._client, rdns=await confirmed_name(services.names, self._client.ip))
            self._named = True
        if self._account is None:
            if not self._port.author and not services.throttle.mail_allowed(self._client.ip, now):
                raise Refusal(TOO_MANY_MAILS)
        elif mail.sender is not None:
            await author.check_envelope(services, self._account, self._client.user, mail.sender)
        self._transaction = Transaction(services.minter.mint(now), now, mail)
        if mail.asked is not None:
            self._transaction.wishes = self._granted(mail.asked, now)
        self._dialogue.accept()

    def _granted(self, asked: Asked, now: Instant) -> Wishes:
        """Return what a mail gets of what its MAIL asked for; raises Refusal."""
        settings = self._services.settings
        return granted(asked, now, max_priority=settings.max_priority, longest=settings.future_release)

    async def _recipient(self, rcpt: Rcpt) -> None:
        transaction, services = self._transaction, self._services
        assert transaction is not None
        if self._dialogue.convicted is not None:
            raise Refusal(PROTOCOL_ERROR, detail=self._dialogue.convicted.value)
        if transaction.sender is None and len(transaction.accepted) >= self._null_sender_limit():
            raise Refusal(ONE_BY_ONE)
        if (
            self._port.local_only
            and rcpt.address.domain
            and not await services.directory.is_local(rcpt.address.domain)
        ):
            raise Refusal(NOT_LOCAL)
        deliveries = await services.policy.route(
            self._seen_by_rules(),
            transaction.sender,
            rcpt.address,
            directory=services.directory,
            now=services.clock.now(),
        )
        await self._check_quotas(deliveries, transaction.mail.size)
        if self._port.gated and self._account is None and not is_role(rcpt.address):
            await self._ask_gate(transaction, rcpt, deliveries)
        transaction.take(rcpt, deliveries)
        self._dialogue.accept()

    async def _ask_gate(self, transaction: Transaction, rcpt: Rcpt, deliveries: tuple[Delivery, ...]) -> None:
        accounts = [each.account for each in deliveries if isinstance(each, ToMailbox)]
        gate, now = self._services.gate, self._services.clock.now()
        answer = await gate.recipient(self._client, transaction.sender, rcpt.address, accounts, now)
        if answer.say is Say.DEFER:
            raise Refusal(answer.reply(transaction.id), detail=f"greylist: {answer.why} {answer.identity}".rstrip())
        if self._services.verify is not None:  # behind the gate: spamtraps are recipients that nobody has
            await self._services.verify(self._client, deliveries)
        transaction.answers.append(answer)

    def _null_sender_limit(self) -> int:
        if self._port.local_only or self._account is not None:
            return self._dialogue.terms.recipients
        return self._services.settings.null_sender_recipients

    async def _check_quotas(self, deliveries: tuple[Delivery, ...], size: int) -> None:
        """Put off a recipient whose mailbox is full; the unit checks again when it is committed."""
        for delivery in deliveries:
            if not isinstance(delivery, ToMailbox):
                continue
            quota = delivery.quota
            if not quota.octets and not quota.messages:
                continue
            octets, messages = await self._services.mailboxes.usage(delivery.account)
            if (quota.octets and octets + max(size, 1) > quota.octets) or (
                quota.messages and messages >= quota.messages
            ):
                raise Refusal(receive.MAILBOX_FULL, detail=f"account {delivery.account}")

    def _body_begins(self) -> None:
        assert self._transaction is not None
        self._transaction.spool = self._services.spool()
        self._dialogue.accept()

    def _collect(self, octets: bytes) -> None:
        transaction = self._transaction
        assert transaction is not None
        spool, limit = transaction.spool, self._dialogue.terms.size
        assert spool is not None
        if transaction.refusal is None:
            if spool.size + len(octets) <= limit:
                try:
                    spool.write(octets)
                except NotCommitted as problem:
                    transaction.refusal = Refusal(receive.reply_for(problem), detail=str(problem))
                return
            transaction.refusal = Refusal(TOO_BIG)
        if self._dialogue.body_octets > EXCESS * limit:
            self._dialogue.close(TOO_BIG, "a body without end")

    async def _body_ends(self, event: BodyEnds) -> None:
        transaction, dialogue = self._transaction, self._dialogue
        assert transaction is not None
        if transaction.refusal is not None:
            raise transaction.refusal
        content.check_lines(event.flaw)
        author = author_of(self._client, self._forwarded)
        whole = receive.whole_of(transaction, author, self._account, judged=self._port.judged)
        if dialogue.terms.lmtp:
            dialogue.accept_each(await receive.receive_each(self._services, whole))
        else:
            dialogue.accept(transaction.told(await receive.receive(self._services, whole)))
        self._served = True
        self._end_transaction()

    async def _authenticate(self, event: Authenticating) -> None:
        services, given, ip = self._services, event.credentials, self._client.ip
        now = services.clock.now()
        if not services.throttle.login_allowed(ip, now):
            services.refusals.count(ip, "login blocked", now)
            raise Refusal(AUTH_BLOCKED, detail="too many failures", close=True)
        delay = services.throttle.delay_before(given.user, now)
        if delay:
            await services.pause(delay)
        try:
            account = await services.directory.authenticate(given.user, given.password)
        except Overloaded as busy:
            raise Refusal(AUTH_BUSY, detail="password queue") from busy
        if account is None or (given.authorize_as and fold(given.authorize_as) != fold(given.user)):
            services.throttle.login_failed(ip, given.user, now)
            self._failures += 1
            await services.pause(delay_after(self._failures))
            raise Refusal(AUTH_FAILED, detail=f"user {given.user!r}")
        self._account = account.id
        self._client = replace(self._client, user=account.address)
        self._dialogue.authenticated()

    # No

    def _refuse(self, event: Event, refusal: Refusal) -> None:
        """Say no, and tell log and diary why."""
        services, client, reply = self._services, self._client, refusal.reply
        now = services.clock.now()
        if isinstance(event, BodyPart):
            assert self._transaction is not None
            self._transaction.refusal = refusal
            return
        services.refusals.count(client.ip, _REASONS.get(type(event), "command"), now)
        services.log.info(
            "refused",
            ip=client.ip,
            message=id_text(self._transaction.id) if self._transaction else "",
            reply=f"{reply.code} {reply.enhanced} {reply.text}",
            detail=refusal.detail,
        )
        if self._transaction is not None:
            self._tell_refusal(self._transaction, event, refusal)
        self._dialogue.refuse(reply, close=refusal.close)
        if isinstance(event, BodyEnds | BodyBegins):
            self._end_transaction()

    def _tell_refusal(self, transaction: Transaction, event: Event, refusal: Refusal) -> None:
        services, now = self._services, self._services.clock.now()
        story = receive.begin_story(author_of(self._client, self._forwarded), transaction.envelope())
        recipients = [event.address] if isinstance(event, Rcpt) else []
        recipients += [each.recipient.address for each in transaction.accepted]
        for address in recipients:
            story.for_recipient(address)
        about = path_text(recipients[0]) if recipients else ""
        said = f"{refusal.reply.code} {refusal.reply.enhanced} {refusal.reply.text}"
        story.tell("intake", "refused", at=now, recipient=about, reply=said, detail=refusal.detail)
        services.refusals.story(self._client.ip, story, now)

    def _end_transaction(self) -> None:
        self._forwarded = None
        if self._transaction is not None:
            self._transaction.close()
            self._transaction = None


_GOODBYE: Final = GOODBYE.octets()
_REASONS: Final[dict[type[Event], str]] = {
    Mail: "sender",
    Rcpt: "recipient",
    BodyBegins: "body",
    BodyEnds: "body",
    Authenticating: "login",
    Hello: "hello",
    Introduction: "introduction",
    Etrn: "etrn",
}
