"""A message while it arrives: in memory, in a nameless file once it grows; bounded over all sessions."""

import contextlib
import io
import mmap
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

    def foresee(self, memory: int, disk: int) -> None:
        """Raise NoRoom where so much is not left now; takes nothing."""
        if memory > self.memory or disk > self.disk:
            raise NoRoom("too many messages are arriving at once")

    def take(self, memory: int, disk: int) -> None:
        """Take from the budget; NoRoom where it is used up."""
        self.foresee(memory, disk)
        self.memory -= memory
        self.disk -= disk

    def give(self, memory: int, disk: int) -> None:
        """Give back what was taken."""
        self.memory += memory
        self.disk += disk


class Spool:
    """One growing message. `close` it in every case: it gives the budget back and the file its end."""

    __slots__ = ("_budget", "_disk", "_file", "_folder", "_map", "_memory", "_taken", "size")

    def __init__(self, folder: Path, budget: SpoolBudget) -> None:
        self._folder = folder
        self._budget = budget
        self._memory = io.BytesIO()
        self._file: IO[bytes] | None = None
        self._map: mmap.mmap | None = None
        self._taken = 0
        self._disk = 0
        self.size = 0

    def foresee(self, size: int) -> None:
        """Raise NoRoom where a message of that size would not find room if it came now."""
        self._budget.foresee(min(size, IN_MEMORY_MAX), size if size > IN_MEMORY_MAX else 0)

    def write(self, octets: bytes) -> None:
        """Add octets; NoRoom where memory, budget or disk do not hold them: then only `close` is left to do."""
        assert self._map is None, "a message does not grow once it was looked at"
        if self._file is None and self.size + len(octets) > IN_MEMORY_MAX:
            self._move_to_disk()
        if self._file is None:
            self._take(len(octets), 0)
            self._memory.write(octets)
        else:
            self._take(0, len(octets))
            _write(self._file, octets)
        self.size += len(octets)

    def view(self) -> Buffer:
        """Return the whole message; valid until `close`."""
        if self._file is None:
            return self._memory.getvalue()
        if self._map is None:
            try:
                self._file.flush()
            except OSError as error:
                raise NoRoom(str(error)) from error
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def close(self) -> None:
        """Let everything go; a second call does nothing."""
        if self._map is not None:
            with contextlib.suppress(BufferError):  # a thread whose caller was cancelled still reads: it goes last
                self._map.close()
            self._map = None
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written is not wanted any more
                self._file.close()
            self._file = None
        self._budget.give(self._taken, self._disk)
        self._taken = self._disk = self.size = 0
        self._memory = io.BytesIO()

    def _take(self, memory: int, disk: int) -> None:
        self._budget.take(memory, disk)
        self._taken += memory
        self._disk += disk

    def _move_to_disk(self) -> None:
        self._take(0, self.size)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=1 << 16)  # noqa: SIM115  (closed by close)
        except OSError as error:
            raise NoRoom(str(error)) from error
        _write(self._file, self._memory.getvalue())
        self._budget.give(self._taken, 0)
        self._taken = 0
        self._memory = io.BytesIO()


def _write(file: IO[bytes], octets: bytes) -> None:
    try:
        file.write(octets)
    except OSError as error:
        raise NoRoom(str(error)) from error
