"""Attacks on STARTTLS, on passwords and on who may send as whom (hardening catalogue: TLS, AUTH)."""

import asyncio
from base64 import b64encode
from dataclasses import replace

import pytest

from gatepost.accounts.model import Account, Overloaded
from tests.intake.world import PLAIN_BOB, World, code, world
from tests.support.loop import run


def plain(user: str, password: str = "secret", acting_as: str = "") -> str:
    """Return an AUTH PLAIN command."""
    return "AUTH PLAIN " + b64encode(f"{acting_as}\0{user}\0{password}".encode()).decode()


@pytest.mark.row("TLS-01", "TLS-02")
@pytest.mark.parametrize("port", ["mx", "submission", "lmtp"])
def test_an_injection_after_starttls_is_never_answered(port: str) -> None:
    async def scene() -> None:
        async with world() as here, here.client(port) as talk:
            assert code(await talk.send(b"STARTTLS\r\nNOOP injected\r\n")) == "554 5.5.0"
            assert talk.wire.closed
            assert talk.wire.contexts == []

    run(scene())


@pytest.mark.row("TLS-04")
def test_what_was_said_before_tls_is_forgotten() -> None:
    async def scene() -> None:
        async with world() as here, here.client(hello=False) as talk:
            assert await talk.say("EHLO evil", "STARTTLS") == ["250", "220 2.0.0"]
            assert await talk.say("MAIL FROM:<a@x>", "RCPT TO:<bob@here.example>") == ["503 5.5.1", "503 5.5.1"]
            await talk.say("EHLO good.example")
            mail = b"From: a@sender.example\r\n\r\n"
            assert await talk.mail(mail) == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert b"from good.example" in stored
            assert b"with ESMTPS id" in stored
            assert b"(version=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384 bits=256)" in stored

    run(scene())


@pytest.mark.row("TLS-05")
def test_starttls_in_the_wrong_place_is_refused() -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            assert await talk.say("AUTH PLAIN", "STARTTLS", "STARTTLS") == ["334", "501 5.5.2", "503 5.5.1"]

    run(scene())


@pytest.mark.row("TLS-06")
def test_a_password_in_the_clear_is_not_looked_at() -> None:
    async def scene() -> None:
        async with world(mx_auth=True) as here:
            for port in ("submission", "mx"):
                async with here.client(port, hello=False) as talk:
                    assert b"AUTH" not in await talk.send(b"EHLO c\r\n")
                    assert await talk.say(PLAIN_BOB) == ["538 5.7.11"]
            async with here.client("submission") as talk:
                assert await talk.say("MAIL FROM:<bob@here.example>") == ["530 5.7.0"]

    run(scene())


@pytest.mark.row("AUTH-01")
def test_wrong_passwords_slow_down_and_end_the_session() -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            begun = here.clock.steady()
            assert await talk.say(plain("bob@here.example", "no")) == ["535 5.7.8"]
            assert here.clock.steady() - begun == 2.0
            assert await talk.say(plain("bob@here.example", "no")) == ["535 5.7.8"]
            assert here.clock.steady() - begun == 6.0
            assert await talk.say(plain("bob@here.example", "no")) == ["421 4.7.0"]
            assert here.clock.steady() - begun == 14.0
            assert talk.wire.closed

    run(scene())


async def fail_once(here: World, ip: str, user: str = "bob@here.example") -> str:
    async with here.client("submission", ip=ip, tls=True) as talk:
        return (await talk.say(plain(user, "no")))[0]


@pytest.mark.row("AUTH-01")
def test_an_address_with_too_many_wrong_passwords_is_not_heard() -> None:
    async def scene() -> None:
        async with world() as here:
            here.services = replace(here.services, pause=_no_pause)
            assert [await fail_once(here, "198.51.100.7") for _ in range(11)] == ["535 5.7.8"] * 10 + ["421 4.7.0"]
            async with here.client("submission", ip="198.51.100.7", tls=True) as talk:
                assert await talk.say(PLAIN_BOB) == ["421 4.7.0"]
                assert talk.wire.closed
            async with here.client("submission", ip="203.0.113.5", tls=True) as talk:
                assert await talk.say(PLAIN_BOB) == ["235 2.7.0"]
            here.clock.move(60.0)
            async with here.client("submission", ip="198.51.100.7", tls=True) as talk:
                assert await talk.say(PLAIN_BOB) == ["235 2.7.0"]

    run(scene())


@pytest.mark.row("AUTH-02")
def test_spraying_from_one_net_is_stopped_by_the_net() -> None:
    async def scene() -> None:
        async with world() as here:
            here.services = replace(here.services, pause=_no_pause)
            from_64 = [await fail_once(here, f"2001:db8::{n:x}", f"u{n}@here.example") for n in range(1, 13)]
            assert from_64 == ["535 5.7.8"] * 10 + ["421 4.7.0"] * 2
            from_24 = [await fail_once(here, f"198.51.100.{n}", f"u{n}@here.example") for n in range(1, 33)]
            assert from_24 == ["535 5.7.8"] * 30 + ["421 4.7.0"] * 2
            from_48 = [await fail_once(here, f"2001:db8:1:{n:x}::1", f"u{n}@here.example") for n in range(1, 33)]
            assert from_48 == ["535 5.7.8"] * 30 + ["421 4.7.0"] * 2

    run(scene())


