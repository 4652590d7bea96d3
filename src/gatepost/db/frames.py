"""Frames between a keeper and the processes that hand it units: a 4-octet length, then MessagePack.

request   [number, [[statement, {parameter: value}], ...], [[topic, key], ...]]
answer    [number, kind, detail]         kind is one of Answer; detail rows, or words
news      [0, Answer.NEWS, [[topic, key], ...]]
let go    [0, Answer.LET_GO, closed]      close the file for reading (true), or open it again (false)
leave     [0, Answer.LEAVE, None]         the keeper ends: send no more, shut your side, take the last answers
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import msgspec

from gatepost.db.unit import Clash, NoRoom, NotCommitted, Notice, Rows, Unhealthy, Unmet, Value

FRAME_MAX: Final = 64 << 20
_LENGTH: Final = struct.Struct("!I")
_encode: Final = msgspec.msgpack.Encoder().encode


class Request(msgspec.Struct, array_like=True, frozen=True):
    """A unit on its way to the keeper."""

    number: int
    # Any: msgspec knows no union of str and bytes; the writer's engine checks
    steps: list[tuple[str, dict[str, Any]]]
    notices: list[tuple[str, int]]


class Answer(IntEnum):
    """What became of a unit, or what everybody is told."""

    DONE = 0
    UNMET = 1
    CLASH = 2
    NO_ROOM = 3
    UNHEALTHY = 4
    NEWS = 5
    LET_GO = 6
    LEAVE = 7


@dataclass(frozen=True, slots=True)
class News:
    """Notices of what was committed."""

    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class LetGo:
    """Close the file for reading, or open it again."""

    closed: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """The keeper ends: what was sent is still answered, what comes next is the next keeper's."""


_REFUSALS: Final = {Clash: Answer.CLASH, NoRoom: Answer.NO_ROOM, Unhealthy: Answer.UNHEALTHY}
_EXCEPTIONS: Final = {
    Answer.UNMET: Unmet,
    Answer.CLASH: Clash,
    Answer.NO_ROOM: NoRoom,
    Answer.UNHEALTHY: Unhealthy,
}
_requests: Final = msgspec.msgpack.Decoder(Request)
_answers: Final = msgspec.msgpack.Decoder(tuple[int, int, object])


class BadFrame(Exception):
    """The other side does not speak frames: its connection is closed."""


class FrameReader:
    """Cuts a stream into frames; any split of the input gives the same frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, octets: bytes) -> Iterator[bytes]:
        """Yield each whole frame's content; BadFrame on a length beyond FRAME_MAX."""
        buffer = self._buffer
        buffer += octets
        at = 0
        try:
            while len(buffer) - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer, at)
                if length > FRAME_MAX:
                    raise BadFrame(f"a frame of {length} octets")
                end = at + _LENGTH.size + length
                if len(buffer) < end:
                    break
                content = bytes(memoryview(buffer)[at + _LENGTH.size : end])
                at = end
                yield content
        finally:
            del buffer[:at]


def request_frame(
    number: int, steps: Sequence[tuple[str, Mapping[str, Value]]], notices: Sequence[Notice]
) -> bytes:
    """Write a unit."""
    return _framed([number, steps, [(notice.topic, notice.key) for notice in notices]])


def read_request(content: bytes) -> Request:
    """Read a unit; BadFrame where it is none."""
    try:
        return _requests.decode(content)
    except msgspec.MsgspecError as wrong:
        raise BadFrame(str(wrong)) from wrong


def answer_frame(number: int, outcome: tuple[Rows, ...] | NotCommitted) -> bytes:
    """Write what became of a unit."""
    if isinstance(outcome, Unmet):
        return _framed([number, Answer.UNMET, outcome.statement])
    if isinstance(outcome, NotCommitted):
        return _framed([number, _REFUSALS[type(outcome)], str(outcome)])
    return _framed([number, Answer.DONE, outcome])


def news_frame(notices: Sequence[tuple[str, int]]) -> bytes:
    """Write news."""
    return _framed([0, Answer.NEWS, notices])


def let_go_frame(closed: bool) -> bytes:
    """Write that everybody must close the file, or may open it."""
    return _framed([0, Answer.LET_GO, closed])


def leave_frame() -> bytes:
    """Write that the keeper ends."""
    return _framed([0, Answer.LEAVE, None])


def read_answer(content: bytes) -> tuple[int, tuple[Rows, ...] | NotCommitted | News | LetGo | Leave]:
    """Read an answer, or what everybody is told (number 0); BadFrame where it is neither."""
    try:
        number, kind, detail = _answers.decode(content)
        match Answer(kind):
            case Answer.DONE:
                assert isinstance(detail, list)
                return number, tuple([tuple(row) for row in rows] for rows in detail)
            case Answer.NEWS:
                assert isinstance(detail, list)
                return 0, News(tuple(Notice(topic, key) for topic, key in detail))
            case Answer.LET_GO:
                return 0, LetGo(bool(detail))
            case Answer.LEAVE:
                return 0, Leave()
            case refusal:
                return number, _EXCEPTIONS[refusal](str(detail))
    except (msgspec.MsgspecError, ValueError, TypeError, AssertionError) as wrong:
        raise BadFrame(str(wrong)) from wrong


def _framed(value: object) -> bytes:
    content = _encode(value)
    return _LENGTH.pack(len(content)) + content
