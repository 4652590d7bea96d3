"""The same generated mails in gatepost and in Dovecot: what IMAP tells of them must be the same, octet for octet.

Mails are made of sane and of odd pieces, all with CRLF and without NUL, by a seeded generator: 200 in the normal
run, 10,000 in the deep one. `value_of` says where both answers are allowed.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.codec.mail.imap_lists import Value, read
from tests.process.served import PASSWORD, USER, Line, Served, free_ports, until
from tests.support.mails import Maker
from tests.support.peers import cannot, program

pytestmark = [pytest.mark.process, pytest.mark.timeout(3600)]
MAILS: Final = 200
DEEP_MAILS: Final = 10_000
AT_ONCE: Final = 500
ITEMS: Final = (
    b"RFC822.SIZE", b"ENVELOPE", b"BODYSTRUCTURE", b"BODY", b"BODY.PEEK[]", b"BODY.PEEK[HEADER]",
    b"BODY.PEEK[TEXT]", b"BODY.PEEK[1]", b"BODY.PEEK[1.1]", b"BODY.PEEK[2]",
    b"BODY.PEEK[1.MIME]", b"BODY.PEEK[2.MIME]",
    b"BODY.PEEK[HEADER.FIELDS (SUBJECT FROM TO X-ODD)]", b"BODY.PEEK[HEADER.FIELDS.NOT (SUBJECT RECEIVED)]",
    b"BODY.PEEK[TEXT]<10.40>",
)  # fmt: skip
SEARCHES: Final = (
    b"SUBJECT odd", b"FROM ann", b"TO joe", b"HEADER X-Odd {Q}", b"BODY needle", b"TEXT needle",
    b"SENTBEFORE 1-Jan-2020", b"SENTSINCE 1-Jan-2020", b"LARGER 600", b"NOT HEADER X-Odd {Q}",
)  # fmt: skip


# --- servers ----------------------------------------------------------------------------------------------


@dataclass
class Reader:
    """A logged-in IMAP client with its responses as octets."""

    line: Line
    name: str
    tags: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 30)))

    def say(self, command: bytes, literal: bytes | None = None) -> list[bytes]:
        """Say a command; return its untagged responses, literals in them."""
        tag = b"t%d" % next(self.tags)
        if literal is None:
            self.line.send(tag + b" " + command + b"\r\n")
        else:
            self.line.send(tag + b" " + command + b" {%d}\r\n" % len(literal))
            assert self.line.line().startswith(b"+")
            self.line.send(literal + b"\r\n")
        responses: list[bytes] = []
        while True:
            response = self.line.line()
            while (found := re.search(rb"\{([0-9]+)\}\Z", response)) is not None:
                response += b"\r\n" + self.line.octets(int(found[1])) + self.line.line()
            if response.startswith(tag):
                assert response.startswith(tag + b" OK"), f"{self.name}: {command!r}: {response!r}"
                return responses
            responses.append(response)


DOVECOT: Final = """\
base_dir = {base}/run
state_dir = {base}/state
instance_name = {instance}
log_path = {base}/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_username_format = %Ln
mail_location = maildir:{base}/mail
default_login_user = dovenull
default_internal_user = dovecot
first_valid_uid = 8
first_valid_gid = 8
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={base}
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""


