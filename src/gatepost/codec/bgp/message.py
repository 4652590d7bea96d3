"""Messages of BGP-4 as such (RFC 4271 §4.1, §4.4, §4.5): framing, and why sessions end.

    16 octets 0xFF | length u16, all of it | type u8 | body

Extended messages (RFC 8654) are never offered, so 4096 octets are the most.
"""

import struct
from enum import IntEnum
from typing import Final

MARKER: Final = b"\xff" * 16
HEADER: Final = 19
SIZE_MAX: Final = 4096
SHUTDOWN_TEXT_MAX: Final = 255  # octets of UTF-8 (RFC 9003 §2; RFC 8203 had 128)

_LENGTH_AND_TYPE: Final = struct.Struct(">HB")


class Kind(IntEnum):
    """The types of messages."""

    OPEN = 1
    UPDATE = 2
    NOTIFICATION = 3
    KEEPALIVE = 4
    ROUTE_REFRESH = 5


class Code(IntEnum):
    """Why a session ended (RFC 4271 §4.5)."""

    HEADER = 1
    OPEN = 2
    UPDATE = 3
    HOLD_TIMER = 4
    FSM = 5
    CEASE = 6
    ROUTE_REFRESH = 7  # RFC 7313
    SEND_HOLD_TIMER = 8  # RFC 9687


class Cease(IntEnum):
    """Subcodes of CEASE (RFC 4486, RFC 8538)."""

    TOO_MANY_PREFIXES = 1
    SHUTDOWN = 2
    DECONFIGURED = 3
    RESET = 4
    REJECTED = 5
    CHANGED = 6
    COLLISION = 7
    OUT_OF_RESOURCES = 8
    HARD_RESET = 9


_SIZES: Final = {  # the least size of each type (RFC 4271 §6.1)
    Kind.OPEN: 29,
    Kind.UPDATE: 23,
    Kind.NOTIFICATION: 21,
    Kind.KEEPALIVE: 19,
    Kind.ROUTE_REFRESH: 23,
}
KEEPALIVE: Final = MARKER + b"\x00\x13\x04"

_TEXTS: Final = {
    Code.HEADER: "Message Header Error",
    Code.OPEN: "OPEN Message Error",
    Code.UPDATE: "UPDATE Message Error",
    Code.HOLD_TIMER: "Hold Timer Expired",
    Code.FSM: "Finite State Machine Error",
    Code.CEASE: "Cease",
    Code.ROUTE_REFRESH: "ROUTE-REFRESH Message Error",
    Code.SEND_HOLD_TIMER: "Send Hold Timer Expired",
}
_SUB_TEXTS: Final = {
    (1, 1): "connection not synchronized",
    (1, 2): "bad message length",
    (1, 3): "bad message type",
    (2, 1): "unsupported version number",
    (2, 2): "bad peer AS",
    (2, 3): "bad BGP identifier",
    (2, 4): "unsupported optional parameter",
    (2, 5): "authentication failure",
    (2, 6): "unacceptable hold time",
    (2, 7): "unsupported capability",
    (2, 11): "role mismatch",
    (3, 1): "malformed attribute list",
    (3, 2): "unrecognized well-known attribute",
    (3, 3): "missing well-known attribute",
    (3, 4): "attribute flags error",
    (3, 5): "attribute length error",
    (3, 6): "invalid ORIGIN attribute",
    (3, 7): "AS routing loop",
    (3, 8): "invalid NEXT_HOP attribute",
    (3, 9): "optional attribute error",
    (3, 10): "invalid network field",
    (3, 11): "malformed AS_PATH",
    (5, 1): "unexpected message in OpenSent",
    (5, 2): "unexpected message in OpenConfirm",
    (5, 3): "unexpected message in Established",
    (6, 1): "maximum number of prefixes reached",
    (6, 2): "administrative shutdown",
    (6, 3): "peer de-configured",
    (6, 4): "administrative reset",
    (6, 5): "connection rejected",
    (6, 6): "other configuration change",
    (6, 7): "connection collision resolution",
    (6, 8): "out of resources",
    (6, 9): "hard reset",
    (6, 10): "BFD down",
    (7, 1): "invalid message length",
}


class Broken(Exception):
    """The neighbour did what ends a session: a NOTIFICATION is to be sent, with these octets in it."""

    def __init__(self, code: int, subcode: int, data: bytes = b"", text: str = "") -> None:
        super().__init__(text or code_text(code, subcode))
        self.code = code
        self.subcode = subcode
        self.data = data
        self.text = text


def frame(kind: Kind, body: bytes) -> bytes:
    """Return a whole message."""
    return MARKER + _LENGTH_AND_TYPE.pack(HEADER + len(body), kind) + body


def read_header(octets: bytes, at: int) -> tuple[int, int]:
    """Read the 19 octets at `at`; return the message's whole size and its type. Raises Broken (RFC 4271 §6.1)."""
    if octets[at : at + 16] != MARKER:
        raise Broken(Code.HEADER, 1)
    size, kind = _LENGTH_AND_TYPE.unpack_from(octets, at + 16)
    if not HEADER <= size <= SIZE_MAX:
        raise Broken(Code.HEADER, 2, size.to_bytes(2), f"a message of {size} octets")
    least = _SIZES.get(kind)
    if least is None:
        raise Broken(Code.HEADER, 3, bytes((kind,)), f"a message of type {kind}")
    if size < least or (kind == Kind.KEEPALIVE and size != least):
        raise Broken(Code.HEADER, 2, size.to_bytes(2), f"{Kind(kind).name} of {size} octets")
    return size, kind


def code_text(code: int, subcode: int) -> str:
    """Return what the codes of a NOTIFICATION mean."""
    text = _TEXTS.get(code, f"error {code}")  # type: ignore[call-overload]  # codes from the net may be any
    sub = _SUB_TEXTS.get((code, subcode), f"subcode {subcode}" if subcode else "")
    return f"{text}, {sub}" if sub else str(text)


def shutdown_data(text: str) -> bytes:
    """Return a text for the neighbour's operator, as CEASE carries it (RFC 9003 §2); cut where it is too long."""
    octets = text.encode("utf-8", "replace")[:SHUTDOWN_TEXT_MAX]
    octets = octets.decode("utf-8", "ignore").encode()  # never half of a character
    return bytes((len(octets),)) + octets if octets else b""


def notification_text(code: int, subcode: int, data: bytes) -> str:
    """Return what the neighbour's operator wrote (RFC 9003), else the data as hexadecimal octets, for the log."""
    if code == Code.CEASE and subcode in (Cease.SHUTDOWN, Cease.RESET):
        if data and data[0] == len(data) - 1:
            text = data[1:].decode("utf-8", "replace")
            return "".join(letter if letter.isprintable() else "?" for letter in text)
    elif code == Code.CEASE and subcode == Cease.HARD_RESET and len(data) >= 2:
        inner = notification_text(data[0], data[1], data[2:])  # RFC 8538 §3: the real reason is inside
        name = code_text(data[0], data[1])
        return f"{name}: {inner}" if inner else name
    return data[:64].hex()
