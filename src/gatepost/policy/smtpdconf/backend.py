"""Tables that smtpd asks a database for: table-sqlite(5) and table-postgres(5), whose queries ours can ask too."""

import re
import shlex
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from gatepost.policy.smtpdconf.cursor import Cursor
from gatepost.policy.smtpdconf.words import Heed

FILE_MAX: Final = 64 * 1024  # octets
BACKENDS: Final = frozenset(("sqlite", "postgres"))
_KINDS: Final = {
    "alias": "aliases",
    "domain": "domain",
    "credentials": "credentials",
    "netaddr": "netaddr",
    "userinfo": "userinfo",
    "mailaddr": "mailaddr",
    "addrname": "addrname",
}
"""What smtpd calls a use, and what it is called here."""
_PLACE: Final = re.compile(r"\?|\$1\b")
_QUOTED: Final = re.compile(r"'(?:[^']|'')*'")


def database(words: Cursor, backend: str, path: str) -> dict[str, object]:
    """Return the settings of a table that a database answers; empty, and noted, where they cannot be told."""
    try:
        with Path(path).open("rb") as file:
            lines = file.read(FILE_MAX).decode("utf-8", "replace").split("\n")
    except OSError as error:
        words.note(Heed.UNSUPPORTED, f"{path}: {error.strerror or error}: its queries are not known here")
        return {}
    given = dict(_entries(lines))
    dsn = _sqlite(given) if backend == "sqlite" else _postgres(words, given)
    queries: dict[str, str] = {}
    for key, text in given.items():
        if key.startswith("query_"):
            kind = _KINDS.get(key.removeprefix("query_"))
            if kind is None:
                words.note(Heed.UNSUPPORTED, f"{key}: tables are not asked for this here")
            else:
                queries[kind] = _query(text)
    if not dsn or not queries:
        words.note(Heed.UNSUPPORTED, f"{path} names no {'queries' if dsn else 'database'}")
        return {}
    return {"sql": dsn, "queries": queries}


def _entries(lines: list[str]) -> list[tuple[str, str]]:
    found = []
    for line in lines:
        key, _, value = line.strip().partition(" ")
        if key and not key.startswith("#") and value.strip():
            found.append((key, value.strip()))
    return found


def _sqlite(given: dict[str, str]) -> str:
    path = given.get("dbpath", "")
    return f"sqlite://{quote(path)}" if path.startswith("/") else ""


def _postgres(words: Cursor, given: dict[str, str]) -> str:
    try:
        parts = dict(part.split("=", 1) for part in shlex.split(given.get("conninfo", "")) if "=" in part)
    except ValueError:
        return ""
    if parts.pop("password", None) is not None:
        words.note(
            Heed.CHANGED, "the password is not copied: put it into a file, and name that with passfile= in sql"
        )
    return f"postgresql:///?{urlencode(parts)}" if parts else ""


def _query(text: str) -> str:
    """Return a query with `:key` where smtpd puts the key: `?` or `$1`, but not in quotes."""
    text = text.rstrip("; \t")
    parts, at = [], 0
    for quoted in _QUOTED.finditer(text):
        parts += [_PLACE.sub(":key", text[at : quoted.start()]), quoted[0]]
        at = quoted.end()
    return "".join((*parts, _PLACE.sub(":key", text[at:])))
