"""Sessions of MySQL and MariaDB, by PyMySQL.

    mysql://gatepost:secret@db.example/mail
    mysql://gatepost@localhost/mail?unix_socket=/run/mysqld/mysqld.sock&passfile=/etc/gatepost/mysql.password
    mysql://gatepost@db.example/mail?passfile=...&ssl_ca=/etc/ssl/certs/ca-certificates.crt

With `ssl_ca` the server's certificate must hold for its name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from gatepost.policy.tables.passfile import read_password

PORT: Final = 3306
_OPTIONS: Final = ("unix_socket", "passfile", "ssl_ca")


def read_dsn(dsn: str, time_limit: float) -> Mapping[str, object]:
    """Return the arguments of PyMySQL's connect; raises ValueError."""
    parts = urlsplit(dsn)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = options.keys() - set(_OPTIONS)
    database = unquote(parts.path.removeprefix("/"))
    if unknown or not database or "/" in database:
        known = f"options: {', '.join(_OPTIONS)}"
        raise ValueError(f"sql: write mysql://user:password@host/database ({known})")
    arguments: dict[str, object] = {
        "host": unquote(parts.hostname or "localhost"),
        "port": parts.port or PORT,
        "user": unquote(parts.username or ""),
        "database": database,
        "charset": "utf8mb4",
        "autocommit": True,
        "connect_timeout": max(1, int(time_limit)),
        "read_timeout": time_limit,
        "write_timeout": time_limit,
        "init_command": "SET SESSION TRANSACTION READ ONLY",
    }
    if "unix_socket" in options:
        arguments["unix_socket"] = options["unix_socket"]
    if "ssl_ca" in options:
        arguments |= {"ssl_ca": options["ssl_ca"], "ssl_verify_cert": True, "ssl_verify_identity": True}
    if "passfile" in options:
        arguments["password"] = read_password(options["passfile"])
    elif parts.password is not None:
        arguments["password"] = unquote(parts.password)
    return arguments


class Session:
    """A session that changes nothing."""

    def __init__(self, pymysql: Any, arguments: Mapping[str, object], rows_max: int) -> None:  # Any: a module
        self._connection = pymysql.connect(**arguments)
        self._rows_max = rows_max

    def rows(self, query: str, values: Mapping[str, str]) -> Sequence[Sequence[object]]:
        """Return what a query with `%(key)s` finds."""
        with self._connection.cursor() as cursor:
            cursor.execute(query, dict(values))
            return list(cursor.fetchmany(self._rows_max))

    def close(self) -> None:
        """End it; a connection that broke is closed, too."""
        self._connection._force_close()  # `close` says goodbye to a server that may not listen any more
