"""Tables in a database of somebody else's, SQL or LDAP, asked with the operator's queries.

Asked off the loop, over a few connections that are kept, with a limit of time, and answers are kept for a moment.
A database that does not answer is not a database that says no: the sender is told to come back (451), and for a
second nobody waits for it again.

    sqlite:///srv/mail/users.db
    postgresql://gatepost@db.example/mail       as libpq takes it; passwords are better kept in a passfile
    mysql://gatepost@db.example/mail            see mysql.py
    ldaps://ldap.example/dc=example?mail        see directory.py
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

import apsw

from gatepost.aio.offload import Overfull, ThreadPool
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.base.settings import BadSetting
from gatepost.policy.tables import directory, mysql
from gatepost.policy.tables.kind import Kind
from gatepost.policy.tables.lookup import RunsAs, Warn
from gatepost.policy.tables.target import split_values
from gatepost.policy.tables.token import TOKEN

CONNECTIONS: Final = 4
WAITING_MAX: Final = 200
ROWS_MAX: Final = 1_000
KEPT_MAX: Final = 10_000
REST: Final = 1.0  # s after a failure
UNAVAILABLE: Final = Reply(Code.LOCAL_ERROR, "4.3.0", "Temporary lookup failure, try again later")
_STEPS: Final = 1_000  # of SQLite's machine between two looks at the clock
_SAME: Final = {Kind.VIRTUAL: Kind.ALIASES}
"""Kinds whose query another's may stand for."""

Row = Sequence[object]


class Connection(Protocol):
    """One connection; blocks, and raises whatever its library raises."""

    def rows(self, query: str, values: Mapping[str, str]) -> Sequence[Row]: ...
    def close(self) -> None: ...


Connect = Callable[[], Connection]


