"""The backups that a primary knows: one file for each in `<data_dir>/backups`, readable by the server alone."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
FILE_MAX: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup: the key that both have, and the addresses from which it speaks."""

    name: str
    key: bytes
    addresses: tuple[str, ...] = ()


def folder_of(data_dir: Path) -> Path:
    """Return where a primary keeps its backups."""
    return data_dir / "backups"


def proper(name: str) -> bool:
    """Tell whether it can be the name of a server, and of a file."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def read_backup(folder: Path, name: str) -> Backup | None:
    """Return a backup that has joined; None where there is none of that name."""
    if not proper(name):
        return None
    try:
        with (folder / f"{name}.backup").open("rb") as file:
            given = json.loads(file.read(FILE_MAX))
        return Backup(name, bytes.fromhex(given["key"]), tuple(map(str, given["addresses"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_backup(folder: Path, backup: Backup) -> None:
    """Keep a backup."""
    words = {"key": backup.key.hex(), "addresses": list(backup.addresses)}
    write_private(folder / f"{backup.name}.backup", json.dumps(words).encode() + b"\n")


def all_backups(folder: Path) -> list[Backup]:
    """Return all that have joined, by name."""
    found = (read_backup(folder, each.name.removesuffix(".backup")) for each in sorted(folder.glob("*.backup")))
    return [each for each in found if each is not None]


def write_private(path: Path, octets: bytes) -> None:
    """Write a file that only the server's user may read, whole or not at all; root gives it to that user."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = path.parent.parent.stat()
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())
    if os.geteuid() == 0:
        for each in (fresh, path.parent):
            os.chown(each, owner.st_uid, owner.st_gid)
    fresh.replace(path)
