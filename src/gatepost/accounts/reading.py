"""Rows of the accounts' statements as values."""

from typing import cast

from gatepost.accounts.model import Account, AccountId, Quota
from gatepost.base.clock import Instant
from gatepost.db.unit import Row


def account_of(row: Row) -> Account:
    """Return an account from the columns that `sql.ACCOUNT` and its like select."""
    key, address, admin, enabled, octets, messages, created_at, _ = cast(
        tuple[int, str, int, int, int, int, int, str],
        row,  # the types of the columns
    )
    return Account(
        AccountId(key), address, bool(admin), bool(enabled), Quota(octets, messages), Instant(created_at)
    )


def password_of(row: Row) -> str:
    """Return the PHC string of the same row; empty for none."""
    return str(row[7])