class SqlSettings(Protocol):
    """What is read of a table's settings."""

    @property
    def sql(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def queries(self) -> Mapping[str, str]: ...
    @property
    def cache(self) -> float: ...
    @property
    def timeout(self) -> float: ...
    @property
    def programs(self) -> bool: ...
    @property
    def user(self) -> str: ...
    @property
    def shell(self) -> bool: ...


class SqlTable:
    """One table: `values` asks it."""

    def __init__(
        self,
        name: str,
        queries: Mapping[Kind, str],
        connect: Connect,
        warn: Warn,
        *,
        keep: float,
        time_limit: float,
        runs_as: RunsAs | None = None,
    ) -> None:
        """Make it; `keep`: seconds that an answer holds, `time_limit`: seconds to wait for one."""
        self.runs_as = runs_as
        self._name = name
        self._queries = queries
        self._connections = _Connections(connect)
        self._warn = warn
        self._keep = keep
        self._time_limit = time_limit
        self._kept: dict[tuple[Kind, str], tuple[tuple[str, ...], float]] = {}
        self._rests_until = 0.0
        self._threads = ThreadPool(threads=CONNECTIONS, waiting=WAITING_MAX, name=f"table {name}")

    def answers(self, kind: Kind) -> bool:
        """Tell whether there is a query for a use."""
        return kind in self._queries or _SAME.get(kind) in self._queries

    async def values(self, kind: Kind, keys: Sequence[str]) -> tuple[str, ...] | None:
        """Return the values of the first key that is known; raises Refusal when it cannot be told now."""
        for key in keys:
            found = await self._value(kind, key)
            if found:
                return found
        return None

    async def find(self, keys: Sequence[str]) -> tuple[str, ...] | None:
        """Return the values of an alias or a virtual user."""
        found = await self.values(Kind.VIRTUAL, keys)
        return None if found is None else tuple(each for value in found for each in split_values(value))

    def used_as(self, kind: Kind) -> "Use":
        """Return this table as one of another kind of mapping."""
        return Use(self, kind)

    def close(self) -> None:
        """Close the connections that nobody uses now, and the others after use."""
        self._connections.close()

    async def _value(self, kind: Kind, key: str) -> tuple[str, ...]:
        now = asyncio.get_running_loop().time()
        kept = self._kept.get((kind, key))
        if kept is not None and kept[1] > now:
            return kept[0]
        if "\0" in key or not key.isprintable():
            return ()
        if now < self._rests_until:
            raise Refusal(UNAVAILABLE, detail=f"table {self._name} did not answer just now")
        found = await self._asked(kind, key)
        if self._keep > 0:
            self._kept.pop((kind, key), None)
            if len(self._kept) >= KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[kind, key] = (found, now + self._keep)
        return found

    async def _asked(self, kind: Kind, key: str) -> tuple[str, ...]:
        query = self._queries.get(kind) or self._queries[_SAME[kind]]
        local, at, domain = key.rpartition("@")
        values = {"key": key, "local": local if at else key, "domain": domain if at else ""}
        try:
            async with asyncio.timeout(self._time_limit):
                rows = await self._threads.run(self._connections.rows, query, values)
        except Exception as wrong:  # whatever a library raises: none of it says that the key is unknown
            if not isinstance(wrong, Overfull):
                self._rests_until = asyncio.get_running_loop().time() + REST
            problem = f"no answer within {self._time_limit:g} s" if isinstance(wrong, TimeoutError) else str(wrong)
            self._warn("table_failed", table=self._name, kind=kind.value, problem=problem.strip()[:500])
            raise Refusal(UNAVAILABLE, detail=f"table {self._name}: {problem}") from wrong
        return tuple(":".join(map(str, row)) for row in rows if row and row[0] is not None)


class Use:
    """A table that is asked for one kind of mapping."""

    runs_as: RunsAs | None = None

    def __init__(self, table: SqlTable, kind: Kind) -> None:
        self._table = table
        self._kind = kind

    async def find(self, keys: Sequence[str]) -> tuple[str, ...] | None:
        """Return the values of the first key that is known; raises Refusal."""
        found = await self._table.values(self._kind, keys)
        return None if found is None else tuple(each for value in found for each in split_values(value))


def open_table(settings: SqlSettings, name: str, warn: Warn) -> SqlTable:
    """Return the table of settings; raises BadSetting. Nothing is connected yet: a database may start after us."""
    try:
        return SqlTable(
            name,
            queries_of(settings.query, settings.queries),
            connector(settings.sql, settings.timeout),
            warn,
            keep=settings.cache,
            time_limit=settings.timeout,
            runs_as=RunsAs(settings.user, settings.shell) if settings.programs else None,
        )
    except ValueError as wrong:
        raise BadSetting((name,), str(wrong)) from wrong


class _Connections:
    """Connections that nobody uses at the moment, for the threads that ask."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    def rows(self, query: str, values: Mapping[str, str]) -> Sequence[Row]:
        """Return what a query finds; asks once more over a new connection where a kept one turns out to be dead."""
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            try:
                return self._over(kept, query, values)
            except Exception:  # noqa: S110  (the new connection tells, if there is anything to tell)
                pass
        return self._over(self._connect(), query, values)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for each in idle:
            each.close()

    def _over(self, connection: Connection, query: str, values: Mapping[str, str]) -> Sequence[Row]:
        try:
            rows = connection.rows(query, values)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return rows
        connection.close()
        return rows


def queries_of(query: str, queries: Mapping[str, str]) -> Mapping[Kind, str]:
    """Return the query for each use; raises ValueError."""
    known = {kind.value: kind for kind in Kind}
    found = dict.fromkeys(Kind, query) if query else {}
    for name, text in queries.items():
        if name not in known:
            raise ValueError(f"queries.{name}: there is no such use (known: {', '.join(known)})")
        found[known[name]] = text
    for text in found.values():
        if not any(match[1] for match in TOKEN.finditer(text)):
            raise ValueError(f"{text!r} asks for nothing: write SELECT ... WHERE name = :key, or (uid=:key)")
    return found


def connector(dsn: str, time_limit: float) -> Connect:
    """Return what opens a connection; raises ValueError for a DSN that is none or whose library is not there."""
    scheme, colon, _ = dsn.partition("://")
    match scheme if colon else "":
        case "sqlite":
            path = unquote(urlsplit(dsn).path)
            if not path.startswith("/") or path == "/":
                raise ValueError("sql: write sqlite:///path/of/file.db")
            return lambda: _Sqlite(path, time_limit)
        case "postgresql" | "postgres":
            psycopg = _library("psycopg", "postgres")
            return lambda: _Postgres(psycopg, dsn, time_limit)
        case "mysql" | "mariadb":
            pymysql, arguments = _library("pymysql", "mysql"), mysql.read_dsn(dsn, time_limit)
            return lambda: _Styled(mysql.Session(pymysql, arguments, ROWS_MAX))
        case "ldap" | "ldaps":
            ldap3, place = _library("ldap3", "ldap"), directory.read_url(dsn)
            return lambda: directory.Session(ldap3, place, time_limit, ROWS_MAX)
        case _:
            known = "sqlite:///path, postgresql://user@host/database, mysql://user@host/database"
            raise ValueError(f"sql: write {known} or ldaps://host/base?attribute")


class _Sqlite:
    """A file, read only. Time is looked at as it works."""

    def __init__(self, path: str, time_limit: float) -> None:
        self._connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        self._connection.set_busy_timeout(int(time_limit * 1000))
        self._time_limit = time_limit

    def rows(self, query: str, values: Mapping[str, str]) -> Sequence[Row]:
        ends = time.monotonic() + self._time_limit
        self._connection.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)
        cursor = self._connection.execute(query, values)
        found = []
        for row in cursor:
            found.append(row)
            if len(found) == ROWS_MAX:
                break
        cursor.close(True)
        return found

    def close(self) -> None:
        self._connection.close(True)


class _Postgres:
    """A session of PostgreSQL that changes nothing."""

    def __init__(self, psycopg: Any, dsn: str, time_limit: float) -> None:  # Any: a module that need not be there
        self._connection = psycopg.connect(dsn, connect_timeout=max(2, int(time_limit)), autocommit=True)
        self._connection.execute("SET default_transaction_read_only = on")
        self._connection.execute(f"SET statement_timeout = {int(time_limit * 1000)}")

    def rows(self, query: str, values: Mapping[str, str]) -> Sequence[Row]:
        cursor = self._connection.execute(percent_style(query), values)
        rows: Sequence[Row] = cursor.fetchmany(ROWS_MAX)
        cursor.close()
        return rows

    def close(self) -> None:
        self._connection.close()


class _Styled:
    """A connection whose library writes `%(key)s` for `:key`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.close = connection.close

    def rows(self, query: str, values: Mapping[str, str]) -> Sequence[Row]:
        return self._connection.rows(percent_style(query), values)


def percent_style(query: str) -> str:
    """Return a query with `%(key)s` for `:key`; quoted text stays, and `%` is doubled."""
    return TOKEN.sub(lambda match: f"%({match[1]})s" if match[1] else match[0], query.replace("%", "%%"))


def _library(module: str, extra: str) -> Any:  # Any: a module
    try:
        return import_module(module)
    except ImportError as missing:
        raise ValueError(
            f"sql: it needs {module}, which is not installed: pip install 'gatepost[{extra}]'"
        ) from missing
