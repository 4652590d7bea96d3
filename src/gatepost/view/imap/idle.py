"""IDLE (RFC 2177): tell the news as they come, until DONE."""

from gatepost.codec.imap.tokens import Tokens
from gatepost.view.imap.session import Answered, Bad, ImapSession, State


async def idle(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """IDLE: whatever happens in it, it ends after `idle_time` (RFC 2177 has clients begin anew before that)."""
    tokens.end()
    session.say(b"+ idling\r\n")
    deadline = session.services.clock.steady() + session.services.settings.idle_time
    await session.tell_news(forced=True)
    while session.state is not State.OVER:
        line = session.reader.take_line()
        if line is not None:
            if line.upper() != b"DONE":
                raise Bad("Expected DONE")
            return "Idle completed"
        await session.flush()
        octets = await session.news_or_input(deadline)
        if octets is None:
            await session.tell_news(forced=True)
        elif not octets:
            raise ConnectionError("the client left")
        else:
            session.reader.feed(octets)
            if session.reader.held > session.reader.bounds.line:
                raise Bad("Expected DONE")
    raise Answered  # a BYE was said
