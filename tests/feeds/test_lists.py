"""spamd-setup's duty: spamd.conf, lists from everywhere, the gate's tables, exports, the channel."""

import asyncio
import gzip
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gatepost.aio.clock import SystemClock
from gatepost.aio.fetch import Fetched, FetchFailed, Unchanged, fetch
from gatepost.aio.tls import Pair, client_context, self_signed, write_pair
from gatepost.base.settings import BadSetting, fill
from gatepost.base.units import Octets, Seconds
from gatepost.cli.commands import app
from gatepost.codec.spamd.dialogue import Dialogue
from gatepost.config import parse as parse_config
from gatepost.feeds.channel import Channel, listen
from gatepost.feeds.lists import spamdconf
from gatepost.feeds.lists.feed import SOURCE, ListFeed, ListStatus, door_path, known, tell_server
from gatepost.feeds.lists.settings import ListKind, ListSettings, ListsSettings, Method, groups, idle
from gatepost.feeds.lists.source import Shelf, Sources, Unusable, lines, run_program
from gatepost.feeds.lists.spamdconf import SpamdConfError
from gatepost.feeds.lists.stored import StoredTables
from gatepost.gate.gate import Gate
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import parse_prefix
from gatepost.gate.settings import GateSettings
from gatepost.gate.verbs import add_entries
from tests.codec.spamd.conversation import converse
from tests.gate.world import Journal, World, world
from tests.support.loop import run
from tests.support.wire import MovedClock

WAIT_S = 10.0
ARTICLE = r"""# $OpenBSD: spamd.conf,v 1.4 2012/05/14 16:58:46 beck Exp $
#
# Strings follow getcap(3) convention escapes, other than you
# can have a bare colon (:) inside a quoted string and it
# will deal with it. See spamd-setup(8) for more details.
#
 
all:\
    :bgp-spamd:spamd_whitelist:spamd_blacklist:
 
bgp-spamd:\
     :black:\
     :msg="Your address %A has sent mail to a spamtrap\n\
      within the last 24 hours":\
     :method=file:\
     :file=/etc/mail/bgp-blacklist.txt:
 
spamd_whitelist:\
    :white:\
    :method=file:\
    :file=/etc/mail/spamd-whitelist.txt:
 
spamd_blacklist:\
    :black:\
    :msg="Your address %A is in the manual blacklist.\n\
    Unless you know the user personally and know how to contact him\n\
    via other means, you're out of luck":\
    :method=file:\
    :file=/etc/mail/spamd-blacklist.txt:
"""  # noqa: W293  (as it is)
TRAP = "Your address %A has sent mail to a spamtrap\nwithin the last 24 hours"
MANUAL = (
    "Your address %A is in the manual blacklist.\nUnless you know the user personally and know how to contact him\n"
    "via other means, you're out of luck"
)
CONF = Path("spamd.conf")


def black(name: str, source: object, method: Method = Method.FILE, message: str = "no %A") -> ListSettings:
    return ListSettings(name, ListKind.BLACK, str(source), method, message)


def white(name: str, source: object) -> ListSettings:
    return ListSettings(name, ListKind.WHITE, str(source))


# --- spamd.conf -----------------------------------------------------------------------------------------------


@pytest.mark.row("LS-01", "LS-02", "LS-03", "LS-04")
def test_the_articles_spamd_conf_is_read_as_it_stands() -> None:
    found = spamdconf.parse(ARTICLE, CONF)
    assert found == (
        black("bgp-spamd", "/etc/mail/bgp-blacklist.txt", message=TRAP),
        white("spamd_whitelist", "/etc/mail/spamd-whitelist.txt"),
        black("spamd_blacklist", "/etc/mail/spamd-blacklist.txt", message=MANUAL),
    )


