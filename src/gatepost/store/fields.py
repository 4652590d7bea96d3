"""The header fields that mail programs ask for in lists, kept beside the listing so that no body is read for them.

`keep` picks their octets once, at delivery, from headers that have one reading; `chosen` answers from them. What is
absent from the kept octets is absent from the message, so any choice among `KEPT` can be answered.
"""

import re
from collections.abc import Iterator
from typing import Final

from gatepost.codec.mail.header import Flaw, HeaderBlock

KEPT: Final = frozenset(
    b"bcc cc content-type content-transfer-encoding content-description date disposition-notification-to from"
    b" importance in-reply-to lines list-id list-post list-unsubscribe mail-followup-to mail-reply-to message-id"
    b" newsgroups priority references reply-to return-path sender subject to x-draft-info x-label x-priority"
    b" x-tuid".split()
)
"""What Thunderbird, Apple Mail, K-9, mutt, mbsync and Roundcube ask for in their lists, in lower case."""

KEPT_OCTETS_MAX: Final = 8 * 1024

_HARMLESS: Final = frozenset(
    (Flaw.NO_FROM, Flaw.MULTIPLE_FROM, Flaw.DUPLICATE, Flaw.MULTIPLE_CONTENT_TYPE, Flaw.EIGHT_BIT)
)
"""Flaws that leave no doubt where a field begins and ends."""

_NEXT_FIELD: Final = re.compile(rb"(?<=\n)(?![ \t])")


def keep(header: HeaderBlock) -> bytes | None:
    """Return the octets of the fields in `KEPT`, in their order; None where only the message itself can tell.

    That is a header with a flaw of form, one cut off in its last line, or more than 8 KiB of them.
    """
    if not header.flaws <= _HARMLESS or not header.octets.endswith(b"\r\n"):
        return None
    kept = header.pick(KEPT)
    return kept if len(kept) <= KEPT_OCTETS_MAX else None


def fields_of(kept: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name in lower case, octets with their line end) of each kept field."""
    for field in _NEXT_FIELD.split(kept):
        if field:
            yield field[: field.index(b":")].lower(), field


def chosen(kept: bytes, names: frozenset[bytes]) -> bytes:
    """Return the fields of these names, which are all in `KEPT`, and the empty line behind them."""
    return b"".join([field for name, field in fields_of(kept) if name in names]) + b"\r\n"
