"""How much of the disk a database leaves free, and the ballast that is let go when it is full after all."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WAL_MAX_OCTETS: Final = 512 << 20
BALLAST_OCTETS: Final = 8 << 20
LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Floor:
    """Below `octets` free, units that add data are answered NoRoom."""

    octets: int = 2 * WAL_MAX_OCTETS


class Room:
    """Watches the disk below a file. On a full disk even a DELETE needs room: that is what the ballast is for."""

    def __init__(self, path: Path, floor: Floor, steady: Callable[[], float]) -> None:
        self._folder = path.parent
        self._ballast = path.with_suffix(".ballast")
        self._floor = floor.octets
        self._steady = steady
        self._looked = steady()
        self._short = False
        self._look()

    @property
    def short(self) -> bool:
        """Tell whether the disk is nearly full; looks at most once a second."""
        if self._steady() - self._looked >= LOOK_EVERY_S:
            self._looked = self._steady()
            self._look()
        return self._short

    def was_full(self) -> None:
        """Let the ballast go: a write has just failed for want of room."""
        self._short = True
        self._looked = self._steady()
        self._ballast.unlink(missing_ok=True)

    def _look(self) -> None:
        try:
            disk = os.statvfs(self._folder)
        except OSError:  # a disk that does not say how much is left is no place for more mail
            self._short = True
            return
        self._short = disk.f_bavail * disk.f_frsize < self._floor
        if not self._short and not self._ballast.exists():
            try:
                with self._ballast.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, BALLAST_OCTETS)
            except OSError:  # the ballast itself was too much
                self._ballast.unlink(missing_ok=True)