def test_openbsds_own_lists_are_read() -> None:
    text = (
        "all:\\\n\t:nixspam:bgp-spamd:\n"
        'nixspam:\\\n\t:black:\\\n\t:msg="Your address %A is in the nixspam list\\n\\\n'
        '\tSee http://www.heise.de/ix/nixspam/dnsbl_en/ for details":\\\n'
        "\t:method=http:\\\n\t:file=www.openbsd.org/spamd/nixspam.gz\n"
        "bgp-spamd:black:msg=/etc/mail/why.txt:method=exec:file=/bin/cat /etc/mail/list\n"
    )
    nixspam, bgp = spamdconf.parse(text, CONF)
    assert (nixspam.method, nixspam.url) == (Method.HTTP, "http://www.openbsd.org/spamd/nixspam.gz")
    assert nixspam.message.endswith("list\nSee http://www.heise.de/ix/nixspam/dnsbl_en/ for details")
    assert (bgp.message, bgp.message_file, bgp.method) == ("", "/etc/mail/why.txt", Method.EXEC)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (r'"a:b"', "a:b"),
        (r'"a\"b:c"', 'a"b:c'),
        (r'"a\\b"', "a\\b"),
        (r'"a\tb\cc\072"', "a\tb:c:"),
        (r'"\101^A"', "A\x01"),
    ],
)
def test_getcaps_escapes(value: str, message: str) -> None:
    assert spamdconf.parse(f"all:x:\nx:black:msg={value}:file=/x:\n", CONF)[0].message == message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x:black:\n", 'spamd.conf: Can\'t find "all" in spamd config'),
        ("all:x:\n", 'spamd.conf:1: Can\'t find "x" in spamd config'),
        ("# c\nall:x:\n\nx:file=/x:\n", 'spamd.conf:4: Must have "black" or "white" in x'),
        ("all:x:\nx:black:file=/x:\n", 'spamd.conf:2: No msg for blacklist "x"'),
        ('all:x:\nx:black:msg="m":\n', "spamd.conf:2: No file given for blacklist x"),
        ("all:x:\nx:white:\n", "spamd.conf:2: No file given for whitelist x"),
        ("all:x:\nx:white:\\\n:method=gopher:\\\n:file=/x:\n", "spamd.conf:3: Unknown method gopher"),
        ("all:x:\nx:white:\\\n:method=ftp:file=/x:\n", "spamd.conf:3: method ftp is not supported: use https"),
        ('all:x:\nx:black:msg="m:file=/x:\n', "spamd.conf:2: a quote is opened that is not closed"),
        ("all:x:\nx:white:\n  :file=/x:\n", "spamd.conf:3: this line belongs to none"),
        (
            'all:nospamd:\nnospamd:black:msg="m":file=/x:\n',
            "spamd.conf:2: 'nospamd' is one of the gate's own tables",
        ),
    ],
)
def test_mistakes_name_file_line_and_remedy(text: str, told: str) -> None:
    with pytest.raises(SpamdConfError) as wrong:
        spamdconf.parse(text, CONF)
    assert str(wrong.value).startswith(told)


@pytest.mark.row("LS-01")
def test_white_lists_belong_to_the_black_one_before_them_only() -> None:
    a, b, x, y, z = black("a", "/a"), black("b", "/b"), white("x", "/x"), white("y", "/y"), white("z", "/z")
    found = list(groups((z, a, x, y, b, x)))
    assert [(each.black, each.whites) for each in found] == [(a, (x, y)), (b, (x,))]
    assert idle((z, a, x)) == ("z",)


def test_an_import_is_the_same_lists_in_toml() -> None:
    found = spamdconf.parse(ARTICLE, CONF)
    config = parse_config(spamdconf.as_toml(found), Path("gatepost.toml"))
    assert config.feeds.lists.list == found
    odd = black("x", "/x\x7f", message='a"\\\n😀\x01')
    again = fill(ListSettings, tomllib.loads(spamdconf.as_toml([odd]))["feeds"]["lists"]["list"][0])
    assert again == odd


@pytest.mark.parametrize(
    "given_",
    [
        {"channel": "192.0.2.1:8026"},
        {"channel": "127.0.0.1:99999"},
        {"refresh": 1},
        {"shrink_max": 101},
        {"list": [{"name": "a b", "kind": "black", "source": "/x", "message": "m"}]},
        {"list": [{"name": "x", "kind": "black", "source": "/x"}]},
        {"list": [{"name": "x", "kind": "white", "source": "/x", "method": "ftp"}]},
        {"list": [{"name": "x", "kind": "white", "source": each} for each in ("/x", "/y")]},
        {"list": [{"name": "spamd-white", "kind": "black", "source": "/x", "message": "m"}]},
    ],
)
def test_settings_that_cannot_be_are_refused(given_: Mapping[str, object]) -> None:
    with pytest.raises(BadSetting):
        fill(ListsSettings, given_)


PIECES = st.sampled_from(
    (
        *("all", "x", ":", "\\\n", "\n", '"', "\\", "=", "^", "black", "white", "msg=", "file=", "method=", "http"),
        *("#", " ", "\t", "|", "all:x:\n", "x:white:file=/x:\n", "\\0", "\r"),
    )
)
CONFS = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=30).map("".join))


@given(CONFS)
def test_any_text_is_lists_or_a_mistake_in_words(text: str) -> None:
    with suppress(SpamdConfError):
        spamdconf.parse(text, CONF)


@pytest.mark.deep
@given(CONFS)
@settings(max_examples=5_000, deadline=None)
def test_many_texts_are_lists_or_mistakes_in_words(text: str) -> None:
    with suppress(SpamdConfError):
        spamdconf.parse(text, CONF)


