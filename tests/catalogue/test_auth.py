"""The catalogue's AUTH rows against a whole server over TCP: guesses, what they cost, and who may send as whom."""

import asyncio
import contextlib
import statistics
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle, islice

import pytest

from gatepost.accounts.settings import AccountSettings
from gatepost.intake.settings import IntakeSettings
from tests.catalogue.server import (
    PLAIN_BOB,
    Client,
    House,
    code,
    house,
    relaying,
    resident,
    scene,
)
from tests.support.loop import run
from tests.support.nexthop import NextHop

BOB = "bob@here.example"
ALICE = "alice@here.example"
STRANGER = "198.51.100.7"
MEBI = 1 << 20
DAY_S = 86_400.0

PORTS = ("submissions", "imaps", "pop3s")

each_port = pytest.mark.parametrize("kind", PORTS)
each_protocol = pytest.mark.parametrize("kind", ["submissions", "imap", "pop3"])  # where TLS is beside the point


def plain(user: str, password: str, acting_as: str = "") -> str:
    """Return the response of PLAIN."""
    return b64encode(f"{acting_as}\0{user}\0{password}".encode()).decode()


async def log_in(client: Client, kind: str, user: str, password: str, acting_as: str = "") -> bytes:
    """Say user and password by PLAIN; return the whole answer, of IMAP without the tag."""
    response = plain(user, password, acting_as)
    if kind.startswith("imap"):
        return b"".join(await client.command(f"a AUTHENTICATE PLAIN {response}")).removeprefix(b"a ")
    return await client.ask(f"AUTH PLAIN {response}\r\n".encode())


def said(smtp: bytes, imap: bytes, pop3: bytes) -> dict[str, bytes]:
    """Return what is said on each port."""
    return (
        dict.fromkeys(("submission", "submissions", "mx"), smtp)
        | dict.fromkeys(("imap", "imaps"), imap)
        | dict.fromkeys(("pop3", "pop3s"), pop3)
    )


YES = said(b"235 2.7.0 ", b"OK ", b"+OK")
NO = said(
    b"535 5.7.8 Authentication failed\r\n",
    b"NO [AUTHENTICATIONFAILED] Authentication failed.\r\n",
    b"-ERR [AUTH] Authentication failed.\r\n",
)
BLOCKED = said(b"421 4.7.0 ", b"NO [UNAVAILABLE] ", b"-ERR [SYS/TEMP] ")


async def guess(here: House, kind: str, ip: str, user: str = BOB, password: str = "wrong") -> bytes:
    """Say one password in a session of its own; return the answer."""
    async with here.client(kind, ip=ip) as client:
        return await log_in(client, kind, user, password)


# --- guessing -----------------------------------------------------------------------------------------------


@pytest.mark.row("AUTH-01")
@each_port
def test_each_guess_is_answered_later_and_the_third_is_the_last(kind: str) -> None:
    async def play(here: House) -> None:
        async with here.client(kind) as client:
            for _ in range(6):
                response = plain(BOB, "wrong")
                await client.send(
                    (b"a AUTHENTICATE" if kind == "imaps" else b"AUTH") + f" PLAIN {response}\r\n".encode()
                )
            said = await client.rest()
            assert 1 <= len(said.splitlines()) <= 4
        assert len(here.hashed) <= 3
        here.hashed.clear()
        here.pauses.clear()
        async with here.client(kind) as client:
            for length in (2.0, 4.0):
                assert await log_in(client, kind, BOB, "wrong") == NO[kind]
                assert here.pauses[-1] == length
            assert (await log_in(client, kind, BOB, "wrong")).startswith((NO[kind], b"421 4.7.0"))
            assert here.pauses == [2.0, 4.0, 8.0]
            await client.send(b"NOOP\r\n")
            assert (await client.rest()).startswith((b"421 4.7.0 ", b"* BYE ", b""))
        assert here.hashed == [b"wrong"] * 3

    scene(play)


@pytest.mark.row("AUTH-01")
@each_port
def test_an_address_has_ten_guesses_a_minute_whatever_it_speaks(kind: str) -> None:
    async def play(here: House) -> None:
        here.clock.stop()
        for other in islice(cycle(PORTS), 10):
            assert (await guess(here, other, STRANGER)).startswith(NO[other])
        here.hashed.clear()
        assert (await guess(here, kind, STRANGER)).startswith(BLOCKED[kind])
        assert (await guess(here, kind, STRANGER, password="secret")).startswith(BLOCKED[kind])
        assert here.hashed == []
        assert (await guess(here, kind, "203.0.113.5", password="secret")).startswith(YES[kind])
        here.clock.move(60.0)
        assert (await guess(here, kind, STRANGER, password="secret")).startswith(YES[kind])

    scene(play)


