"""The web listener of a whole server, before curl."""

import subprocess
from pathlib import Path

import pytest

from tests.process.served import Served, free_ports
from tests.support.peers import program

pytestmark = [pytest.mark.process, pytest.mark.peer("curl")]


def test_curl_is_answered_over_tls_and_two_requests_share_a_connection(tmp_path: Path) -> None:
    [port] = free_ports(1)
    settings = f'[listen.web]\nkind = "https"\naddress = ["127.0.0.1:{port}"]\n'
    with Served(tmp_path, workers=1, settings=settings):
        argv = [program("curl"), "-skv", f"https://127.0.0.1:{port}/a", f"https://127.0.0.1:{port}/b"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "Nothing is here.\n" * 2
        assert done.stderr.count("HTTP/1.1 404 Not Found") == 2
        assert "Re-using existing connection" in done.stderr
