"""The tables body and body_use."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

PUT: Final = Statement(
    "blobs.put",
    "INSERT INTO body (id, digest, size, form, content)"
    " VALUES (:id, :digest, :size, :form, CAST(:content AS {OCTETS}))",
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
GET: Final = Statement("blobs.get", "SELECT digest, size, form, content FROM body WHERE id = :id")
KNOWN: Final = Statement("blobs.known", "SELECT form FROM body WHERE id = :id")
AFTER: Final = Statement("blobs.after", "SELECT id, form FROM body WHERE id > :id ORDER BY id LIMIT 500")

STATEMENTS: Final = (PUT, USE, ADD_USE, RELEASE, DROP_UNUSED, DROP_USE, GET, KNOWN, AFTER)
SCHEMA: Final[Schema] = load_schema("blobs", __package__, STATEMENTS)
