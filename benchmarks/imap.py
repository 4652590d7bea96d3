"""A mailbox of 10,000 mails read over IMAP: gatepost and Dovecot in turn, same client, same mails.

    python benchmarks/peers.py setup                       (once, root, Debian 12)
    python benchmarks/imap.py --rounds 7 --json            A B A B ...; keeps results/imap.json

Warm: a new session each round, after a first one that is not counted; `again` is the same command once more in that
session. Cold: Dovecot's indexes and caches are deleted, gatepost gets fresh worker processes, and both lose the
kernel's copies of their files; then SELECT, FETCH FLAGS, FETCH ENVELOPE BODYSTRUCTURE in that order. Times are from
the first octet sent to the tagged answer read.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import machine
import peers
from accept import PostfixDovecot
from served import Served
from synthetic import mails

SELECT, FLAGS = "SELECT INBOX", "FETCH 1:* (UID FLAGS)"
ENVELOPE: Final = "FETCH 1:* (ENVELOPE BODYSTRUCTURE)"
WARM: Final = (
    (SELECT, SELECT),
    (FLAGS, FLAGS),
    (FLAGS + " again", FLAGS),
    (ENVELOPE, ENVELOPE),
    (ENVELOPE + " again", ENVELOPE),
    (
        "FETCH facts and 6 fields",
        (
            "FETCH 1:* (UID FLAGS RFC822.SIZE INTERNALDATE"
            " BODY.PEEK[HEADER.FIELDS (FROM TO SUBJECT DATE MESSAGE-ID REFERENCES)])"
        ),
    ),
    ("SEARCH SUBJECT", 'SEARCH SUBJECT "meeting"'),
    ("SEARCH UNSEEN", "SEARCH UNSEEN"),
    ("STORE 1:* +FLAGS", r"STORE 1:* +FLAGS (\Flagged)"),
    ("STORE 1:* -FLAGS.SILENT", r"STORE 1:* -FLAGS.SILENT (\Flagged)"),
)
COLD: Final = ((SELECT, SELECT), (FLAGS, FLAGS), (ENVELOPE, ENVELOPE))
TARGET: Final = {FLAGS, ENVELOPE}

Times = dict[str, list[float]]


class Client:
    """One IMAP session; it reads into one buffer and looks for the tag only at an answer's end."""

    def __init__(self, port: int, user: str, password: str) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 60)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.recv(4096)
        self._number = 0
        self.run(f'LOGIN "{user}" "{password}"')

    def run(self, command: str) -> tuple[float, bytes]:
        """Return the milliseconds and the answer; raises RuntimeError unless it ends with OK."""
        tag = self._next()
        began = time.perf_counter()
        self._sock.sendall(tag + b" " + command.encode() + b"\r\n")
        answer = self._until(tag)
        return (time.perf_counter() - began) * 1000, answer

    def append(self, batch: list[bytes]) -> None:
        """Store mails in INBOX, many commands in one go (LITERAL+)."""
        tags = [self._next() for _ in batch]
        said = [
            b"%b APPEND INBOX {%d+}\r\n%b\r\n" % (tag, len(mail), mail)
            for tag, mail in zip(tags, batch, strict=True)
        ]
        self._sock.sendall(b"".join(said))
        answers = self._until(tags[-1])
        if answers.count(b" OK ") < len(batch):
            raise RuntimeError(answers[-300:].decode("utf-8", "replace"))

    def close(self) -> None:
        """Log out."""
        self.run("LOGOUT")
        self._sock.close()

    def _next(self) -> bytes:
        self._number += 1
        return b"t%05d" % self._number

    def _until(self, tag: bytes) -> bytes:
        answer, chunks, tail = bytearray(1 << 20), [], b""
        while True:
            count = self._sock.recv_into(answer)
            if not count:
                raise ConnectionError("the server closed the connection")
            chunk = bytes(answer[:count])
            chunks.append(chunk)
            tail = (tail + chunk)[-4000:]
            at = tail.rfind(b"\r\n", 0, len(tail) - 2) + 2 if tail.count(b"\r\n") > 1 else 0
            if tail.endswith(b"\r\n") and tail.startswith(tag + b" ", at):
                break
        if not tail.startswith(tag + b" OK", at):
            raise RuntimeError(tail[at:].decode("utf-8", "replace"))
        return b"".join(chunks)


class GatepostBox:
    """A mailbox of `gatepost serve`, one worker."""

    name = "gatepost"

    def __init__(self) -> None:
        self._server = Served(1)
        self._user, self._password = self._server.users[0]
        self.pids = self._server.pids
        self.stop = self._server.stop

    def client(self) -> Client:
        """Return a session that is logged in."""
        return Client(self._server.imap_port, self._user, self._password)

    def chill(self) -> None:
        """Take the data out of the page cache; the process stays, with what its sessions share."""
        forget(self._server.data)


