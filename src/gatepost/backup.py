"""Backup, restore and verify: online, consistent, plain files.

A backup is a folder: `mail.db` and `gate.db` (VACUUM INTO, each one instant), `bodies/` (the large bodies, which
never change once written), `secret.key`, `tls/` and `manifest.json`.

Files are linked before the rows are copied and once more after: a body named by a copied row existed at that
instant, so it is either among the first (links outlive a deletion) or was written since, and a file younger than a
day is never swept. Extra files are harmless.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from gatepost.base.clock import Clock
from gatepost.blobs.bodies import Blobs, Progress
from gatepost.blobs.keys import NO_KEYS, Keys
from gatepost.blobs.known import named_in
from gatepost.databases import MAIL_SCHEMAS, gate_path, mail_path
from gatepost.db.sqlite import open_database
from gatepost.store.verbs import renew_uidvalidity

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
Say = Callable[[str], None]


class BackupRefused(Exception):
    """It cannot be done, and nothing was changed; the text is for the operator."""


def back_up(data_dir: Path, target: Path, clock: Clock, say: Say) -> None:
    """Copy a server's data to a new folder, while it runs or not; raises BackupRefused."""
    if not mail_path(data_dir).exists():
        raise BackupRefused(f"there is no {mail_path(data_dir)}")
    if target.exists() and any(target.iterdir()):
        raise BackupRefused(f"{target} is not empty: a backup goes into a folder of its own")
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    count = _copy_files(data_dir, target)
    for path in (mail_path(data_dir), gate_path(data_dir)):
        if path.exists():
            say(f"copying {path.name}")
            _copy_database(path, target / path.name)
    count += _copy_files(data_dir, target)
    for name in ("secret.key",):
        if (data_dir / name).exists():
            shutil.copy2(data_dir / name, target / name)
    if (data_dir / "tls").exists():
        shutil.copytree(data_dir / "tls", target / "tls", dirs_exist_ok=True)
    keys = named_in(mail_path(target))
    manifest = {"format": FORMAT, "at": clock.now(), "large_bodies": count, "encrypted_under": keys}
    (target / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    _sync(target)
    say(f"{target} is a whole backup; keep secret.key as safe as the mail itself")
    if keys:
        say(f"mail in it is encrypted under {', '.join(keys)}, and the file of [queue] encryption_key_file is NOT")
        say("in it: without that file nobody reads this mail again; keep a copy of it in another place")


def restore(source: Path, data_dir: Path, clock: Clock, say: Say) -> None:
    """Put a backup into an empty data directory; raises BackupRefused.

    Every mailbox gets a new UIDVALIDITY: clients read them anew instead of showing one message under the UID of
    another that came after the backup.
    """
    if not (source / MANIFEST).exists():
        raise BackupRefused(f"{source} is not a backup: it has no {MANIFEST}")
    if mail_path(data_dir).exists():
        raise BackupRefused(f"{data_dir} has data already: restore into an empty directory")
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    for entry in sorted(source.iterdir()):
        if entry.name == MANIFEST:
            continue
        say(f"copying {entry.name}")
        if entry.is_dir():
            shutil.copytree(entry, data_dir / entry.name)
        else:
            shutil.copy2(entry, data_dir / entry.name)
    count = asyncio.run(_renew(data_dir, clock))
    say(f"restored; the mailboxes of {count} accounts have new UIDVALIDITYs")
    if keys := named_in(mail_path(data_dir)):
        say(f"to read it, [queue] encryption_key_file must have the keys {', '.join(keys)}")


async def _renew(data_dir: Path, clock: Clock) -> int:
    database = await open_database(mail_path(data_dir), MAIL_SCHEMAS, steady=clock.steady)
    try:
        return await renew_uidvalidity(database, clock.now())
    finally:
        await database.close()


async def verify(data_dir: Path, clock: Clock, progress: Progress, keys: Keys = NO_KEYS) -> list[str]:
    """Check both databases and read every body of a stopped server or a backup; return what is wrong.

    What is encrypted under a key that is not among `keys` counts as wrong: nobody can say that it is not.
    """
    wrong: list[str] = []
    for path in (mail_path(data_dir), gate_path(data_dir)):
        if path.exists():
            wrong += [f"{path.name}: {found}" for found in _quick_check(path)]
    if wrong:
        return wrong
    if missing := [name for name in named_in(mail_path(data_dir)) if keys.key(name) is None]:
        why = f"bodies are encrypted under {', '.join(missing)}, and cannot be checked"
        return [f"{why}: give -c with a configuration whose encryption_key_file has that key"]
    database = await open_database(mail_path(data_dir), MAIL_SCHEMAS, steady=clock.steady)
    try:
        damaged = await Blobs(database, data_dir / "bodies", keys=keys).check_all(progress)
    finally:
        await database.close()
    return [f"body {name} is damaged or missing" for name in damaged]


def _copy_database(path: Path, target: Path) -> None:
    """Write a compact copy of one instant; readers and the writer go on."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(10_000)
        connection.execute("VACUUM INTO ?", (str(target),))
    finally:
        connection.close()
    target.chmod(0o600)


def _copy_files(data_dir: Path, target: Path) -> int:
    """Link large bodies into the backup, or copy them across devices; return how many were new."""
    count = 0
    for path in sorted((data_dir / "bodies").glob("??/*")):
        copy = target / "bodies" / path.parent.name / path.name
        if path.suffix == ".new" or copy.exists():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, copy)
        except FileNotFoundError:
            continue
        except OSError:
            shutil.copy2(path, copy)
        count += 1
    return count


def _quick_check(path: Path) -> list[str]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        found = [str(error)]
    finally:
        connection.close()
    return [] if found == ["ok"] else found


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