@pytest.mark.row("AUTH-01")
def test_an_address_has_fifty_guesses_a_day() -> None:
    async def play(here: House) -> None:
        here.clock.stop()
        for number in range(50):
            here.clock.move(60.0 * (number % 10 == 0))
            assert await guess(here, "pop3", STRANGER) == NO["pop3"], number
        here.clock.move(60.0)
        here.hashed.clear()
        for kind in PORTS:
            assert (await guess(here, kind, STRANGER, password="secret")).startswith(BLOCKED[kind])
        assert here.hashed == []
        here.clock.move(DAY_S)
        assert (await guess(here, "pop3", STRANGER, password="secret")).startswith(YES["pop3"])

    scene(play, view={"plain_passwords": True})


@pytest.mark.row("AUTH-01", "AUTH-05")
def test_guesses_made_at_once_are_paid_for_afterwards() -> None:
    """All are looked at before the first one has failed; nothing stops them, but their number is not forgotten."""

    async def play(here: House) -> None:
        here.clock.stop()
        for passed in (59.0, 10.0):
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(here.client("pop3", ip=STRANGER)) for _ in range(20)]
                await asyncio.gather(*(log_in(each, "pop3", BOB, "wrong") for each in clients))
            assert len(here.hashed) == 20
            here.clock.move(passed)
        assert await guess(here, "pop3", STRANGER) == NO["pop3"]

    scene(play, view={"plain_passwords": True})


SPRAYED = {
    "a /64": ([f"2001:db8::{at:x}" for at in range(1, 1001)], 10),
    "a /48": ([f"2001:db8:1:{at:x}::1" for at in range(1, 1001)], 30),
    "a /24": ([f"198.51.100.{1 + at % 254}" for at in range(1000)], 30),
}


@pytest.mark.row("AUTH-02")
@pytest.mark.parametrize("net", list(SPRAYED))
def test_one_password_for_a_thousand_users_is_looked_at_a_few_times(net: str) -> None:
    async def play(here: House) -> None:
        here.clock.stop()
        sources, most = SPRAYED[net]
        answers = [await guess(here, "imap", ip, f"u{at}@here.example") for at, ip in enumerate(sources)]
        assert len(here.hashed) == most
        assert [each[:9] for each in answers] == [b"NO [AUTHE"] * most + [b"NO [UNAVA"] * (1000 - most)
        assert (await guess(here, "submissions", sources[0])).startswith(BLOCKED["submissions"])
        assert (await guess(here, "submissions", "203.0.113.5", password="secret")).startswith(b"235")

    scene(play, view={"plain_passwords": True}, gate={"bans": {"failures": 0, "net_failures": 0}})


# --- who exists ---------------------------------------------------------------------------------------------

NOBODIES = (
    "nobody@here.example",
    "postmaster@here.example",
    "team@here.example",  # an alias
    "bob@elsewhere.example",
    "bob",
    "bob@here.example\n",
    "@here.example",
    "n" * 400 + "@here.example",
)
UNCOUNTED = {"auth_failures": 10_000, "auth_failures_account_per_hour": 0}


@pytest.mark.row("AUTH-03")
@each_protocol
def test_who_does_not_exist_is_answered_like_who_mistyped(kind: str) -> None:
    async def attempt(here: House, user: str) -> tuple[bytes, list[float], list[bytes]]:
        """Return what three wrong passwords are answered, the delays, and what was hashed."""
        here.hashed.clear()
        here.pauses.clear()
        async with here.client(kind) as client:
            for _ in range(2):
                assert await log_in(client, kind, user, "wrong") == NO[kind]
            last = await log_in(client, kind, user, "wrong")
            return last + await client.rest(), list(here.pauses), list(here.hashed)

    async def play(here: House) -> None:
        known = await attempt(here, BOB)
        assert known[2] == [b"wrong"] * 3
        for user in NOBODIES:
            assert await attempt(here, user) == known, user

    scene(play, aliases={"team@here.example": BOB})


async def medians(client: Client, users: Sequence[str], tries: int) -> list[float]:
    """Return how long a wrong password takes in the middle, in seconds, for each user; they take turns."""
    taken: list[list[float]] = [[] for _ in users]
    for _ in range(tries):
        for user, times in zip(users, taken, strict=True):
            begun = time.perf_counter()
            assert await log_in(client, "submissions", user, "wrong") == NO["submissions"]
            times.append(time.perf_counter() - begun)
    return [statistics.median(times) for times in taken]


