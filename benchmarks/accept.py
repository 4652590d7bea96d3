"""Accept to mailbox: gatepost against Postfix -> Dovecot LMTP, in turn, same client, same mail, synced before 250.

    python benchmarks/peers.py setup                       (once, root, Debian 12)
    python benchmarks/accept.py --rounds 3 --mails 2000    A B A B ...; prints medians, CPU a mail, PSS

A mail counts when it can be read: the clock stops when IMAP STATUS shows all of them. CPU is user + system of all
server processes, from /proc; memory is PSS summed over them.
"""

import argparse
import imaplib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import peers

HERE: Final = Path(__file__).parent
PYTHON: Final = sys.executable


def descendants(roots: Iterable[int]) -> list[int]:
    """Return the processes below and with `roots`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def cpu(pids: Iterable[int]) -> float:
    """Return the seconds of processor time that processes and their reaped children used."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += sum(int(value) for value in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def pss(pids: Iterable[int]) -> float:
    """Return the memory in MB that processes have, shared pages counted by their share."""
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            continue
    return round(total / 1024, 1)


class Gatepost:
    """`gatepost try --hold`, with the load's sources exempt from the greylist."""

    name = "gatepost"

    def __init__(self, workers: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gatepost-bench-", dir="/var/tmp")
        data = Path(self._folder.name) / "t"
        facts = Path(self._folder.name) / "facts.json"
        words = ["try", "--hold", "--json", str(facts), "--data-dir", str(data), "--workers", str(workers)]
        self._process = subprocess.Popen([PYTHON, "-m", "gatepost", *words], stderr=subprocess.DEVNULL)
        while not facts.exists():
            time.sleep(0.05)
        self._facts: dict[str, Any] = json.loads(facts.read_text())
        config = Path(self._facts["config_file"])
        text = "".join(
            'exempt = ["127.0.0.0/8"]\n' if line.startswith("exempt") else line for line in config.open()
        )
        config.write_text(text)
        os.kill(self._facts["pid"], signal.SIGHUP)
        time.sleep(1.5)
        self.port = self._facts["ports"]["mx"]
        self.imap_port = self._facts["ports"]["imap"]
        self.users = [(each["address"], each["password"]) for each in self._facts["accounts"]]

    def pids(self) -> list[int]:
        """Return all server processes."""
        return descendants([self._facts["pid"]])

    def stop(self) -> None:
        """End."""
        self._process.terminate()
        self._process.wait(60)
        self._folder.cleanup()


class PostfixDovecot:
    """The peer; it must be set up."""

    name = "postfix+dovecot"

    def __init__(self) -> None:
        peers.start()
        self.port, self.imap_port = peers.SMTP, peers.IMAP
        self.users = [(f"u{number}@example.test", "secret") for number in range(peers.USERS)]

    def pids(self) -> list[int]:
        """Return all server processes."""
        roots = [int((peers.BASE / f"{name}.pid").read_text()) for name in ("postfix", "dovecot")]
        return descendants(roots)

    def stop(self) -> None:
        """End."""
        peers.stop()
        time.sleep(1)


def stored(server: Gatepost | PostfixDovecot) -> int:
    """Return how many mails can be read."""
    total = 0
    for user, password in server.users:
        client = imaplib.IMAP4("127.0.0.1", server.imap_port)
        client.login(user, password)
        _, data = client.status("INBOX", "(MESSAGES)")
        total += int(data[0].split(b"MESSAGES ")[1].rstrip(b")"))
        client.logout()
    return total


def measure(server: Gatepost | PostfixDovecot, options: argparse.Namespace) -> dict[str, float]:
    """Send a load; return the figures."""
    before, used = stored(server), cpu(server.pids())
    words = ["--port", str(server.port), "--rcpt", ",".join(user for user, _ in server.users)]
    words += ["--mails", str(options.mails), "--sessions", str(options.sessions), "--sources", str(options.sources)]
    began = time.perf_counter()
    out = subprocess.run([PYTHON, HERE / "load.py", *words], capture_output=True, check=True, text=True).stdout
    ends = time.monotonic() + 300
    while stored(server) < before + options.mails and time.monotonic() < ends:
        time.sleep(0.05)
    took = time.perf_counter() - began
    figures: dict[str, float] = json.loads(out)
    cost = (cpu(server.pids()) - used) * 1000 / options.mails
    return {
        "to_mailbox_per_s": round(options.mails / took, 1),
        "accepted_per_s": figures["rate"],
        "cpu_ms_a_mail": round(cost, 2),
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "client_cpu_s": figures["client_cpu_s"],
        "pss_mb": pss(server.pids()),
    }


def main() -> None:
    """Measure in turn; print each round, medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mails", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--sources", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for make in (lambda: Gatepost(options.workers), PostfixDovecot):
            server = make()
            try:
                measure(server, argparse.Namespace(**{**vars(options), "mails": 200}))  # warm
                row = measure(server, options)
            finally:
                server.stop()
            rows.setdefault(server.name, []).append(row)
            print(json.dumps({"server": server.name, **row}), flush=True)
    medians = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]}
        for name, found in rows.items()
    }
    ratio = medians["gatepost"]["to_mailbox_per_s"] / medians["postfix+dovecot"]["to_mailbox_per_s"]
    print(json.dumps({"medians": medians, "ratio": round(ratio, 2), "options": vars(options)}, indent=1))


if __name__ == "__main__":
    main()
