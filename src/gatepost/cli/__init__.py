"""The command line: skins on the stages' verbs.

The names that other programs are called by are answered by one module each, and only that is loaded: a shell script
calls `sendmail` a hundred times.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import typer

from gatepost.cli.common import guarded

NAMES: Final = {
    "sendmail": ("sendmail", "run"),
    "mailq": ("mailq", "run"),
    "newaliases": ("mailq", "run_newaliases"),
    "spamdb": ("spamdb", "run"),
    "pfctl": ("pfctl", "run"),
}
"""By the name that we are called by: the module, and its function that takes the words behind it."""


def run() -> int:
    """Run the command that sys.argv names."""
    try:
        return guarded(_command)
    except typer.Abort:
        sys.stderr.write("Nothing was done.\n")
        return 1
    except Exception as error:
        shown = getattr(error, "show", None)
        if shown is None:
            raise
        shown()
        return int(getattr(error, "exit_code", 2))


def _command() -> int:
    found = NAMES.get(Path(sys.argv[0]).name)
    if found is not None:
        module, function = found
        answer: Callable[[Sequence[str]], int] = getattr(import_module(f"gatepost.cli.{module}"), function)
        return answer(sys.argv[1:])
    from gatepost.cli.commands import app

    left = app(standalone_mode=False)  # an Exit comes back as its status
    return left if isinstance(left, int) else 0