@pytest.mark.row("AUTH-03")
def test_who_does_not_exist_is_answered_as_late_as_who_mistyped() -> None:
    async def play(here: House) -> None:
        off = 1.0
        async with here.client("submissions") as client:
            for _ in range(8):  # what else this machine does may part them, but not bring them together
                bob, nobody = await medians(client, (BOB, "nobody@here.example"), 200)
                off = min(off, abs(bob - nobody) / max(bob, nobody))
                if off < 0.05:
                    break
        assert off < 0.05
        assert set(here.hashed) == {b"wrong"}
        assert len(here.hashed) % 400 == 0

    scene(play, accounts={"password_memory": 4 * MEBI}, intake=UNCOUNTED)


# --- what a guess costs -------------------------------------------------------------------------------------


@pytest.mark.row("AUTH-04")
def test_a_password_of_a_megabyte_costs_nothing() -> None:
    async def play(here: House) -> None:
        for user in (BOB, "nobody@here.example"):
            line = f"AUTH PLAIN {plain(user, 'p' * 1_000_000)}\r\n".encode()
            async with here.client("submissions") as client:
                begun = time.process_time()
                await client.send(line)
                assert await client.rest() == b"500 5.5.6 Authentication line too long\r\n"
                assert time.process_time() - begun < 0.05
            async with here.client("submissions") as client:
                await client.say("AUTH PLAIN")
                await client.send(line[11:])
                assert await client.rest() == b"500 5.5.6 Authentication line too long\r\n"
            async with here.client("imaps") as client:
                await client.send(b"a LOGIN %b {1000000}\r\n" % user.encode())
                assert not (await client.reply()).startswith(b"+")
            async with here.client("pop3s") as client:
                await client.ask(b"USER %b\r\n" % user.encode())
                await client.send(b"PASS " + b"p" * 1_000_000 + b"\r\n")
                assert (await client.rest()).startswith(b"-ERR")
        assert here.hashed == []

    scene(play)


@pytest.mark.row("AUTH-04")
@pytest.mark.parametrize(("length", "looked_at"), [(1024, True), (1025, False), (9_000, False)])
def test_a_password_is_looked_at_up_to_a_kilobyte(length: int, looked_at: bool) -> None:
    async def play(here: House) -> None:
        for user in (BOB, "nobody@here.example"):
            here.hashed.clear()
            async with here.client("submissions") as client:
                assert await log_in(client, "submissions", user, "p" * length) == NO["submissions"]
            assert bool(here.hashed) == looked_at

    scene(play)


@asynccontextmanager
async def watched(samples: list[tuple[float, int]]) -> AsyncIterator[None]:
    """Note all the time by how many seconds the loop is late, and the octets of memory in use."""

    async def watch() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            samples.append((time.perf_counter() - begun - 0.001, resident()))

    watching = asyncio.get_running_loop().create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


@pytest.mark.row("AUTH-05")
def test_sixty_four_who_log_in_at_once_stand_in_line_and_the_others_are_served() -> None:
    usual = AccountSettings()

    async def play(here: House) -> None:
        samples: list[tuple[float, int]] = []
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(here.client("submissions")) for _ in range(64)]
            before = resident()
            async with watched(samples):
                tries = (log_in(each, "submissions", BOB, "wrong") for each in clients)
                answers = [code(each) for each in await asyncio.gather(*tries)]
            assert set(answers) == {"535 5.7.8", "454 4.7.0"}
            assert answers.count("535 5.7.8") == usual.password_threads + usual.password_queue
            assert statistics.quantiles([late for late, _ in samples], n=100)[-1] < 0.05
            most = (usual.password_threads + 1) * usual.password_memory
            assert max(memory for _, memory in samples) - before < most
            put_off = clients[answers.index("454 4.7.0")]
            assert await put_off.say(PLAIN_BOB) == ["235 2.7.0"]  # it was no failure, and the session is as it was

    cost = {"password_rounds": usual.password_rounds, "password_memory": usual.password_memory}
    scene(play, accounts=cost)


@pytest.mark.row("AUTH-05")
def test_an_account_that_is_guessed_at_is_slowed_down_for_all_and_locked_for_nobody() -> None:
    async def play(here: House) -> None:
        here.clock.stop()
        most = IntakeSettings().auth_failures_account_per_hour
        for at in range(most):
            await guess(here, "pop3s", f"198.51.{at}.7")
        here.pauses.clear()
        for kind in PORTS:
            assert (await guess(here, kind, "203.0.113.5", password="secret")).startswith(YES[kind])
        assert here.pauses == [15.0] * 3
        assert (await guess(here, "pop3s", "203.0.113.5", ALICE, "secret")).startswith(b"+OK")
        assert len(here.pauses) == 3

    scene(play)


