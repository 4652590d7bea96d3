"""Flags as one bit mask: ten that every mailbox has, and 46 bits for keywords that each mailbox names itself."""

from collections.abc import Iterable, Mapping
from typing import Final

from gatepost.base.address import fold

SEEN: Final = 1
ANSWERED: Final = 2
FLAGGED: Final = 4
DELETED: Final = 8
DRAFT: Final = 16
FORWARDED: Final = 32
MDN_SENT: Final = 64
JUNK: Final = 128
NOT_JUNK: Final = 256
PHISHING: Final = 512

FIXED: Final[Mapping[str, int]] = {
    "\\Seen": SEEN,
    "\\Answered": ANSWERED,
    "\\Flagged": FLAGGED,
    "\\Deleted": DELETED,
    "\\Draft": DRAFT,
    "$Forwarded": FORWARDED,  # RFC 5788, as are the next four
    "$MDNSent": MDN_SENT,
    "$Junk": JUNK,
    "$NotJunk": NOT_JUNK,
    "$Phishing": PHISHING,
}
"""The flags that have the same bit in every mailbox."""

FIXED_MASK: Final = 0xFFFF
KEYWORD_BITS: Final = range(16, 62)
KEYWORD_MASK: Final = (1 << 62) - 1 & ~FIXED_MASK
EVERY_FLAG: Final = (1 << 62) - 1
KEYWORD_LENGTH_MAX: Final = 100
"""Octets of a keyword's name; RFC 9051 has no limit, Dovecot's is 50 characters."""

_FIXED_FOLDED: Final = {fold(name): bit for name, bit in FIXED.items()}
_NOT_IN_ATOM: Final = frozenset('(){%*"\\]')  # RFC 9051 §9, atom-specials; flag-keyword = atom


class BadKeyword(ValueError):
    """A keyword that IMAP could not say."""


def fixed_bit(name: str) -> int:
    """Return the bit of a flag that every mailbox has, compared without regard to ASCII case; 0 for another."""
    return _FIXED_FOLDED.get(fold(name), 0)


def check_keyword(name: str) -> str:
    """Return `name` when it is an atom of at most 100 octets; raises BadKeyword."""
    if not 0 < len(name) <= KEYWORD_LENGTH_MAX:
        raise BadKeyword(f"a keyword has 1 to {KEYWORD_LENGTH_MAX} characters")
    if any(not "!" <= each <= "~" or each in _NOT_IN_ATOM for each in name):
        raise BadKeyword(f"{name!r} is not a keyword: printable ASCII without the specials of an atom")
    return name


def flag_names(mask: int, keywords: Mapping[int, str]) -> tuple[str, ...]:
    """Return the names of the flags in `mask`; `keywords` maps bit values (not numbers) to names."""
    names = [name for name, bit in FIXED.items() if mask & bit]
    if mask & KEYWORD_MASK:
        names += [name for bit, name in keywords.items() if mask & bit]
    return tuple(names)


def known_mask(names: Iterable[str], keywords: Mapping[int, str]) -> tuple[int, tuple[str, ...]]:
    """Split flag names into the mask of those that have a bit, and the names that have none yet."""
    folded = {fold(name): bit for bit, name in keywords.items()}
    mask, unknown = 0, []
    for name in names:
        bit = fixed_bit(name) or folded.get(fold(name), 0)
        mask |= bit
        if not bit:
            unknown.append(name)
    return mask, tuple(unknown)
