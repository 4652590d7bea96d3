"""A strict reader of what IMAP calls an envelope and a body (RFC 9051 §9), as a client would have one.

It takes nothing that the grammar does not have, so that a rendering it reads is one every client can read.
"""

import re
from typing import Final

Value = bytes | int | None | list["Value"]

_QUOTED: Final = re.compile(rb'"((?:[\x01-\x09\x0b\x0c\x0e-\x21\x23-\x5b\x5d-\x7f]|\\["\\])*)"')
_LITERAL: Final = re.compile(rb"\{(0|[1-9][0-9]*)\}\r\n")
_NUMBER: Final = re.compile(rb"0|[1-9][0-9]*")


class NotImap(AssertionError):
    """The octets are not what the grammar allows."""


def read(octets: bytes) -> Value:
    """Read one whole value: a string, a number, NIL or a list."""
    waiting: list[list[Value]] = [[]]
    at = 0
    while at < len(octets):
        here = octets[at : at + 1]
        if here == b"(":
            waiting.append([])
            at += 1
            continue
        if here == b")":
            done = waiting.pop()
            if not waiting or not done:
                raise NotImap(f"a ) too many or an empty list at {at}")
            waiting[-1].append(done)
            at += 1
        else:
            value, at = _atom(octets, at)
            waiting[-1].append(value)
        at = _separated(octets, at, listed=here == b")")
    if len(waiting) != 1 or len(waiting[0]) != 1:
        raise NotImap("not one whole value")
    return waiting[0][0]


def _separated(octets: bytes, at: int, *, listed: bool) -> int:
    """Return where the next value begins; lists, and only they, may follow each other without a blank."""
    after = octets[at : at + 2]
    if after[:1] == b" " and after[1:] not in (b"", b" ", b")"):
        return at + 1
    if after[:1] in (b"", b")") or (listed and after[:1] == b"("):
        return at
    raise NotImap(f"a blank too many or too few at {at}: {after!r}")


def _atom(octets: bytes, at: int) -> tuple[Value, int]:
    if octets.startswith(b"NIL", at):
        return None, at + 3
    if (found := _NUMBER.match(octets, at)) is not None:
        return int(found[0]), found.end()
    if (found := _QUOTED.match(octets, at)) is not None:
        return re.sub(rb"\\(.)", rb"\1", found[1]), found.end()
    if (found := _LITERAL.match(octets, at)) is not None:
        end = found.end() + int(found[1])
        value = octets[found.end() : end]
        if len(value) != int(found[1]) or b"\0" in value:
            raise NotImap(f"a literal that is cut or holds NUL at {at}")
        return value, end
    raise NotImap(f"no value at {at}: {octets[at : at + 30]!r}")


# --- envelope and body --------------------------------------------------------------------------------------


def check_envelope(value: Value) -> None:
    """Assert that a value is an `envelope`: date, subject, six address lists, in-reply-to, message-id."""
    assert isinstance(value, list)
    assert len(value) == 10
    for at in (0, 1, 8, 9):
        _nstring(value[at])
    for addresses in value[2:8]:
        assert addresses is None or isinstance(addresses, list)
        for address in addresses or ():
            assert isinstance(address, list)
            assert len(address) == 4
            for each in address:
                _nstring(each)


def check_body(value: Value, *, extended: bool) -> None:
    """Assert that a value is a `body`, with extension data (BODYSTRUCTURE) or without (BODY)."""
    waiting = [value]
    while waiting:
        body = waiting.pop()
        assert isinstance(body, list)
        if isinstance(body[0], list):
            waiting += _multipart(body, extended=extended)
        else:
            waiting += _single(body, extended=extended)


def _multipart(body: list[Value], *, extended: bool) -> list[Value]:
    count = next(at for at, each in enumerate(body) if not isinstance(each, list))
    _string(body[count])
    rest = body[count + 1 :]
    if extended:
        assert len(rest) == 4
        _parameters(rest[0])
        _disposition_language_location(rest[1:])
    else:
        assert not rest
    return body[:count]


def _single(body: list[Value], *, extended: bool) -> list[Value]:
    kind, subtype, parameters, content_id, description, encoding, octets, *rest = body
    _string(kind)
    _string(subtype)
    _parameters(parameters)
    _nstring(content_id)
    _nstring(description)
    _string(encoding)
    assert isinstance(octets, int)
    inside: list[Value] = []
    if kind == b"MESSAGE" and subtype in (b"RFC822", b"GLOBAL"):
        envelope, body_inside, lines, *rest = rest
        check_envelope(envelope)
        inside = [body_inside]
        assert isinstance(lines, int)
    elif kind == b"TEXT":
        lines, *rest = rest
        assert isinstance(lines, int)
    if extended:
        assert len(rest) == 4
        _nstring(rest[0])
        _disposition_language_location(rest[1:])
    else:
        assert not rest
    return inside


def _disposition_language_location(values: list[Value]) -> None:
    disposition, language, location = values
    if disposition is not None:
        assert isinstance(disposition, list)
        kind, parameters = disposition
        _string(kind)
        _parameters(parameters)
    if isinstance(language, list):
        for each in language:
            _string(each)
    else:
        _nstring(language)
    _nstring(location)


def _parameters(value: Value) -> None:
    if value is None:
        return
    assert isinstance(value, list)
    assert len(value) % 2 == 0
    for each in value:
        _string(each)


def _string(value: Value) -> None:
    assert isinstance(value, bytes)


def _nstring(value: Value) -> None:
    assert value is None or isinstance(value, bytes)
