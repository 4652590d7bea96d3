"""The tables body, body_use and rest_key."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

PUT: Final = Statement(
    "blobs.put",
    "INSERT INTO body (id, digest, size, form, content, sealed_by)"
    " VALUES (:id, :digest, :size, :form, CAST(:content AS {OCTETS}), :sealed_by)",
)
USE: Final = Statement("blobs.use", "INSERT INTO body_use (id, uses) VALUES (:id, :uses)")
ADD_USE: Final = Statement(
    "blobs.add_use", "UPDATE body_use SET uses = body_use.uses + :uses WHERE id = :id", needs_row=True
)
RELEASE: Final = Statement("blobs.release", "UPDATE body_use SET uses = body_use.uses - :uses WHERE id = :id")
DROP_UNUSED: Final = Statement(
    "blobs.drop_unused",
    "DELETE FROM body WHERE id = :id AND NOT EXISTS (SELECT 1 FROM body_use WHERE body_use.id = :id AND uses > 0)",
)
DROP_USE: Final = Statement("blobs.drop_use", "DELETE FROM body_use WHERE id = :id AND uses <= 0")
GET: Final = Statement("blobs.get", "SELECT digest, size, form, content, sealed_by FROM body WHERE id = :id")
KNOWN: Final = Statement("blobs.known", "SELECT form FROM body WHERE id = :id AND sealed_by = :sealed_by")
AFTER: Final = Statement("blobs.after", "SELECT id, form FROM body WHERE id > :id ORDER BY id LIMIT 500")

# Keys, and what is under them. Both read the whole table: for an operator's commands, off the loop.
KEYS: Final = Statement("blobs.keys", "SELECT name, proof FROM rest_key ORDER BY since, name")
KEYS_NAMED: Final = "SELECT name FROM rest_key ORDER BY since, name"
"""For a backup's file, which is looked into without a server."""
ADD_KEY: Final = Statement(
    "blobs.add_key",
    "INSERT INTO rest_key (name, proof, since) VALUES (:name, :proof, :now) ON CONFLICT (name) DO NOTHING",
)
DROP_KEY: Final = Statement(
    "blobs.drop_key",
    "DELETE FROM rest_key WHERE name = :name AND NOT EXISTS (SELECT 1 FROM body WHERE sealed_by = :name)",
)
COUNT_BY_KEY: Final = Statement(
    "blobs.count_by_key", "SELECT sealed_by, COUNT(*) FROM body GROUP BY sealed_by ORDER BY sealed_by"
)
NOT_UNDER: Final = Statement(
    "blobs.not_under",
    "SELECT id, form, sealed_by FROM body WHERE id > :id AND sealed_by <> :name ORDER BY id LIMIT 200",
)
RESEAL: Final = Statement(
    "blobs.reseal",
    "UPDATE body SET content = CAST(:content AS {OCTETS}), digest = :digest, sealed_by = :name"
    " WHERE id = :id AND sealed_by = :old",
    needs_row=True,
)

STATEMENTS: Final = (
    PUT, USE, ADD_USE, RELEASE, DROP_UNUSED, DROP_USE, GET, KNOWN, AFTER, KEYS, ADD_KEY, DROP_KEY, COUNT_BY_KEY,
    NOT_UNDER, RESEAL,
)  # fmt: skip
SCHEMA: Final[Schema] = load_schema("blobs", __package__, STATEMENTS)
