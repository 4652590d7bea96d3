"""The refusal of a black client: its lists' messages, expanded and joined (spamd.conf(5), `msg`)."""

import re
from collections.abc import Sequence
from typing import Final

_FALLBACK: Final = (
    "Sorry %A\nYou are trying to send mail from an address listed by one\n"
    "or more IP-based registries as being a SPAM source."
)
_ESCAPE: Final = re.compile(r"%A|%%|\\\\|\\n|\\\"")
_UNSPEAKABLE: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")  # a message must not end its reply, nor color a log


def black_reply(messages: Sequence[str], ip: str, code: int = 450) -> bytes:
    """Return the multi-line refusal made of all lists' messages, each beginning on a line of its own.

    Lists without a message say nothing; where none has one, spamd's own words are used.
    """
    lines: list[str] = []
    for message in tuple(filter(None, messages)) or (_FALLBACK,):
        lines += expand(message, ip).removesuffix("\n").split("\n")
    last = len(lines) - 1
    wire = (f"{code}{' ' if at == last else '-'}{line}\r\n" for at, line in enumerate(lines))
    return "".join(wire).encode("ascii", "replace")


def expand(message: str, ip: str) -> str:
    """Expand %A, %%, \\\\, \\n and \\"; other escapes keep both characters, enclosing quotes are dropped."""
    if len(message) > 1 and message[0] == message[-1] == '"':
        message = message[1:-1]
    words = {"%A": ip, "%%": "%", "\\\\": "\\", "\\n": "\n", '\\"': '"'}
    return _UNSPEAKABLE.sub("", _ESCAPE.sub(lambda found: words[found[0]], message))
