"""Whether the DNS shows the key that we sign with."""

from enum import Enum

from gatepost.codec.dkim import BadKey, parse_key
from gatepost.judge.dkim import KeyNames
from gatepost.judge.spf import Trouble
from gatepost.judge.verbs import PublishedKey


class Seen(Enum):
    """What the DNS shows where a key's record belongs."""

    MATCHES = "matches"
    MISSING = "missing"
    SEVERAL = "several records"
    REVOKED = "revoked"
    BROKEN = "broken"
    DIFFERENT = "another key"
    UNKNOWN = "the DNS does not answer"


async def look(names: KeyNames, key: PublishedKey) -> Seen:
    """Compare the DNS with the key itself, not with its record's text: tags and their order may differ."""
    try:
        records = await names.txt(key.name)
    except Trouble:
        return Seen.UNKNOWN
    if not records:
        return Seen.MISSING
    if len(records) > 1:
        return Seen.SEVERAL
    try:
        shown = parse_key(records[0])
    except BadKey:
        return Seen.BROKEN
    if not shown.key:
        return Seen.REVOKED
    ours = parse_key(key.record.encode())
    return Seen.MATCHES if (shown.kind, shown.key) == (ours.kind, ours.key) else Seen.DIFFERENT
