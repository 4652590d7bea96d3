"""A message while it arrives: in memory, in a nameless file once it grows; bounded over all sessions."""

import mmap
import os
import tempfile
from pathlib import Path
from typing import IO, Final

from gatepost.db.unit import NoRoom

IN_MEMORY_MAX: Final = 1 << 20

Buffer = bytes | mmap.mmap


class SpoolBudget:
    """What all spools of a process may hold together, in octets; beyond it a session is told 452."""

    def __init__(self, memory: int, disk: int) -> None:
        self.memory = memory
        self.disk = disk

    def take(self, memory: int, disk: int) -> None:
        """Take from the budget; NoRoom where it is used up."""
        if memory > self.memory or disk > self.disk:
            raise NoRoom("too many messages are arriving at once")
        self.memory -= memory
        self.disk -= disk

    def give(self, memory: int, disk: int) -> None:
        """Give back what was taken."""
        self.memory += memory
        self.disk += disk


class Spool:
    """One growing message. `close` it in every case: it gives the budget back and the file its end."""

    __slots__ = ("_budget", "_file", "_folder", "_map", "_parts", "size")

    def __init__(self, folder: Path, budget: SpoolBudget) -> None:
        self._folder = folder
        self._budget = budget
        self._parts: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._map: mmap.mmap | None = None
        self.size = 0

    def write(self, octets: bytes) -> None:
        """Add octets; NoRoom where memory, budget or disk do not hold them."""
        if self._file is None and self.size + len(octets) > IN_MEMORY_MAX:
            self._move_to_disk()
        if self._file is None:
            self._budget.take(len(octets), 0)
            self._parts.append(octets)
        else:
            self._budget.take(0, len(octets))
            _write(self._file, octets)
        self.size += len(octets)

    def view(self) -> Buffer:
        """Return the whole message; valid until `close`."""
        if self._file is None:
            if len(self._parts) != 1:
                self._parts = [b"".join(self._parts)]
            return self._parts[0]
        if self._map is None:
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def close(self) -> None:
        """Let everything go; a second call does nothing."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._file is not None:
            self._file.close()
            self._file = None
            self._budget.give(0, self.size)
        else:
            self._budget.give(self.size, 0)
        self._parts = []
        self.size = 0

    def _move_to_disk(self) -> None:
        self._budget.take(0, self.size)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder, buffering=1 << 16)  # noqa: SIM115  (closed by close)
        except OSError as error:
            self._budget.give(0, self.size)
            raise NoRoom(str(error)) from error
        for part in self._parts:
            _write(file, part)
        self._budget.give(self.size, 0)
        self._parts = []
        self._file = file


def _write(file: IO[bytes], octets: bytes) -> None:
    try:
        file.write(octets)
    except OSError as error:
        raise NoRoom(os.strerror(error.errno or 0)) from error
