"""The table of commands, and the coroutine that serves one connection."""

from collections.abc import Mapping
from typing import Final

from gatepost.view.imap import change, fetch, find, folders, idle, login
from gatepost.view.imap.session import ANY, INSIDE, OPENED, OUTSIDE, ImapSession, Run, State
from gatepost.view.services import Services, Wire

COMMANDS: Final[Mapping[bytes, tuple[frozenset[State], Run]]] = {
    b"CAPABILITY": (ANY, login.capability),
    b"NOOP": (ANY, login.noop),
    b"LOGOUT": (ANY, login.logout),
    b"ID": (ANY, login.identify),
    b"STARTTLS": (OUTSIDE, login.starttls),
    b"LOGIN": (OUTSIDE, login.login),
    b"AUTHENTICATE": (OUTSIDE, login.authenticate),
    b"ENABLE": (INSIDE, login.enable),
    b"NAMESPACE": (INSIDE, login.namespace),
    b"SELECT": (INSIDE, folders.select),
    b"EXAMINE": (INSIDE, folders.examine),
    b"CREATE": (INSIDE, folders.create),
    b"DELETE": (INSIDE, folders.delete),
    b"RENAME": (INSIDE, folders.rename),
    b"SUBSCRIBE": (INSIDE, folders.subscribe),
    b"UNSUBSCRIBE": (INSIDE, folders.unsubscribe),
    b"LIST": (INSIDE, folders.list_),
    b"LSUB": (INSIDE, folders.lsub),
    b"STATUS": (INSIDE, folders.status),
    b"APPEND": (INSIDE, change.append),
    b"IDLE": (INSIDE, idle.idle),
    b"CHECK": (OPENED, login.noop),
    b"CLOSE": (OPENED, change.close),
    b"UNSELECT": (OPENED, change.unselect),
    b"EXPUNGE": (OPENED, change.expunge),
    b"SEARCH": (OPENED, find.search),
    b"FETCH": (OPENED, fetch.fetch),
    b"STORE": (OPENED, change.store),
    b"COPY": (OPENED, change.copy),
    b"MOVE": (OPENED, change.move),
}


async def serve(wire: Wire, services: Services) -> None:
    """Speak IMAP on a connection until it ends."""
    await ImapSession(wire, services, COMMANDS).serve()
