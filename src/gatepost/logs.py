"""Logs: one line tells one fact, on standard error and in DATA_DIR/log/gatepost.log, which `gatepost logs` reads.

What a stranger said is escaped and cut at 1,000 characters: a line is one record, whatever stands in it. There is a
line for each mail, so this is written for speed: 13 us a line where structlog took 40.
"""

import fcntl
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

FIELD_MAX: Final = 1_000
TRACEBACK_MAX: Final = 20_000
FILE_MAX: Final = 10 << 20
FILES_KEPT: Final = 5
LOOK_EVERY: Final = 200  # lines between looks at whether the file is full
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_PLAIN_KINDS: Final = frozenset((int, float, bool, type(None)))
_encode: Final = msgspec.json.Encoder().encode

Record = Mapping[str, object]


def configure(data_dir: Path | None, *, form: str, level: str, worker: str) -> "Lines":
    """Set logging up for this process; `worker` names it in each line."""
    set_level(level)
    file = LogFile(data_dir / "log" / "gatepost.log") if data_dir is not None else None
    return Lines(worker, file, sys.stderr.fileno(), as_json=form == "json")


def set_level(level: str) -> None:
    """Write lines of this level (a word of `_LEVELS`) and above from now on."""
    _Threshold.number = _LEVELS[level]


class Lines:
    """This process's log (base.ports.Log): writes each record to its file and to the descriptor `stream`."""

    def __init__(self, worker: str, file: "LogFile | None", stream: int, *, as_json: bool) -> None:
        self._worker = worker
        self._file = file
        self._stream = stream
        self._as_json = as_json
        self._second = 0
        self._moment = ""

    def debug(self, event: str, **fields: object) -> None:
        """Write what helps to find a mistake."""
        if _Threshold.number <= _LEVELS["debug"]:
            self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Write what happened in order."""
        if _Threshold.number <= _LEVELS["info"]:
            self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write what the operator should look at one day."""
        if _Threshold.number <= _LEVELS["warning"]:
            self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write what the operator should look at now."""
        self._write("error", event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Write an error of ours with the traceback of the exception that is being handled."""
        self._write("error", event, fields | {"exception": traceback.format_exc()})

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        error = fields.pop("exc_info", None)
        if isinstance(error, BaseException):
            fields["exception"] = "".join(traceback.format_exception(error))
        record: dict[str, object] = {
            "at": self._now(),
            "level": level,
            "process": self._worker,
            "event": event,
        }
        for key, value in fields.items():
            kind = type(value)
            if (kind is str and len(value) <= FIELD_MAX) or kind in _PLAIN_KINDS:  # type: ignore[arg-type]
                record[key] = value
            else:
                record[key] = _cut(str(value), key)
        line = _json(record)
        if self._file is not None:
            self._file.write(line)
        try:
            os.write(self._stream, line if self._as_json else text_line(record).encode() + b"\n")
        except OSError:  # nobody reads standard error any more
            pass

    def _now(self) -> str:
        """Return the time in UTC to the millisecond, as ISO 8601 has it."""
        now = time.time_ns() // 1_000_000
        second, milliseconds = divmod(now, 1000)
        if second != self._second:
            self._second, self._moment = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._moment}.{milliseconds:03}Z"


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


def _json(record: Record) -> bytes:
    """Return a record as one line of ASCII: what could fool a terminal or a reader is escaped."""
    line: bytes = _encode(record)
    if line.isascii() and b"\x7f" not in line:
        return line + b"\n"
    return json.dumps(record, ensure_ascii=True).replace("\x7f", "\\u007f").encode() + b"\n"


def text_line(record: Record) -> str:
    """Return a record for people: time, level, event, fields."""
    parts = [f"{str(record['at'])[11:19]} {record['level']:<7} {record['process']:<8} {record['event']}"]
    for key, value in record.items():
        if key not in _HEAD:
            parts.append(f"{key}={_shown(value)}")
    return " ".join(parts)


_HEAD: Final = frozenset(("at", "level", "process", "event"))


def _shown(value: object) -> str:
    if not isinstance(value, str):
        return str(value)
    plain = value.isascii() and value.isprintable() and '"' not in value and value != ""
    return value if plain and " " not in value else json.dumps(value)


def _cut(text: str, key: str) -> str:
    limit = TRACEBACK_MAX if key == "exception" else FIELD_MAX
    return text if len(text) <= limit else text[:limit] + "..."
