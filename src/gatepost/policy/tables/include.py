"""`:include:/path`: a file of values, as mailing lists have them, and the rules of whom to believe.

Such a file decides where mail goes, so it must be a plain file that nobody but its owner may change, and the owner
must be root, this server's user, or who owns the file that names it.
"""

import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from gatepost.policy.tables.target import split_values

INCLUDE: Final = ":include:"
DEPTH_MAX: Final = 5
VALUES_MAX: Final = 10_000
"""Values of one key, all its files together."""
FILE_MAX: Final = 1024 * 1024  # octets


class BadInclude(ValueError):
    """A file that is not read: the text names it and what to do."""


def included(values: Collection[str], owners: Collection[int], depth: int = DEPTH_MAX) -> tuple[str, ...]:
    """Return `values`, every `:include:/path` replaced by that file's; raises BadInclude.

    `owners`: the uids whose files are believed.
    """
    if not any(each.startswith(INCLUDE) for each in values):
        return tuple(values)
    found: list[str] = []
    for value in _flat(values, owners, depth):
        found.append(value)
        if len(found) > VALUES_MAX:
            raise BadInclude(f"more than {VALUES_MAX} values with all that is included")
    return tuple(found)


def lines_of(octets: bytes, path: Path) -> Iterator[str]:
    """Yield the values of a file: one a line or several with commas between, `#` begins a comment."""
    try:
        text = octets.decode()
    except UnicodeDecodeError as wrong:
        raise BadInclude(f"{path}: not UTF-8 at octet {wrong.start} (save the file as UTF-8)") from wrong
    for line in text.split("\n"):
        yield from split_values(uncommented(line).strip(" \t\r"))


def read_guarded(path: Path, owners: Collection[int], size_max: int = FILE_MAX) -> bytes:
    """Read a plain file that is of one of `owners` and that nobody else may change; raises BadInclude, OSError."""
    # A user chooses where the path leads: it is looked at first, since opening a device can already do something.
    place = os.open(path, getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(place), owners)
        again = f"/proc/self/fd/{place}" if hasattr(os, "O_PATH") else os.dup(place)
        with open(again, "rb") as file:  # noqa: PTH123  (perhaps a number)
            octets = file.read(size_max + 1)
    finally:
        os.close(place)
    if len(octets) > size_max:
        raise BadInclude(f"{path}: larger than {size_max >> 10} KiB")
    return octets


def _check(path: Path, facts: os.stat_result, owners: Collection[int]) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise BadInclude(f"{path}: no plain file")
    if facts.st_uid not in owners:
        raise BadInclude(f"{path}: owned by uid {facts.st_uid}, who has no say here (chown it)")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadInclude(f"{path}: others may write to it (chmod go-w {path})")


def uncommented(line: str) -> str:
    """Cut a comment: a `#` at the beginning or after a blank, since a local part may hold one."""
    if line.lstrip(" \t").startswith("#"):
        return ""
    found = re.search(r"[ \t]#", line)
    return line if found is None else line[: found.start()]


def _flat(values: Collection[str], owners: Collection[int], depth: int) -> Iterator[str]:
    for value in values:
        if not value.startswith(INCLUDE):
            yield value
            continue
        path = Path(value[len(INCLUDE) :].strip())
        if depth == 0:
            raise BadInclude(f"{path}: :include: nests deeper than {DEPTH_MAX} files")
        if not path.is_absolute():
            raise BadInclude(f"{value!r}: the path is not whole (write :include:/path)")
        try:
            octets = read_guarded(path, owners)
        except OSError as error:
            raise BadInclude(f"{path}: {error.strerror or error}") from error
        yield from _flat(tuple(lines_of(octets, path)), owners, depth - 1)
