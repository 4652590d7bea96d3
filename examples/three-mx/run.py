#!/usr/bin/env python3
"""Three mail servers in three network namespaces that share one greylist: `sudo python3 examples/three-mx/run.py`.

mx1 is the primary, mx2 and mx3 are backups; a bridge is the Internet between them, where the senders are too. It
plays: a sender that is greylisted at mx2 and passes at mx1; a spamtrap at mx3 that blocks at mx1; a partition, and
that nothing is lost when it heals; mail that mx2 takes and brings to mx1. `--spamd` plays it with spamd's greylist
and its protocol.

Needs root, the `ip` program, and gatepost installed beside this Python. Everything is removed at the end.
"""

import argparse
import imaplib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
GATEPOST = [sys.executable, "-m", "gatepost"]
NAMES = ("mx1", "mx2", "mx3")
ADDRESSES = {"mx1": "10.77.0.1", "mx2": "10.77.0.2", "mx3": "10.77.0.3"}
SENDERS = "10.77.200.1"
PATIENCE = 30.0


class Network:
    """The namespaces: one for each server, and `wan` with the bridge and the senders."""

    def __init__(self) -> None:
        self.prefix = f"gp{os.getpid()}"

    def name(self, short: str) -> str:
        """Return a namespace's name."""
        return f"{self.prefix}-{short}"

    def make(self) -> None:
        """Make them all."""
        for short in ("wan", *NAMES):
            ip("netns", "add", self.name(short))
            self.ip(short, "link", "set", "lo", "up")
        self.ip("wan", "link", "add", "wan", "type", "bridge")
        self.ip("wan", "addr", "add", f"{SENDERS}/16", "dev", "wan")
        self.ip("wan", "link", "set", "wan", "up")
        for short in NAMES:
            inside = ("type", "veth", "peer", "name", "eth0", "netns", self.name(short))
            self.ip("wan", "link", "add", short, *inside)
            self.ip("wan", "link", "set", short, "master", "wan", "up")
            self.ip(short, "addr", "add", f"{ADDRESSES[short]}/16", "dev", "eth0")
            self.ip(short, "link", "set", "eth0", "up")

    def remove(self) -> None:
        """Remove them all."""
        for short in ("wan", *NAMES):
            subprocess.run(["ip", "netns", "del", self.name(short)], check=False, stderr=subprocess.DEVNULL)

    def ip(self, short: str, *words: str) -> None:
        """Run `ip` for a namespace."""
        ip("-n", self.name(short), *words)

    def inside(self, short: str, *argv: str) -> list[str]:
        """Return the command that runs another in a namespace."""
        return ["ip", "netns", "exec", self.name(short), *argv]

    def part(self, lonely: str) -> None:
        """Cut the line between a server and all others."""
        self._blackholes("add", lonely)

    def heal(self, lonely: str) -> None:
        """Mend it."""
        self._blackholes("del", lonely)

    def _blackholes(self, verb: str, lonely: str) -> None:
        for other in set(NAMES) - {lonely}:
            self.ip(lonely, "route", verb, "blackhole", f"{ADDRESSES[other]}/32")
            self.ip(other, "route", verb, "blackhole", f"{ADDRESSES[lonely]}/32")


class Server:
    """One gatepost."""

    def __init__(self, network: Network, name: str, folder: Path, *, spamd: bool, multicast: bool) -> None:
        self.network = network
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.config = self.folder / "gatepost.toml"
        self.config.write_text(
            settings((HERE / f"{name}.toml").read_text(), folder, self.folder, spamd=spamd, multicast=multicast)
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        with (self.folder / "log").open("ab") as log:
            argv = self.network.inside(self.name, *GATEPOST, "serve", "-c", str(self.config))
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        until(
            lambda: "220" in talk(self.network, ADDRESSES[self.name], "10.77.0.1"),
            f"{self.name} serves",
            quiet=True,
        )

    def stop(self) -> None:
        """Stop it."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def command(self, *words: str) -> str:
        """Run a command of gatepost's."""
        argv = self.network.inside(self.name, *GATEPOST, *words, "-c", str(self.config))
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def verdict(self, sender: str) -> str:
        """Return what becomes of a sender at port 25."""
        found = json.loads(self.command("gate", "explain", sender, "25", "--json"))
        return str(found["decision"]["verdict"])


def settings(text: str, folder: Path, own: Path, *, spamd: bool, multicast: bool) -> str:
    """Return a configuration of this folder's with times that one can wait for."""
    changes = {
        "/var/lib/gatepost": str(own / "data"),
        "/etc/gatepost/sync.key": str(folder / "sync.key"),
        'pass_time = "1m"': 'pass_time = "2s"',
        'interval = "30s"': 'interval = "1s"',
        'mode = "friendly"': 'mode = "friendly"\nscan_interval = "1s"',
    }
    if spamd:
        changes |= {
            'mode = "friendly"': 'mode = "spamd"\npass_time = "2s"\nscan_interval = "1s"\nstutter = 0',
            'mode = "own"': 'mode = "spamd"',
        }
    for old, new in changes.items():
        text = text.replace(old, new)
    if multicast:
        text = re.sub(r"(?m)^listen = .*$", 'listen = "eth0:2"', text)
        text = re.sub(r"(?m)^peers = .*$", 'peers = ["eth0:2"]', text)
    return text


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True)


