"""Units of work as data, and the one Protocol through which every stage reaches a database.

A stage writes its SQL as `Statement` constants in its `sql.py`, once for both engines, with named
parameters (`:mailbox`). A unit is an ordered tuple of steps; it is committed whole or not at all, no step
reads what another returned, ids are made by the caller. Only the *name* of a statement crosses from a worker
to the keeper, which looks its text up in its own table: a worker can run what was written here, nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Value = int | float | str | bytes | None
Params = Mapping[str, Value]
Row = tuple[Value, ...]
Rows = list[Row]


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement. `name` is `stage.verb_noun`, unique in the program.

    `returns`: its rows (RETURNING) come back from `commit`. `needs_row`: a unit in which it changes no row is
    undone and raises `Unmet` with this name: a precondition that the statement itself settles.
    """

    name: str
    sql: str
    returns: bool = False
    needs_row: bool = False


class Step(NamedTuple):
    """A statement with its parameters: a dozen a mail, so a tuple, which is made in a third of the time."""

    statement: Statement
    params: Params


class Notice(NamedTuple):
    """News for all processes after the commit: a hint, never a promise. `topic` is a stage's word."""

    topic: str
    key: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """What is committed together, in order."""

    steps: tuple[Step, ...]
    notices: tuple[Notice, ...] = ()


class NotCommitted(Exception):
    """The unit is not in the database."""


class Unmet(NotCommitted):
    """A step with `needs_row` changed nothing; `statement` is its name."""

    def __init__(self, statement: str) -> None:
        super().__init__(statement)
        self.statement = statement


class Clash(NotCommitted):
    """A constraint of the database refused a step (unique, foreign key, check)."""


class NoRoom(NotCommitted):
    """The disk or the write-ahead log is full: 452, try later."""


class Unhealthy(NotCommitted):
    """The database cannot commit now (I/O error, lost connection, overload): 451, try later."""


class Database(Protocol):
    """One database, SQLite or PostgreSQL; `mail` and `gate` are two of them."""

    async def read(self, statement: Statement, params: Params) -> Rows:
        """Run one SELECT of at most 10 ms and return its rows; never holds a snapshot afterwards."""
        ...

    async def read_long(self, statement: Statement, params: Params) -> Rows:
        """Run one SELECT that may take longer, off the loop."""
        ...

    async def commit(self, unit: Unit) -> tuple[Rows, ...]:
        """Commit a unit durably; return the rows of each step with `returns`, in order.

        Raises NotCommitted (Unmet, Clash, NoRoom, Unhealthy). When this returns, the unit survives a power cut
        (mail) or a crash of the process (gate).
        """
        ...

    def listen(self, topic: str, heard: Callable[[int], None]) -> Callable[[], None]:
        """Call `heard(key)` on the loop after any process committed a notice of `topic`; return the way to stop."""
        ...


@dataclass(frozen=True, slots=True)
class Schema:
    """A stage's tables: ordered migrations (`NNNN_name`, DDL with {ID} and {OCTETS}) and statements."""

    stage: str
    migrations: tuple[tuple[str, str], ...]
    statements: tuple[Statement, ...]
