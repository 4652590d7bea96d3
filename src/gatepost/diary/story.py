"""The story of one mail: written as it is accepted, in the mail's own unit, and continued line by line."""

from typing import Final

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.ids import EPOCH_MS, MailId
from gatepost.db.unit import Step, Value
from gatepost.diary.packing import LINES_OCTETS_MAX, Line, clean, fingerprint, pack
from gatepost.diary.sql import ADD_LINE, ADD_PARTY, ADD_STORY

LINES_MAX: Final = 1_500
"""A line for each of 1,000 recipients, and what else is said of a mail."""

PARTIES_MAX: Final = 1_000


class Story:
    """Lines about one mail, told in order and stored by `steps`, at most 64 KiB of them.

    `sender` and `recipients` are how `gatepost trace ADDRESS` finds it; they are also told as lines by whoever
    wants them read.
    """

    __slots__ = ("_lines", "_octets", "_parties", "id", "sender")

    def __init__(self, mail: MailId, sender: Address | None = None) -> None:
        self.id = mail
        self.sender = sender
        self._lines: list[Line] = []
        self._parties: dict[int, None] = {}
        self._octets = 0

    def for_recipient(self, address: Address) -> None:
        """Let the story be found by a recipient's address."""
        if len(self._parties) < PARTIES_MAX:
            self._parties[fingerprint(address.key)] = None

    def tell(self, stage: str, event: str, /, at: Instant | None = None, **fields: str | int) -> None:
        """Add what a stage did; without `at`, the moment of the line before."""
        after = milliseconds_after(self.id, at) if at is not None else self._lines[-1].after if self._lines else 0
        line = Line(after, stage, event, clean(fields))
        self._octets += 40 + len(str(line.fields))
        if len(self._lines) < LINES_MAX and self._octets < LINES_OCTETS_MAX:
            self._lines.append(line)

    @property
    def lines(self) -> tuple[Line, ...]:
        """Return what was told so far."""
        return tuple(self._lines)

    def step(self) -> Step:
        """Return the step that stores the story, found by its sender and first recipient."""
        params: dict[str, Value] = {
            "id": self.id,
            "sender": fingerprint(self.sender.key) if self.sender else 0,
            "recipient": next(iter(self._parties), 0),
            "packed": pack(self._lines),
        }
        return Step(ADD_STORY, params)

    def steps(self) -> tuple[Step, ...]:
        """Return `step` and one more for each further recipient."""
        return (
            self.step(),
            *(Step(ADD_PARTY, {"address": party, "id": self.id}) for party in list(self._parties)[1:]),
        )


def add(mail: MailId, stage: str, event: str, /, *, at: Instant, **fields: str | int) -> Step:
    """Return the step that continues a stored story: a relay's result, a bounce, a removal."""
    packed = pack([Line(milliseconds_after(mail, at), stage, event, clean(fields))])
    return Step(ADD_LINE, {"id": mail, "at": at, "packed": packed})


def milliseconds_after(mail: MailId, at: Instant) -> int:
    """Return how long after a mail's id was made `at` is; the id counts whole milliseconds."""
    return at // 1000 - ((mail >> 22) + EPOCH_MS)


def moment(mail: int, after: int) -> Instant:
    """Return the Instant of a line."""
    return Instant(((mail >> 22) + EPOCH_MS + after) * 1000)


def first_id_at(at: Instant) -> int:
    """Return the smallest id of that millisecond: what was made before has a smaller one."""
    return max(0, at // 1000 - EPOCH_MS) << 22
