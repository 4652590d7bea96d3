"""Logs: one line tells one fact, on standard error and in DATA_DIR/log/gatepost.log, which `gatepost logs` reads.

What a stranger said is escaped and cut at 1,000 characters: a line is one record, whatever stands in it.
"""

import fcntl
import json
import os
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
import structlog

FIELD_MAX: Final = 1_000
FILE_MAX: Final = 10 << 20
FILES_KEPT: Final = 5
LOOK_EVERY: Final = 200  # lines between looks at whether the file is full
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_PLAIN_KINDS: Final = frozenset((int, float, bool, type(None)))
_encode: Final = msgspec.json.Encoder().encode

Event = MutableMapping[str, Any]


def configure(
    data_dir: Path | None, *, form: str, level: str, worker: str
) -> structlog.typing.FilteringBoundLogger:
    """Set logging up for this process; `worker` names it in each line."""
    set_level(level)
    file = LogFile(data_dir / "log" / "gatepost.log") if data_dir is not None else None
    structlog.configure(
        processors=[
            structlog.processors.format_exc_info,
            _Stamp(worker),
            _Write(file, sys.stderr, as_json=form == "json"),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS["debug"]),
        logger_factory=_Nowhere,
        cache_logger_on_first_use=True,
    )
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return log


def set_level(level: str) -> None:
    """Write lines of this level (a word of `_LEVELS`) and above from now on."""
    _Threshold.number = _LEVELS[level]


class LogFile:
    """A file that several processes append to, a line a write; the one that finds it full turns it over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._handle = self._open()

    def write(self, line: bytes) -> None:
        """Append one line; a full disk loses log lines, never mail."""
        self._lines += 1
        try:
            if self._lines % LOOK_EVERY == 0:
                self._turn_over()
            os.write(self._handle, line)
        except OSError:
            pass

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _turn_over(self) -> None:
        mine = os.fstat(self._handle)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        try:
            there = self._path.stat() if self._path.exists() else None
            if there is not None and there.st_ino == mine.st_ino and mine.st_size > FILE_MAX:
                for number in range(FILES_KEPT - 1, 0, -1):
                    older = self._path.with_suffix(f".log.{number}")
                    if older.exists():
                        older.rename(self._path.with_suffix(f".log.{number + 1}"))
                self._path.rename(self._path.with_suffix(".log.1"))
                there = None
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)
        if there is None or there.st_ino != mine.st_ino:
            os.close(self._handle)
            self._handle = self._open()


class _Threshold:
    """The level of this process's log."""

    number = _LEVELS["info"]


class _Stamp:
    """Drops what the operator does not want to read; adds time, level and process, cuts the fields."""

    def __init__(self, worker: str) -> None:
        self._worker = worker

    def __call__(self, logger: object, method: str, event: Event) -> Event:
        level = "error" if method == "exception" else method
        if _LEVELS[level] < _Threshold.number:
            raise structlog.DropEvent
        stamped: Event = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds")[:23] + "Z",
            "level": level,
            "process": self._worker,
            "event": event.pop("event"),
        }
        for key, value in event.items():
            kind = type(value)
            if (kind is str and len(value) <= FIELD_MAX) or kind in _PLAIN_KINDS:
                stamped[key] = value
            else:
                stamped[key] = _cut(str(value), key)
        return stamped


class _Write:
    """Writes a line to both places; the last processor."""

    def __init__(self, file: LogFile | None, stream: TextIO, *, as_json: bool) -> None:
        self._file = file
        self._stream = stream
        self._as_json = as_json

    def __call__(self, logger: object, method: str, event: Event) -> str:
        line = _json(event)
        if self._file is not None:
            self._file.write(line)
        try:
            self._stream.write(line.decode("ascii") if self._as_json else text_line(event) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass
        raise structlog.DropEvent


class _Nowhere:
    """The logger below the processors: they have written already."""

    def __init__(self, *args: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:  # Any: any level's method
        return lambda *args, **fields: None


def _json(event: Event) -> bytes:
    """Return a record as one line of ASCII: what could fool a terminal or a reader is escaped."""
    line: bytes = _encode(event)
    if line.isascii() and b"\x7f" not in line:
        return line + b"\n"
    return json.dumps(event, ensure_ascii=True).replace("\x7f", "\\u007f").encode() + b"\n"


def text_line(event: Event) -> str:
    """Return a record for people: time, level, event, fields."""
    rest = [
        f"{key}={_shown(value)}" for key, value in event.items() if key not in ("at", "level", "event", "process")
    ]
    head = f"{event['at'][11:19]} {event['level']:<7} {event['process']:<8} {event['event']}"
    return " ".join([head, *rest])


def _shown(value: object) -> str:
    if not isinstance(value, str):
        return str(value)
    plain = value.isascii() and value.isprintable() and '"' not in value and value != ""
    return value if plain and " " not in value else json.dumps(value)


def _cut(text: str, key: str) -> str:
    limit = 20_000 if key == "exception" else FIELD_MAX
    return text if len(text) <= limit else text[:limit] + "..."
