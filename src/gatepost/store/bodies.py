"""What the store needs of the package that keeps bodies."""

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Protocol

from gatepost.base.ids import MailId
from gatepost.db.unit import Step


class Bodies(Protocol):
    """What the store needs of blobs."""

    async def put(self, body_id: MailId, content: bytes, uses: int) -> tuple[Step, ...]:
        """Make the content durable but for these steps."""
        ...

    async def get(self, body_id: MailId) -> bytes:
        """Return the content; raises blobs' Missing and Damaged."""
        ...

    def add_use(self, body_id: MailId, uses: int = 1) -> tuple[Step, ...]:
        """Count further uses."""
        ...

    def release(self, body_id: MailId, uses: int = 1) -> tuple[Step, ...]:
        """Count uses that end; the last one drops the body."""
        ...


def add_uses(bodies: Bodies, used: Iterable[int]) -> tuple[Step, ...]:
    """Return the steps that count one further use for each body in `used`, which may repeat."""
    return tuple(
        chain.from_iterable(bodies.add_use(MailId(body), uses) for body, uses in sorted(Counter(used).items()))
    )


def release_uses(bodies: Bodies, used: Iterable[int]) -> tuple[Step, ...]:
    """Return the steps that end one use for each body in `used`, which may repeat."""
    return tuple(
        chain.from_iterable(bodies.release(MailId(body), uses) for body, uses in sorted(Counter(used).items()))
    )
