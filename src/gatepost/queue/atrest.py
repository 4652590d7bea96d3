"""The envelopes of waiting mail, encrypted at rest: a database that seals what is written and opens what is read.

    submit, settle, verbs --step--> AtRest --sealed--> database            (and rows the other way)

It knows the queue's statements by their names and what must not be read by the names of their parameters (SEALED);
no other module of the queue knows whether there are keys. A sealed value says so itself, so rows from before the
first key are read beside it:

    packed                        a frame of blobs/keys.py: its first octet is 1, a packed row begins at 0x90
    sender, recipient, last_error TEXT: "sealed:" and the frame in Base64

The operator asks for the mail of one sender by `sender = :sender`, so equal senders (and recipients) must be equal
at rest: their IV is taken from the text. Who reads the disk can count how much somebody has sent, not who it is.

What cannot be opened is read as b"" or UNREADABLE: the worker then holds the row for the operator.
"""

import asyncio
import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gatepost.base.settings import BadSetting
from gatepost.blobs.keys import NO_KEYS, VERSION, BadKeyFile, Key, Keys, Unreadable, read_keys
from gatepost.db.unit import Database, Params, Rows, Statement, Step, Unit, Value
from gatepost.queue.settings import QueueSettings
from gatepost.queue.sql import STATEMENTS

SEALED: Final = frozenset(("sender", "recipient", "old", "error", "answer", "packed"))
"""Parameters of the queue's statements that are sealed; `old` is the recipient before a redirection."""
_TAKING: Final = frozenset(
    each.name for each in STATEMENTS if any(re.search(rf":{name}\b", each.sql) for name in SEALED)
)
"""Statements with such parameters: each mail has a dozen others, which are not looked at."""
_ALIKE: Final = frozenset(("sender", "recipient", "old"))
_MARK: Final = "sealed:"
UNREADABLE: Final = "(unreadable: it is damaged, or its key is missing)"
TURN: Final = 100  # rows that are opened between two turns of the loop


def keys_of(settings: QueueSettings) -> Keys:
    """Read the key file of the settings, if any; raises BadSetting."""
    if not settings.encryption_key_file:
        return NO_KEYS
    try:
        return read_keys(Path(settings.encryption_key_file))
    except BadKeyFile as wrong:
        raise BadSetting(("queue", "encryption_key_file"), str(wrong)) from wrong


class AtRest:
    """A Database for the queue; other stages' statements pass as they are."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database = database
        self._keys = keys

    async def read(self, statement: Statement, params: Params) -> Rows:
        """Run a SELECT."""
        if not _ours(statement):
            return await self._database.read(statement, params)
        return await self._opened(await self._database.read(statement, self._sealed(params)))

    async def read_long(self, statement: Statement, params: Params) -> Rows:
        """Run a SELECT off the loop."""
        if not _ours(statement):
            return await self._database.read_long(statement, params)
        return await self._opened(await self._database.read_long(statement, self._sealed(params)))

    async def commit(self, unit: Unit) -> tuple[Rows, ...]:
        """Commit a unit."""
        steps = [self._sealed_step(step) if step.statement.name in _TAKING else step for step in unit.steps]
        returned = await self._database.commit(Unit(tuple(steps), unit.notices))
        if not any(returned) or not any(map(_ours, (step.statement for step in steps))):
            return returned
        return tuple([await self._opened(rows) for rows in returned])

    def listen(self, topic: str, heard: Callable[[int], None]) -> Callable[[], None]:
        """Hear of notices."""
        return self._database.listen(topic, heard)

    def _sealed_step(self, step: Step) -> Step:
        return Step(step.statement, self._sealed(step.params))

    def _sealed(self, params: Params) -> Params:
        key = self._keys.first
        if key is None or SEALED.isdisjoint(params):
            return params
        return {name: seal(key, name, value) if name in SEALED else value for name, value in params.items()}

    async def _opened(self, rows: Rows) -> Rows:
        """Open all values that are sealed; a long page in steps."""
        found: Rows = []
        for at, row in enumerate(rows, 1):
            found.append(tuple([open_value(self._keys, value) for value in row]))
            if at % TURN == 0:
                await asyncio.sleep(0)
        return found


def seal(key: Key, name: str, value: Value) -> Value:
    """Seal the value of one parameter; an empty one, or one that is no text, stays."""
    if not value:
        return value
    if isinstance(value, bytes):
        return key.seal(value)
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogateescape")
        return _MARK + b64encode(key.seal_alike(text) if name in _ALIKE else key.seal(text)).decode()
    return value


def open_value(keys: Keys, value: Value) -> Value:
    """Open a value of a row; what is not sealed stays, what does not open is b"" or UNREADABLE."""
    try:
        return open_under(keys, value)[1]
    except Unreadable:
        return b"" if isinstance(value, bytes) else UNREADABLE


def open_under(keys: Keys, value: Value) -> tuple[str, Value]:
    """Return under which key a value is ("" for none), and the value in clear; raises Unreadable."""
    if isinstance(value, bytes) and value[:1] == VERSION:
        key, octets = keys.opened(value)
        return key.name, octets
    if isinstance(value, str) and value.startswith(_MARK):
        try:
            frame = b64decode(value.removeprefix(_MARK), validate=True)
        except NotBase64:
            raise Unreadable("it is cut off") from None
        key, octets = keys.opened(frame)
        return key.name, octets.decode("utf-8", "surrogateescape")
    return "", value


def _ours(statement: Statement) -> bool:
    return statement.name.startswith("queue.")
