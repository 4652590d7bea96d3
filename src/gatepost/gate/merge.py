"""What two servers know of one key, put together: the rule of our own sync (`sql.MERGE` is the same in SQL).

Trapped beats white beats grey. Of two that are alike the earlier beginning, the earlier pass, the later end and the
higher counts stay. So the order in which records arrive, and how often, makes no difference.

`passes` is `expires` as long as no retry counted, which is no moment but a mark: put together, two tuples that did
not pass are one that did not pass. The smaller of the two numbers would make it pass at the end of the first.
"""

from dataclasses import replace

from gatepost.base.clock import Instant
from gatepost.gate.grey import TRAPPED, Record


def merge(ours: Record, theirs: Record, now: Instant) -> Record:
    """Return what becomes of our record when a peer tells of one with its key that has not ended."""
    if ours.expires <= now:
        return theirs
    if (ours.passed == TRAPPED) != (theirs.passed == TRAPPED):
        return ours if ours.passed == TRAPPED else theirs
    expires = max(ours.expires, theirs.expires)
    return replace(
        ours,
        first=min(ours.first, theirs.first),
        passes=min((each.passes for each in (ours, theirs) if each.passes < each.expires), default=expires),
        expires=expires,
        blocked=max(ours.blocked, theirs.blocked),
        passed=max(ours.passed, theirs.passed),
    )