@pytest.fixture
def dovecot(tmp_path: Path) -> Iterator[Reader]:
    """Dovecot with an empty mailbox, and a client in it."""
    if os.geteuid():
        cannot("Dovecot's master runs as root here")
    argv = [program("dovecot", "/usr/sbin/dovecot"), "-F", "-c"]
    base = Path("/var/tmp") / f"gatepost-dovecot-{os.getpid()}"
    (base / "mail").mkdir(parents=True)
    shutil.chown(base / "mail", "mail", "mail")
    base.chmod(0o755)
    (port,) = free_ports(1)
    config = tmp_path / "dovecot.conf"
    config.write_text(DOVECOT.format(base=base, port=port, instance=f"gatepost-{os.getpid()}"))
    process = subprocess.Popen([*argv, str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: listens(port), 20, lambda: (base / "dovecot.log").read_text()[-2000:])
        line = Line(port, 60)
        line.line()
        reader = Reader(line, "dovecot")
        reader.say(b"LOGIN bob secret")
        yield reader
        line.close()
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(base, ignore_errors=True)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def gatepost(tmp_path: Path) -> Iterator[Reader]:
    """A served gatepost, and a client in its mailbox."""
    folder = tmp_path / "gatepost"
    folder.mkdir()
    with Served(folder, 1) as server:
        line = server.line("imap")
        line.line()
        line.send(b"a STARTTLS\r\n")
        line.until(b"a OK")
        line.start_tls()
        reader = Reader(line, "gatepost")
        reader.say(b'LOGIN %b "%b"' % (USER.encode(), PASSWORD.encode()))
        yield reader


# --- comparison -------------------------------------------------------------------------------------------


def fetched(reader: Reader, item: bytes) -> dict[int, bytes]:
    """Return an item of all messages by their number."""
    answers = {}
    for response in reader.say(b"FETCH 1:* (%b)" % item):
        found = re.match(rb"\* ([0-9]+) FETCH \(", response)
        if found is None:
            continue
        inside = response[found.end() : -1]
        name = item.replace(b".PEEK", b"").split(b"<")[0]
        assert inside.upper().startswith(name.upper()), (reader.name, inside[:80])
        value = inside[len(name) :]
        answers[int(found[1])] = value[value.index(b" ") + 1 :] if value[:1] == b"<" else value[1:]
    return answers


def value_of(item: bytes, octets: bytes) -> Value:
    """Return what an item's octets mean, without the differences that both servers are allowed.

    A string may be quoted or a literal. In an ENVELOPE Dovecot makes one blank of a fold and the blanks behind it;
    we leave the blanks, as RFC 5322 §2.2.3 says. In a BODYSTRUCTURE words without case are the same in any, and
    Dovecot tells the default charset of a text part that names none, we only that of a part without a type. A part
    that is not there is empty for Dovecot and NIL for us.
    """
    value = read(octets)
    if item.startswith(b"BODY.PEEK[") and value is None:
        return b""
    if item == b"ENVELOPE":
        return each_string(value, one_blank)
    if item in (b"BODYSTRUCTURE", b"BODY"):
        return without_default_charset(each_string(value, lambda text: one_blank(text.lower())))
    return value


def holds_parts(structure: Value) -> bool:
    """Tell whether part 1 of a structure has parts: it is a multipart or a message, or the mail is a message."""
    assert isinstance(structure, list)
    part = structure[0] if isinstance(structure[0], list) else structure
    return isinstance(part[0], list) or part[:2] == [b"message", b"rfc822"]


def one_blank(text: bytes) -> bytes:
    return re.sub(rb"[ \t]+", b" ", text)


def without_default_charset(value: Value) -> Value:
    if not isinstance(value, list):
        return value
    if value == [b"charset", b"us-ascii"]:
        return None
    return [without_default_charset(each) for each in value]


def each_string(value: Value, change: Callable[[bytes], bytes]) -> Value:
    if isinstance(value, list):
        return [each_string(each, change) for each in value]
    return change(value) if isinstance(value, bytes) else value


def test_imap_tells_of_mails_what_dovecot_tells(
    gatepost: Reader, dovecot: Reader, deep: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    compared, differing = 0, list[str]()
    for begin in range(0, DEEP_MAILS if deep else MAILS, AT_ONCE):
        mails = [Maker(seed).mail() for seed in range(begin, min(begin + AT_ONCE, DEEP_MAILS if deep else MAILS))]
        box = b"box%d" % begin
        for reader in (gatepost, dovecot):
            reader.say(b"CREATE " + box)
            for mail in mails:
                reader.say(b"APPEND " + box, mail)
            reader.say(b"SELECT " + box)
        structures = {number: read(octets) for number, octets in fetched(dovecot, b"BODYSTRUCTURE").items()}
        for item in ITEMS:
            ours, theirs = fetched(gatepost, item), fetched(dovecot, item)
            assert ours.keys() == theirs.keys() == set(range(1, len(mails) + 1))
            for number, octets in ours.items():
                our, their = value_of(item, octets), value_of(item, theirs[number])
                compared += 1
                if item == b"BODY.PEEK[1.1]" and not holds_parts(structures[number]):
                    assert our == b""  # Dovecot takes the only part for its own first part
                elif our != their:
                    differing.append(f"seed {begin + number - 1} {item.decode()}:\n  {our!r}\n  {their!r}")
        for search in SEARCHES:
            found = [reader.say(b"SEARCH " + search.replace(b"{Q}", b'""')) for reader in (gatepost, dovecot)]
            if found[0] != found[1]:
                differing.append(f"{search.decode()}:\n  {found[0]!r}\n  {found[1]!r}")
    with capsys.disabled():
        print(
            f"\n{compared - len(differing)} of {compared} answers about generated mails are the same as Dovecot's"
        )
    assert not differing, "\n".join([f"{len(differing)} differ", *differing[:20]])
