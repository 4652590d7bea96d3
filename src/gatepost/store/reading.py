"""Rows of the store's statements as values."""

from typing import cast

from gatepost.db.unit import Row, Rows
from gatepost.store.model import Mailbox

FlagRow = tuple[int, int, int]
"""(uid, flags, modseq)."""


def mailbox_of(row: Row) -> Mailbox:
    """Return a mailbox from the columns that `sql.MAILBOX_BY_ID` and its like select."""
    *columns, subscribed = row
    return Mailbox(*columns, bool(subscribed))  # type: ignore[arg-type, call-arg]  # the columns, in this order


def flag_rows(rows: Rows) -> list[FlagRow]:
    """Return rows of (uid, flags, modseq), which are NOT NULL BIGINT, without touching each."""
    return cast(list[FlagRow], rows)
