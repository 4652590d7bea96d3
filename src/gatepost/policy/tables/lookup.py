"""Where the values of an alias or a virtual user come from, and what they may do."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gatepost.policy.action import Route, RouteKind


class Warn(Protocol):
    """Where a warning to the operator goes."""

    def __call__(self, event: str, **fields: object) -> object: ...


@dataclass(frozen=True, slots=True)
class RunsAs:
    """Leave to start programs and write files: as which user, and whether a shell reads the command."""

    user: str
    shell: bool = False

    def program(self, command: str) -> Route:
        """Return the way to a program."""
        words = ["/bin/sh", "-c", command] if self.shell else shlex.split(command)
        return Route(RouteKind.PROGRAM, shlex.join(words), auth=self.user)

    def file(self, path: str, *, maildir: bool) -> Route:
        """Return the way to a file."""
        return Route(RouteKind.MAILDIR if maildir else RouteKind.MBOX, path, auth=self.user)


class Aliases(Protocol):
    """A mapping of names to values. `runs_as` None: its values neither start programs nor write files."""

    runs_as: RunsAs | None

    async def find(self, keys: Sequence[str]) -> tuple[str, ...] | None:
        """Return the values of the first key that is known; raises Refusal when that cannot be told now."""
        ...


class KeptAliases:
    """A mapping that is in memory whole."""

    __slots__ = ("_values", "runs_as")

    def __init__(self, values: Mapping[str, tuple[str, ...]], runs_as: RunsAs | None = None) -> None:
        self._values = values
        self.runs_as = runs_as

    async def find(self, keys: Sequence[str]) -> tuple[str, ...] | None:
        """Return the values of the first key that is known."""
        for key in keys:
            if key in self._values:
                return self._values[key]
        return None
