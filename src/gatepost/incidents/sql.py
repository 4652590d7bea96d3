"""The table incident."""

from typing import Final

from gatepost.base.clock import Instant
from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement, Step

BEGIN: Final = Statement(
    "incidents.begin",
    "INSERT INTO incident (name, since, text) VALUES (:name, :now, :text) ON CONFLICT (name) DO NOTHING",
    needs_row=True,
)
END: Final = Statement("incidents.end", "DELETE FROM incident WHERE name = :name")
KNOWN: Final = Statement("incidents.known", "SELECT since FROM incident WHERE name = :name")
OPEN: Final = Statement("incidents.open", "SELECT name, since, text FROM incident ORDER BY since, name")

STATEMENTS: Final = (BEGIN, END, KNOWN, OPEN)
SCHEMA: Final[Schema] = load_schema("incidents", __package__, STATEMENTS)


def begin_step(name: str, text: str, now: Instant) -> Step:
    """Return the step that notes an incident; the unit is Unmet where it is noted already."""
    return Step(BEGIN, {"name": name, "text": text, "now": now})


def end_step(name: str) -> Step:
    """Return the step that ends an incident; it need not be there."""
    return Step(END, {"name": name})
