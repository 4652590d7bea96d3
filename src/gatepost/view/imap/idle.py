"""IDLE (RFC 2177): tell the news as they come, until DONE."""

from gatepost.codec.imap.tokens import Tokens
from gatepost.view.imap.session import Bad, ImapSession


async def idle(session: ImapSession, tokens: Tokens, uid: bool) -> str:
    """IDLE."""
    tokens.end()
    session.say(b"+ idling\r\n")
    await session.tell_news(forced=True)
    while True:
        line = session.reader.take_line()
        if line is not None:
            if line.upper() != b"DONE":
                raise Bad("Expected DONE")
            return "Idle completed"
        await session.flush()
        octets = await session.news_or_input()
        if octets is None:
            await session.tell_news(forced=True)
        elif not octets:
            raise ConnectionError("the client left")
        else:
            session.reader.feed(octets)
            if session.reader.held > session.reader.bounds.line:
                raise Bad("Expected DONE")
