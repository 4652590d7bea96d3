"""Mailbox names on the wire: modified UTF-7 (RFC 3501 §5.1.3) and LIST's wildcards."""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Final

_SHIFTED: Final = re.compile(r"[^ -~]+|&")
_ENCODED: Final = re.compile(rb"&([A-Za-z0-9+,]*)-")


class BadName(ValueError):
    """Octets that are no mailbox name."""


def encode_name(name: str) -> bytes:
    """Write a name in modified UTF-7."""

    def shift(found: "re.Match[str]") -> str:
        if found[0] == "&":
            return "&-"
        packed = b64encode(found[0].encode("utf-16-be")).rstrip(b"=").replace(b"/", b",")
        return f"&{packed.decode('ascii')}-"

    return _SHIFTED.sub(shift, name).encode("ascii")


def decode_name(octets: bytes) -> str:
    """Read a name in modified UTF-7; plain UTF-8 is taken too. Raises BadName."""
    if not octets.isascii():
        try:
            return octets.decode("utf-8")
        except UnicodeDecodeError:
            raise BadName("the name is not text") from None
    parts, at = [], 0
    for found in _ENCODED.finditer(octets):
        parts.append(octets[at : found.start()])
        parts.append(_unshift(found[1]))
        at = found.end()
    parts.append(octets[at:])
    plain = b"".join(parts[::2])
    if b"&" in plain:
        raise BadName("the name has an & that begins nothing")
    name = b"".join(parts).decode("utf-8")
    if encode_name(name) != octets:  # RFC 3501 §5.1.3: what can stand for itself is never encoded
        raise BadName("the name is not modified UTF-7")
    return name


def _unshift(text: bytes) -> bytes:
    if not text:
        return b"&"
    try:
        octets = b64decode(text.replace(b",", b"/") + b"=" * (-len(text) % 4), validate=True)
        value = octets.decode("utf-16-be")
    except (Base64Error, UnicodeDecodeError):
        raise BadName("the name is not modified UTF-7") from None
    return value.encode("utf-8")


class Pattern:
    """A LIST pattern: `*` matches anything, `%` anything but the separator; linear in the name."""

    def __init__(self, pattern: str, separator: str = "/") -> None:
        self._pieces = re.sub(r"[*%]+", lambda run: "*" if "*" in run[0] else "%", pattern)
        self._separator = separator
        self._plain = "*" not in self._pieces and "%" not in self._pieces

    def matches(self, name: str) -> bool:
        """Tell whether a name matches; INBOX in any case."""
        if self._match(name):
            return True
        inbox = name.partition(self._separator)[0] == "INBOX" and self._pieces[:5].upper() == "INBOX"
        return inbox and self._folded()._match(name)

    def _folded(self) -> "Pattern":
        other = Pattern("", self._separator)
        other._pieces, other._plain = "INBOX" + self._pieces[5:], self._plain
        return other

    def _match(self, name: str) -> bool:
        """Follow all positions of the pattern at once, as a set: no backtracking."""
        if self._plain:
            return name == self._pieces
        if self._pieces in ("*", "%"):
            return self._pieces == "*" or self._separator not in name
        pattern, size = self._pieces, len(self._pieces)
        here = self._closed({0})
        for character in name:
            following = set()
            for at in here:
                if at == size:
                    continue
                expected = pattern[at]
                if expected == "*" or (expected == "%" and character != self._separator):
                    following.add(at)
                elif expected == character and expected not in "*%":
                    following.add(at + 1)
            here = self._closed(following)
            if not here:
                return False
        return size in here

    def _closed(self, here: set[int]) -> set[int]:
        found = set(here)
        for at in here:
            step = at
            while step < len(self._pieces) and self._pieces[step] in "*%":
                step += 1
                found.add(step)
        return found