# --- responses that are none --------------------------------------------------------------------------------

MALFORMED = (b"a*b", b"====", b"AGJvYgBzZWNyZXQ", b"AGJvYg==AGJv", b"\xff", b"A G J v", b"AGJvYkBoZXJlLmV4YW1wbGU=")
"""Also unpadded, 8-bit, and well-formed base64 with one NUL only."""


@pytest.mark.row("AUTH-06")
@each_port
def test_a_response_that_is_none_disturbs_nobody(kind: str) -> None:
    begin = b"a AUTHENTICATE PLAIN" if kind == "imaps" else b"AUTH PLAIN"
    no = {"submissions": b"501 5.5.2 ", "imaps": b"a BAD ", "pop3s": b"-ERR "}[kind]

    async def play(here: House) -> None:
        for response in MALFORMED:
            async with here.client(kind) as rude, here.client(kind) as other:
                if b" " not in response:
                    answer = await rude.ask(begin + b" " + response + b"\r\n")
                    assert answer.startswith((no, b"501 5.5.4 ")), response
                assert (await rude.ask(begin + b"\r\n")).startswith((b"334 ", b"+ "))
                assert (await rude.ask(response + b"\r\n")).startswith(no), response
                assert here.hashed == []
                assert (await log_in(other, kind, BOB, "secret")).startswith(YES[kind])
                assert (await log_in(rude, kind, BOB, "secret")).startswith(YES[kind])
            assert (await guess(here, kind, STRANGER, password="secret")).startswith(YES[kind])
            here.hashed.clear()

    scene(play)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.row("AUTH-07")
@each_port
def test_nobody_acts_as_somebody_else_with_his_own_password(kind: str) -> None:
    async def play(here: House) -> None:
        for acting_as in ("admin", ALICE, "postmaster@here.example", "root", "*"):
            async with here.client(kind) as client:
                assert await log_in(client, kind, BOB, "secret", acting_as) == NO[kind], acting_as
                assert (await log_in(client, kind, BOB, "secret", BOB)).startswith(YES[kind])  # himself, twice

    scene(play)


NAMES = (
    f"{BOB}\n",
    f"{BOB}\r\n",
    "bob\n@here.example",
    f"{BOB} ",
    "../bob@here.example",
    "../bob",
    "/bob@here.example",
    "bob%u{x}@here.example",
    "bob%u@here.example",
    "${env:HOME}@here.example",
    "bob*@here.example",
    "b_b@here.example",
    "%@here.example",
    "*@here.example",
    "bob' OR 1=1--",
    "bob' OR '1'='1'--@here.example",
    'bob"@here.example',
    "*)(uid=*",
    "*)(uid=*@here.example",
    "\uff42\uff4f\uff42@here.example",  # bob in full width
    "b\u043eb@here.example",  # a Cyrillic o
    "bob@here.example@here.example",
    "",
)


@pytest.mark.row("AUTH-08")
@each_protocol
def test_a_user_name_is_a_name_and_nothing_else(kind: str) -> None:
    async def play(here: House) -> None:
        tables = await here.rows("SELECT COUNT(*) FROM sqlite_schema")
        for name in NAMES:
            async with here.client(kind) as client:
                assert await log_in(client, kind, name, "secret") == NO[kind], name
        assert await here.rows("SELECT COUNT(*) FROM sqlite_schema") == tables
        async with here.client(kind) as client:  # what stands behind the second NUL is the password
            assert await log_in(client, kind, BOB, "x\0secret") == NO[kind]
            assert (await log_in(client, kind, "BOB@Here.Example", "secret")).startswith(YES[kind])

    scene(play)


@pytest.mark.row("AUTH-08")
def test_a_user_name_is_the_same_by_every_way_of_saying_it() -> None:
    async def play(here: House) -> None:
        async with here.client("submissions") as client:
            for name in NAMES:
                await client.say("AUTH LOGIN", b64encode(name.encode()))
                assert await client.say(b64encode(b"secret")) == ["535 5.7.8"], name
        for name in NAMES:
            octets = name.encode()
            async with here.client("imap") as client:
                await client.send(b"a LOGIN {%d+}\r\n" % len(octets) + octets + b" secret\r\n")
                assert (await client.reply()).startswith(b"a NO [AUTHENTICATIONFAILED]"), name
            if b"\n" not in octets:
                async with here.client("pop3") as client:
                    await client.send(b"USER " + octets + b"\r\nPASS secret\r\n")
                    assert (await client.reply())[:4] in (b"+OK\r", b"-ERR"), name
                    assert (await client.reply()).startswith(b"-ERR "), name

    scene(play, intake=UNCOUNTED)


