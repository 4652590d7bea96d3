"""Values with parameters (RFC 2045 §5.1, RFC 2183) and continuations (RFC 2231): bounded, no exceptions."""

import re
from dataclasses import dataclass
from typing import Final

from gatepost.codec.mail.words import decode_charset, decode_words

PARAMS_MAX: Final = 200
VALUE_MAX: Final = 32 << 10
_COMMENT: Final = re.compile(rb"\([^()\\]*\)")
_PARAM: Final = re.compile(
    rb";[ \t\r\n]*(?:([^ \t\r\n=;\"]{1,100})[ \t\r\n]*=[ \t\r\n]*"
    rb'(?:"((?:[^"\\]|\\.)*)"?|([^;\s"]*(?:[ \t]+[^;=\s"]+(?=[;\s]|$))*))|[^;]*)',
    re.DOTALL,
)
_HEAD: Final = re.compile(rb"[ \t\r\n]*([^;\s]*)")
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_SPLIT_NAME: Final = re.compile(rb"([^*]+)(?:\*([0-9]{1,4}))?(\*)?")
_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Parameters:
    """A value's first word (lower case) and its parameters as they stand, names in lower case, in order."""

    value: bytes
    params: tuple[tuple[bytes, bytes], ...]
    too_many: bool = False

    def get(self, name: bytes) -> bytes | None:
        """Return the first parameter of that very name."""
        return next((value for key, value in self.params if key == name), None)

    def text(self, name: bytes) -> str | None:
        """Return a parameter as text: RFC 2231 first, then the plain form with encoded words."""
        pieces: dict[int, tuple[bytes, bool]] = {}
        for key, value in self.params:
            found = _SPLIT_NAME.fullmatch(key)
            if found is not None and found[1] == name and (found[2] or found[3]):
                pieces.setdefault(int(found[2] or 0), (value, bool(found[3])))
        if 0 not in pieces:
            plain = self.get(name)
            return None if plain is None else decode_words(plain)
        return _joined(pieces)

    def all_texts(self, name: bytes) -> tuple[str, ...]:
        """Return every reading of a parameter: what another program might take for the file's name."""
        plain = [decode_words(value) for key, value in self.params if key == name]
        extended = self.text(name)
        return tuple(dict.fromkeys([*plain, *([extended] if extended is not None else [])]))


def parse_parameters(value: bytes | None) -> Parameters:
    """Read e.g. a Content-Type's value, unfolded or not."""
    value = _COMMENT.sub(b"", (value or b"")[:VALUE_MAX]) if b"(" in (value or b"") else (value or b"")[:VALUE_MAX]
    head = _HEAD.match(value)
    assert head is not None
    params: list[tuple[bytes, bytes]] = []
    for found in _PARAM.finditer(value, head.end()):
        if found[1] is None:
            continue
        if len(params) >= PARAMS_MAX:
            return Parameters(head[1].lower(), tuple(params), too_many=True)
        text = _ESCAPED.sub(rb"\1", found[2]) if found[2] is not None else found[3].strip()
        params.append((found[1].lower(), text))
    return Parameters(head[1].lower(), tuple(params))


def _joined(pieces: dict[int, tuple[bytes, bool]]) -> str:
    charset, octets = "utf-8", b""
    for number in range(len(pieces)):
        if number not in pieces:
            break
        value, encoded = pieces[number]
        if encoded:
            if number == 0 and value.count(b"'") >= 2:
                name, _, value = value.split(b"'", 2)
                charset = name.decode("ascii", "replace") or charset
            value = _PERCENT.sub(lambda each: bytes([int(each[1], 16)]), value)
        octets += value
    return decode_charset(octets, charset)
