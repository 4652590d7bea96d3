"""The web listener of a whole server, before curl."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.process.served import Served, free_ports, until
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


@pytest.mark.process
def test_our_own_mta_sts_policy_is_served_under_its_name_and_changes_with_a_reload(tmp_path: Path) -> None:
    [port] = free_ports(1)
    listener = f'[listen.web]\nkind = "https"\naddress = ["127.0.0.1:{port}"]\n'

    def asked(domain: str) -> str:
        where = f"mta-sts.{domain}"
        argv = [program("curl"), "-sk", "--connect-to", f"{where}:443:127.0.0.1:{port}"]
        argv.append(f"https://{where}/.well-known/mta-sts.txt")
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout

    with Served(tmp_path, workers=1, settings=f'{listener}[tls.mta_sts]\nmode = "testing"\n') as server:
        policy = "version: STSv1\nmode: testing\nmx: mx.here.example\nmax_age: 604800\n"
        assert asked("here.example") == policy
        assert asked("other.example") == "Nothing is here.\n"
        server.write_config(f'{listener}[tls.mta_sts]\nmode = "enforce"\n')
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "mode: enforce" in asked("here.example"), 60, lambda: asked("here.example"))
