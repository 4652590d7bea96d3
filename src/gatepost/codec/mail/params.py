"""Values with parameters: Content-Type and Content-Disposition (RFC 2045 §5.1, RFC 2183 §2, RFC 2231).

Lenient as readers must be (comments, blanks around `=`, unquoted values with blanks, a quote that never ends) and
bounded: 200 parameters, comments nested 8 deep. What two readers may take differently is a flaw.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from gatepost.codec.mail.charset import decode
from gatepost.codec.mail.words import decode_words

PARAMETERS_MAX: Final = 200
COMMENT_DEPTH_MAX: Final = 8
_CACHED_MAX: Final = 256  # longer values are parsed anew: a stranger must not fill the cache with them

_PARAMETER: Final = re.compile(rb'[;\s]*([^\s=;]+)\s*(?:=\s*("[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)|[^;]*))?[^;]*', re.DOTALL)
_MAIN: Final = re.compile(rb"[^;]*")
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_SECTION: Final = re.compile(rb"([^*]+)(?:\*([0-9]{1,4}))?(\*)?")
_COMMENT_OCTET: Final = re.compile(rb'[()"\\]')


class ParameterFlaw(Enum):
    """What makes a value with parameters ambiguous or too large."""

    DUPLICATE = "a parameter given twice"
    TOO_MANY = "more than 200 parameters"
    COMMENT = "a comment in the value"
    NUL = "a NUL octet"


@dataclass(frozen=True, slots=True)
class Value:
    """A value before its parameters, in lower case, and the parameters as they stand: names lower, quotes undone."""

    main: bytes
    parameters: tuple[tuple[bytes, bytes], ...]
    flaws: frozenset[ParameterFlaw] = frozenset()

    def get(self, name: bytes) -> bytes | None:
        """Return the first parameter of exactly that name, undecoded."""
        for each, value in self.parameters:
            if each == name:
                return value
        return None


EMPTY: Final = Value(b"", ())


def parse_value(value: bytes) -> Value:
    """Parse an unfolded value; never raises."""
    return _parse_cached(value) if len(value) <= _CACHED_MAX else _parse(value)


def decode_parameters(parameters: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    """Return parameters as text, RFC 2231 continuations joined and percent-octets undone.

    An extended form wins over a plain one of the same name (RFC 5987 §4.2 says so of HTTP, and readers do it);
    encoded words in a plain value are decoded, as readers do although RFC 2047 §5 forbids them there.
    """
    plain: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[bytes, bool]]] = {}
    for name, value in parameters:
        found = _SECTION.fullmatch(name)
        base = decode(name if found is None else found[1])
        if found is None or (found[2] is None and found[3] is None):
            plain.setdefault(base, decode_words(value))
        else:
            pieces.setdefault(base, {}).setdefault(int(found[2] or 0), (value, found[3] is not None))
    return plain | {name: _join(sections) for name, sections in pieces.items()}


def readings(parameters: tuple[tuple[bytes, bytes], ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return every text that some reader may take for one of these parameters, each once, the likeliest first."""
    decoded = decode_parameters(parameters)
    texts = [decoded[name] for name in names if name in decoded]
    for raw_name, value in parameters:
        found = _SECTION.fullmatch(raw_name)
        if found is not None and decode(found[1]) in names and found[2] is None:
            texts.append(decode_words(value) if found[3] is None else _join({0: (value, True)}))
    return tuple(dict.fromkeys(texts))


def without_comments(value: bytes) -> bytes:
    """Return a value with its comments taken out; beyond 8 levels, or when one never ends, the rest is comment."""
    if b"(" not in value:
        return value
    kept: list[bytes] = []
    at, depth, quoted, begin = 0, 0, False, 0
    while (found := _COMMENT_OCTET.search(value, at)) is not None:
        at = found.end()
        match found[0]:
            case b"\\":
                at += 1
            case b'"' if depth == 0:
                quoted = not quoted
            case b"(" if not quoted:
                if depth == 0:
                    kept.append(value[begin : found.start()])
                depth += 1
                if depth > COMMENT_DEPTH_MAX:
                    return b" ".join(kept)
            case b")" if depth:
                depth -= 1
                begin = at
            case _:
                pass
    if depth == 0:
        kept.append(value[begin:])
    return b" ".join(kept)


def _parse(value: bytes) -> Value:
    flaws: set[ParameterFlaw] = set()
    if b"\0" in value:
        flaws.add(ParameterFlaw.NUL)
        value = value.replace(b"\0", b"")
    if b"(" in value:
        bare = without_comments(value)
        if bare != value:
            flaws.add(ParameterFlaw.COMMENT)
        value = bare
    main = value.partition(b";")[0]
    parameters: list[tuple[bytes, bytes]] = []
    for found in _PARAMETER.finditer(value, len(main)):
        if len(parameters) == PARAMETERS_MAX:
            flaws.add(ParameterFlaw.TOO_MANY)
            break
        parameters.append((found[1].lower(), _unquote(found[2] or b"")))
    if len({name for name, _ in parameters}) < len(parameters):
        flaws.add(ParameterFlaw.DUPLICATE)
    return Value(_compact(main), tuple(parameters), frozenset(flaws))


_parse_cached: Final = lru_cache(maxsize=512)(_parse)


def _compact(main: bytes) -> bytes:
    return b"".join(main.lower().split())


def _unquote(value: bytes) -> bytes:
    if not value.startswith(b'"'):
        return value.rstrip()
    inner = value[1:-1] if len(value) > 1 and value.endswith(b'"') else value[1:]
    return _ESCAPED.sub(rb"\1", inner) if b"\\" in inner else inner


def _join(sections: dict[int, tuple[bytes, bool]]) -> str:
    """RFC 2231 §3, §4: sections in order until one is missing; only the first names the charset."""
    charset, octets = "", bytearray()
    for number in range(len(sections)):
        if number not in sections:
            break
        value, extended = sections[number]
        if extended and number == 0 and value.count(b"'") >= 2:
            name, _, value = value.split(b"'", 2)
            charset = decode(name)
        octets += _PERCENT.sub(_octet, value) if extended else value
    return decode(bytes(octets), charset)


def _octet(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[1].decode("ascii"))
