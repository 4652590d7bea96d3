"""~/.forward: where a user's mail goes, by the user's own word (forward(5)).

The file counts only where nobody but the user could have written it: it is the user's own and plain, no group and
no stranger may write to it, nor to the home. Otherwise it is not there, and the log says why. A home with the
sticky bit is being changed (chmod +t): the mail waits. An empty file is not there either.
"""

import pwd
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from gatepost.aio.offload import Overfull, offload
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.policy.tables.include import BadInclude, included, lines_of, read_guarded
from gatepost.policy.tables.kind import read_userinfo
from gatepost.policy.tables.lookup import RunsAs, Warn
from gatepost.policy.tables.target import BadTarget, read_target, runs

FILE: Final = ".forward"
FILE_MAX: Final = 64 * 1024  # octets
VALUES_MAX: Final = 100
NOT_NOW: Final = Reply(Code.LOCAL_ERROR, "4.3.0", "Mailbox is being changed, try again later")


@dataclass(frozen=True, slots=True)
class Home:
    """Where a user lives."""

    user: str
    uid: int
    gid: int
    path: str

    @property
    def runs_as(self) -> RunsAs:
        """Return how the user's own programs run: a shell reads the command, as whatever the user could run."""
        return RunsAs(f"{self.user}={self.uid}:{self.gid}:{self.path}", shell=True)  # noqa: S604  (what the user could run anyway)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What stands in a .forward, and whom its programs would run as."""

    values: tuple[str, ...]
    runs_as: RunsAs | None


class Homes(Protocol):
    """Who has a home."""

    async def find(self, keys: Sequence[str]) -> Home | None:
        """Return the home of the first name that is known; raises Refusal when that cannot be told now."""
        ...


class SystemHomes:
    """The users of the system: names without a domain."""

    async def find(self, keys: Sequence[str]) -> Home | None:
        """Return the home of the first name that is known."""
        return await offload(_system_home, keys[-1])


class TableHomes:
    """The users of a table of kind userinfo: `user uid:gid:/home`, the user with or without a domain."""

    def __init__(self, find: Callable[[Sequence[str]], Awaitable[tuple[str, ...] | None]]) -> None:
        self._values = find

    async def find(self, keys: Sequence[str]) -> Home | None:
        """Return the home of the first name that is known."""
        found = await self._values(keys)
        if not found:
            return None
        try:
            return Home(keys[-1], *read_userinfo(found[0]))
        except ValueError as wrong:
            raise Refusal(NOT_NOW, detail=f"{keys[0]}: {wrong}") from wrong


class Forwards:
    """Ask `of` where a user's mail goes. `programs`: a .forward may start programs and write files."""

    def __init__(self, homes: Homes, warn: Warn, *, programs: bool = False) -> None:
        self._homes = homes
        self._warn = warn
        self._programs = programs

    async def of(self, user: str, domain: str) -> Forwarded | None:
        """Return what the user's .forward says, None where there is none that counts; raises Refusal."""
        try:
            home = await self._homes.find((f"{user}@{domain}", user))
            if home is None:
                return None
            values = await offload(self._read, home)
        except Overfull as full:
            raise Refusal(NOT_NOW, detail=f".forward of {user}: {full}") from full
        return Forwarded(values, home.runs_as if self._programs else None) if values else None

    def _read(self, home: Home) -> tuple[str, ...]:
        """Return the values of a home's .forward, none where it does not count. It blocks: in a thread."""
        path = Path(home.path) / FILE
        try:
            facts = Path(home.path).stat()
            if facts.st_mode & stat.S_ISVTX:
                raise Refusal(NOT_NOW, detail=f"{home.path} has the sticky bit: its .forward is being changed")
            octets = read_guarded(path, (home.uid,), FILE_MAX)
            if facts.st_uid not in (0, home.uid) or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise BadInclude(f"{home.path}: others may write to it (chmod go-w {home.path})")
            values = included(tuple(lines_of(octets, path)), (home.uid,))
            if len(values) > VALUES_MAX:
                raise BadInclude(f"{path}: more than {VALUES_MAX} values")
            self._check(values)
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            text = f"{path}: {error.strerror or error}: the server must be able to read it"
            self._warn("forward_not_read", user=home.user, text=text)
            raise Refusal(NOT_NOW, detail=text) from error
        except (BadInclude, BadTarget) as wrong:
            self._warn("forward_ignored", user=home.user, text=f"{path}: {wrong}")
            return ()
        return values

    def _check(self, values: tuple[str, ...]) -> None:
        for each in values:
            if runs(read_target(each)) and not self._programs:
                raise BadTarget(f"{each!r}: programs and files are not permitted here")


def _system_home(name: str) -> Home | None:
    try:
        found = pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: a NUL in it
        return None
    return Home(name, found.pw_uid, found.pw_gid, found.pw_dir) if found.pw_uid else None
