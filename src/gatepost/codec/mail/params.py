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

PARAMS_MAX: Final = 200
COMMENT_DEPTH_MAX: Final = 8
_CACHED_MAX: Final = 256  # longer values are parsed anew: a stranger must not fill the cache with them

_TYPE: Final = re.compile(rb"([^\s/]+)\s*/\s*([^\s/]+)")
# Always matches, up to the next `;`, so that a run of anything costs one pass.
_PARAMETER: Final = re.compile(
    rb'(?>[;\s]*)(?:([^\s=;]+)(?:(?>\s*)=\s*("[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)|[^;]*))?)?[^;]*', re.DOTALL
)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_SECTION: Final = re.compile(rb"([^*]+)(?:\*([0-9]{1,4}))?(\*)?")  # RFC 2231 §4.1: name*3*
_COMMENT_OCTET: Final = re.compile(rb'[()"\\]')


class ParameterFlaw(Enum):
    """What makes a value with parameters ambiguous or too large."""

    DUPLICATE = "a parameter given twice"
    TOO_MANY = "more than 200 parameters"
    COMMENT = "a comment in the value"
    NUL = "a NUL octet"


@dataclass(frozen=True, slots=True)
class Parameters:
    """A value before its parameters, in lower case, and these as they are, names in lower case, quotes undone."""

    value: bytes
    params: tuple[tuple[bytes, bytes], ...]
    flaws: frozenset[ParameterFlaw] = frozenset()

    def get(self, name: bytes) -> bytes | None:
        """Return the first parameter of that very name, undecoded."""
        for key, value in self.params:
            if key == name:
                return value
        return None

    def text(self, name: bytes) -> str | None:
        """Return a parameter as text: by RFC 2231, else its plain form, with encoded words as readers take them."""
        pieces: dict[int, tuple[bytes, bool]] = {}
        for key, value in self.params:
            found = _SECTION.fullmatch(key)
            if found is not None and found[1] == name and (found[2] or found[3]):
                pieces.setdefault(int(found[2] or b"0"), (value, bool(found[3])))
        if 0 in pieces:
            return _joined(pieces)
        plain = self.get(name)
        return None if plain is None else decode_words(plain)

    def all_texts(self, name: bytes) -> tuple[str, ...]:
        """Return every reading of a parameter, each once: what another program might take for the file's name."""
        texts = [decode_words(value) for key, value in self.params if key == name]
        texts += [_joined({0: (value, True)}) for key, value in self.params if key == name + b"*"]
        extended = self.text(name)
        return tuple(dict.fromkeys([*texts, *([extended] if extended is not None else [])]))


def parse_parameters(value: bytes | None) -> Parameters:
    """Parse an unfolded value; never raises."""
    if value is None:
        return _NOTHING
    return _parse_cached(value) if len(value) <= _CACHED_MAX else _parse(value)


def without_comments(value: bytes) -> bytes:
    """Return a value with its comments taken out; beyond 8 levels, or when one never ends, the rest is comment."""
    if b"(" not in value:
        return value
    kept: list[bytes] = []
    at, begin, depth, quoted = 0, 0, 0, False
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
                    break
            case b")" if depth:
                depth -= 1
                begin = at
            case _:
                pass
    if depth == 0:
        kept.append(value[begin:])
    return b" ".join(kept)


def _parse(value: bytes) -> Parameters:
    flaws: set[ParameterFlaw] = set()
    if b"\0" in value:
        flaws.add(ParameterFlaw.NUL)
        value = value.replace(b"\0", b"")
    bare = without_comments(value)
    if bare != value:
        flaws.add(ParameterFlaw.COMMENT)
    head = bare.partition(b";")[0]
    params: list[tuple[bytes, bytes]] = []
    for found in _PARAMETER.finditer(bare, len(head)):
        if found[1] is None:
            continue
        if len(params) == PARAMS_MAX:
            flaws.add(ParameterFlaw.TOO_MANY)
            break
        params.append((found[1].lower(), _unquoted(found[2] or b"")))
    if len(dict(params)) < len(params):
        flaws.add(ParameterFlaw.DUPLICATE)
    return Parameters(_main(head), tuple(params), frozenset(flaws))


_parse_cached: Final = lru_cache(maxsize=512)(_parse)
_NOTHING: Final = Parameters(b"", ())


def _main(head: bytes) -> bytes:
    """Return `type/subtype`, or the first word, in lower case."""
    head = head.strip().lower()
    if (found := _TYPE.match(head)) is not None:
        return found[1] + b"/" + found[2]
    return b"".join(head.split(None, 1)[:1])


def _unquoted(value: bytes) -> bytes:
    if not value.startswith(b'"'):
        return value.rstrip()
    inner = value[1:-1] if len(value) > 1 and value.endswith(b'"') else value[1:]
    return _ESCAPED.sub(rb"\1", inner) if b"\\" in inner else inner


def _joined(pieces: dict[int, tuple[bytes, bool]]) -> str:
    """Join pieces in order until one is missing (RFC 2231 §3); only the first names the charset (§4.1)."""
    charset, octets = "", bytearray()
    for number in range(len(pieces)):
        if number not in pieces:
            break
        value, extended = pieces[number]
        if extended and number == 0 and value.count(b"'") >= 2:
            name, _, value = value.split(b"'", 2)
            charset = decode(name)
        octets += _PERCENT.sub(lambda each: bytes.fromhex(each[1].decode("ascii")), value) if extended else value
    return decode(bytes(octets), charset)
