"""TLS handshakes that one core serves: STARTTLS on gatepost's port 25 beside `openssl s_server`, in turn.

    python benchmarks/handshakes.py --rounds 3 --count 1000

Same client, same key. Every handshake is a full one (no ticket is offered), TLS 1.3, ECDSA P-256, X25519. What
counts is the processor time of the server, from /proc; what the client costs does not matter. The SMTP around the
handshake (greeting, EHLO, STARTTLS) is part of gatepost's figure.
"""

import argparse
import json
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import peers
from accept import cpu

from relay import Gatepost

OPENSSL: Final = 12628
TLS: Final = """
[[tls.certificates]]
certificate = "{folder}/tls.crt"
key = "{folder}/tls.key"
"""


class Bare:
    """`openssl s_server`, which does nothing but handshakes."""

    name = "openssl s_server"
    port = OPENSSL
    smtp = False

    def __init__(self, folder: Path) -> None:
        words = ["openssl", "s_server", "-accept", f"127.0.0.1:{OPENSSL}", "-quiet", "-naccept", "1000000"]
        words += ["-cert", str(folder / "tls.crt"), "-key", str(folder / "tls.key"), "-num_tickets", "2"]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=null, stderr=null)
        peers._wait(OPENSSL)

    def pids(self) -> list[int]:
        """Return its process."""
        return [self._process.pid]

    def stop(self) -> None:
        """End."""
        self._process.terminate()
        self._process.wait(20)


class Server(Gatepost):
    """One worker with a certificate of the benchmark's."""

    smtp = True

    def __init__(self, folder: Path) -> None:
        super().__init__(1, TLS.format(folder=folder))


def context() -> ssl.SSLContext:
    """Return a client's side that offers no ticket."""
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


def shake(port: int, tls: ssl.SSLContext, *, smtp: bool) -> None:
    """Connect, do one handshake, and leave."""
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        if smtp:
            client.recv(4096)
            client.sendall(b"EHLO bench.example\r\n")
            client.recv(4096)
            client.sendall(b"STARTTLS\r\n")
            client.recv(4096)
        with tls.wrap_socket(client):
            pass


def measure(server: Server | Bare, count: int) -> dict[str, float]:
    """Do so many handshakes one after the other; return what they took of the server."""
    tls = context()
    for _ in range(50):
        shake(server.port, tls, smtp=server.smtp)
    used, began = cpu(server.pids()), time.perf_counter()
    for _ in range(count):
        shake(server.port, tls, smtp=server.smtp)
    took = time.perf_counter() - began
    spent = cpu(server.pids()) - used
    return {
        "us_a_handshake": round(spent / count * 1e6),
        "per_core_s": round(count / spent),
        "alone_per_s": round(count / took),
    }


def main() -> None:
    """Measure in turn; print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ]
        words += [
            "-subj",
            "/CN=mx.home.example",
            "-keyout",
            str(folder / "tls.key"),
            "-out",
            str(folder / "tls.crt"),
        ]
        subprocess.run(words, check=True, capture_output=True)
        (folder / "tls.key").chmod(0o600)
        for _ in range(options.rounds):
            for make in (Server, Bare):
                server = make(folder)
                try:
                    row = measure(server, options.count)
                finally:
                    server.stop()
                rows.setdefault(server.name, []).append(row)
                print(json.dumps({"server": server.name, **row}), flush=True)
    medians = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]}
        for name, found in rows.items()
    }
    ratio = medians["gatepost"]["per_core_s"] / medians[Bare.name]["per_core_s"]
    print(json.dumps({"medians": medians, "ratio": round(ratio, 2)}, indent=1))


if __name__ == "__main__":
    main()