class DovecotBox:
    """The mailbox of the peer's user `big`, in a Maildir."""

    name = "dovecot"

    def __init__(self) -> None:
        self._mail = peers.BASE / "mail" / "big"
        shutil.rmtree(self._mail, ignore_errors=True)
        self._server = PostfixDovecot()
        self.pids = self._server.pids
        self.stop = self._server.stop

    def client(self) -> Client:
        """Return a session that is logged in."""
        return Client(self._server.imap_port, "big@example.test", "secret")

    def chill(self) -> None:
        """Delete indexes and caches, but not the list of UIDs; forget what the kernel keeps."""
        time.sleep(0.5)  # the last session's process writes its index while it ends
        for path in self._mail.rglob("dovecot.index*"):
            path.unlink()
        forget(self._mail)


Box = GatepostBox | DovecotBox


def forget(root: Path) -> None:
    """Ask the kernel to drop its copies of all files below a folder."""
    os.sync()
    for path in root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def fill(box: Box, content: list[bytes]) -> float:
    """Store the mails; return the seconds."""
    client, began = box.client(), time.perf_counter()
    for first in range(0, len(content), 50):
        client.append(content[first : first + 50])
    client.close()
    return time.perf_counter() - began


def visit(box: Box, commands: tuple[tuple[str, str], ...], times: Times | None, expected: int) -> None:
    """Run the commands in one new session; note their milliseconds. Raises RuntimeError for a short answer."""
    client = box.client()
    for name, command in commands:
        took, answer = client.run(command)
        if command.startswith("FETCH") and answer.count(b" FETCH (") < expected:
            raise RuntimeError(f"{box.name}: {name} answered {answer.count(b' FETCH (')} messages")
        if times is not None:
            times.setdefault(name, []).append(took)
    client.close()


def summary(times: Times) -> dict[str, dict[str, float]]:
    """Return min, median and max of each, in ms."""
    makers: tuple[tuple[str, Callable[[list[float]], float]], ...] = (
        ("min", min), ("median", statistics.median), ("max", max),
    )  # fmt: skip
    return {name: {word: round(make(found), 2) for word, make in makers} for name, found in times.items()}


def compare(warm: dict[str, Times], cold: dict[str, Times]) -> machine.Figures:
    """Return the figures of both, the ratios of their medians, and whether the targets are met."""
    figures = {
        kind: {name: summary(times) for name, times in found.items()}
        for kind, found in (("warm_ms", warm), ("cold_ms", cold))
    }
    ours, theirs, chilled = figures["warm_ms"]["gatepost"], figures["warm_ms"]["dovecot"], figures["cold_ms"]
    ratios = {name: round(ours[name]["median"] / theirs[name]["median"], 2) for name in ours}
    met = {f"{name}: at most 2 x Dovecot, warm": ratios[name] <= 2 for name in sorted(TARGET)}
    if chilled.get("gatepost"):
        met[f"{ENVELOPE}: faster than Dovecot, cold"] = (
            chilled["gatepost"][ENVELOPE]["median"] < chilled["dovecot"][ENVELOPE]["median"]
        )
    return figures | {"ratio_to_dovecot_warm": ratios, "targets_met": met}


def show(figures: machine.Figures) -> None:
    """Print a table."""
    for kind in ("warm_ms", "cold_ms"):
        ours, theirs = figures[kind].get("gatepost", {}), figures[kind].get("dovecot", {})
        print(f"\n{kind.replace('_ms', ''):<40} gatepost ms: min median max    Dovecot ms: min median max   ratio")
        for name in ours:
            row = [*ours[name].values(), *theirs[name].values()]
            cells = "".join(f"{value:10.2f}" for value in row)
            print(f"{name:<40}{cells} {ours[name]['median'] / theirs[name]['median']:7.2f}")
    for name, good in figures["targets_met"].items():
        print(("met     " if good else "NOT MET ") + name)


def main() -> None:
    """Fill both mailboxes, measure in turn, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cold-rounds", type=int, default=3)
    parser.add_argument("--mails", type=int, default=10_000)
    parser.add_argument(
        "--corpus", type=Path, help="take these mails (*.eml, *.msg, *.txt) instead of synthetic ones"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, too, and keep it in results/imap.json")
    options = parser.parse_args()
    where = machine.described()
    content = mails(options.mails, options.corpus)
    boxes: list[Box] = []
    warm: dict[str, Times] = {}
    cold: dict[str, Times] = {}
    try:
        for make in (GatepostBox, DovecotBox):
            boxes.append(make())
            print(f"{boxes[-1].name}: {len(content) / fill(boxes[-1], content):,.0f} APPENDs a second", flush=True)
        for _ in range(options.cold_rounds):
            for box in boxes:
                box.chill()
                visit(box, COLD, cold.setdefault(box.name, {}), len(content))
        for box in boxes:
            visit(box, WARM, None, len(content))
        for _ in range(options.rounds):
            for box in boxes:
                visit(box, WARM, warm.setdefault(box.name, {}), len(content))
    finally:
        for box in boxes:
            box.stop()
    figures = compare(warm, cold) | {"mails": len(content), "octets": sum(map(len, content))}
    show(figures)
    if options.json:
        print(json.dumps(figures))
        machine.keep("imap", figures, where)


if __name__ == "__main__":
    main()
