"""Where a mail ends: the catalogue's SMG rows against a whole server over TCP, in one piece and octet by octet."""

import asyncio

import pytest

from tests.catalogue.server import (
    HEAD,
    PLAIN_BOB,
    House,
    code,
    codes,
    house,
    relaying,
    scene,
    until,
    until_so,
)
from tests.support.loop import run
from tests.support.nexthop import NextHop

SMUG = b"MAIL FROM:<smug@evil.example>\r\nRCPT TO:<bob@here.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n"
ENDS = (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r")
MENDED = dict.fromkeys(ENDS, b"\r\n.\r\n") | {b"\r\n.\n": b"\r\n\r\n"}  # a dot after CRLF is one that was stuffed
RELATED = (b"\r.\n", b"\n.\r", b"\r.\r\n", b"\r\n.\r", b"\r\r\n.\r\r\n", b"\n\r.\n\r", b"\r\n\0.\r\n", b"\n..\n")
REFUSED = {b"\r\n\0.\r\n": "554 5.6.0"}  # a NUL, and no bare line end

both_paces = pytest.mark.parametrize("one_by_one", [False, True], ids=["whole", "octets"])


def bare(octets: bytes) -> bool:
    """Tell whether a CR or LF stands alone."""
    left = octets.replace(b"\r\n", b"")
    return b"\r" in left or b"\n" in left


@pytest.mark.row("SMG-01", "SMG-02", "SMG-03", "SMG-04")
@both_paces
def test_strangers_cannot_smuggle_a_second_mail(one_by_one: bool) -> None:
    async def play(here: House) -> None:
        for end in ENDS + RELATED:
            async with here.client() as client:
                await client.begin()
                await client.send(HEAD + b"a" + end + SMUG + b"\r\n.\r\nQUIT\r\n", one_by_one=one_by_one)
                said = codes(await client.rest())
            # The mail is refused at its real end; what is left, an empty line, a dot and QUIT, are commands.
            assert said == [REFUSED.get(end, "554 5.5.2"), "500 5.5.1", "500 5.5.1", "221 2.0.0"], end
        assert await here.mails() == []
        assert await here.queued() == []
        assert here.logged("smug") == []

    scene(play)


@pytest.mark.row("SMG-01", "SMG-02", "SMG-03", "SMG-04")
@both_paces
@pytest.mark.parametrize("kind", ["mx", "submission", "lmtp"])
def test_where_line_ends_are_mended_the_second_mail_is_text_of_the_first(kind: str, one_by_one: bool) -> None:
    async def play(here: House) -> None:
        for number, end in enumerate(ENDS):
            async with here.client(kind, tls=kind == "submission") as client:
                if kind == "submission":
                    await client.say(PLAIN_BOB)
                await client.begin("<bob@here.example>")
                text = b"From: bob@here.example\r\nSubject: x\r\n\r\na" + end + SMUG + b"QUIT\r\n"
                await client.send(text, one_by_one=one_by_one)
                assert codes(await client.rest()) == ["250 2.0.0", "221 2.0.0"], end
            stored = (await here.mails())[number]
            assert stored.endswith(b"\r\n\r\na" + MENDED[end] + SMUG.removesuffix(b".\r\n"))
            assert not bare(stored)
        assert len(await here.mails()) == len(ENDS)
        assert here.logged("smug") == []

    scene(play, intake={"bare_lines": "normalize"})


@pytest.mark.row("SMG-01", "SMG-02", "SMG-03", "SMG-04")
def test_users_are_refused_too_where_the_settings_say_so() -> None:
    async def play(here: House) -> None:
        for end in ENDS:
            async with here.client("submissions") as client:
                await client.say(PLAIN_BOB)
                await client.begin("<bob@here.example>")
                await client.send(b"From: bob@here.example\r\n\r\na" + end + SMUG + b"QUIT\r\n")
                assert codes(await client.rest()) == ["554 5.5.2", "221 2.0.0"], end
        assert await here.mails() == []
        assert here.logged("smug") == []

    scene(play, intake={"bare_lines_submitted": "reject"})


@pytest.mark.row("SMG-10")
def test_an_end_of_data_that_comes_in_five_segments_is_one_end() -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            await client.begin()
            await client.send(HEAD + b"body")
            for octet in (b"\r", b"\n", b".", b"\r", b"\n"):
                await asyncio.sleep(0.2)  # the row's own pause
                await client.send(octet)
            assert code(await client.reply()) == "250 2.0.0"
            assert await client.say("QUIT") == ["221 2.0.0"]
        (stored,) = await here.mails()
        assert stored.endswith(HEAD + b"body\r\n")

    scene(play)


@pytest.mark.row("SMG-10")
def test_an_end_of_data_may_be_cut_anywhere() -> None:
    mail = HEAD + b"body\r\n.\r\n"

    async def play(here: House) -> None:
        for at in range(len(mail) - 7, len(mail)):
            async with here.client() as client:
                await client.begin()
                await client.send(mail[:at])
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert code(await client.ask(mail[at:])) == "250 2.0.0"
        assert {each[each.index(b"From: Ann") :] for each in await here.mails()} == {HEAD + b"body\r\n"}
        assert len(await here.mails()) == 7

    scene(play)


@pytest.mark.row("SMG-12")
@both_paces
def test_dots_are_unstuffed_and_a_first_dot_is_the_end_of_an_empty_mail(one_by_one: bool) -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            await client.begin()
            await client.send(HEAD + b"..\r\n.a\r\n...\r\n.\r\n", one_by_one=one_by_one)
            assert code(await client.reply()) == "250 2.0.0"
            (stored,) = await here.mails()
            assert stored.endswith(HEAD + b".\r\na\r\n..\r\n")
            await client.begin()
            await client.send(b".\r\n", one_by_one=one_by_one)
            assert code(await client.reply()) == "554 5.6.0"  # the end, of a mail without a header
            await client.begin()
            await client.send(b".From: a@x\r\n\r\n.\r\n", one_by_one=one_by_one)
            assert code(await client.reply()) == "250 2.0.0"
            assert (await here.mails())[1].endswith(b"\r\nFrom: a@x\r\n\r\n")

    scene(play)


@pytest.mark.row("SMG-13")
@both_paces
@pytest.mark.parametrize(
    "group", [b"BDAT 20 LAST\r\nabcdefgQUIT\r\n", b"BDAT 7\r\nabcdefgBDAT 20 LAST\r\nQUIT\r\n"]
)
def test_a_command_inside_a_chunk_is_data_and_half_a_chunk_is_no_mail(group: bytes, one_by_one: bool) -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            await client.say("MAIL FROM:<a@sender.example>", "RCPT TO:<bob@here.example>")
            await client.send(group, one_by_one=one_by_one)
            client.writer.write_eof()
            assert codes(await client.rest()) == ["250 2.0.0"] * (b"BDAT 7" in group)
        assert await here.mails() == []

    scene(play)


@pytest.mark.row("SMG-15")
@both_paces
def test_data_after_bdat_is_refused_and_after_rset_the_session_is_as_new(one_by_one: bool) -> None:
    async def play(here: House) -> None:
        async with here.client() as client:
            await client.say("MAIL FROM:<a@sender.example>", "RCPT TO:<bob@here.example>")
            assert code(await client.ask(b"BDAT 10\r\n0123456789", one_by_one=one_by_one)) == "250 2.0.0"
            assert code(await client.ask(b"DATA\r\n", one_by_one=one_by_one)) == "503 5.5.1"
            assert await client.say("RSET", "DATA") == ["250 2.0.0", "503 5.5.1"]
            assert await client.mail() == "250 2.0.0"
        (stored,) = await here.mails()
        assert stored.endswith(HEAD)

    scene(play)


@pytest.mark.row("SMG-18")
@pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])
def test_what_a_user_submits_goes_out_with_crlf_only_and_as_one_mail(chunked: bool) -> None:
    ends = (*ENDS, b"\r\n.\r\n", b"\r\r\n.\r\n") if chunked else ENDS  # in a chunk nothing ends a mail

    async def whole() -> None:
        async with NextHop() as hop, house(relaying(hop.port)) as here:
            for end in ends:
                await submit(here, b"a" + end + SMUG.removesuffix(b".\r\n"), chunked=chunked)
            await until(lambda: len(hop.mails) == len(ends))
            await until_so(lambda: nobody_waits(here))
            for mail in hop.mails:
                assert not bare(mail.octets)
                assert b"\r\n.\r\n" not in mail.octets
                assert b"\r\nMAIL FROM:<smug@evil.example>\r\n" in mail.octets
            assert sum(b"a\r\n..\r\nMAIL FROM:<smug" in mail.octets for mail in hop.mails) >= 3
            assert not any(bare(command) or b"smug" in command for command in hop.commands)
            assert hop.addresses() == [b"<joe@far.example>"] * len(ends)

    run(whole())


async def submit(here: House, text: bytes, *, chunked: bool) -> None:
    """Let bob send a text to joe@far.example."""
    mail = b"From: bob@here.example\r\nSubject: x\r\n\r\n" + text
    async with here.client("submissions") as client:
        await client.say(PLAIN_BOB, "MAIL FROM:<bob@here.example>", "RCPT TO:<joe@far.example>")
        if chunked:
            assert code(await client.ask(b"BDAT %d LAST\r\n" % len(mail) + mail)) == "250 2.0.0"
        else:
            assert await client.say("DATA") == ["354"]
            assert code(await client.ask(mail + b".\r\n")) == "250 2.0.0"


async def nobody_waits(here: House) -> bool:
    """Tell whether the queue is empty."""
    return await here.queued() == []
