"""Two servers that forward one mail to each other: the loop ends, and its sender is told once."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process.served import PASSWORD, Line, Served, free_ports, until

pytestmark = pytest.mark.process

SENDER = "ann@here.example"
FORWARDS = """
[policy.tables.forwards]
entries = {{ "{own}" = "{other}" }}
[policy.actions.forward]
do = "deliver"
virtual = "forwards"
[policy.actions.over]
do = "relay"
host = "127.0.0.1"
port = {port}
[[policy.rules]]
match = {{ from = "any", for = "{own_domain}", recipient = "{own}" }}
action = "forward"
[[policy.rules]]
match = {{ from = "any", for = "{other_domain}" }}
action = "over"
[[policy.rules]]
match = {{ from = "any", for = "own" }}
action = "deliver"
"""


class Looping(Served):
    """A server whose port 25 is known before it starts, with a name of its own."""

    port = 0
    name = ""

    def populate(self, *users: str) -> None:
        """Add the one who writes."""
        if SENDER.endswith(self.name.removeprefix("mx")[1:]):
            super().populate(SENDER)

    def write_config(self, settings: str) -> None:
        self.ports["mx"] = self.port
        super().write_config(settings)
        self.config.write_text(self.config.read_text().replace("mx.here.example", self.name))


def looping(folder: Path, own: str, other: str, ports: tuple[int, int]) -> Looping:
    """Return a server that forwards `own` to `other`, whose server is the other one."""
    folder.mkdir()
    own_domain, other_domain = own.partition("@")[2], other.partition("@")[2]
    settings = FORWARDS.format(
        own=own, other=other, port=ports[1], own_domain=own_domain, other_domain=other_domain
    )
    made = Looping(folder, workers=1, settings=settings)
    made.port, made.name = ports[0], f"mx.{own_domain}"
    return made


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Looping, Looping]]:
    """Forward bob@here.example to alice@there.example and back."""
    here, there = free_ports(2)
    with ExitStack() as stack:
        one = stack.enter_context(looping(tmp_path / "a", "bob@here.example", "alice@there.example", (here, there)))
        two = stack.enter_context(looping(tmp_path / "b", "alice@there.example", "bob@here.example", (there, here)))
        yield one, two


@pytest.mark.row("OUT-02")
def test_a_mail_that_two_servers_forward_to_each_other_ends_and_its_sender_is_told_once(
    servers: tuple[Looping, Looping],
) -> None:
    one, two = servers
    client = one.smtp()
    client.say(f"MAIL FROM:<{SENDER}>".encode(), b"250")
    client.say(b"RCPT TO:<bob@here.example>", b"250")
    client.say(b"DATA", b"354")
    client.say(b"From: <ann@here.example>\r\nSubject: round and round\r\n\r\nx\r\n.", b"250")

    box = Line(one.ports["imap"])
    one.lines.append(box)
    box.line()
    box.send(b"a STARTTLS\r\n")
    box.until(b"a OK")
    box.start_tls()
    box.send(b'b LOGIN %s "%s"\r\nc SELECT INBOX\r\n' % (SENDER.encode(), PASSWORD.encode()))
    box.until(b"c OK")

    def told() -> list[bytes]:
        box.send(b"d UID FETCH 1:* (BODY.PEEK[])\r\n")
        return [line for line in box.until(b"d OK") if line.startswith(b"Status: ")]

    until(lambda: bool(told()), 40, one.last_words)
    assert told() == [b"Status: 5.4.6"]
    for server in servers:
        assert json.loads(server.command("queue", "list", "--json")) == []
    rounds = len(one.events("mail_accepted")) + len(two.events("mail_accepted"))
    assert 50 <= rounds <= 53