TALK = """
import smtplib, sys
to, source, sender, recipient, subject = sys.argv[1:]
def line(code, text): print(code, text.decode("utf-8", "replace").replace("\\n", " "))
try:
    client = smtplib.SMTP(timeout=20, source_address=(source, 0))
    line(*client.connect(to, 25))
    if sender:
        line(*client.ehlo("mail.sender.example"))
        line(*client.docmd("MAIL", f"FROM:<{sender}>"))
        code, text = client.docmd("RCPT", f"TO:<{recipient}>"); line(code, text)
        if code == 250:
            code, text = client.docmd("DATA"); line(code, text)
            if code == 354:
                head = f"From: {sender}\\r\\nTo: {recipient}\\r\\nSubject: {subject}\\r\\n\\r\\n"
                client.send((head + "Hello.\\r\\n.\\r\\n").encode())
                line(*client.getreply())
except (OSError, smtplib.SMTPException) as wrong:
    print("closed:", wrong)
"""


def talk(
    network: Network, to: str, source: str, sender: str = "", recipient: str = "", subject: str = "hello"
) -> str:
    """Speak SMTP from the Internet; return all that was said to us."""
    place = "wan" if source not in ADDRESSES.values() else next(n for n, a in ADDRESSES.items() if a == to)
    source = source if place == "wan" else to
    argv = network.inside(place, sys.executable, "-c", TALK, to, source, sender, recipient, subject)
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def until(holds: Callable[[], bool], what: str, *, quiet: bool = False) -> None:
    """Wait until something holds, and say so."""
    ends = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > ends:
            raise SystemExit(f"it never came to be: {what}")
        time.sleep(0.2)
    if not quiet:
        print(f"   {what}")