# --- the feed -------------------------------------------------------------------------------------------------


class Here:
    """A gate with a list feed beside it."""

    def __init__(self, ground: World, folder: Path, settings: ListsSettings) -> None:
        self.ground = ground
        self.gate: Gate = ground.gate
        self.log = Journal()
        self.folder = folder
        self.stored = StoredTables(ground.database, GateSettings(), MovedClock())
        self.feed = self.with_settings(settings)

    def with_settings(self, settings: ListsSettings) -> ListFeed:
        self.feed = ListFeed(settings, self.folder, self.gate, self.stored, clock=MovedClock(), log=self.log)
        return self.feed

    async def update(self, *, force: bool = False) -> dict[str, ListStatus]:
        return {each.name: each for each in await self.feed.update(force=force)}

    async def tables(self) -> dict[str, int]:
        return {part.table: part.count for part in await self.gate.published() if part.source == SOURCE}

    def holds(self, table: str, ip: str) -> bool:
        return self.gate.holds(table, 4, parse_prefix(ip).number)

    def told(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.log.lines if name == event]


@asynccontextmanager
async def here(folder: Path, settings: ListsSettings) -> AsyncIterator[Here]:
    async with world() as ground:
        yield Here(ground, folder, settings)


def write(path: Path, *texts: str) -> Path:
    path.write_text("".join(f"{each}\n" for each in texts))
    return path


