"""A real server for a benchmark: what `gatepost try --hold` set up, with settings of the benchmark's own.

The server is `gatepost serve` as an operator runs it: a supervisor, two keepers, N workers. Settings are changed in
its configuration file and taken by SIGUSR2, which lets fresh processes take over the sockets.
"""

import os
import re
import signal
import time
from pathlib import Path
from typing import Final

from accept import Gatepost, descendants

READY_S: Final = 60.0


class Served(Gatepost):
    """A server with `changes` (setting: TOML value) made to the configuration; a setting that is not there is put
    into [gate]."""

    def __init__(self, workers: int = 1, changes: dict[str, str] | None = None) -> None:
        super().__init__(workers)
        self.data = Path(self._facts["data_dir"])
        self._log = self.data.parent / "server.log"
        try:
            if changes:
                self._change(changes)
        except BaseException:
            self.stop()
            raise

    def _change(self, changes: dict[str, str]) -> None:
        config = Path(self._facts["config_file"])
        text = config.read_text()
        for name, value in changes.items():
            text, found = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
            if not found:
                text = text.replace("[gate]\n", f"[gate]\n{name} = {value}\n")
        config.write_text(text)
        self.renew()

    def renew(self) -> None:
        """Let fresh processes take over and wait until the old ones are gone; raises TimeoutError."""
        supervisor = self._facts["pid"]
        before = set(descendants([supervisor])) - {supervisor}
        os.kill(supervisor, signal.SIGUSR2)
        ends = time.monotonic() + READY_S
        while time.monotonic() < ends:
            now = set(descendants([supervisor])) - {supervisor}
            if before and len(now) == len(before) and not now & before:
                time.sleep(1)
                return
            time.sleep(0.1)
        raise TimeoutError(f"no fresh processes after {READY_S:g} s; see {self._log}")

    def worker(self) -> int:
        """Return the worker process that serves the world; raises LookupError unless there is just one."""
        found = [pid for pid in self.pids() if _title(pid).startswith("worker")]
        if len(found) != 1:
            raise LookupError(f"{len(found)} workers: {[_title(pid) for pid in self.pids()]}")
        return found[0]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
