"""The list of recipients: from the accounts of a primary to the answer of a backup at RCPT."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gatepost.accounts import verbs
from gatepost.aio.fetch import Fetched, FetchFailed, Unchanged
from gatepost.backupmx import pull as pulling
from gatepost.backupmx.callahead import CallAhead
from gatepost.backupmx.joined import Backup, write_backup
from gatepost.backupmx.kept import Kept, list_file, read_list, read_notes
from gatepost.backupmx.known import KnownRecipients
from gatepost.backupmx.publish import Publisher, accounts_decide
from gatepost.backupmx.pull import Puller
from gatepost.backupmx.settings import BackupSettings, Recipients
from gatepost.base.address import Address
from gatepost.base.clock import HOUR, Instant
from gatepost.base.envelope import Client
from gatepost.base.reply import Refusal
from gatepost.base.settings import fill
from gatepost.codec.recipients import BadList, Keys, Known, RecipientList, pack, read, write
from gatepost.policy.action import Route, ToRelay
from gatepost.policy.settings import PolicySettings
from gatepost.web.page import Asked
from tests.accounts.world import CHEAP, World, world
from tests.queue.world import Clock
from tests.relay.world import Journal
from tests.support.databases import open_sqlite
from tests.support.loop import run

KEY = bytes(range(32))
KEYS = Keys.derive(KEY)
SETTINGS = BackupSettings(primary="https://mx1.example", key_file="key")
STRANGER = Client(ip="192.0.2.9", port=1, local_ip="192.0.2.1", local_port=25, listener="mx")


def a(text: str) -> Address:
    return verbs.parse_address(text)


def listed(*names: str, serial: int = 1, complete: bool = True, catch_alls: tuple[str, ...] = ()) -> RecipientList:
    digests = pack(KEYS.digest(name) for name in names)
    domains = frozenset({"here.example", *catch_alls})
    return RecipientList(serial, "mx1.example", complete, "+", 1 << 20, domains, frozenset(catch_alls), digests)


# What a list says


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("bob@here.example", Known.YES),
        ("BOB@Here.Example", Known.YES),
        ("bob+lists@here.example", Known.YES),
        ("bob-lists@here.example", Known.NO),
        ("+bob@here.example", Known.NO),
        ("bobb@here.example", Known.NO),
        ("whoever@all.example", Known.YES),
        ("bob@elsewhere.example", Known.OPEN),
    ],
)
def test_a_list_knows_addresses_details_and_catch_alls(address: str, known: Known) -> None:
    found = listed("bob@here.example", "alice@here.example", catch_alls=("all.example",))
    assert found.knows(a(address), KEYS) is known


def test_whom_a_list_that_is_not_complete_does_not_have_may_exist() -> None:
    found = listed("bob@here.example", complete=False)
    assert found.knows(a("carol@here.example"), KEYS) is Known.OPEN


def test_a_list_is_read_as_it_was_written_and_shows_no_address() -> None:
    whole = listed(*(f"user{n}@here.example" for n in range(100)), catch_alls=("all.example",))
    octets = write(whole, KEYS)
    assert read(octets, KEYS) == whole
    assert b"user" not in octets


def test_a_list_of_another_key_or_with_an_octet_changed_is_refused() -> None:
    octets = write(listed("bob@here.example"), KEYS)
    with pytest.raises(BadList, match="signature"):
        read(octets, Keys.derive(b"another key of 32 octets, at least"))
    for at in range(0, len(octets), 7):
        with pytest.raises(BadList):
            read(octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :], KEYS)
    with pytest.raises(BadList):
        read(octets[:-1], KEYS)


# From the primary to the disk of the backup


@dataclass
class Line:
    """The web between the two: the primary's page, or what a test puts there instead."""

    publisher: Publisher
    clock: Clock
    cut: bool = False
    instead: bytes = b""
    asked: list[str] = field(default_factory=list)

    async def fetch(self, url: str, *, etag: str = "", **_: object) -> Fetched | Unchanged:
        if self.cut:
            raise FetchFailed(f"{url}: nobody there")
        self.asked.append(url)
        if self.instead:
            return Fetched(self.instead)
        headers = {"if-none-match": etag} if etag else {}
        answer = await self.publisher.page(Asked("GET", "mx1", pulling.PATH, urlsplit(url).query, headers))
        if answer.status == 304:
            return Unchanged()
        if answer.status != 200:
            raise FetchFailed(f"{answer.status} {answer.body!r}")
        return Fetched(answer.body, dict(answer.headers)["ETag"])


@dataclass
class Pair:
    """A primary with accounts, and a backup that pulls."""

    primary: World
    line: Line
    puller: Puller
    kept: Kept
    folder: Path
    clock: Clock
    log: Journal
    returns: list[int]


