"""What senders ask for, end to end: smtplib over STARTTLS, a whole server, a next hop, the mailbox."""

import asyncio
import json
import re
import smtplib
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.process.served import PASSWORD, USER, Served, free_ports, until
from tests.support.nexthop import NextHop

pytestmark = pytest.mark.process

RULES = """
[listen.submission]
kind = "submission"
address = ["127.0.0.1:{submission}"]
[intake]
max_priority = 4
[policy.actions.hop]
do = "relay"
host = "127.0.0.1"
port = {hop}
[policy.actions.dead]
do = "relay"
host = "127.0.0.1"
port = {dead}
[[policy.rules]]
match = {{ from = "any", for = "own" }}
action = "deliver"
[[policy.rules]]
match = {{ from = "any", auth = true, for = "dead.example" }}
action = "dead"
[[policy.rules]]
match = {{ from = "any", auth = true, for = "any" }}
action = "hop"
"""
OFFERS = ("PIPELINING", "DSN", "MT-PRIORITY MIXER", "DELIVERBY 60")


@contextmanager
def running(hop: NextHop) -> Iterator[None]:
    """Serve a next hop from a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(hop.__aenter__(), loop).result(10)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(hop.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Client:
    """A user's mail program."""

    def __init__(self, server: Served, port: int) -> None:
        self.server, self.port = server, port

    def send(self, subject: str, to: str, *options: str) -> str:
        """Submit a mail; return what was said to its end, in words."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP("127.0.0.1", self.port, timeout=20) as client:
            client.starttls(context=context)
            client.login(USER, PASSWORD)
            self.features = dict(client.esmtp_features)
            assert client.mail(USER, options)[0] == 250
            assert client.rcpt(to)[0] == 250
            code, said = client.data(f"From: {USER}\r\nSubject: {subject}\r\n\r\nhi\r\n")
        assert code == 250
        return said.decode()


@pytest.fixture(scope="module")
def hop() -> Iterator[NextHop]:
    hop = NextHop(extensions=OFFERS)
    with running(hop):
        yield hop


@pytest.fixture(scope="module")
def client(hop: NextHop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    submission, dead = free_ports(2)
    settings = RULES.format(submission=submission, hop=hop.port, dead=dead)
    with Served(tmp_path_factory.mktemp("wishes"), workers=1, settings=settings) as server:
        yield Client(server, submission)


def passed(hop: NextHop, subject: str) -> bytes:
    """Return what MAIL said at the next hop of a mail with that subject; waits for it."""
    found: list[bytes] = []

    def came() -> bool:
        found[:] = [mail.sender for mail in list(hop.mails) if f"Subject: {subject}\r\n".encode() in mail.octets]
        return bool(found)

    until(came, 20, lambda: f"{subject} did not come")
    return found[0]


def test_all_are_offered_and_what_is_asked_goes_along(client: Client, hop: NextHop) -> None:
    said = client.send("urgent", "x@far.example", "MT-PRIORITY=9", "BY=600;NT")
    assert said.startswith("2.3.6 4 is the new priority assigned to the message; ")
    assert {"requiretls", "mt-priority", "deliverby", "futurerelease"} <= client.features.keys()
    assert re.search(rb" MT-PRIORITY=4 BY=(?:600|59[0-9]);NT$", passed(hop, "urgent"))
    assert passed(hop, "urgent").count(b"REQUIRETLS") == 0


def test_mail_that_must_not_travel_in_the_clear_comes_back(client: Client, hop: NextHop) -> None:
    client.send("secret", "x@far.example", "REQUIRETLS")
    until(lambda: "Your mail could not be delivered" in client.server.subjects(), 20, client.server.last_words)
    assert not [mail for mail in hop.mails if b"Subject: secret" in mail.octets]


def test_mail_comes_back_when_its_time_is_over(client: Client) -> None:
    before = len(client.server.subjects())
    began = time.monotonic()
    client.send("soon", "x@dead.example", "BY=2;R")
    until(lambda: len(client.server.subjects()) > before, 20, client.server.last_words)
    assert time.monotonic() - began >= 2


def test_mail_for_a_mailbox_here_waits_until_it_is_released(client: Client) -> None:
    name = client.send("birthday", USER, "HOLDFOR=3600").split()[1]
    (row,) = json.loads(client.server.command("queue", "list", "--json"))
    assert (row["id"], row["state"], row["to"]) == (name, "for its time", USER)
    assert "birthday" not in client.server.subjects()
    assert "1 recipients released" in client.server.command("queue", "release", name)
    until(lambda: "birthday" in client.server.subjects(), 20, client.server.last_words)