@pytest.mark.row("LS-01", "LS-02", "LS-03", "LS-04", "GR-05")
def test_the_articles_lists_and_what_their_members_hear(tmp_path: Path) -> None:
    write(tmp_path / "bgp-blacklist.txt", "192.0.2.1", "192.0.2.2", "192.0.2.3")
    write(tmp_path / "spamd-whitelist.txt", "# friends", "192.0.2.2/31")
    write(tmp_path / "spamd-blacklist.txt", "192.0.2.1", "192.0.2.3")
    conf = tmp_path / "spamd.conf"
    conf.write_text(ARTICLE.replace("/etc/mail", str(tmp_path)))

    async def scene() -> None:
        async with here(tmp_path, ListsSettings(conf=str(conf))) as the:
            await the.update()
            held = {
                ip: [name for name in the.gate.lists if the.holds(name, ip)] for ip in ("192.0.2.1", "192.0.2.3")
            }
            assert held == {"192.0.2.1": ["bgp-spamd", "spamd_blacklist"], "192.0.2.3": ["spamd_blacklist"]}
            assert not the.holds("bgp-spamd", "192.0.2.2")
            messages = {part.table: part.message or "" for part in await the.gate.published()}
            both = [messages[name] for name in held["192.0.2.1"]]
            dialogue = Dialogue("mx.example.org", ip="192.0.2.1", messages=both, black=True)
            assert converse(dialogue, [b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", b"\r\n.\r\n"])[
                -6:
            ] == [
                "s: 450-Your address 192.0.2.1 has sent mail to a spamtrap",
                "s: 450-within the last 24 hours",
                "s: 450-Your address 192.0.2.1 is in the manual blacklist.",
                "s: 450-Unless you know the user personally and know how to contact him",
                "s: 450 via other means, you're out of luck",
                "end",
            ]

    run(scene())


def test_lists_keep_the_order_of_all_when_that_changes(tmp_path: Path) -> None:
    file = write(tmp_path / "list", "192.0.2.1")
    a, b, c = (black(name, file) for name in "abc")

    async def scene() -> None:
        async with here(tmp_path, ListsSettings(list=(a, b))) as the:
            await the.update()
            the.with_settings(ListsSettings(list=(c, b, a)))
            await the.update()
            assert list(the.gate.lists) == ["c", "b", "a"]
            assert all(the.holds(name, "192.0.2.1") for name in "abc")

    run(scene())


def test_lists_that_became_empty_or_are_named_no_more_are_cleared(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", "192.0.2.1"), write(tmp_path / "two", "192.0.2.2")

    async def scene() -> None:
        async with here(tmp_path, ListsSettings(list=(black("one", one), black("two", two)))) as the:
            await the.update()
            assert await the.tables() == {"one": 1, "two": 1}
            write(one)
            the.with_settings(ListsSettings(list=(black("one", one),)))
            await the.update()
            assert await the.tables() == {}
            assert not the.holds("one", "192.0.2.1")
            assert not the.holds("two", "192.0.2.2")

    run(scene())


def test_a_list_that_cannot_be_read_leaves_all_as_it_is(tmp_path: Path) -> None:
    file, friends = write(tmp_path / "list", "192.0.2.1", "192.0.2.2"), write(tmp_path / "friends", "192.0.2.2")
    both = ListsSettings(list=(black("list", file), white("friends", friends)))

    async def scene() -> None:
        async with here(tmp_path, both) as the:
            await the.update()
            file.unlink()
            assert "Can't open" in (await the.update())["list"].error
            assert the.holds("list", "192.0.2.1")
            write(file, "192.0.2.1", "192.0.2.2", "192.0.2.3")
            missing = (black("list", file), white("unheard-of", tmp_path / "nowhere"))
            the.with_settings(ListsSettings(list=missing))  # never list somebody's friends
            await the.update()
            assert await the.tables() == {"list": 1}
            assert the.told("list_kept")[0]["missing"] == "unheard-of"

    run(scene())


@pytest.mark.row("BGP-11")
@pytest.mark.parametrize(
    ("fresh", "why"),
    [
        (["<!DOCTYPE html>", "<p>192.0.2.1"], "a web page"),
        (["<html>", "192.0.2.1"], "a web page"),
        (["we moved", "see our site"], "none of its lines"),
        ([f"192.0.2.{at}" for at in range(19)], "19 addresses where there were 200"),
        ([], "0 addresses where there were 200"),
        (["0.0.0.0/1", *(f"192.0.2.{at}" for at in range(200))], "half of the Internet"),
    ],
)
def test_a_list_that_is_not_to_be_believed_changes_nothing(tmp_path: Path, fresh: list[str], why: str) -> None:
    file = write(tmp_path / "list", *(f"198.51.100.{at}" for at in range(200)))

    async def scene() -> None:
        async with here(tmp_path, ListsSettings(list=(black("list", file),))) as the:
            await the.update()
            write(file, *fresh)
            for _ in range(2):
                assert why in (await the.update())["list"].error
            assert the.holds("list", "198.51.100.7")
            assert why in (await known(ListsSettings(list=(black("list", file),)), tmp_path))[0].error
            write(file, *(f"192.0.2.{at}" for at in range(20)))
            assert not (await the.update())["list"].error

    run(scene())


def test_what_is_refused_is_believed_when_told_to(tmp_path: Path) -> None:
    file = write(tmp_path / "list", *(f"198.51.100.{at}" for at in range(200)))

    async def scene() -> None:
        async with here(tmp_path, ListsSettings(list=(black("list", file),))) as the:
            await the.update()
            write(file, "192.0.2.1")
            assert not (await the.update(force=True))["list"].error
            assert await the.tables() == {"list": 1}

    run(scene())


@pytest.mark.row("LS-08")
def test_each_refresh_writes_the_articles_line(tmp_path: Path) -> None:
    async def scene() -> None:
        async with here(tmp_path, ListsSettings()) as the:
            await the.gate.publish("bgp_spamd", "bgp", networks("192.0.2.0/24", "198.51.100.1"))
            await add_entries(the.ground.database, "bgp_spamd_bypass", ["203.0.113.1"], MovedClock().now())
            await the.update()
            text = "spamd black list updated; bgp_spamd: 2, bgp_spamd_bypass: 1"
            assert the.told("spamd-update") == [{"text": text}]

    run(scene())


def networks(*texts: str) -> Networks:
    return Networks.of(map(parse_prefix, texts))


@pytest.mark.row("LS-07")
def test_a_table_is_exported_as_the_articles_script_does_before_lists_are_read(tmp_path: Path) -> None:
    file = tmp_path / "bgp-blacklist.txt"
    hosts = ["192.0.2.7", "198.51.100.1", "203.0.113.255"]
    rib = "".join(f"*>    {each}/32       192.0.2.254      100     0 65066 i\n" for each in hosts)
    names = subprocess.run(
        ["sed", "-e", "1,4d", "-e", r"s/\/.*$//", "-e", r"s/[ \*\>]*//"],
        input="flags: * = Valid\norigin: i = IGP\n\nflags destination\n" + rib,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lists = ListsSettings(conf="", list=(black("bgp-spamd", file),), exports=())
    exports = fill(ListsSettings, {"exports": [{"table": "bgp_spamd", "file": str(file)}]}).exports

    async def scene() -> None:
        async with here(tmp_path, ListsSettings(list=lists.list, exports=exports)) as the:
            await the.gate.publish("bgp_spamd", "bgp", networks(*hosts))
            await the.update()
            assert file.read_text() == names
            assert await the.tables() == {"bgp-spamd": 3}
            await the.gate.publish("bgp_spamd", "bgp", networks("192.0.2.0/24", "2001:db8::/32"))
            await add_entries(the.ground.database, "bgp_spamd", ["!192.0.2.0/25"], MovedClock().now())
            found = await the.stored.export("bgp_spamd")
            assert (found.octets, found.left_out) == (b"192.0.2.128/25\n", 1)

    run(scene())


def test_all_lists_fill_the_table_spamd_where_that_is_set(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", "192.0.2.0/25"), write(tmp_path / "two", "192.0.2.128/25", "192.0.2.7")
    both = (black("one", one), black("two", two))

    async def scene() -> None:
        async with here(tmp_path, ListsSettings(list=both, fill_spamd=True)) as the:
            await the.update()
            assert (await the.stored.export("spamd")).octets == b"192.0.2.0/24\n"
            assert list(the.gate.lists) == ["one", "two"]
            the.with_settings(ListsSettings(list=both))
            await the.update()
            assert await the.tables() == {"one": 1, "two": 2}

    run(scene())


@pytest.mark.row("LS-05")
def test_lists_are_refreshed_periodically_and_when_a_command_says_so(tmp_path: Path) -> None:
    file = write(tmp_path / "list", "192.0.2.1")
    often = ListsSettings(list=(black("list", file),), refresh=Seconds(10))
    rarely = ListsSettings(list=(black("list", file),), refresh=Seconds(0))

    async def scene() -> None:
        assert await tell_server(tmp_path, force=False) is None
        async with here(tmp_path, rarely) as the, asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            task = group.create_task(the.feed.run())
            await until(lambda: bool(the.told("spamd-update")) and door_path(tmp_path).exists())
            write(file, "192.0.2.2")
            found = await tell_server(tmp_path, force=False)
            assert found is not None
            assert [(each.name, each.entries, each.error) for each in found] == [("list", 1, "")]
            assert the.holds("list", "192.0.2.2")
            task.cancel()
        async with here(tmp_path, often) as the, asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            object.__setattr__(often, "refresh", Seconds(0.01))  # the setting's least is 10 s
            task = group.create_task(the.feed.run())
            await until(lambda: len(the.told("spamd-update")) >= 3)
            task.cancel()

    run(scene())


async def until(fact: Callable[[], bool]) -> None:
    """Wait until something is so; the scene's deadline is over it."""
    while not fact():
        await asyncio.sleep(0.005)


def test_other_settings_take_effect_at_once_and_none_clear_everything(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", "192.0.2.1"), write(tmp_path / "two", "192.0.2.2")

    async def scene() -> None:
        async with here(tmp_path, ListsSettings(list=(black("one", one),))) as the:
            await the.gate.publish("sent", "channel", networks("192.0.2.9"), message="m")
            async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
                task = group.create_task(the.feed.run())
                await until(lambda: list(the.gate.lists) == ["one"])  # no channel: what came by it is gone
                the.feed.renew(ListsSettings(list=(black("two", two),)))
                await until(lambda: list(the.gate.lists) == ["two"])
                the.feed.renew(ListsSettings())
                await until(lambda: list(the.gate.lists) == [])
                task.cancel()

    run(scene())


def test_a_server_without_a_usable_spamd_conf_keeps_its_lists_and_says_so(tmp_path: Path) -> None:
    async def scene() -> None:
        async with here(tmp_path, ListsSettings(conf=str(tmp_path / "none"))) as the:
            with pytest.raises(SpamdConfError, match="cannot be read"):
                await the.update()

    run(scene())


def test_two_hundred_thousand_addresses_go_through_while_the_loop_lives(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_text(
        "".join(f"{at >> 16 & 255}.{at >> 8 & 255}.{at & 255}.9\n" for at in range(1 << 20, (1 << 20) + 200_000))
    )

    async def scene() -> None:
        async with here(tmp_path, ListsSettings(list=(black("large", file),))) as the:
            turns = 0

            async def turn() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0.001)

            other = asyncio.create_task(turn())
            assert (await the.update())["large"].entries == 200_000
            other.cancel()
            assert turns > 20
            assert await the.tables() == {"large": 200_000}
            since = (await the.gate.published())[0].since
            the.ground.clock.move(1)
            await the.update()
            assert (await the.gate.published())[0].since == since  # the same again is not written again

    run(scene())


# --- the web and programs -------------------------------------------------------------------------------------


class Site:
    """A web server: what it says, and what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b""
        self.asked: list[dict[str, str]] = []
        self.address = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append({"path": handler.path, **dict(handler.headers.items())})
        etag = self.headers.get("ETag")
        if etag and handler.headers.get("If-None-Match") == etag:
            handler.send_response(304)
            handler.end_headers()
            return
        handler.send_response(self.status)
        for name, value in {"Content-Length": str(len(self.body)), **self.headers}.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        with suppress(OSError):
            handler.wfile.write(self.body)


@contextmanager
def web() -> Iterator[Site]:
    site = Site()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        site.address = f"127.0.0.1:{server.server_address[1]}"
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.row("LS-06")
def test_a_compressed_list_from_the_web_is_fetched_once_and_then_only_asked_about(tmp_path: Path) -> None:
    with web() as site:
        site.body, site.headers = gzip.compress(b"192.0.2.1\n192.0.2.2\n"), {"ETag": '"one"'}
        remote = ListsSettings(list=(black("traps", f"{site.address}/traplist.gz", Method.HTTP),))

        async def scene() -> None:
            async with here(tmp_path, remote) as the:
                await the.update()
                await the.update()
                assert await the.tables() == {"traps": 2}
                assert [each.get("If-None-Match") for each in site.asked] == [None, '"one"']
                site.body, site.headers = gzip.compress(b"192.0.2.3"), {"ETag": '"two"'}
                await the.update()
                assert the.holds("traps", "192.0.2.3")
                assert await the.tables() == {"traps": 1}

        run(scene())


@pytest.mark.row("BGP-11")
@pytest.mark.parametrize(
    ("status", "headers", "body", "why"),
    [
        (500, {}, b"192.0.2.9", "500"),
        (404, {}, b"<html>", "404"),
        (200, {"Content-Length": "100"}, b"192.0.2.9\n", "without sending complete"),
        (200, {"Content-Length": str(10 << 30)}, b"", "more than 1000 octets"),
        (200, {"Content-Length": ""}, b"192.0.2.9\n" * 101, "more than 1000 octets"),
        (200, {}, zlib.compress(bytes(900_000), wbits=31)[:-9], "more than 10000 octets"),
        (200, {}, gzip.compress(b"192.0.2.9\n" * 9)[:-9], "its end is missing"),
        (200, {}, b"\x1f\x8b\x08" + b"\xff" * 50, "damaged"),
        (200, {"Content-Type": "text/html"}, b" \r\n<html>192.0.2.9", "a web page"),
        (302, {"Location": "/round"}, b"", "redirects"),
        (302, {"Location": "file:///etc/passwd"}, b"", ""),
        (302, {"Location": "ftp://127.0.0.1/"}, b"", "not followed"),
    ],
)
def test_whatever_the_web_says_the_old_list_is_kept(
    tmp_path: Path, status: int, headers: dict[str, str], body: bytes, why: str
) -> None:
    with web() as site:
        site.body = b"192.0.2.1\n"
        lists = (black("traps", f"http://{site.address}/list", Method.HTTP),)
        remote = ListsSettings(list=lists, size_max=Octets(1000), unpacked_max=Octets(10_000))

        async def scene() -> None:
            async with here(tmp_path, remote) as the:
                await the.update()
                site.status, site.headers, site.body = status, headers, body
                error = (await the.update())["traps"].error
                assert error
                assert why in error
                assert await the.tables() == {"traps": 1}
                assert the.holds("traps", "192.0.2.1")

        run(scene())


def test_a_redirect_is_followed_a_few_times() -> None:
    with web() as site:
        site.status, site.headers = 301, {"Location": "/there"}

        async def scene() -> None:
            url = f"http://{site.address}/here"
            tls = client_context(verify=True)
            with pytest.raises(FetchFailed, match="more than 5 redirects"):
                await fetch(url, most=10, within=WAIT_S, tls=tls)
            assert len(site.asked) == 6

        run(scene())


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "certificate.pem", tmp_path / "key.pem")
    write_pair(pair, *self_signed(("127.0.0.1",), SystemClock().now()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    async def scene() -> None:
        tls = client_context(verify=True)
        host = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        async with host:
            url = f"https://127.0.0.1:{host.sockets[0].getsockname()[1]}/"
            with pytest.raises(FetchFailed, match="CERTIFICATE_VERIFY_FAILED"):
                await fetch(url, most=1, within=WAIT_S, tls=tls)

    run(scene())


def test_fetching_has_a_time_limit_and_sends_what_it_knows() -> None:
    async def scene() -> None:
        tls = client_context(verify=True)
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
            with pytest.raises(FetchFailed, match=r"not fetched within 0\.1 s|imed out"):
                await fetch(url, most=10, within=0.1, tls=tls)
        with web() as site:
            site.body, site.headers = b"x", {"ETag": "e", "Last-Modified": "Mon, 01 Jun 2015 00:00:00 GMT"}
            url = f"http://{site.address}/"
            found = await fetch(url, most=1, within=WAIT_S, tls=tls)
            assert isinstance(found, Fetched)
            again = await fetch(
                url, most=1, within=WAIT_S, tls=tls, etag=found.etag, last_modified=found.last_modified
            )
            assert isinstance(again, Unchanged)
            assert site.asked[1]["If-Modified-Since"] == "Mon, 01 Jun 2015 00:00:00 GMT"
            with pytest.raises(FetchFailed, match="more than 0 octets"):
                await fetch(url, most=0, within=WAIT_S, tls=tls)
        with pytest.raises(FetchFailed):
            await fetch("http://[", most=1, within=WAIT_S, tls=tls)

    run(scene())


@pytest.mark.row("LS-06")
def test_a_program_prints_a_list_and_no_shell_reads_its_words(tmp_path: Path) -> None:
    file = tmp_path / "list.gz"
    file.write_bytes(gzip.compress(b"192.0.2.1\n"))
    lists = ListsSettings(list=(black("exec", f"/bin/cat  {file}", Method.EXEC),))

    async def scene() -> None:
        async with here(tmp_path, lists) as the:
            await the.update()
            assert the.holds("exec", "192.0.2.1")
        assert await run_program("/bin/echo $HOME;id", 100, WAIT_S) == b"$HOME;id\n"

    run(scene())


@pytest.mark.parametrize(
    ("command", "most", "within", "why"),
    [
        ("/bin/false", 10, WAIT_S, "status 1"),
        ("/nowhere/program", 10, WAIT_S, "Can't open"),
        ("/bin/sleep 60", 10, 0.1, "not done within"),
        ("/usr/bin/yes", 100_000, WAIT_S, "more than 100000 octets"),
    ],
)
def test_a_program_that_fails_floods_or_never_ends_is_ended(
    command: str, most: int, within: float, why: str
) -> None:
    async def scene() -> None:
        with pytest.raises(Unusable, match=why):
            await run_program(command, most, within)

    run(scene())


def test_a_file_must_be_a_file_and_small_enough(tmp_path: Path) -> None:
    subprocess.run(["mkfifo", str(tmp_path / "fifo")], check=True)
    write(tmp_path / "large", "x" * 1000)
    tight = ListsSettings(size_max=Octets(1000))

    async def scene() -> None:
        sources = Sources(tight, tmp_path / "kept", MovedClock())
        for name in ("fifo", "large", "."):
            loaded = await sources.load(black("x", tmp_path / name))
            assert loaded.error
            assert loaded.addresses is None

    run(scene())


def test_a_message_may_stand_in_a_file(tmp_path: Path) -> None:
    write(tmp_path / "why", "You %A", "are listed")
    which = ListSettings(
        "x", ListKind.BLACK, str(write(tmp_path / "x", "192.0.2.1")), message_file=str(tmp_path / "why")
    )

    async def scene() -> None:
        async with here(tmp_path, ListsSettings(list=(which,))) as the:
            await the.update()
            assert [part.message for part in await the.gate.published()] == ["You %A\nare listed\n"]
            (tmp_path / "why").unlink()
            await the.update()
            assert [part.message for part in await the.gate.published()] == ["You %A\nare listed\n"]
            assert "Can't open message" in str(the.told("list_kept")[0]["error"])

    run(scene())


def test_members_of_a_compressed_file_are_all_read_and_what_is_behind_ignored() -> None:
    packed = gzip.compress(b"one\ntw") + gzip.compress(b"o\n") + b"\0" * 9
    assert list(lines(packed, 100)) == [b"one", b"two"]
    with pytest.raises(Unusable, match="more than 5"):
        list(lines(packed, 5))
    large = b"".join(b"%d\n" % at for at in range(300_000))
    assert b"\n".join(lines(gzip.compress(large), 1 << 24)) + b"\n" == large


def test_a_broken_shelf_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    assert Shelf(tmp_path).known("x").count == 0
    assert Shelf(tmp_path).copy("x") is None


# --- the channel ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def channel(the: Here, ports: int = 1 << 16) -> AsyncIterator[tuple[str, int]]:
    with listen("127.0.0.1", 0) as sock:
        task = asyncio.create_task(Channel(sock, the.gate, the.log, ports=ports).serve())
        try:
            yield sock.getsockname()
        finally:
            task.cancel()
            await asyncio.wait((task,))


async def send(address: tuple[str, int], octets: bytes, local: tuple[str, int] | None = None) -> None:
    """Send lists as spamd-setup does: connect, write, close."""
    _, writer = await asyncio.open_connection(*address, local_addr=local)
    with suppress(OSError):
        writer.write(octets)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


def test_a_program_made_for_spamd_sends_lists(tmp_path: Path) -> None:
    async def scene() -> None:
        async with here(tmp_path, ListsSettings()) as the, asyncio.timeout(WAIT_S), channel(the) as address:
            await send(address, b'uatraps;"You %A\\n";inet;2;192.0.2.1/32;198.51.100.0/24\nnonsense\n')
            await send(address, b'spamd-white;"x";192.0.2.9/32\nnixspam;"n";192.0.2.2/32')
            await until(lambda: len(the.told("channel_list")) == 2)
            assert list(the.gate.lists) == ["uatraps", "nixspam"]
            assert the.holds("uatraps", "198.51.100.9")
            assert len(the.told("channel_bogus")) == 2
            await send(address, b"uatraps;\n")
            await until(lambda: len(the.told("channel_list")) == 3)
            assert list(the.gate.lists) == ["nixspam"]

    run(scene())


def test_only_a_reserved_port_is_heard(tmp_path: Path) -> None:
    async def scene() -> None:
        async with here(tmp_path, ListsSettings()) as the, asyncio.timeout(WAIT_S), channel(the, 1024) as address:
            await send(address, b'uatraps;"m";192.0.2.1/32\n')
            await until(lambda: bool(the.told("channel_refused")))
            for port in range(1023, 600, -1):
                try:
                    await send(address, b'nixspam;"m";192.0.2.1/32\n', ("127.0.0.1", port))
                except OSError as error:
                    if error.errno == 13:
                        pytest.skip("this user may not use a reserved port")
                    continue
                break
            await until(lambda: bool(the.told("channel_list")))
            assert list(the.gate.lists) == ["nixspam"]

    run(scene())


# --- commands -------------------------------------------------------------------------------------------------


def gatepost(config: Path, *words: str) -> str:
    """Run a command in this process and return what it prints."""
    done = CliRunner().invoke(app, [*words, "-c", str(config)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@contextmanager
def server(config: Path, log: Path) -> Iterator[None]:
    """Run a server whose list feed has refreshed once."""
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "gatepost", "serve", "-c", str(config)], stderr=out)
    try:
        end = time.monotonic() + 30
        while b"spamd-update" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < end, log.read_text()  # noqa: PT018
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(40)


@pytest.mark.row("LS-05", "LS-08")
@pytest.mark.process
def test_a_running_server_refreshes_when_a_command_says_so(tmp_path: Path) -> None:
    file, log = write(tmp_path / "list", "192.0.2.1"), tmp_path / "log"
    config = tmp_path / "gatepost.toml"
    config.write_text(
        f'[server]\nhostname = "mx.example.org"\ndata_dir = "{tmp_path}/data"\nworkers = 2\n'
        '[listen.mx]\nkind = "mx"\naddress = ["127.0.0.1:0"]\n'
        f'[[feeds.lists.list]]\nname = "mine"\nkind = "black"\nmessage = "m"\nsource = "{file}"\n'
    )
    with server(config, log):
        write(file, "192.0.2.1", "192.0.2.9")
        assert json.loads(gatepost(config, "lists", "update", "--json"))[0]["entries"] == 2
        assert gatepost(config, "lists", "export", "mine") == "192.0.2.1\n192.0.2.9\n"
    told = log.read_text()
    assert told.count("spamd black list updated; bgp_spamd: 0, bgp_spamd_bypass: 0") == 2


@pytest.mark.row("LS-05", "LS-07")
def test_commands_without_a_server(tmp_path: Path) -> None:
    file = write(tmp_path / "list", "192.0.2.1 5 hits", "192.0.2.0/31")
    config = tmp_path / "gatepost.toml"
    config.write_text(
        f'[server]\nhostname = "mx.example.org"\ndata_dir = "{tmp_path}/data"\n'
        f'[[feeds.lists.list]]\nname = "mine"\nkind = "black"\nmessage = "m"\nsource = "{file}"\n'
    )

    (tmp_path / "data").mkdir()
    assert json.loads(gatepost(config, "lists", "show", "--json"))[0]["read"] == ""
    checked = json.loads(gatepost(config, "lists", "check", "--json"))[0]
    assert (checked["entries"], checked["error"]) == (2, "")
    assert "only 192.0.2.1 was taken" in checked["remarks"][0]
    assert json.loads(gatepost(config, "lists", "show", "--json"))[0]["read"] == ""
    gatepost(config, "lists", "update")
    assert json.loads(gatepost(config, "lists", "show", "--json"))[0]["entries"] == 2
    assert gatepost(config, "lists", "export", "mine") == "192.0.2.0/31\n"
    gatepost(config, "lists", "export", "mine", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "192.0.2.0/31\n"
    (tmp_path / "spamd.conf").write_text(ARTICLE)
    assert tomllib.loads(imported(tmp_path / "spamd.conf"))["feeds"]["lists"]["list"][0]["message"] == TRAP
    file.unlink()
    failed = CliRunner().invoke(app, ["lists", "check", "-c", str(config)])
    assert failed.exit_code == 1
    assert "Can't open" in failed.stdout


def imported(conf: Path) -> str:
    done = CliRunner().invoke(app, ["import", "spamd.conf", str(conf)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout
