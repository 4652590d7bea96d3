"""Base subjects (RFC 5256 §2.1) and the ids that make threads (§3): what SORT and THREAD compare."""

import re
from typing import Final

from gatepost.codec.mail.header import HeaderBlock
from gatepost.codec.mail.words import decode_words

REFERENCES_MAX: Final = 100
_ID: Final = re.compile(rb"<([^<>\s]{1,250})>")
_BLANKS: Final = re.compile(r"[ \t\r\n]+")
_TRAILER: Final = re.compile(r"(?:[ ]|\(fwd\))+$", re.IGNORECASE)
_BLOB: Final = re.compile(r"^\[[^\[\]]*\][ ]*")
_LEADER: Final = re.compile(r"^(?:\[[^\[\]]*\][ ]*){0,20}(?:re|fwd?)[ ]*(?:\[[^\[\]]*\][ ]*)?:[ ]*", re.IGNORECASE)
_FORWARD: Final = re.compile(r"^\[fwd:(.*)\]$", re.IGNORECASE)


def base_subject(value: bytes | None) -> tuple[str, bool]:
    """Return a subject without its Re: and Fwd:, and whether it had one."""
    text = _BLANKS.sub(" ", decode_words(value or b"")[:2000]).strip(" ")
    changed = False
    while True:
        shorter = _TRAILER.sub("", text)
        changed |= shorter.rstrip(" ") != text.rstrip(" ")
        text = shorter
        text, led = _without_leaders(text)
        changed |= led
        forwarded = _FORWARD.fullmatch(text)
        if forwarded is None:
            return text.strip(" "), changed
        text, changed = forwarded[1].strip(" "), True


def _without_leaders(text: str) -> tuple[str, bool]:
    led = False
    while True:
        shorter = _LEADER.sub("", text, count=1)
        if shorter != text:
            text, led = shorter, True
            continue
        blob = _BLOB.sub("", text, count=1)
        if blob == text or not blob:
            return text, led
        text = blob


def message_id(header: HeaderBlock) -> bytes:
    """Return the Message-ID without its brackets; empty where there is none."""
    found = _ID.search(header.first(b"message-id") or b"")
    return found[1] if found else b""


def references(header: HeaderBlock) -> tuple[bytes, ...]:
    """Return the ids of the messages this one answers, eldest first; the last 100 of them."""
    listed = _ID.findall((header.first(b"references") or b"")[-32_768:])
    if not listed:
        listed = _ID.findall(header.first(b"in-reply-to") or b"")[:1]
    return tuple(dict.fromkeys(listed[-REFERENCES_MAX:]))
