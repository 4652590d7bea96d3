"""Add a mail to an mbox or a Maildir; run as a program of its own, as the user whom the file belongs to.

    python -I -S -c SOURCE mbox|maildir PATH SENDER [UID:GID:GROUP,...]  <MAIL

Started by root it becomes that user before it does anything, for the user need not be able to run this Python; for
the same reason it is standard library only. The exit status is one of sysexits.h: what goes wrong here may be
better tomorrow, so it is EX_TEMPFAIL.
"""

import fcntl
import os
import shutil
import socket
import stat
import sys
import time
from typing import BinaryIO

EX_OK, EX_USAGE, EX_TEMPFAIL = 0, 64, 75
LOCK_TIME = 30.0  # s


def add_to_mbox(path: str, sender: str, mail: BinaryIO) -> None:
    """Append under a lock; what could not be written whole is cut off again."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600), "r+b") as box:
        if not stat.S_ISREG(os.fstat(box.fileno()).st_mode):
            raise OSError(f"{path} is no plain file")
        _lock(box)
        end = box.seek(0, os.SEEK_END)
        try:
            box.write(f"From {sender or 'MAILER-DAEMON'} {time.asctime(time.gmtime())}\n".encode())
            last = b"\n"
            for line in mail:
                box.write(b">" + line if line.lstrip(b">").startswith(b"From ") else line)
                last = line
            box.write(b"\n" if last.endswith(b"\n") else b"\n\n")
            box.flush()
            os.fsync(box.fileno())
        except OSError:
            os.ftruncate(box.fileno(), end)
            raise


def add_to_maildir(path: str, mail: BinaryIO) -> None:
    """Write to tmp, sync, move to new: a reader sees it whole or not at all."""
    for folder in (path, *(os.path.join(path, name) for name in ("tmp", "new", "cur"))):  # noqa: PTH118 (start time)
        if not os.path.isdir(folder):  # noqa: PTH112
            os.mkdir(folder, 0o700)  # noqa: PTH102
    host = socket.gethostname().replace("/", "\\057").replace(":", "\\072")
    name = f"{time.time_ns() // 10**9}.P{os.getpid()}Q{os.urandom(8).hex()}.{host}"
    unfinished = os.path.join(path, "tmp", name)  # noqa: PTH118
    try:
        with open(unfinished, "xb") as file:  # noqa: PTH123
            shutil.copyfileobj(mail, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(unfinished, os.path.join(path, "new", name))  # noqa: PTH104, PTH118
    except OSError:
        if os.path.exists(unfinished):  # noqa: PTH110
            os.unlink(unfinished)  # noqa: PTH108
        raise
    folder_new = os.open(os.path.join(path, "new"), os.O_RDONLY)  # noqa: PTH118
    os.fsync(folder_new)
    os.close(folder_new)


def become(owner: str) -> None:
    """Be this user and nobody else for good; raises OSError."""
    uid, gid, groups = owner.split(":")
    if int(uid) == 0:
        raise PermissionError("files are never written as root")
    os.setgroups([int(each) for each in groups.split(",") if each])
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(int(uid), int(uid), int(uid))


def _lock(box: BinaryIO) -> None:
    end = time.monotonic() + LOCK_TIME
    while True:
        try:
            fcntl.lockf(box, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def main(arguments: list[str]) -> int:
    """Return the exit status."""
    if len(arguments) != 4 or arguments[0] not in ("mbox", "maildir"):
        return EX_USAGE
    kind, path, sender, owner = arguments
    try:
        if owner:
            become(owner)
        if kind == "mbox":
            add_to_mbox(path, sender, sys.stdin.buffer)
        else:
            add_to_maildir(path, sys.stdin.buffer)
    except OSError as error:
        sys.stdout.write(f"{error}\n")
        return EX_TEMPFAIL
    return EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
