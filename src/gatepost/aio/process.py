"""What the parent processes ask of the kernel and of systemd: privileges, descriptors, the lock, notices.

Standard library only.
"""

import ctypes
import errno
import fcntl
import grp
import json
import os
import pwd
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_NAME: Final = 15
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
LOCK_FILE: Final = "supervisor.pid"
STATUS_FILE: Final = "status.json"


class AlreadyRunning(Exception):
    """Another supervisor serves this data directory."""


class EventLines:
    """The supervisor's log: one JSON object a line on standard error, as `base.ports.Log` wants it."""

    def _line(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        record = {"timestamp": round(time.time(), 3), "level": level, "event": event, "pid": os.getpid(), **fields}
        try:
            sys.stderr.write(json.dumps(record, default=str)[:8192] + "\n")
            sys.stderr.flush()
        except OSError:  # nobody reads: mail goes on
            pass

    def debug(self, event: str, **fields: object) -> None:
        """Write nothing: the parents have no detail to tell."""

    def info(self, event: str, **fields: object) -> None:
        """Write a line."""
        self._line("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write a line."""
        self._line("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write a line."""
        self._line("error", event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Write a line with the exception at hand."""
        self._line("error", event, {**fields, "exception": repr(sys.exc_info()[1])})


def raise_descriptor_limit() -> int:
    """Allow as many descriptors as the hard limit has; return that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def make_directory(path: Path, user: str, group: str) -> None:
    """See that a directory of ours exists, closed to others, and is the user's when we may give it away."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user and os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, grp.getgrnam(group).gr_gid if group else entry.pw_gid, follow_symlinks=False)


def drop_privileges(user: str, group: str) -> None:
    """Become `user` for good, with no capability and no way back (no_new_privs); raises KeyError, OSError.

    Without a `user`, or when not root, only capabilities and new privileges go.
    """
    os.umask(0o077)
    if user and os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
        os.initgroups(user, gid)
        os.setresgid(gid, gid, gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() != 0:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _drop_capabilities()


def die_with_parent(parent: int) -> None:
    """Be told SIGTERM when the parent ends, so that no orphan serves on old sockets; exit when it already has.

    Call it after the last change of user, which would undo it (prctl(2)).
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(0)


def name_process(name: str) -> None:
    """Show a name in ps(1) and top(1), of which Linux keeps 15 octets."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def take_lock(data_dir: Path, pid: int) -> int:
    """Lock the data directory for this supervisor and return the descriptor that holds the lock.

    Raises AlreadyRunning. A symbolic link in its place is refused (OSError).
    """
    path = data_dir / "run" / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        _lock(descriptor)
    except OSError as error:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise AlreadyRunning(f"process {owner} serves {data_dir} already") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % pid, 0)
    return descriptor


def find_supervisor(data_dir: Path) -> int | None:
    """Return the pid of the supervisor that serves `data_dir`, None when nobody does."""
    try:
        descriptor = os.open(data_dir / "run" / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.pread(descriptor, 32, 0).strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)
    return None


def read_status(data_dir: Path) -> dict[str, object]:
    """Return what the supervisor last told of itself; empty when there is nothing."""
    try:
        return dict(json.loads((data_dir / "run" / STATUS_FILE).read_text("utf-8")))
    except (OSError, ValueError):
        return {}


def write_status(data_dir: Path, status: Mapping[str, object]) -> None:
    """Tell the other commands: replaced whole, so that a reader never sees half."""
    path = data_dir / "run" / STATUS_FILE
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(status))
    fresh.replace(path)


def notify(*lines: str) -> None:
    """Tell systemd (sd_notify(3)); does nothing when it did not ask."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto("\n".join(lines).encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            pass


def _lock(descriptor: int) -> None:
    """Take the lock, with a moment's patience for a `find_supervisor` that looks at it just now."""
    for _ in range(5):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.05)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _drop_capabilities() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
