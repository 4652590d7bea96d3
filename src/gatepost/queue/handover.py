"""From the intake straight to a worker: a mail that is sent on as soon as it is on the disk.

    offer (places taken) --unit with rows leased already--> COMMIT --take--> its delivery, from memory
                          `--not committed--> withdraw

What stands on the disk is what accept and lease would have written one after the other, so a crash at any time is
one that docs/queue.md knows: after the commit the rows are leased, and due again when the lease ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gatepost.base.clock import Instant
from gatepost.queue.model import QueuedMail

SIZE_MAX: Final = 64 << 10
"""Octets of a mail that is kept in memory until its turn comes; a larger one is read again."""
RECIPIENTS_MAX: Final = 10
"""A mail to more has its rows found as they fall due: there is no hurry with a newsletter."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A worker's places for one mail: who leases its rows, until when, and how many for each destination."""

    owner: int
    until: Instant
    places: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AtHand:
    """A mail and its octets, as they would be read."""

    mail: QueuedMail
    content: bytes
