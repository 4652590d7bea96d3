"""Mail of programs on this machine: what was left while the server was away, and the socket's session."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from gatepost.cli.sendmail import Unsent, read
from gatepost.db.unit import NoRoom
from gatepost.intake import local, offline
from gatepost.intake.offline import FOLDER, REFUSED, Slip, Unusable
from tests.intake.world import Talk, World, world
from tests.support.loop import run
from tests.support.wire import MemoryWire

MAIL = b"Bcc: x@here.example\r\nSubject: left\r\n\r\nx\r\n"


def leave(folder: Path, *to: str, sender: str = "ann@far.example", content: bytes = MAIL) -> Path:
    offline.prepare(folder)
    return offline.put(folder, Slip(sender, to), content)


async def take(here: World, folder: Path) -> local.Outcome:
    return await local.take_all(here.services, folder)


def test_what_was_left_is_taken_as_a_users_mail_is_and_names_its_author(tmp_path: Path) -> None:
    async def scene() -> None:
        async with world() as here:
            leave(tmp_path, "bob@here.example", "out@far.example")
            assert await take(here, tmp_path) == local.Outcome(taken=1)
            (mail,) = await here.mails("bob")
            assert b"Bcc:" not in mail
            assert b"\r\nFrom: <ann@far.example>\r\n" in mail
            assert b"\r\nMessage-ID: <" in mail
            assert f"(user {local.user_name(os.getuid())} of this machine)".encode() in mail
            assert await here.queued() == ["out@far.example"]
            assert list((tmp_path / FOLDER).iterdir()) == []

    run(scene())


def test_what_is_refused_is_kept_for_the_operator_and_sent_to_nobody(tmp_path: Path) -> None:
    async def scene() -> None:
        async with world() as here:
            path = leave(tmp_path, "bob@here.example", "nobody@here.example")
            assert await take(here, tmp_path) == local.Outcome(refused=1)
            assert (tmp_path / REFUSED / path.name).read_bytes().endswith(MAIL)
            assert await here.mails("bob") == []
            assert here.log.events("local_mail_refused")

    run(scene())


def test_what_cannot_be_stored_now_waits(tmp_path: Path) -> None:
    async def scene() -> None:
        async with world() as here:
            leave(tmp_path, "bob@here.example")
            here.database.problem = NoRoom("full")
            assert await take(here, tmp_path) == local.Outcome(waiting=1)
            here.database.problem = None
            assert await take(here, tmp_path) == local.Outcome(taken=1)
            assert await take(here, tmp_path) == local.Outcome()

    run(scene())


@pytest.mark.parametrize(
    "head", [b"", b"{}", b"[]", b"x" * 100, b'{"sender": "a", "recipients": []}', b'{"sender": 1}']
)
def test_a_file_without_an_envelope_is_no_mail(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(head + b"\nSubject: x\r\n\r\n")
    with pytest.raises(Unusable):
        offline.read(path, 1_000)


def test_only_a_plain_file_with_one_name_is_read(tmp_path: Path) -> None:
    path = leave(tmp_path, "bob@here.example")
    with pytest.raises(Unusable, match="larger"):
        offline.read(path, -(1 << 20))
    (tmp_path / "second").hardlink_to(path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(path)
    for other in (path, tmp_path / "second", tmp_path / "fifo", tmp_path / "link"):
        with pytest.raises(Unusable):
            offline.read(other, 1_000)


def test_a_mail_that_is_half_written_is_not_looked_at(tmp_path: Path) -> None:
    path = leave(tmp_path, "bob@here.example")
    path.rename(path.with_name(f".{path.name}"))
    assert list(offline.left(tmp_path)) == []
    assert (
        json.loads(path.with_name(f".{path.name}").read_bytes().partition(b"\n")[0])["sender"] == "ann@far.example"
    )
    assert list(offline.left(tmp_path / "nowhere")) == []


def test_the_local_socket_offers_no_tls_and_no_login_and_is_not_rated() -> None:
    async def scene() -> None:
        async with world(mails_per_minute=1) as here:
            wire = MemoryWire(here.clock, peer_ip="127.0.0.1")
            async with asyncio.TaskGroup() as group:
                group.create_task(local.serve(wire, here.services, 0))
                talk = Talk(wire, here.clock)
                await talk.hear()
                offered = await talk.send(b"EHLO me\r\n")
                assert b"STARTTLS" not in offered
                assert b"AUTH" not in offered
                for _ in range(3):
                    assert await talk.mail(MAIL, "<ann@far.example>", "out@far.example") == "250 2.0.0"
                wire.hang_up()
            assert await here.queued() == ["out@far.example"] * 3

    run(scene())


def test_the_words_behind_sendmail() -> None:
    request = read(
        [
            "-t",
            "-oi",
            "-odb",
            "-fann@x.example",
            "-q30m",
            "-N",
            "success,delay",
            "-Rhdrs",
            "-V",
            "q7",
            "--",
            "-odd@x.example",
        ]
    )
    assert (request.from_header, request.dots_end, request.sender) == (True, False, "ann@x.example")
    assert (request.notify, request.ret, request.envid) == ("SUCCESS,DELAY", "HDRS", "q7")
    assert request.recipients == ("-odd@x.example",)
    assert read(["-i", "a@b", "-r", "x@y", "-F", "Ann B", "c@d"]).recipients == ("a@b", "c@d")
    assert read(["-bs"]).mode == "s"
    for words in (["-Z"], ["-R", "some"], ["-N", "never,success"], ["-f"]):
        with pytest.raises(Unsent) as wrong:
            read(words)
        assert wrong.value.status == 64


def test_what_cannot_even_be_moved_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stay(path: Path) -> None:
        raise PermissionError(path)

    async def scene() -> None:
        async with world() as here:
            leave(tmp_path, "bob@here.example")
            (tmp_path / FOLDER / "0").mkdir()
            monkeypatch.setattr(offline, "set_aside", stay)
            assert await take(here, tmp_path) == local.Outcome(taken=1)
            (line,) = here.log.events("local_folder_has_what_is_no_mail")
            assert line["files"] == 1

    run(scene())


def test_a_refused_mail_never_takes_the_place_of_another(tmp_path: Path) -> None:
    offline.prepare(tmp_path)
    for content in (b"1", b"2"):
        (tmp_path / FOLDER / "same").write_bytes(content)
        offline.set_aside(tmp_path / FOLDER / "same")
    assert sorted(each.read_bytes() for each in (tmp_path / REFUSED).iterdir()) == [b"1", b"2"]
