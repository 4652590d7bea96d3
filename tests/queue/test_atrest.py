"""The queue at rest: what lies on the disk cannot be read, what the server and its operator see is as ever."""

import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatepost.base.address import Address
from gatepost.base.envelope import Notify, Recipient
from gatepost.blobs.bodies import Blobs
from gatepost.blobs.keys import NO_KEYS, Key, Keys
from gatepost.blobs.known import admit, known_keys
from gatepost.db.unit import Database, Statement, Step, Unit
from gatepost.queue import verbs
from gatepost.queue.atrest import SEALED, UNREADABLE, AtRest
from gatepost.queue.envelope import envelopes
from gatepost.queue.rotate import census, rotate
from gatepost.queue.sql import NEVER, STATEMENTS
from tests.queue.world import DOWN, LATER, NO, SCHEMAS, T0, Scripted, World
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run

ONE, TWO, FOREIGN = (Key(letter * 32) for letter in (b"1", b"2", b"3"))
KEYS, NEW_KEYS, ONLY_NEW = Keys((ONE,)), Keys((TWO, ONE)), Keys((TWO,))
SECRETS = (b"whistle", b"informant", b"journalist", b"leaked")
CONTENT = b"From: <whistle@here.example>\r\nSubject: leaked papers\r\n\r\nleaked text\r\n"
NOISE = random.Random(7)
LARGE = CONTENT + b"".join(b"leaked %s\r\n" % NOISE.randbytes(30).hex().encode() for _ in range(6_000))
"""More than a row holds: it is in a file."""
TABLES = ("queue_mail", "queue_rcpt", "queue_rest", "body", "rest_key")
DUMPS = tuple(Statement(f"test.dump_{name}", f"SELECT * FROM {name}") for name in TABLES)
SPOIL_RCPT = Statement(
    "test.spoil_rcpt", "UPDATE queue_rcpt SET packed = CAST(:packed AS {OCTETS}) WHERE mail = :mail"
)
SPOIL_MAIL = Statement(
    "test.spoil_mail", "UPDATE queue_mail SET packed = CAST(:packed AS {OCTETS}) WHERE id = :mail"
)
PACKED = Statement("test.packed", "SELECT m.packed, r.packed FROM queue_mail m JOIN queue_rcpt r ON r.mail = m.id")
TESTS = replace(SCHEMAS[2], stage="test", migrations=(), statements=(*DUMPS, SPOIL_RCPT, SPOIL_MAIL, PACKED))
FROM, TO = "informant@here.example", "journalist@far.example"


def at(w: World, raw: Database, folder: Path, keys: Keys, *, compress: bool = True) -> World:
    """The same queue with other keys, as a server that starts anew has it."""
    database = AtRest(raw, keys)
    blobs = Blobs(database, folder / "bodies", keys=keys, compress=compress)
    return replace(w, database=database, blobs=blobs)


@asynccontextmanager
async def world(
    open_db: OpenDatabase, folder: Path, keys: Keys, **parts: Any
) -> AsyncIterator[tuple[World, Database]]:
    """A queue with keys, and its bare database."""
    async with open_db((*SCHEMAS, TESTS)) as raw:
        await admit(raw, keys, T0)
        yield at(World(raw, Blobs(raw, folder), **parts), raw, folder, keys), raw


async def on_disk(raw: Database, folder: Path) -> bytes:
    """All that the tables and the bodies' files hold, and the files' names."""
    rows = [row for each in DUMPS for row in await raw.read(each, {})]
    cells = b"\n".join(cell if isinstance(cell, bytes) else str(cell).encode() for row in rows for cell in row)
    files = [path for path in (folder / "bodies").rglob("*") if path.is_file()]
    return cells + b"".join(path.name.encode() + path.read_bytes() for path in files)


@pytest.mark.row("MT-01", "MT-02")
@pytest.mark.parametrize("compress", [True, False])
@each_engine
def test_nothing_of_a_mail_is_readable_on_the_disk_and_it_is_sent(
    open_db: OpenDatabase, tmp_path: Path, compress: bool
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, KEYS, relay=Scripted({TO: DOWN})) as (first, raw):
            w = at(first, raw, tmp_path, KEYS, compress=compress)
            w.relay.answers = {TO: replace(DOWN, text="informant? journalist? leaked?")}
            for content in (CONTENT, LARGE):
                await w.submit(TO, sender=FROM, content=content)
            await w.work()
            assert len(await w.rows()) == 2  # deferred: their answers are kept too
            found = await on_disk(raw, tmp_path)
            assert [secret for secret in SECRETS if secret in found] == []
            shown = await verbs.list_queue(w.database)
            assert {(each.sender, each.recipient) for each in shown} == {(FROM, TO)}
            assert all("informant? journalist?" in each.last_error for each in shown)
            chosen = await verbs.list_chosen(w.database, verbs.Choice(sender=FROM))
            assert len(chosen) == 2
            w.relay.answers = {}
            w.clock.pass_by(3600)
            await w.work()
            assert w.relay.delivered == [TO, TO]
            assert sorted(w.relay.contents, key=len) == [CONTENT, LARGE]
            assert await w.counts() == (0, 0, 0)

    run(play())


