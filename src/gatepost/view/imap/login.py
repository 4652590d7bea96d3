"""CAPABILITY, NOOP, LOGOUT, ID, ENABLE, STARTTLS, LOGIN, AUTHENTICATE, NAMESPACE (RFC 3501 §6.1-6.2)."""

from gatepost.codec.imap.tokens import BadSyntax, Tokens
from gatepost.codec.sasl import Credentials, Malformed, Plain, decode_response
from gatepost.view.imap.session import Answered, Bad, ImapSession, No, State
from gatepost.view.services import LoginRefused

PRIVATE = "PRIVACYREQUIRED"
NOT_IN_THE_CLEAR = "Plaintext authentication disallowed on non-secure (SSL/TLS) connections."


async def capability(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """CAPABILITY."""
    tokens.end()
    session.say(b"* CAPABILITY " + session.capabilities() + b"\r\n")
    return "CAPABILITY completed"


async def noop(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """NOOP and CHECK: a chance to hear the news."""
    tokens.end()
    await session.tell_news(forced=True)
    return "Completed"


async def logout(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """LOGOUT."""
    tokens.end()
    session.say(b"* BYE Logging out\r\n")
    session.deselect()
    session.state = State.OVER
    return "Logout completed"


async def identify(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """ID (RFC 2971): who we are; what the client is goes to the log."""
    tokens.space()
    said: list[str] = []
    if not tokens.skip(b"("):
        tokens.nstring()
    else:
        while not tokens.skip(b")"):
            if said:
                tokens.space()
            value = tokens.nstring()
            said.append("" if value is None else value.decode("utf-8", "replace")[:100])
            if len(said) > 60:
                raise BadSyntax("too many fields")
    tokens.end()
    session.services.log.info("imap_client", user=session.user, fields=" ".join(said)[:500])
    session.say(b'* ID ("name" "gatepost")\r\n')
    return "ID completed"


async def enable(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """ENABLE (RFC 5161): CONDSTORE; what is not known is passed over."""
    enabled = b""
    while not tokens.done:
        tokens.space()
        if tokens.atom().upper() == b"CONDSTORE":
            session.enable_condstore()
            enabled = b" CONDSTORE"
    session.say(b"* ENABLED%b\r\n" % enabled)
    return "Enabled"


async def starttls(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """STARTTLS (RFC 3501 §6.2.1): what was sent behind it in the clear ends the connection (RFC 9051 §6.2.1)."""
    tokens.end()
    certificates = session.services.certificates
    if session.wire.tls is not None or certificates is None:
        raise Bad("TLS is active or not offered")
    if session.reader.pending:
        session.answer(b"BAD", "Plaintext behind STARTTLS")
        session.say(b"* BYE Plaintext behind STARTTLS\r\n")
        session.state = State.OVER
        raise Answered
    session.answer(b"OK", "Begin TLS negotiation now")
    session.wire.start_tls(certificates.context)
    session.shaking = True
    raise Answered


async def login(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """LOGIN."""
    tokens.space()
    user = tokens.astring()
    tokens.space()
    password = tokens.astring()
    tokens.end()
    _check_secured(session)
    return await _enter(session, user.decode("utf-8", "replace"), password)


async def authenticate(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """AUTHENTICATE PLAIN, with or without an initial response (RFC 4959)."""
    tokens.space()
    mechanism = tokens.word()
    initial = None
    if not tokens.done:
        tokens.space()
        initial = tokens.rest()
    _check_secured(session)
    if mechanism != b"PLAIN":
        raise No("Unsupported authentication mechanism", "CANNOT")
    response = await _response(session) if initial is None else initial
    if response == b"*":
        raise Bad("Authentication cancelled")
    try:
        step = Plain().step(b"" if response == b"=" else decode_response(response))
    except Malformed as wrong:
        raise Bad(str(wrong)) from wrong
    if not isinstance(step, Credentials) or step.authorize_as not in ("", step.user):
        raise No("Authentication failed.", "AUTHENTICATIONFAILED")
    return await _enter(session, step.user, step.password)


async def namespace(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """NAMESPACE (RFC 2342): one personal namespace."""
    tokens.end()
    session.say(b'* NAMESPACE (("" "/")) NIL NIL\r\n')
    return "Namespace completed"


async def _enter(session: ImapSession, user: str, password: bytes) -> str:
    try:
        account = await session.login.attempt(user, password)
    except LoginRefused as refused:
        if refused.final:
            session.answer(b"NO", f"[{refused.code}] {refused}")
            session.say(b"* BYE " + str(refused).encode() + b"\r\n")
            session.state = State.OVER
            raise Answered from None
        raise No(str(refused), refused.code) from None
    session.entered(account)
    return f"[CAPABILITY {session.capabilities().decode()}] Logged in"


async def _response(session: ImapSession) -> bytes:
    """Ask for the client's response and wait for its line."""
    session.say(b"+ \r\n")
    while True:
        line = session.reader.take_line()
        if line is not None:
            return line
        octets = await session.more()
        if not octets:
            raise ConnectionError("the client left")
        session.reader.feed(octets)
        if session.reader.held > session.reader.bounds.line:
            session.say(b"* BYE [TOOBIG] line too long\r\n")
            session.state = State.OVER
            raise Answered


def _check_secured(session: ImapSession) -> None:
    if session.login.secured:
        return
    session.say(b"* BAD [ALERT] " + NOT_IN_THE_CLEAR.encode() + b" Your password was sent in the clear.\r\n")
    raise No(NOT_IN_THE_CLEAR, PRIVATE)