@asynccontextmanager
async def pair(
    folder: Path, patch: pytest.MonkeyPatch, policy: PolicySettings | None = None
) -> AsyncIterator[Pair]:
    async with world(open_sqlite, domains=("here.example",)) as primary:
        await primary.add("bob@here.example")
        clock, log = Clock(), Journal()
        write_backup(folder / "backups", Backup("mx2.example", KEY))
        rules = policy or PolicySettings()
        publisher = Publisher(
            primary.database,
            primary.directory,
            folder / "backups",
            server="mx1.example",
            separator=CHEAP.detail_separator,
            size=lambda: 50 << 20,
            complete=lambda: accounts_decide(rules),
            clock=clock,
            log=log,
        )
        line = Line(publisher, clock)
        patch.setattr(pulling, "fetch", line.fetch)
        kept, returns = folder / "kept", list[int]()

        async def returned() -> None:
            returns.append(1)

        puller = Puller(SETTINGS, "mx2.example", kept, KEYS, clock=clock, log=log, returned=returned, size=1 << 20)
        yield Pair(primary, line, puller, Kept(kept, KEYS, clock=clock, log=log), kept, clock, log, returns)


def test_a_backup_learns_accounts_aliases_catch_alls_and_roles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with pair(tmp_path, monkeypatch) as here:
            database, now = here.primary.database, here.clock.now()
            await verbs.add_domain(database, "all.example", now)
            await verbs.add_alias(database, "sales@here.example", ("bob@here.example",), now)
            await verbs.add_alias(database, "@all.example", ("bob@here.example",), now)
            pulled = await here.puller.pull()
            assert pulled.changed
            assert not pulled.problem
            found, notes = await here.kept.current()
            assert found is not None
            assert notes.confirmed == here.clock.now()
            yes = ("bob@here.example", "sales+x@here.example", "x@all.example", "postmaster@here.example")
            assert {found.knows(a(each), KEYS) for each in yes} == {Known.YES}
            assert found.knows(a("nobody@here.example"), KEYS) is Known.NO
            assert "size_below_primary" in here.log.words()
            on_disk = b"".join(each.read_bytes() for each in here.folder.iterdir())
            assert b"bob" not in on_disk
            assert b"sales" not in on_disk

    run(story())


def test_what_did_not_change_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with pair(tmp_path, monkeypatch) as here:
            await here.puller.pull()
            serial = read_list(here.folder, KEYS).serial  # type: ignore[union-attr]
            here.clock.pass_by(300)
            again = await here.puller.pull()
            assert again.reached
            assert not again.changed
            assert not again.problem
            assert read_notes(here.folder).confirmed == here.clock.now()
            assert read_list(here.folder, KEYS).serial == serial  # type: ignore[union-attr]
            await verbs.add_alias(
                here.primary.database, "new@here.example", ("bob@here.example",), here.clock.now()
            )
            assert (await here.puller.pull()).changed
            here.clock.pass_by(2)
            found, _ = await here.kept.current()
            assert found is not None
            assert found.knows(a("new@here.example"), KEYS) is Known.YES

    run(story())


