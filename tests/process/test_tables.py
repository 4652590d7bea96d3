"""Tables of a whole server: what aliases lead to, played with real files and programs."""

import contextlib
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.process.served import HEAD, Served, until

pytestmark = [pytest.mark.process]

USER = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
SETTINGS = """
[policy]
watch = 0.1

[policy.tables.aliases]
file = "{place}/aliases"
programs = true
user = "{user}"

[policy.tables.users]
entries = {{ bob = "{uid}:{gid}:{open}" }}

[policy.actions.local]
do = "deliver"
alias = "aliases"
forward_files = true
forward_programs = true
userbase = "users"

[policy.tables.hosted]
sql = "sqlite://{place}/hosted.db"
cache = 0
queries.domain = "SELECT 1 FROM domains WHERE name = :key"
queries.virtual = "SELECT target FROM users WHERE address = :key"

[policy.actions.hosted]
do = "deliver"
virtual = "hosted"

[[policy.rules]]
match = {{ from = "any", for = "own" }}
action = "local"

[[policy.rules]]
match = {{ from = "any", for = "<hosted>" }}
action = "hosted"
"""
ALIASES = """
tickets: "|/usr/bin/env -i /bin/sh -c 'cat > {open}/ticket'"
broken:  "|/bin/sh -c 'echo the tracker is closed; exit 69'"
archive: maildir:{open}/Maildir, \\bob
team:    :include:{place}/team
gone:    error:550 5.1.6 He has moved
"""


HOSTED = """
CREATE TABLE domains (name TEXT PRIMARY KEY);
CREATE TABLE users (address TEXT, target TEXT);
INSERT INTO domains VALUES ('hosted.example');
INSERT INTO users VALUES ('info@hosted.example', 'bob@here.example');
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder of ours; `open` in it is the user's."""
    with tempfile.TemporaryDirectory(prefix="gatepost-tables-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "open").mkdir()
        if os.geteuid() == 0:
            os.chown(folder / "open", pwd.getpwnam(USER).pw_uid, -1)
        yield folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Served]:
    (place / "team").write_text("bob, tickets\n")
    (place / "aliases").write_text(ALIASES.format(place=place, open=place / "open"))
    (place / "home").mkdir()
    with contextlib.closing(apsw.Connection(str(place / "hosted.db"))) as database:
        database.execute(HOSTED)
    who = pwd.getpwnam(USER)
    settings = SETTINGS.format(place=place, open=place / "open", user=USER, uid=who.pw_uid, gid=who.pw_gid)
    with Served(place / "home", workers=1, settings=settings) as served:
        yield served


def send(
    server: Served, recipient: str, subject: str, answer: bytes = b"250", domain: bytes = b"here.example"
) -> None:
    """Send a mail from outside."""
    client = server.smtp()
    client.say(b"MAIL FROM:<ann@sender.example>", b"250")
    client.say(b"RCPT TO:<%s@%s>" % (recipient.encode(), domain), answer)
    if answer == b"250":
        client.say(b"DATA", b"354")
        client.say(HEAD + subject.encode() + b"\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n\r\nhello\r\n.", b"250")


@pytest.mark.row("MT-05")
def test_an_alias_leads_to_a_program_a_file_and_a_list(server: Served, place: Path) -> None:
    ticket = place / "open" / "ticket"
    send(server, "tickets", "a ticket")
    until(ticket.exists, 20, server.last_words)
    until(lambda: b"hello" in ticket.read_bytes(), 20, server.last_words)
    assert ticket.read_bytes().startswith(
        b"Return-Path: <ann@sender.example>\nDelivered-To: tickets@here.example\n"
    )
    assert ticket.stat().st_uid == pwd.getpwnam(USER).pw_uid
    ticket.unlink()

    send(server, "team", "for the team")
    until(lambda: ticket.exists() and b"for the team" in ticket.read_bytes(), 20, server.last_words)
    send(server, "archive", "kept twice")
    new = place / "open" / "Maildir" / "new"
    until(lambda: new.exists() and bool(list(new.iterdir())), 20, server.last_words)
    assert server.subjects() == ["for the team", "kept twice"]


def test_an_alias_refuses_in_its_own_words(server: Served) -> None:
    send(server, "gone", "never", b"550 5.1.6 He has moved")


def test_a_program_that_fails_for_good_is_told_in_the_diary_with_its_words(server: Served) -> None:
    send(server, "broken", "no ticket")
    until(lambda: bool(server.events("failed")), 20, server.last_words)
    (failed,) = server.events("failed")
    assert failed["host"] == f"program://{USER}"
    assert "the tracker is closed" in failed["reply"]


@pytest.mark.row("MT-36")
def test_a_user_forwards_by_a_file_in_the_own_home(server: Served, place: Path) -> None:
    file = place / "open" / ".forward"
    file.write_text('\\bob\n"|/usr/bin/id -un > $HOME/who; cat > $HOME/copy"\n')
    if os.geteuid() == 0:
        os.chown(file, pwd.getpwnam(USER).pw_uid, -1)
    send(server, "bob+lists", "forwarded")
    copy = place / "open" / "copy"
    until(lambda: copy.exists() and b"forwarded" in copy.read_bytes(), 20, server.last_words)
    assert b"\nDelivered-To: bob+lists@here.example\n" in copy.read_bytes()
    assert (place / "open" / "who").read_text().strip() == USER
    assert server.subjects()[-1] == "forwarded"
    file.chmod(0o666)
    send(server, "bob", "kept")
    until(lambda: bool(server.events("forward_ignored")), 20, server.last_words)
    assert server.subjects()[-1] == "kept"


@pytest.mark.row("MT-30", "MT-31")
def test_domains_and_users_are_in_a_database_and_what_is_added_there_counts_at_once(
    server: Served, place: Path
) -> None:
    send(server, "info", "hosted", domain=b"hosted.example")
    assert server.subjects()[-1] == "hosted"
    send(server, "nobody", "never", b"550 5.1.1", b"hosted.example")
    send(server, "info", "never", b"550 5.7.1", b"second.example")
    with contextlib.closing(apsw.Connection(str(place / "hosted.db"))) as database:
        database.execute("INSERT INTO domains VALUES ('second.example')")
        database.execute("INSERT INTO users VALUES ('info@second.example', 'bob@here.example')")
    send(server, "info", "second", domain=b"second.example")
    assert server.subjects()[-1] == "second"


@pytest.mark.row("MT-10", "MT-07")
def test_a_changed_file_is_taken_while_it_runs_and_a_wrong_one_is_not(server: Served, place: Path) -> None:
    aliases = place / "aliases"
    good = aliases.read_text()
    send(server, "later", "never", b"550 5.1.1")
    aliases.write_text(f"{good}later: bob\n")
    until(lambda: bool(server.events("tables_read")), 20, server.last_words)
    send(server, "later", "taken")
    assert server.subjects()[-1] == "taken"
    aliases.write_text(f"{good}later:\n")
    until(lambda: bool(server.events("tables_refused")), 20, server.last_words)
    assert f"{aliases} line" in server.events("tables_refused")[0]["error"]
    send(server, "later", "still taken")
    aliases.write_text(good)
    assert "good" in server.command("rules", "tables", "update", "aliases")
    until(lambda: bool(server.events("reloaded")), 20, server.last_words)
