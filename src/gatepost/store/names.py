"""Names of mailboxes: what is allowed, and the one name that ASCII case does not tell apart.

A name is text, never a path of a file: it only ever reaches the database, as a parameter. It is kept as the client
gave it, so `Entwürfe` composed and decomposed are two names (RFC 9051 §5.1 leaves normalisation to the client).
"""

from typing import Final

from gatepost.base.address import fold
from gatepost.store.model import DEPTH_MAX, INBOX, NAME_OCTETS_MAX, SEPARATOR, BadName

_WILDCARDS: Final = frozenset("*%")  # RFC 9051 §6.3.9: LIST could never name such a mailbox alone
_LINE_ENDS: Final = frozenset("\u2028\u2029")  # RFC 9051 §5.1


def check_name(name: str) -> str:
    """Return the name under which a mailbox is stored: INBOX in capitals, all else as given; raises BadName."""
    try:
        octets = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise BadName("the name is not text") from None
    if not 0 < octets <= NAME_OCTETS_MAX:
        raise BadName(f"a name has 1 to {NAME_OCTETS_MAX} octets")
    if any(each < " " or "\x7f" <= each <= "\x9f" or each in _WILDCARDS or each in _LINE_ENDS for each in name):
        raise BadName("a name has no control characters and neither * nor %")
    levels = name.split(SEPARATOR)
    if len(levels) > DEPTH_MAX:
        raise BadName(f"a name has at most {DEPTH_MAX} levels")
    if any(level in ("", ".", "..") for level in levels):
        raise BadName("a level of a name is neither empty nor a run of dots")
    if name.startswith("#"):
        raise BadName("names that begin with # are namespaces")  # RFC 9051 §5.1.2
    if fold(levels[0]) == "inbox":
        levels[0] = INBOX
    return SEPARATOR.join(levels)


def superiors(name: str) -> tuple[str, ...]:
    """Return the names above `name`, outermost first: `a`, `a/b` for `a/b/c`."""
    levels = name.split(SEPARATOR)
    return tuple(SEPARATOR.join(levels[:depth]) for depth in range(1, len(levels)))


def below(name: str) -> tuple[str, str]:
    """Return the bounds [low, high) in byte order between which the names of its children lie."""
    return name + SEPARATOR, name + chr(ord(SEPARATOR) + 1)