class Play:
    """The scenes."""

    def __init__(self, network: Network, servers: dict[str, Server], *, spamd: bool) -> None:
        self.network = network
        self.servers = servers
        self.spamd = spamd
        self.count = 0

    def sender(self) -> str:
        """Return the address of a sender that nobody has met: each in a network of its own."""
        self.count += 1
        address = f"10.77.{100 + self.count}.7"
        self.network.ip("wan", "addr", "add", f"{address}/32", "dev", "wan")
        return address

    def try_at(self, name: str, source: str, recipient: str = "ann@example.org", subject: str = "hello") -> str:
        """Let a sender try to deliver to a server; return the reply that decided."""
        sender = f"joe@s{source.split('.')[2]}.example"
        said = talk(self.network, ADDRESSES[name], source, sender, recipient, subject)
        return said.strip().splitlines()[-1]

    def passes(self, name: str, source: str, subject: str = "hello") -> bool:
        """Tell whether a server takes a sender's mail."""
        return self.try_at(name, source, subject=subject).startswith("250")

    def greylisted_at_one_passes_at_another(self) -> None:
        """First scene."""
        print("1. A sender that mx2 put off tries mx1 next.")
        source = self.sender()
        print(f"   mx2 says: {self.try_at('mx2', source)}")
        time.sleep(2.5)
        print(f"   mx1 says: {self.try_at('mx1', source, subject='first')}")
        until(lambda: self.passes("mx1", source, "first"), "mx1 takes its mail")

    def trapped_at_one_is_blocked_at_all(self) -> None:
        """Second scene."""
        print("2. A sender writes to a spamtrap that only mx3 has.")
        self.servers["mx3"].command("grey", "add", "-T", "trap@example.org")
        source = self.sender()
        until(lambda: bool(self.try_at("mx3", source, "trap@example.org")), "mx3 was told", quiet=True)
        until(lambda: self.trapped("mx3", source, "trap@example.org"), "mx3 trapped it")
        for name in ("mx1", "mx2"):
            until(lambda name=name: self.servers[name].verdict(source) == "black", f"{name} holds it in the tarpit")

    def trapped(self, name: str, source: str, recipient: str) -> bool:
        """Write to a trap until a server has learnt that it is one."""
        self.try_at(name, source, recipient)
        return self.servers[name].verdict(source) == "black"

    def a_partition_heals(self) -> None:
        """Third scene."""
        print("3. mx2 cannot reach the others for a while.")
        self.network.part("mx2")
        before, trapper = self.sender(), self.sender()
        print(f"   mx2 says: {self.try_at('mx2', before)}")
        until(lambda: self.trapped("mx3", trapper, "trap@example.org"), "mx3 trapped another sender meanwhile")
        time.sleep(1.5)
        assert self.servers["mx2"].verdict(trapper) != "black", "mx2 cannot know yet"
        self.network.heal("mx2")
        print("   The line is back.")
        if self.spamd:
            print("   spamd's protocol forgets what was lost: a fresh attempt tells the tuple again.")
            print(f"   mx2 says: {self.try_at('mx2', before)}")
            time.sleep(2.5)
        else:
            until(lambda: self.servers["mx2"].verdict(trapper) == "black", "mx2 knows of the trapped sender")
        until(lambda: self.passes("mx1", before, "after"), "mx1 takes the mail that mx2 had put off")

    def a_backup_brings_its_mail(self) -> None:
        """Fourth scene."""
        print("4. mx2 takes mail, and brings it to mx1.")
        source = self.sender()
        self.try_at("mx2", source)
        time.sleep(2.5)
        until(lambda: self.passes("mx2", source, "by way of mx2"), "mx2 takes it")
        refused = self.try_at("mx2", source, "somebody@elsewhere.example")
        assert refused.startswith("550"), refused
        print(f"   for others mx2 says: {refused}")
        until(lambda: "by way of mx2" in self.subjects(), "it is in the mailbox at mx1")

    def subjects(self) -> Sequence[str]:
        """Return the subjects in the mailbox, read over IMAP."""
        argv = self.network.inside("mx1", sys.executable, __file__, "--read", ADDRESSES["mx1"])
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()


def read(host: str) -> None:
    """Print the subjects of ann's mails."""
    client = imaplib.IMAP4(host, timeout=20)
    client.login("ann@example.org", "secret")
    client.select("INBOX", readonly=True)
    _, found = client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    for each in found:
        if isinstance(each, tuple):
            print(each[1].decode().removeprefix("Subject: ").strip())
    client.logout()


def main() -> int:
    """Play it all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--spamd", action="store_true", help="spamd's greylist and its own sync protocol")
    parser.add_argument("--multicast", action="store_true", help="with --spamd: to a group, not to each server")
    parser.add_argument("--read", metavar="HOST", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.read)
        return 0
    if options.multicast and not options.spamd:
        parser.error("only spamd's protocol has multicast: --spamd --multicast")
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("This needs root and the ip program (Debian: iproute2).", file=sys.stderr)
        return 77
    network, servers = Network(), dict[str, Server]()
    with tempfile.TemporaryDirectory(prefix="three-mx-") as made:
        folder = Path(made)
        try:
            network.make()
            subprocess.run(
                [*GATEPOST, "sync", "key", str(folder / "sync.key")], check=True, stdout=subprocess.DEVNULL
            )
            for name in NAMES:
                servers[name] = Server(network, name, folder, spamd=options.spamd, multicast=options.multicast)
            (folder / "password").write_text("secret")
            servers["mx1"].command("domain", "add", "example.org")
            servers["mx1"].command("user", "add", "ann@example.org", "--password-file", str(folder / "password"))
            for server in servers.values():
                server.start()
            print("mx1, mx2 and mx3 serve, each in a network namespace of its own.")
            play = Play(network, servers, spamd=options.spamd)
            play.greylisted_at_one_passes_at_another()
            play.trapped_at_one_is_blocked_at_all()
            if not options.multicast:  # the routes that part them are for unicast
                play.a_partition_heals()
            play.a_backup_brings_its_mail()
            print("All of it was as it should be.")
        except BaseException:
            for name, server in servers.items():
                log = (server.folder / "log").read_text() if (server.folder / "log").exists() else ""
                print(f"--- {name}\n" + "\n".join(log.splitlines()[-25:]), file=sys.stderr)
            raise
        finally:
            for server in servers.values():
                server.stop()
            network.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
