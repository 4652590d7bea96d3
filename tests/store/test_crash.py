"""What a killed process leaves behind."""

import subprocess
import sys
from pathlib import Path

import pytest


def killed_after(folder: Path, lines: int) -> list[tuple[int, int]]:
    """Run the appender, kill it after so many lines, and return all (uidvalidity, uid) it told."""
    command = [sys.executable, "-m", "tests.store.appender", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.readlines()
    whole = [line.split() for line in told if line.endswith("\n")]
    return [(int(validity), int(uid)) for validity, uid in whole]


@pytest.mark.process
@pytest.mark.row("IMAP-21")
def test_uids_told_before_a_kill_are_never_given_out_again(tmp_path: Path) -> None:
    first = killed_after(tmp_path, 40)
    second = killed_after(tmp_path, 40)
    assert len({validity for validity, _ in first + second}) == 1
    uids = [uid for _, uid in first + second]
    assert len(set(uids)) == len(uids)
    assert max(uid for _, uid in first) < min(uid for _, uid in second)
