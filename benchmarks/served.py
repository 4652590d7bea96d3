"""A real server for a benchmark: what `gatepost try --hold` set up, with settings of the benchmark's own.

The server is `gatepost serve` as an operator runs it: a supervisor and N workers with two keepers, which are
threads where there is one worker. Settings are changed in its configuration file and taken by SIGHUP, in place.
"""

import os
import re
import signal
import time
from pathlib import Path

from accept import Gatepost, pss


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
        """Let the server read its configuration anew, in place."""
        os.kill(self._facts["pid"], signal.SIGHUP)
        time.sleep(1.5)

    def worker(self) -> int:
        """Return the process that a server with one worker serves from: the largest below the supervisor."""
        return max((pid for pid in self.pids() if pid != self._facts["pid"]), key=lambda pid: pss([pid]))
