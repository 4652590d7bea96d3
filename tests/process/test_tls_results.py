"""A real server counts how TLS to the next hop went, and the command beside it tells."""

import asyncio
import json
import smtplib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.process.served import Served, until
from tests.support.loop import run
from tests.support.nexthop import NextHop
from tests.support.zone import Zone

pytestmark = pytest.mark.process
SETTINGS = """\
[gate]
exempt = ["127.0.0.0/8"]
[resolver]
servers = ["127.0.0.1:{dns}"]
[relay]
allow_loopback = true
port = {hop}
[tls.reports]
send = true
[policy.actions.out]
do = "relay"
[[policy.rules]]
match = {{ from = "local", for = "any" }}
action = "out"
"""
ZONE = {"far.example": {"MX": ["10 mx.far.example."]}, "mx.far.example": {"A": ["127.0.0.2"]}}


def told(server: Served) -> Any:
    """Send a mail; return what is counted of its way."""
    with smtplib.SMTP("127.0.0.1", server.ports["mx"]) as client:
        client.sendmail(
            "ann@here.example", ["bob@far.example"], b"From: <ann@here.example>\r\nSubject: x\r\n\r\nx\r\n"
        )
    gate = server.folder / "data" / "gate.db"

    def written() -> bool:
        with closing(sqlite3.connect(f"file:{gate}?mode=ro", uri=True)) as reader:
            return bool(reader.execute("SELECT COUNT(*) FROM tls_result").fetchone()[0])

    until(written, 20, server.last_words)
    policies = json.loads(server.command("tls", "report", "far.example", "--json"))["policies"]
    assert "job_failed" not in (server.folder / "server.log").read_text()
    return policies


def test_a_server_without_tls_is_found_in_the_report(tmp_path: Path) -> None:
    async def play() -> Any:
        async with Zone(ZONE) as zone, NextHop(host="127.0.0.2") as hop:
            settings = SETTINGS.format(dns=zone.address[1], hop=hop.port)

            def serve() -> Any:
                with Served(tmp_path, workers=1, settings=settings) as server:
                    return told(server)

            return await asyncio.to_thread(serve)

    (policy,) = run(play())
    assert policy["policy"] == {"policy-type": "no-policy-found", "policy-domain": "far.example"}
    assert policy["summary"] == {"total-successful-session-count": 0, "total-failure-session-count": 1}
    (failed,) = policy["failure-details"]
    assert (failed["result-type"], failed["receiving-ip"]) == ("starttls-not-supported", "127.0.0.2")
