"""Mail that programs of this machine submit while the server is away: one file each, in a folder they cannot list.

    LOCAL_DIR/submit.sock   where the server listens for them (mode 0666)
    LOCAL_DIR/offline/      mode 3733: everybody may put files in, only the server's user may list and take them

A file is a line of JSON (the envelope) and the mail. It is written under a name with a dot, synced, renamed and
synced again: what `put` has returned survives a crash, what it has not is never looked at. Who wrote a file is its
owner; the group is the folder's, so that the server may read it.
"""

import errno
import itertools
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

SOCKET: Final = "submit.sock"
FOLDER: Final = "offline"
REFUSED: Final = "refused"
FOLDER_MODE: Final = 0o3733
AT_ONCE: Final = 10_000
ENVELOPE_MAX: Final = 1 << 20  # octets of the first line


@dataclass(frozen=True, slots=True)
class Slip:
    """The envelope of one mail; `sender` "" is the null sender, `notify` and `ret` are as in SMTP, or empty."""

    sender: str
    recipients: tuple[str, ...]
    notify: str = ""
    ret: str = ""
    envid: str = ""


@dataclass(frozen=True, slots=True)
class Left:
    """One mail that was left, and by whom."""

    path: Path
    uid: int
    slip: Slip
    content: bytes


class Unusable(Exception):
    """A file that is no mail; the text says why."""


def put(local_dir: Path, slip: Slip, content: bytes) -> Path:
    """Leave a mail, its lines ending in CRLF; it is on the disk when this returns. Raises OSError."""
    name = f"{time.time_ns()}.{os.getpid()}.{secrets.token_hex(4)}"
    folder = local_dir / FOLDER
    fresh, final = folder / f".{name}", folder / name
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(fresh, flags, 0o640), "wb") as file:  # noqa: PTH123  (a descriptor)
        try:
            os.fchmod(file.fileno(), 0o640)  # whatever the umask: the group is the server's
            file.write(json.dumps(asdict(slip)).encode() + b"\n")
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            fresh.rename(final)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        os.fsync(file.fileno())  # the name too; the folder itself cannot be opened by who may not list it
    return final


def prepare(local_dir: Path) -> None:
    """Make the folders with their modes; raises OSError."""
    local_dir.mkdir(parents=True, exist_ok=True)
    local_dir.chmod(0o755)
    folder = local_dir / FOLDER
    folder.mkdir(exist_ok=True)
    folder.chmod(FOLDER_MODE)
    (local_dir / REFUSED).mkdir(mode=0o700, exist_ok=True)


def left(local_dir: Path) -> Iterator[Path]:
    """Yield files that are whole, at most AT_ONCE, the oldest of them first."""
    try:
        with os.scandir(local_dir / FOLDER) as found:
            whole = (each.name for each in found if not each.name.startswith("."))
            names = sorted(itertools.islice(whole, AT_ONCE))
    except FileNotFoundError:
        return
    for name in names:
        yield local_dir / FOLDER / name


def read(path: Path, most: int) -> Left:
    """Read one file of at most `most` octets of mail; raises Unusable, OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as wrong:
        if wrong.errno in (errno.ELOOP, errno.ENXIO, errno.EACCES):
            raise Unusable(f"it is not a file that we may read: {wrong.strerror}") from wrong
        raise
    facts = os.fstat(descriptor)
    problem = ""
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
        problem = "it is not a file with one name"
    elif facts.st_size > most + ENVELOPE_MAX:
        problem = f"it is larger than {most} octets"
    if problem:
        os.close(descriptor)
        raise Unusable(problem)
    with open(descriptor, "rb") as file:  # noqa: PTH123  (a descriptor)
        head, content = file.readline(ENVELOPE_MAX), file.read()
    return Left(path, facts.st_uid, _slip(head), content)


def _slip(head: bytes) -> Slip:
    try:
        given = json.loads(head)
        slip = Slip(**{**given, "recipients": tuple(given["recipients"])})
    except (ValueError, TypeError, KeyError) as wrong:
        raise Unusable(f"its first line is no envelope: {wrong}") from wrong
    texts = (slip.sender, slip.notify, slip.ret, slip.envid, *slip.recipients)
    if not slip.recipients or not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise Unusable("its first line is no envelope")
    return slip


def set_aside(path: Path) -> None:
    """Keep what cannot be submitted where the operator finds it; raises OSError (a folder of another user)."""
    kept = path.parent.parent / REFUSED / path.name
    if kept.exists():  # who leaves mail chooses its name
        kept = kept.with_name(f"{kept.name}.{secrets.token_hex(8)}")
    path.rename(kept)
