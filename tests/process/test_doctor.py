"""What we print is loaded by BIND as it is, and the doctor finds it there; its letters reach the postmaster."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.served import Served, free_ports, until
from tests.support.peers import program

pytestmark = [
    pytest.mark.process,
    pytest.mark.peer("bind9"),
    pytest.mark.peer("bind9-utils"),
    pytest.mark.peer("bind9-dnsutils"),
]

ADDRESS = "198.51.100.7"
EMPTY = "$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n"
NAMED = """
options {{
    directory "{folder}"; pid-file none; session-keyfile "{folder}/session.key";
    listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    recursion no; dnssec-validation no; allow-transfer {{ none; }};
}};
controls {{ }};
zone "." {{ type primary; file "{folder}/root.zone"; }};
zone "here.example" {{ type primary; file "{folder}/forward.zone"; allow-update {{ 127.0.0.1; }}; }};
zone "100.51.198.in-addr.arpa" {{ type primary; file "{folder}/reverse.zone"; allow-update {{ 127.0.0.1; }}; }};
"""
SETTINGS = """
[accounts]
postmaster = "bob@here.example"
[watch]
addresses = ["198.51.100.7"]
lists = []
outside = "127.0.0.1:{mx}"
time = ""
"""


class Bind:
    """A real name server with two empty zones."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def change(self, commands: str) -> None:
        """Let nsupdate carry out commands."""
        argv = [program("nsupdate")]
        words = f"server 127.0.0.1 {self.port}\n{commands}"
        done = subprocess.run(argv, input=words, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr

    def log(self) -> str:
        return (self.folder / "named.log").read_text()


@contextmanager
def bind(folder: Path) -> Iterator[Bind]:
    """Run named until the end."""
    folder.mkdir()
    [port] = free_ports(1)
    (folder / "named.conf").write_text(NAMED.format(folder=folder, port=port))
    for zone in ("root", "forward", "reverse"):
        (folder / f"{zone}.zone").write_text(EMPTY)
    served = Bind(folder, port)
    argv = [program("named", "/usr/sbin/named"), "-g", "-c", str(folder / "named.conf")]
    with (folder / "named.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        until(lambda: "running" in served.log(), 30, served.log)
        yield served
    finally:
        process.terminate()
        process.wait(20)


def looked(server: Served, dns: Bind, status: int) -> dict[str, list[str]]:
    """Run the doctor; return the states of each check."""
    told = server.command("doctor", "--dns", f"127.0.0.1:{dns.port}", "--json", status=status)
    states: dict[str, list[str]] = {}
    for each in json.loads(told):
        states.setdefault(each["check"], []).append(each["state"])
    return states


def watched(server: Served, dns: Bind, said: str) -> None:
    """Let the doctor watch until it has said something."""
    argv = [program("gatepost", str(Path(__file__).parents[2] / ".venv/bin/gatepost")), "doctor", "--watch"]
    log = server.folder / "doctor.log"
    with log.open("wb") as out:
        ends = ["--dns", f"127.0.0.1:{dns.port}", "-c", str(server.config)]
        process = subprocess.Popen([*argv, *ends], stdout=out, stderr=out)
    try:
        until(lambda: said in log.read_text(), 40, log.read_text)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def test_a_printed_zone_is_loaded_by_bind_and_found_by_the_doctor(tmp_path: Path) -> None:
    with bind(tmp_path / "bind") as dns, Served(tmp_path, workers=1) as server:
        server.write_config(SETTINGS.format(mx=server.ports["mx"]))
        before = looked(server, dns, status=1)
        for check in ("mx", "address", "dkim", "dmarc", "pointer"):
            assert "problem" in before[check], before
        assert before["port 25"] == ["ok"]

        zone = server.command("dns", "zone", "here.example")
        (tmp_path / "whole.zone").write_text(EMPTY + zone)
        argv = [program("named-checkzone"), "-i", "local", "here.example", str(tmp_path / "whole.zone")]
        checked = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert checked.returncode == 0, checked.stdout + zone
        assert "OK" in checked.stdout

        dns.change(server.command("dns", "zone", "here.example", "--format", "nsupdate"))
        pointer = (
            "zone 100.51.198.in-addr.arpa.\nupdate add 7.100.51.198.in-addr.arpa. 300 PTR mx.here.example.\nsend\n"
        )
        dns.change(pointer)
        after = looked(server, dns, status=0)
        assert {state for states in after.values() for state in states} <= {"ok", "warning"}, after
        assert after["dkim"] == ["ok", "ok"]
        for check in ("mx", "address", "pointer", "spf", "dmarc", "services", "tls-rpt"):
            assert set(after[check]) == {"ok"}, (check, after)

        dns.change("zone here.example.\nupdate delete here.example. MX\nsend\n")
        server.write_config(SETTINGS.format(mx=server.ports["mx"]))
        watched(server, dns, "a letter to bob@here.example: 2 things are wrong")
        watched(server, dns, "here.example")  # told once: the second watch writes no letter
        dns.change("zone here.example.\nupdate add here.example. 300 MX 10 mx.here.example.\nsend\n")
        watched(server, dns, "a letter to bob@here.example: 2 things are mended")
        letters = ["[mx.here.example] 2 things are wrong", "[mx.here.example] 2 things are mended"]
        until(lambda: len(server.subjects()) == 2, 20, lambda: str(server.subjects()))
        assert server.subjects() == letters
