"""`kind = "spamd"`: the gate on a port of its own, behind a filter that redirects there."""

import contextlib
import socket
from pathlib import Path

import pytest

from tests.process.served import Served, free_ports

pytestmark = pytest.mark.process


def talk(port: int, source: str, said: bytes) -> str:
    """Say everything at once; return all that was answered."""
    with socket.create_connection(("127.0.0.1", port), 20, (source, 0)) as client:
        client.settimeout(20)
        banner = client.recv(4096)
        client.sendall(said)
        answers = b""
        with contextlib.suppress(ConnectionResetError):
            while octets := client.recv(4096):
                answers += octets
    return (banner + answers).decode()


@pytest.mark.row("GR-08", "GR-09")
def test_who_comes_to_spamds_port_is_held_and_who_comes_to_port_25_is_served(tmp_path: Path) -> None:
    [port] = free_ports(1)
    settings = (
        f'[listen.spamd]\nkind = "spamd"\naddress = ["127.0.0.1:{port}"]\n[gate]\nstutter = "0s"\nmode = "spamd"\n'
    )
    with Served(tmp_path, workers=1, settings=settings) as server:
        offer = b"EHLO x.example\r\nMAIL FROM:<ann@x.example>\r\nRCPT TO:<bob@here.example>\r\nDATA\r\n"
        grey = talk(port, "127.0.0.1", offer)
        assert grey.startswith("220 mx.here.example ESMTP spamd IP-based SPAM blocker; ")
        assert grey.endswith("\r\n451 Temporary failure, please try again later.\r\n")
        with contextlib.closing(server.smtp()) as client:  # 127.0.0.1 is exempt there
            client.say(b"QUIT", b"221")

        server.command("spamdb", "-t", "-a", "127.0.0.9")
        black = ""
        while "354" not in black:
            black = talk(port, "127.0.0.9", offer + b"Subject: x\r\n\r\n.\r\n")
        assert black.endswith("\r\n450 Your address 127.0.0.9 has mailed to spamtraps here\r\n")

        listed = server.command("spamdb")
        assert "GREY|127.0.0.1|x.example|<ann@x.example>|<bob@here.example>|" in listed
        assert "TRAPPED|127.0.0.9|" in listed
        log = server.last_words()
        assert "127.0.0.1: connected (1/0)" in log
        assert "lists: spamd-greytrap" in log