@pytest.mark.row("MT-01")
@pytest.mark.parametrize(("compress", "readable"), [(True, False), (False, True)])
def test_compression_can_be_switched_off_and_both_are_read(tmp_path: Path, compress: bool, readable: bool) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, NO_KEYS) as (first, raw):
            content = b"Subject: peas\r\n\r\n" + b"peas and more peas\r\n" * 20_000
            for one in (content, content[:3000]):
                w = at(first, raw, tmp_path, NO_KEYS, compress=compress)
                await w.submit(TO, content=one)
            found = await on_disk(raw, tmp_path)
            assert (b"more peas\r\npeas and more peas\r\npeas and" in found) is readable
            assert (len(found) > len(content)) is readable
            other = at(w, raw, tmp_path, NO_KEYS, compress=not compress)
            await other.work()
            assert sorted(map(len, other.relay.contents)) == [3000, len(content)]

    run(play())


@pytest.mark.row("MT-02")
@each_engine
def test_what_was_there_before_the_key_is_read_and_rotation_encrypts_it(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, NO_KEYS) as (w, raw):
            for content in (CONTENT, LARGE):
                await w.submit(TO, sender=FROM, content=content)
            assert b"informant" in await on_disk(raw, tmp_path)
            w = at(w, raw, tmp_path, KEYS)
            told: list[int] = []
            done = await rotate(raw, w.blobs, KEYS, T0, told.append)
            assert (done.envelopes, done.bodies, done.unreadable) == (4, 2, [])
            assert sum(told) == 6
            found = await on_disk(raw, tmp_path)
            assert [secret for secret in SECRETS if secret in found] == []
            again = await rotate(raw, w.blobs, KEYS, T0, told.append)
            assert (again.envelopes, again.bodies) == (0, 0)
            await w.work()
            assert sorted(w.relay.contents, key=len) == [CONTENT, LARGE]

    run(play())


@pytest.mark.row("MT-02")
@each_engine
def test_a_new_key_takes_over_and_the_old_one_is_struck_out(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, KEYS, relay=Scripted({TO: LATER})) as (w, raw):
            await w.submit(TO, sender=FROM, content=LARGE)
            await w.work()
            w = at(w, raw, tmp_path, NEW_KEYS)
            await admit(raw, NEW_KEYS, T0)
            await w.submit(TO, sender=FROM, content=CONTENT)  # under the new one, beside the old ones
            found = await census(raw, NEW_KEYS)
            assert (found.under(ONE.name), found.under(TWO.name), found.unreadable) == (3, 3, ())
            done = await rotate(raw, w.blobs, NEW_KEYS, T0, lambda _: None)
            assert (done.envelopes, done.bodies, done.struck_out) == (2, 1, [ONE.name])
            assert list(await known_keys(raw)) == [TWO.name]
            assert (
                len([path for path in (tmp_path / "bodies").rglob("*") if path.is_file()]) == 1
            )  # the old one went
            w = at(w, raw, tmp_path, ONLY_NEW)
            await admit(raw, ONLY_NEW, T0)
            assert {each.sender for each in await verbs.list_queue(w.database)} == {FROM}
            w.relay.answers = {}
            w.clock.pass_by(3600)
            await w.work()
            assert sorted(w.relay.contents, key=len) == [CONTENT, LARGE]
            await rotate(raw, w.blobs, ONLY_NEW.under(""), T0, lambda _: None)
            assert await known_keys(raw) == {}

    run(play())


def test_everything_can_be_decrypted_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, KEYS) as (w, raw):
            for content in (CONTENT, LARGE):
                await w.submit(TO, sender=FROM, content=content)
            clear = KEYS.under("")
            done = await rotate(raw, Blobs(raw, tmp_path / "bodies", keys=clear), clear, T0, lambda _: None)
            assert (done.envelopes, done.bodies, done.struck_out) == (4, 2, [ONE.name])
            w = at(w, raw, tmp_path, NO_KEYS)
            await admit(raw, NO_KEYS, T0)
            await w.work()
            assert sorted(w.relay.contents, key=len) == [CONTENT, LARGE]

    run(play())