def test_a_stranger_or_an_old_question_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with pair(tmp_path, monkeypatch) as here:
            await here.puller.pull()
            [url] = here.line.asked
            queries = ["", "backup=mx2.example", "backup=../../etc/passwd&time=1&proof=x", urlsplit(url).query[:-2]]
            for query in queries:
                answer = await here.line.publisher.page(Asked("GET", "mx1", pulling.PATH, query))
                assert answer.status == 403
            assert (
                await here.line.publisher.page(Asked("GET", "", pulling.PATH, urlsplit(url).query))
            ).status == 200
            here.clock.pass_by(301)
            assert (
                await here.line.publisher.page(Asked("GET", "", pulling.PATH, urlsplit(url).query))
            ).status == 403

    run(story())


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (write(listed(*(f"u{n}@here.example" for n in range(40)), serial=5), KEYS), "a replay"),
        (write(listed("u1@here.example", serial=1 << 62), KEYS), "from 43 addresses to 1"),
        (write(listed(serial=1 << 62), KEYS), "from 43 addresses to 0"),
        (b"<html>It works!</html>", "no list"),
        (write(listed("u1@here.example"), Keys.derive(b"0" * 32)), "signature"),
    ],
    ids=["replay", "shrunk", "empty", "no list", "forged"],
)
def test_a_list_that_cannot_be_right_is_refused_and_the_one_before_goes_on(
    sent: bytes, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with pair(tmp_path, monkeypatch) as here:
            for n in range(40):
                await verbs.add_alias(
                    here.primary.database, f"u{n}@here.example", ("bob@here.example",), here.clock.now()
                )
            await here.puller.pull()
            before = list_file(here.folder).read_bytes()
            here.line.instead = sent
            pulled = await here.puller.pull()
            assert complaint in pulled.problem
            assert complaint in read_notes(here.folder).problem
            assert "recipients_refused" in here.log.words()
            assert list_file(here.folder).read_bytes() == before
            here.line.instead = b""
            assert not (await here.puller.pull()).problem

    run(story())


def test_an_operator_can_force_a_list_that_shrank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with pair(tmp_path, monkeypatch) as here:
            await here.puller.pull()
            here.line.instead = write(listed(), KEYS)
            assert (await here.puller.pull()).problem
            assert (await here.puller.pull(force=True)).changed
            found = read_list(here.folder, KEYS)
            assert found is not None
            assert found.addresses == 0

    run(story())


def test_a_primary_that_is_away_leaves_the_list_and_its_return_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with pair(tmp_path, monkeypatch) as here:
            for cut in (False, False, True, True, False, False):
                here.line.cut = cut
                await here.puller._notice(await here.puller.pull())
                here.clock.pass_by(30)
            assert here.returns == [1, 1]  # at the start, and after the silence
            found, _ = await here.kept.current()
            assert found is not None
            assert found.knows(a("bob@here.example"), KEYS) is Known.YES

    run(story())


def test_a_list_that_somebody_changed_on_the_disk_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with pair(tmp_path, monkeypatch) as here:
            await here.puller.pull()
            list_file(here.folder).write_bytes(list_file(here.folder).read_bytes().replace(b"here", b"hers"))
            assert (await here.kept.current())[0] is None
            assert "recipients_unreadable" in here.log.words()
            assert (await here.puller.pull()).changed
            here.clock.pass_by(2)
            assert (await here.kept.current())[0] is not None

    run(story())


@pytest.mark.parametrize(
    ("policy", "decide"),
    [
        ({}, True),
        ({"rules": [{"match": {"from": "local", "for": "any"}, "action": "relay"}]}, True),
        ({"rules": [{"match": {"from": "any", "auth": True, "for": "any"}, "action": "relay"}]}, True),
        ({"rules": [{"match": {"from": "any", "for": "own"}, "action": "relay"}]}, False),
        (
            {
                "tables": {"v": {"entries": {"x@here.example": "bob"}}},
                "actions": {"in": {"do": "deliver", "virtual": "v"}},
                "rules": [{"match": {"from": "any", "for": "own"}, "action": "in"}],
            },
            False,
        ),
    ],
)
def test_accounts_decide_unless_tables_or_other_servers_know_users_too(
    policy: dict[str, object], decide: bool
) -> None:
    assert accounts_decide(fill(PolicySettings, policy)) is decide


# What the backup answers


class Oracle(CallAhead):
    """A primary that answers as the test says."""

    def __init__(self, says: Known) -> None:
        self.says = says
        self.heard: list[str] = []

    async def ask(self, address: Address, route: Route) -> Known:
        self.heard.append(str(address))
        return self.says


YES, NO, OPEN = Known.YES, Known.NO, Known.OPEN
LIST, CALL, ALL = Recipients.LIST, Recipients.CALL_AHEAD, Recipients.ACCEPT_ALL


@pytest.mark.row("OUT-04")
@pytest.mark.parametrize(
    ("way", "address", "age", "primary", "taken", "asked"),
    [
        (LIST, "bob@here.example", 0, NO, True, False),
        (LIST, "nobody@here.example", 0, YES, False, False),
        (LIST, "x@elsewhere.example", 0, YES, True, True),
        (LIST, "x@elsewhere.example", 0, NO, False, True),
        (LIST, "x@elsewhere.example", 0, OPEN, True, True),
        (LIST, "nobody@here.example", 25 * HOUR, YES, True, True),
        (LIST, "nobody@here.example", 25 * HOUR, NO, False, True),
        (LIST, "nobody@here.example", 25 * HOUR, OPEN, False, True),
        (CALL, "bob@here.example", 0, NO, False, True),
        (CALL, "nobody@here.example", 0, OPEN, True, True),
        (ALL, "nobody@here.example", 0, NO, True, False),
    ],
)
def test_the_list_decides_then_the_primary_and_what_nobody_knows_is_taken(
    way: Recipients, address: str, age: int, primary: Known, taken: bool, asked: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def story() -> None:
        async with pair(tmp_path, monkeypatch) as here:
            await here.puller.pull()
            here.clock.at = Instant(here.clock.at + age)
            ahead = Oracle(primary)
            settings = replace(SETTINGS, recipients=way)
            known = KnownRecipients(settings, here.kept, ahead, clock=here.clock)
            if taken:
                await known.check(STRANGER, [ToRelay(a(address), Route())])
            else:
                with pytest.raises(Refusal, match="primary"):
                    await known.check(STRANGER, [ToRelay(a(address), Route())])
            assert bool(ahead.heard) is asked

    run(story())


def test_users_of_the_backup_itself_write_to_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with pair(tmp_path, monkeypatch) as here:
            known = KnownRecipients(SETTINGS, here.kept, Oracle(NO), clock=here.clock)
            for client in (replace(STRANGER, ip="127.0.0.1"), replace(STRANGER, user="root@here.example")):
                await known.check(client, [ToRelay(a("x@y.example"), Route())])

    run(story())
