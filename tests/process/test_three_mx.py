"""examples/three-mx, played whole: three servers in three network namespaces, with our sync and with spamd's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.peers import cannot, program

pytestmark = pytest.mark.process
SCRIPT = Path(__file__).parents[2] / "examples" / "three-mx" / "run.py"


@pytest.mark.peer("iproute2")
@pytest.mark.row("SY-01", "SY-02", "SY-04", "BM-01", "BM-03", "SYNC-06")
@pytest.mark.parametrize("words", [[], ["--spamd"], ["--spamd", "--multicast"]], ids=["own", "spamd", "multicast"])
def test_three_servers_share_what_they_learn_and_a_partition_loses_nothing(words: list[str]) -> None:
    program("ip")
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        cannot("make network namespaces")
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("All of it was as it should be.\n")
    assert ("mx1 takes the mail that mx2 had put off" in done.stdout) is ("--multicast" not in words)