@pytest.mark.row("MT-02")
@pytest.mark.parametrize("spoil", [SPOIL_RCPT, SPOIL_MAIL])
@pytest.mark.parametrize("what", ["flipped", "cut", "foreign"])
def test_an_envelope_that_does_not_open_is_held_and_others_are_sent(
    tmp_path: Path, spoil: Statement, what: str
) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, KEYS) as (w, raw):
            bad = await w.submit(TO, sender=FROM)
            ((mail, recipient),) = await raw.read(PACKED, {})
            packed = recipient if spoil is SPOIL_RCPT else mail
            assert isinstance(packed, bytes)
            flipped = packed[:-1] + bytes([packed[-1] ^ 1])
            spoilt = {"flipped": flipped, "cut": packed[:-5], "foreign": FOREIGN.seal(ONE.open(packed))}[what]
            await raw.commit(Unit((Step(spoil, {"mail": bad, "packed": spoilt}),)))
            await w.submit("other@far.example")
            await w.work(until=lambda: bool(w.relay.delivered))
            assert w.relay.delivered == ["other@far.example"]
            ((mail_id, _, owner, due, _, _),) = [row for row in await w.rows() if row[0] == bad]
            assert (mail_id, owner, due) == (bad, 0, NEVER)
            (shown,) = await verbs.show(w.database, bad)
            assert shown.held
            assert "cannot be read" in shown.last_error
            assert "unreadable_held" in w.log.words()
            assert await w.blobs.get(shown.body)  # nothing of it is lost
            found = await census(raw, KEYS)
            assert len(found.unreadable) == 1
            assert "cannot be read" in str(await envelopes(w.database, bad, w.settings))
            done = await rotate(raw, at(w, raw, tmp_path, NEW_KEYS).blobs, NEW_KEYS, T0, lambda _: None)
            assert done.unreadable == list(found.unreadable)
            assert done.struck_out == []  # the key may be needed yet
            await raw.commit(Unit((Step(spoil, {"mail": bad, "packed": packed}),)))
            w = at(w, raw, tmp_path, NEW_KEYS)
            assert await verbs.release(w.database, bad, w.clock.now()) == 1  # mended by the operator
            await w.work()
            assert TO in w.relay.delivered

    run(play())


@pytest.mark.row("MT-02")
def test_a_text_that_does_not_open_is_held_for_as_long_as_it_takes(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, KEYS) as (w, _):
            await w.submit(TO, sender=FROM, content=LARGE)
            (path,) = [path for path in (tmp_path / "bodies").rglob("*") if path.is_file()]
            octets = path.read_bytes()
            path.write_bytes(octets[:-1] + bytes([octets[-1] ^ 1]))
            await w.work()
            (shown,) = await verbs.list_queue(w.database)
            assert shown.last_error.startswith("451 4.3.0 the stored text cannot be read")
            assert shown.held
            w.clock.pass_by(30 * 86_400)
            await w.work(until=lambda: True)
            path.write_bytes(octets)
            assert await verbs.release(w.database, shown.mail, w.clock.now()) == 1
            await w.work()
            assert w.relay.contents == [LARGE]

    run(play())


def test_a_bounce_is_encrypted_as_all_mail_is(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, KEYS, relay=Scripted({TO: NO})) as (w, raw):
            await w.submit(TO, sender="informant@elsewhere.example", content=CONTENT)
            await w.work(until=lambda: TO in w.relay.tried)
            found = await on_disk(raw, tmp_path)
            assert [secret for secret in SECRETS if secret in found] == []

    run(play())


@pytest.mark.row("MT-04")
@each_engine
def test_an_envelope_is_printed_decrypted_in_lines(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, KEYS, relay=Scripted({TO: LATER})) as (w, _):
            recipient = Recipient(
                Address("journalist", "far.example"), frozenset((Notify.FAILURE, Notify.DELAY)), ""
            )
            number = await w.submit(sender=FROM, recipients=[recipient], envid="E1", ret="HDRS", eight_bit=True)
            await w.work()
            (lines,) = await envelopes(w.database, number, w.settings)
            found = dict(lines)
            asked = ("type", "sender", "rcpt", "dsn-notify", "dsn-ret", "dsn-envid", "body", "relay", "retry")
            assert [found[name] for name in asked] == [
                "mta", FROM, TO, "FAILURE,DELAY", "HDRS", "E1", "8bitmime", "far.example", "1",
            ]  # fmt: skip
            assert found["errorline"] == "450 4.2.1 busy"
            assert int(found["ctime"]) == T0 // 1_000_000
            assert int(found["expire"]) - int(found["ctime"]) == 4 * 86_400
            with pytest.raises(verbs.NotThere):
                await envelopes(w.database, w.minter.mint(T0), w.settings)

    run(play())


def test_without_the_key_people_are_told_so(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, KEYS) as (w, raw):
            await w.submit(TO, sender=FROM)
            (shown,) = await verbs.list_queue(AtRest(raw, NO_KEYS))
            assert (shown.sender, shown.recipient, shown.destination) == (UNREADABLE, UNREADABLE, "far.example")

    run(play())


def test_every_statement_that_writes_a_secret_takes_it_from_a_parameter_that_is_sealed() -> None:
    columns = ("sender", "recipient", "last_error", "answer", "packed")
    for statement in STATEMENTS:
        written: list[tuple[str, str]] = []
        if insert := re.match(r"INSERT INTO \w+ \((.*?)\) VALUES \((.*)\)( ON|$)", statement.sql):
            values = re.sub(r"CAST\((:\w+) AS \{OCTETS\}\)", r"\1", insert[2])
            written = list(zip(insert[1].split(", "), values.split(", "), strict=True))
        elif update := re.match(r"UPDATE \w+ SET (.*?) WHERE", statement.sql):
            sets = re.sub(r"CAST\((:\w+) AS \{OCTETS\}\)", r"\1", update[1])
            written = re.findall(r"(\w+) = (:\w+|'.*?'|[\w.]+)", sets)
        for column, value in written:
            if column in columns:
                assert value == "''" or value.removeprefix(":") in SEALED, (statement.name, column, value)
