"""A small stage for the tests of the database, and a writer that is driven by hand."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gatepost.db.unit import Schema, Statement, Step, Unit, Value
from gatepost.db.writer import Floor, Writer

ADD: Final = Statement(
    "t.add", "INSERT INTO thing (id, name, content) VALUES (:id, :name, CAST(:content AS {OCTETS}))"
)
RENAME: Final = Statement("t.rename", "UPDATE thing SET name = :name WHERE id = :id", needs_row=True)
TAKE: Final = Statement("t.take", "DELETE FROM thing WHERE id = :id RETURNING name", returns=True)
ALL: Final = Statement("t.all", "SELECT id, name, content FROM thing ORDER BY id")
IDS: Final = Statement("t.ids", "SELECT id FROM thing ORDER BY id")
WRONG: Final = Statement("t.wrong", "INSERT INTO nowhere (id) VALUES (:id)")
SCHEMA: Final = Schema(
    "t",
    (("0001_thing", "CREATE TABLE thing (\n  id {ID},\n  name TEXT NOT NULL,\n  content {OCTETS}\n);\n"),),
    (ADD, RENAME, TAKE, ALL, IDS, WRONG),
)


def add(key: int, name: str = "x", content: bytes | None = None) -> Step:
    """A step that adds a thing."""
    return Step(ADD, {"id": key, "name": name, "content": content})


def adds(key: int, content: bytes | None = None) -> Unit:
    """A unit that adds a thing."""
    return Unit((add(key, content=content),))


def named(*steps: Step) -> tuple[tuple[str, Mapping[str, Value]], ...]:
    """Steps as the writer takes them."""
    return tuple((step.statement.name, step.params) for step in steps)


def open_writer(folder: Path, schema: Schema = SCHEMA, floor: int = 0) -> Writer:
    """A writer of `mail.db` in a folder."""
    return Writer(folder / "mail.db", (schema,), durable=True, steady=time.monotonic, floor=Floor(floor))