# --- senders ------------------------------------------------------------------------------------------------

AUTHORS = (
    b"From: alice@here.example\r\n",
    b"From: bob@here.example\r\nFrom: alice@here.example\r\n",  # espoofer client_a1: two From
    b"From: alice@here.example\r\nFrom: bob@here.example\r\n",
    b"From: bob@here.example, alice@here.example\r\n",  # client_a2: two addresses
    b"From: alice@here.example, bob@here.example\r\n",
    b"From: alice@here.example\r\nSender: bob@here.example\r\n",  # client_a3: Sender
    b"From: bob@here.example\r\nSender: alice@here.example\r\n",
    b"From : alice@here.example\r\nFrom: bob@here.example\r\n",
    b"FROM: bob@here.example\r\nfrom: alice@here.example\r\n",
    b"From:\r\n alice@here.example\r\n",
    b"From: <bob@here.example> <alice@here.example>\r\n",
    b"From: <bob@here.example>alice@here.example\r\n",
    b"From: bob@here.example alice@here.example\r\n",
    b"From: bob@here.example; alice@here.example\r\n",
    b"From: bob@here.example <alice@here.example>\r\n",
    b"From: team: bob@here.example, alice@here.example;\r\n",
    b"From: =?utf-8?q?alice=40here=2Eexample?= <joe@far.example>\r\n",
    b"From: <@bob@here.example:alice@here.example>\r\n",
    b"From: nobody in particular\r\n",
)
HIMSELF = (
    b"From: bob@here.example\r\n",
    b"From: Bob (the <builder>) <bob+x@here.example> (at work)\r\n",
    b'From: "Bob > Alice" <bob@here.example>, <BOB@HERE.EXAMPLE>\r\nSender: bob@here.example\r\n',
    b"From: us: <bob@here.example>;\r\n",
)


@pytest.mark.row("AUTH-14")
def test_the_author_of_a_mail_is_who_logged_in() -> None:
    async def whole() -> None:
        async with NextHop() as hop, house(relaying(hop.port)) as here:
            async with here.client("submissions") as client:
                await client.say(PLAIN_BOB)
                for head in AUTHORS:
                    said = await client.mail(
                        head + b"Subject: x\r\n\r\nx\r\n", f"<{BOB}>", ALICE, "joe@far.example"
                    )
                    assert said == "553 5.7.1", head
                    await client.say("RSET")
                    await client.say(f"MAIL FROM:<{BOB}>", f"RCPT TO:<{ALICE}>")
                    octets = head + b"\r\nx\r\n"
                    answer = await client.ask(b"BDAT %d LAST\r\n" % len(octets) + octets)
                    assert code(answer) == "553 5.7.1", head
                for head in HIMSELF:
                    assert await client.mail(head + b"\r\n", f"<{BOB}>", ALICE) == "250 2.0.0", head
            assert len(await here.mails("alice")) == len(HIMSELF)
            assert await here.queued() == []
            assert hop.commands == []

    run(whole())


SENDERS = (
    f"<{ALICE}>",
    "<ALICE@HERE.EXAMPLE>",
    "<alice+x@here.example>",
    "<joe@far.example>",
    "<postmaster@elsewhere.example>",
    '<"alice"@here.example>',
    "<bob@here.example.far.example>",
)


@pytest.mark.row("AUTH-14")
@pytest.mark.parametrize("kind", ["submission", "submissions", "mx"])
def test_the_sender_of_a_mail_is_who_logged_in(kind: str) -> None:
    async def play(here: House) -> None:
        async with here.client(kind, tls=True) as client:
            await client.hello()
            assert await client.say(PLAIN_BOB) == ["235 2.7.0"]
            for sender in SENDERS:
                assert await client.say(f"MAIL FROM:{sender}") == ["553 5.7.1"], sender
            for sender in (f"<{BOB}>", "<bob+list@here.example>", "<team@here.example>"):
                assert await client.say(f"MAIL FROM:{sender}", "RSET") == ["250 2.1.0", "250 2.0.0"], sender

    scene(play, aliases={"team@here.example": BOB}, intake={"mx_auth": True})
