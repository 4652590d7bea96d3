"""Mails that two readers would read differently (hardening catalogue: HDR)."""

import pytest

from tests.intake.world import world
from tests.support.loop import run

LEGIT = b"From: <admin@legit.example>\r\n"
FIRST = b"From: <first@attack.example>\r\n"


@pytest.mark.row("HDR-01", "HDR-02", "HDR-03", "HDR-04", "HDR-05", "HDR-14", "HDR-15")
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(FIRST + LEGIT, id="HDR-01"),
        pytest.param(b" " + FIRST + LEGIT, id="HDR-02"),
        pytest.param(b"From : <first@attack.example>\r\n" + LEGIT, id="HDR-03"),
        pytest.param(b"From\r\n : <first@attack.example>\r\n" + LEGIT, id="HDR-04"),
        pytest.param(b"Sender: <admin@legit.example>\r\n", id="HDR-05 no From"),
        pytest.param(b"Sender: <admin@legit.example>\r\nFrom\r\n : <a@attack.example>\r\n", id="HDR-05 folded"),
        pytest.param(b"From: admin\r\n", id="HDR-05 no address"),
        pytest.param(b"From:\r\n", id="HDR-05 empty"),
        pytest.param(b"Fr\0om: <first@attack.example>\r\n" + LEGIT, id="HDR-14 NUL"),
        pytest.param(b"Subject: a\0b\r\n" + LEGIT, id="HDR-14 NUL in a value"),
        pytest.param(b"Subject: a\rFrom: <admin@legit.example>\r\nFrom: <x@attack.example>\r\n", id="HDR-15"),
    ],
)
def test_a_mail_without_one_clear_author_is_refused(head: bytes) -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            answer = await talk.mail(head + b"Subject: x\r\n\r\nbody\r\n")
            assert answer in ("554 5.6.0", "554 5.5.2")
            assert await here.mails("bob") == []
            assert here.log.events("intake_failed") == []

    run(scene())


@pytest.mark.row("HDR-14")
@pytest.mark.parametrize("control", [b"\x0b", b"\x0c", b"\x1c", b"\x85", "\u2028".encode()])
def test_other_controls_begin_no_field(control: bytes) -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            head = b"Subject: a" + control + b"From: <first@attack.example>\r\n" + LEGIT
            assert await talk.mail(head + b"\r\nbody\r\n") == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert stored.endswith(head + b"\r\nbody\r\n")

    run(scene())


@pytest.mark.row("HDR-14")
def test_a_nul_in_a_body_is_refused() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.mail(LEGIT + b"\r\na\0b\r\n") == "554 5.6.0"

    run(scene())


@pytest.mark.row("HDR-18")
def test_results_forged_in_our_name_are_cut_out() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            forged = b"Authentication-Results: mx.example; dkim=pass header.d=legit.example\r\n"
            foreign = b"Authentication-Results: other.example; dkim=pass\r\nARC-Seal: i=1; cv=none\r\n"
            assert await talk.mail(forged + foreign + LEGIT + b"\r\nbody\r\n") == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert b"mx.example; dkim=pass" not in stored
            assert stored.endswith(foreign + LEGIT + b"\r\nbody\r\n")

    run(scene())
