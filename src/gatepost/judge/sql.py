"""The judge's one table: DKIM keys, their private halves encrypted.

begins_at NULL: made, and waits to be seen in the DNS; ends_at NULL: nobody has ended it.
"""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

KEYS_OF: Final = Statement(
    "judge.keys_of",
    "SELECT selector, algorithm, private, begins_at, ends_at FROM dkim_key"
    " WHERE domain = :domain AND begins_at IS NOT NULL ORDER BY made_at, selector",
)
ALL_KEYS: Final = Statement(
    "judge.all_keys",
    "SELECT domain, selector, algorithm, record, made_at, begins_at, ends_at FROM dkim_key"
    " ORDER BY domain, made_at, selector",
)
ADD_KEY: Final = Statement(
    "judge.add_key",
    "INSERT INTO dkim_key (domain, selector, algorithm, private, record, made_at, begins_at)"
    " VALUES (:domain, :selector, :algorithm, :private, :record, :made_at, :begins_at)",
)
BEGIN_KEY: Final = Statement(
    "judge.begin_key",
    "UPDATE dkim_key SET begins_at = :now, ends_at = NULL WHERE domain = :domain AND selector = :selector",
    needs_row=True,
)
END_KEY: Final = Statement(
    "judge.end_key",
    "UPDATE dkim_key SET ends_at = :now WHERE domain = :domain AND selector = :selector",
    needs_row=True,
)
DROP_KEY: Final = Statement(
    "judge.drop_key", "DELETE FROM dkim_key WHERE domain = :domain AND selector = :selector", needs_row=True
)

STATEMENTS: Final = (KEYS_OF, ALL_KEYS, ADD_KEY, BEGIN_KEY, END_KEY, DROP_KEY)
SCHEMA: Final[Schema] = load_schema("judge", __package__, STATEMENTS)
