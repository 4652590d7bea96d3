"""The supervisor with this program's commands; loads the standard library and aio/supervise, nothing else."""

import os

from gatepost.aio.supervise import Commands, Supervisor, main_argv


def supervise(file: str) -> int:
    """Be the supervisor of the server that `file` configures; return the exit status."""
    file = os.path.abspath(file)  # noqa: PTH100  (standard library only, and not even all of it)
    commands = Commands(
        plan=main_argv("plan", "-c", file),
        generation=main_argv("generation", "-c", file),
        serve=main_argv("serve", "-c", file),
        kernel=main_argv("kernel", "-c", file),
    )
    return Supervisor(commands).run()