@pytest.mark.row("AUTH-03")
def test_a_missing_user_gets_the_same_answer_after_the_same_work() -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            existing = await talk.send(plain("bob@here.example", "no").encode() + b"\r\n")
            missing = await talk.send(plain("nobody@here.example", "no").encode() + b"\r\n")
            assert existing == missing == b"535 5.7.8 Authentication failed\r\n"

    run(scene())


@pytest.mark.row("AUTH-04")
def test_a_password_of_a_megabyte_is_not_hashed() -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client("submission", tls=True) as talk:
                long = plain("bob@here.example", "p" * 1025)
                assert await talk.say(long) == ["535 5.7.8"]
            async with here.client("submission", tls=True) as talk:
                assert code(await talk.send(plain("a", "p" * 1_000_000).encode()[:20_000])) == "500 5.5.6"
                assert talk.wire.closed

    run(scene())


@pytest.mark.row("AUTH-05")
def test_when_too_many_passwords_wait_the_client_comes_again() -> None:
    class Busy:
        async def authenticate(self, user: str, password: bytes) -> Account | None:
            raise Overloaded

    async def scene() -> None:
        async with world() as here:
            here.services = replace(here.services, directory=Busy())  # type: ignore[arg-type]  # nothing else is asked
            async with here.client("submission", tls=True) as talk:
                assert await talk.say(*[PLAIN_BOB] * 4) == ["454 4.7.0"] * 4

    run(scene())


@pytest.mark.row("AUTH-06")
@pytest.mark.parametrize("response", ["a*b", "====", "AGJvYg", "ÿ"])
def test_malformed_responses_disturb_nobody(response: str) -> None:
    async def scene() -> None:
        async with (
            world() as here,
            here.client("submission", tls=True) as talk,
            here.client("submission", tls=True) as other,
        ):
            assert await talk.say(f"AUTH PLAIN {response}", "AUTH LOGIN", response) == [
                "501 5.5.2",
                "334",
                "501 5.5.2",
            ]
            assert await other.say(PLAIN_BOB) == ["235 2.7.0"]
            assert here.log.events("intake_failed") == []

    run(scene())


@pytest.mark.row("AUTH-07")
def test_nobody_acts_as_somebody_else() -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            assert await talk.say(plain("bob@here.example", acting_as="alice@here.example")) == ["535 5.7.8"]
            assert await talk.say(plain("bob@here.example", acting_as="bob@here.example")) == ["235 2.7.0"]

    run(scene())


@pytest.mark.row("AUTH-08")
@pytest.mark.parametrize(
    "user",
    ["bob@here.example\n", "bob@here.example\0x", "../bob", "bob%u{x}", "bob*", "bob' OR 1=1--", "*)(uid=*", ""],
)
def test_a_user_name_means_nothing_but_itself(user: str) -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            assert await talk.say(plain(user)) == ["535 5.7.8"]
            assert here.log.events("intake_failed") == []

    run(scene())


@pytest.mark.row("AUTH-14")
@pytest.mark.parametrize(
    "head",
    [
        b"From: alice@here.example\r\n",
        b"From: bob@here.example\r\nFrom: alice@here.example\r\n",
        b"From: alice@here.example\r\nFrom: bob@here.example\r\n",
        b"From: bob@here.example, alice@here.example\r\n",
        b"From: bob@here.example\r\nSender: alice@here.example\r\n",
        b"From : alice@here.example\r\nFrom: bob@here.example\r\n",
        b"From: =?utf-8?q?alice=40here=2Eexample?= <admin@legit.example>\r\n",
        b"From: team: alice@here.example, bob@here.example;\r\n",
        b"From: nobody in particular\r\n",
    ],
)
def test_a_header_author_must_be_the_user(head: bytes) -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            await talk.say(PLAIN_BOB)
            assert await talk.mail(head + b"\r\nx\r\n", "<bob@here.example>", "alice@here.example") == "553 5.7.1"
            assert await here.mails("alice") == []

    run(scene())


@pytest.mark.row("AUTH-14")
def test_an_envelope_sender_must_be_the_user() -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            assert await talk.say(
                PLAIN_BOB, "MAIL FROM:<alice@here.example>", "MAIL FROM:<bob+x@here.example>"
            ) == [
                "235 2.7.0",
                "553 5.7.1",
                "250 2.1.0",
            ]
            assert await talk.say("RSET", "MAIL FROM:<team@here.example>") == ["250 2.0.0", "250 2.1.0"]

    run(scene())


def test_port_25_authenticates_only_where_it_is_told_to() -> None:
    async def scene() -> None:
        async with world() as here, here.client(tls=True) as talk:
            assert await talk.say(PLAIN_BOB) == ["502 5.5.1"]
        async with world(mx_auth=True) as here, here.client(tls=True) as talk:
            assert await talk.say(PLAIN_BOB, "MAIL FROM:<bob@here.example>", "RCPT TO:<x@far.example>") == [
                "235 2.7.0",
                "250 2.1.0",
                "250 2.1.5",
            ]

    run(scene())


def test_an_account_under_attack_is_slowed_down_not_locked() -> None:
    async def scene() -> None:
        async with world(auth_failures_account_per_hour=1) as here, here.client("submission", tls=True) as talk:
            await talk.say(plain("bob@here.example", "no"))
            begun = here.clock.steady()
            assert await talk.say(PLAIN_BOB) == ["235 2.7.0"]
            assert here.clock.steady() - begun == 15.0

    run(scene())


async def _no_pause(_seconds: float) -> None:
    await asyncio.sleep(0)
