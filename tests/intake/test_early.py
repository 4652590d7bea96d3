"""Clients that behave as no mail server does: early talkers, other protocols, bare newlines, running ahead."""

import asyncio
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.aio.clock import SystemClock
from gatepost.aio.listen import Limits, Listener
from gatepost.base.clock import Instant
from gatepost.base.settings import BadSetting, fill
from gatepost.codec.smtp.server import Dialogue, Misdeed, Reaction, Terms
from gatepost.intake.settings import OUR_COMMANDS, IntakeSettings
from tests.codec.smtp.test_server import Yes, code
from tests.intake.world import PLAIN_BOB, SERVE, World, world
from tests.support.loop import run
from tests.support.transcript import Transcript, named, play_over_tcp, transcripts
from tests.support.wire import MemoryWire

ALL = transcripts(Path(__file__).parent.parent / "transcripts" / "early")


@dataclass
class Watcher:
    """Somebody who watches."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    def misbehaved(self, ip: str, what: str, now: Instant) -> None:
        """Note it."""
        self.seen.append((ip, what))


def watched(here: World) -> Watcher:
    """Let somebody watch."""
    watcher = Watcher()
    here.services = replace(here.services, watch=watcher)
    return watcher


@pytest.mark.parametrize("transcript", ALL, ids=named(ALL))
@pytest.mark.parametrize("octets_at_once", [1 << 20, 1])
def test_a_transcript_over_tcp(transcript: Transcript, octets_at_once: int) -> None:
    facts = dict(transcript.facts)
    misdeeds = facts.pop("misdeeds", "").split()
    given = {key: float(value) if key == "greet_wait" else value for key, value in facts.items()}

    async def scene() -> None:
        async with world() as here:
            here.change(**{key: getattr(fill(IntakeSettings, given), key) for key in given})
            watcher = watched(here)
            services = replace(here.services, clock=SystemClock(), certificates=None)
            with socket.create_server(("127.0.0.1", 0)) as sock:
                listener = Listener(
                    sock, lambda wire: SERVE["mx"](wire, services), limits=Limits(), name="mx", log=here.log
                )
                listener.start()
                await play_over_tcp(transcript, *sock.getsockname(), octets_at_once=octets_at_once)
                await listener.drain(1.0)
            assert [what for _, what in watcher.seen] == misdeeds
            assert here.log.events("intake_failed") == here.log.events("session_failed") == []

    run(scene())


@pytest.mark.row("SMTP-08")
def test_the_greeting_waits_and_then_comes() -> None:
    async def scene() -> None:
        async with world(greet_wait=6.0, greet_teaser="wait") as here, asyncio.TaskGroup() as group:
            watcher = watched(here)
            wire = MemoryWire(here.clock)
            group.create_task(SERVE["mx"](wire, here.services))
            await wire.settle()
            assert wire.look() == b"220-mx.example wait\r\n"
            here.clock.move(6.0)
            wire.tick()
            await wire.settle()
            assert wire.look() == b"220 mx.example ESMTP gatepost\r\n"
            wire.hang_up()
        assert watcher.seen == []

    run(scene())


def test_under_stress_the_greeting_comes_sooner_and_users_never_wait() -> None:
    async def scene() -> None:
        async with world(greet_wait=6.0) as here, asyncio.TaskGroup() as group:
            here.services = replace(here.services, crowded=lambda: True)
            wire = MemoryWire(here.clock)
            group.create_task(SERVE["mx"](wire, here.services))
            await wire.settle()
            here.clock.move(2.0)
            wire.tick()
            await wire.settle()
            assert wire.look().startswith(b"220 ")
            wire.hang_up()
            for port in ("submission", "lmtp"):
                async with here.client(port, hello=False) as talk:
                    assert await talk.say("NOOP") == ["250 2.0.0"]

    run(scene())


def test_who_hangs_up_before_the_greeting_did_nothing_wrong() -> None:
    async def scene() -> None:
        async with world(greet_wait=6.0) as here:
            watcher = watched(here)
            wire = MemoryWire(here.clock)
            wire.hang_up()
            await SERVE["mx"](wire, here.services)
            assert watcher.seen == []

    run(scene())


@pytest.mark.parametrize(
    ("octets", "misdeed", "answer"),
    [
        (b"GET / HTTP/1.1\r\n", "non-smtp", "421 4.7.0"),
        (b"connect here:25 HTTP/1.0\r\n", "non-smtp", "421 4.7.0"),
        (b"POST / HTTP/1.1\r\n", "non-smtp", "421 4.7.0"),
        (b"From: <a@sender.example>\r\n", "non-smtp", "421 4.7.0"),
        (b"X-Mailer : y\r\n", "non-smtp", "421 4.7.0"),
        (b"\x16\x03\x01\x02\x00\x01", "non-smtp", "421 4.7.0"),
        (b"EHLO x\r\nMAIL FROM:<a@x>\r\n", "not-waited", "554 5.5.0"),
        (b"NOOP\r\nNOOP\r\n", "pipelining", "250 2.0.0"),
        (b"NOOP x\ny\r\n", "bare-newline", "250 2.0.0"),
        (b"NOOP\n\r\n", "bare-newline", "500 5.5.1"),
    ],
)
def test_a_misdeed_is_told_once_with_its_name(octets: bytes, misdeed: str, answer: str) -> None:
    async def scene() -> None:
        async with world() as here:
            watcher = watched(here)
            async with here.client(hello=False) as talk:
                assert code(await talk.send(octets)) == answer
                if not talk.wire.closed:
                    await talk.send(octets)
            assert watcher.seen == [("192.0.2.9", misdeed)]
            assert here.log.events("misbehaved") == [{"ip": "192.0.2.9", "listener": "mx", "what": misdeed}]

    run(scene())


@pytest.mark.row("SMTP-10")
@pytest.mark.parametrize(("line", "misdeed"), [("FOO", "errors"), ("NOOP", "junk")])
def test_junk_without_end_is_a_misdeed(line: str, misdeed: str) -> None:
    async def scene() -> None:
        async with world() as here:
            watcher = watched(here)
            async with here.client() as talk:
                while not talk.wire.closed:
                    await talk.say(line)
            assert [what for _, what in watcher.seen] == [misdeed]

    run(scene())


def test_ordinary_mistakes_are_no_misdeeds() -> None:
    async def scene() -> None:
        async with world() as here:
            watcher = watched(here)
            async with here.client() as talk:
                lines = ("MAIL:<a@x>", "rcpt:<b@x>", "FROM <a@x>", "HELP", "EHLO", "DATA", "MAIL FROM:a: b")
                for line in lines:
                    assert not talk.wire.closed, line
                    await talk.say(line)
                group = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<bob@here.example>\r\nRSET\r\nQUIT\r\n"
                assert b"221 " in await talk.send(group), "after EHLO commands may come together"
            assert watcher.seen == []

    run(scene())


def test_users_are_not_told_of() -> None:
    async def scene() -> None:
        async with world() as here:
            watcher = watched(here)
            async with here.client("submission", tls=True) as talk:
                assert await talk.say(PLAIN_BOB) == ["235 2.7.0"]
                await talk.send(b"NOOP x\ny\r\n")
            assert watcher.seen == []
            assert here.log.events("misbehaved")[0]["what"] == "bare-newline"

    run(scene())


@pytest.mark.parametrize(
    ("change", "octets"),
    [
        ({"non_smtp": Reaction.ENFORCE}, b"Subject: hi\r\n"),
        ({"bare_newline": Reaction.ENFORCE}, b"NOOP x\ny\r\n"),
        ({"unannounced_pipelining": Reaction.ENFORCE}, b"NOOP\r\nNOOP\r\n"),
    ],
)
def test_an_enforced_misdeed_costs_every_recipient(change: dict[str, object], octets: bytes) -> None:
    async def scene() -> None:
        async with world(**change) as here, here.client(hello=False) as talk:
            await talk.send(octets)
            assert await talk.say("HELO x", "MAIL FROM:<a@x.example>", "RCPT TO:<bob@here.example>") == [
                "250",
                "250 2.1.0",
                "550 5.5.1",
            ]
            [refused] = here.log.events("refused")
            assert refused["reply"] == "550 5.5.1 Protocol error"
            assert await here.mails("bob") == []

    run(scene())


def test_dropped_misdeeds_end_the_session() -> None:
    for terms, octets, answer in (
        (Terms("mx", unannounced=Reaction.DROP), b"HELO x\r\n", "250"),
        (Terms("mx", bare_newline=Reaction.DROP), b"NOOP x\ny\r\n", "554 5.5.2"),
        (Terms("mx", foreign=Reaction.IGNORE), b"GET / HTTP/1.1\r\n", "500 5.5.1"),
        (Terms("mx", forbidden=frozenset((b"XEVIL",))), b"xevil 1\r\n", "421 4.7.0"),
        (Terms("mx", forbidden=frozenset((b"XEVIL",))), b"GET / HTTP/1.1\r\n", "500 5.5.1"),
    ):
        assert code(Yes(terms).feed(octets)) == answer
    yes = Yes(Terms("mx", unannounced=Reaction.DROP))
    yes.feed(b"HELO x\r\n")
    assert code(yes.feed(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@here>\r\n")) == "554 5.5.0"
    assert yes.dialogue.closed


def told(octets: bytes, size: int, terms: Terms) -> tuple[bytes, list[Misdeed]]:
    """Return all that is said to octets in pieces, and the misdeeds."""
    yes = Yes(terms)
    misdeeds: list[Misdeed] = []
    for at in range(0, len(octets), size):
        yes.feed(octets[at : at + size])
        misdeeds += yes.dialogue.take_misdeeds()
    return yes.said, misdeeds


LINES = st.lists(
    st.sampled_from([b"NOOP", b"EHLO x", b"RSET", b"a", b"Received: by x", b"\n", b"x" * 300, b"QUIT", b"AUTH X"]),
    max_size=8,
)


@given(LINES, st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b""]), max_size=8), st.integers(1, 40))
@settings(max_examples=150)
def test_a_bare_newline_is_found_whatever_the_packets(lines: list[bytes], ends: list[bytes], size: int) -> None:
    octets = b"".join(line + end for line, end in zip(lines, ends, strict=False)) + b"\r\n"
    terms = Terms("mx", bare_newline=Reaction.DROP)
    said, misdeeds = told(octets, 1, terms)
    if Misdeed.NOT_WAITED in told(octets, size, terms)[1]:
        return  # that one is about packets
    again, found = told(octets, size, terms)
    assert again == said
    assert [each for each in found if each is not Misdeed.UNANNOUNCED] == misdeeds


def test_endless_lines_with_a_newline_are_told_as_such() -> None:
    for size in (1, 7, 5000):
        said, misdeeds = told(b"x" * 100 + b"\n" + b"y" * 5000, size, Terms("mx", bare_newline=Reaction.DROP))
        assert (code(said), misdeeds) == ("554 5.5.2", [Misdeed.BARE_NEWLINE])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"greet_teaser": "a\r\n250 b"}, "one line"),
        ({"greet_teaser": "grüß Gott"}, "one line"),
        ({"greet_teaser": "x" * 201}, "one line"),
        ({"greet_wait": 61}, "between 0 and 60"),
        ({"forbidden_commands": ["mail"]}, "command of SMTP"),
        ({"forbidden_commands": ["A B"]}, "no word"),
        ({"pregreet": "slap"}, "slap"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        fill(IntakeSettings, given)


def test_no_command_of_ours_is_foreign() -> None:
    for word in OUR_COMMANDS:
        dialogue = Dialogue(Terms("mx", lmtp=word == "LHLO"), 0.0)
        dialogue.receive(word.encode() + b"\r\n", 0.0)
        dialogue.next_event()
        assert Misdeed.FOREIGN not in dialogue.take_misdeeds()
