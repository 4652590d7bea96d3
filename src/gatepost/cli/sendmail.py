"""`gatepost sendmail`, and `sendmail` where the program is called by that name: how programs send mail.

    sendmail [-it] [-f sender] [-F name] [-N dsn] [-R full|hdrs] [-V envid] [--] [address ...] < mail
    sendmail -bs     SMTP on standard input and output
    sendmail -bp     mailq(1)            sendmail -bi     newaliases(1)

The mail goes to the running server over its local socket, where the kernel says who we are; when the server is away
it is left in the folder that the server empties when it is back (intake/offline.py). The exit status is one of
sysexits(3); 0 only when the mail is in the queue, in mailboxes or synced in that folder. Options that other
sendmails know and that change nothing here (-o..., -m, -v, -B, -h ...) are taken and ignored.
"""

import contextlib
import getopt
import os
import pwd
import re
import select
import smtplib
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, Final

import typer

from gatepost.cli import mailq
from gatepost.cli.common import ConfigOption, Failed, config_file
from gatepost.codec.mail import address as addresses
from gatepost.codec.mail.build import bcc_ranges
from gatepost.codec.mail.header import HeaderBlock, unfold, without
from gatepost.codec.smtp.grammar import BadAddress, parse_mailbox, xtext_encode
from gatepost.config import Config, ConfigError, load
from gatepost.intake import local, offline
from gatepost.intake.offline import Slip

NAME: Final = "sendmail"
OPTIONS: Final = "A:B:C:F:GIL:N:O:R:UV:X:b:f:h:imno:p:r:tv"
PATIENCE: Final = 300.0  # s that the server may take for one answer
TO: Final = (b"to", b"cc", b"bcc")
RESENT: Final = (b"resent-to", b"resent-cc", b"resent-bcc")
_FIELD: Final = re.compile(rb"[!-9;-~]+[ \t]*:")
_QUOTED: Final = '()<>[]:;@\\,."'


class Exit(IntEnum):
    """Exit statuses (sysexits(3))."""

    OK = 0
    USAGE = 64
    DATAERR = 65
    NOUSER = 67
    UNAVAILABLE = 69
    TEMPFAIL = 75
    NOPERM = 77
    CONFIG = 78


class Unsent(Exception):
    """The mail was not taken; what to say, and the exit status."""

    def __init__(self, text: str, status: Exit) -> None:
        super().__init__(text)
        self.status = status


class Away(Exception):
    """The server does not answer on its socket, or cannot take mail now."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call."""

    mode: str = "m"
    sender: str | None = None
    full_name: str = ""
    recipients: tuple[str, ...] = ()
    from_header: bool = False
    dots_end: bool = True
    notify: str = ""
    ret: str = ""
    envid: str = ""
    config: Path | None = None


def register(app: typer.Typer) -> None:
    """Put `gatepost sendmail` beside the other commands; what stands behind it is read as sendmail reads it."""
    as_it_is = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(NAME, context_settings=as_it_is, add_help_option=False)
    def command(context: typer.Context, config: ConfigOption = None) -> None:
        """Send a mail as programs do: [-it] [-f sender] [address ...] < mail."""
        raise typer.Exit(run(context.args, config))


def run(words: Sequence[str], config: Path | None = None) -> int:
    """Do what the words behind `sendmail` ask for; return the exit status."""
    try:
        request = read(words)
        request = replace(request, config=request.config or config)
        match request.mode:
            case "p":
                return mailq.run([], request.config)
            case "i":
                return mailq.run_newaliases([], request.config)
            case "s":
                return converse(_local_dir(_settings(request.config)))
            case "m":
                return send(request, sys.stdin.buffer)
        raise Unsent(f"-b{request.mode} is not done here: gatepost serve is the server", Exit.USAGE)
    except Unsent as wrong:
        sys.stderr.write(f"{NAME}: {wrong}\n")
        return wrong.status
    except (ConfigError, Failed) as wrong:
        sys.stderr.write(f"{NAME}: {wrong}\n")
        return Exit.CONFIG


def read(words: Sequence[str]) -> Request:
    """Read the command line; raises Unsent."""
    plain = [word for word in _before_end(words) if not word.startswith(("-q", "-d"))]
    rest = list(words[len(_before_end(words)) :])
    try:
        options, recipients = getopt.gnu_getopt([*plain, *rest], OPTIONS)
    except getopt.GetoptError as wrong:
        raise Unsent(str(wrong), Exit.USAGE) from wrong
    values = {option[1]: value for option, value in options}
    if values.get("R", "").lower() not in ("", "full", "hdrs"):
        raise Unsent("-R is full or hdrs", Exit.USAGE)
    return Request(
        mode=values.get("b", "m"),
        sender=_last(options, "-f", "-r"),
        full_name=values.get("F", os.environ.get("NAME", "")),
        recipients=tuple(recipients),
        from_header="t" in values,
        dots_end="i" not in values and ("-o", "i") not in options,
        notify=_notify(values.get("N", "")),
        ret={"full": "FULL", "hdrs": "HDRS"}.get(values.get("R", "").lower(), ""),
        envid=values.get("V", ""),
        config=Path(values["C"]) if values.get("C") and Path(values["C"]).suffix == ".toml" else None,
    )


def send(request: Request, source: BinaryIO) -> int:
    """Send one mail; raises Unsent."""
    settings = _settings(request.config)
    hostname = socket.getfqdn() if settings is None else settings.hostname
    content = _content(source, dots_end=request.dots_end)
    header = HeaderBlock.parse(content)
    recipients = [_address(text, hostname) for text in request.recipients]
    if request.from_header:
        recipients += [_address(text, hostname) for text in _named(header)]
        content = without(content, tuple(bcc_ranges(header)))
    if not recipients:
        raise Unsent("no recipients: name them, or let -t read them from the header", Exit.USAGE)
    user = pwd.getpwuid(os.getuid()).pw_name
    sender = _sender(request.sender, user, hostname)
    if b"from" not in header and (request.full_name or sender):
        shown = sender or f"MAILER-DAEMON@{hostname}"
        content = _from_field(request.full_name, shown) + content
    slip = Slip(sender, tuple(dict.fromkeys(recipients)), request.notify, request.ret, request.envid)
    folder = _local_dir(settings)
    try:
        hand_over(folder / offline.SOCKET, slip, content)
    except Away as away:
        _leave(folder, slip, content, str(away))
    return Exit.OK


def hand_over(path: Path, slip: Slip, content: bytes) -> None:
    """Give a mail to the running server, for all recipients or for none; raises Unsent, Away."""
    wide = not "".join((slip.sender, *slip.recipients)).isascii()
    mail = [f"SIZE={len(content)}", "BODY=8BITMIME", *(["SMTPUTF8"] if wide else [])]
    mail += [f"RET={slip.ret}"] if slip.ret else []
    mail += [f"ENVID={xtext_encode(slip.envid.encode()).decode()}"] if slip.envid else []
    rcpt = [f"NOTIFY={slip.notify}"] if slip.notify else []
    try:
        with _Door(path) as door:
            door.command_encoding = "utf-8" if wide else "ascii"
            _expect(*door.ehlo())
            _expect(*door.mail(slip.sender, mail))
            for recipient in slip.recipients:
                _expect(*door.rcpt(recipient, rcpt), about=recipient)
            _expect(*door.data(content))
    except (OSError, smtplib.SMTPServerDisconnected, smtplib.SMTPConnectError) as gone:
        raise Away(str(gone)) from gone
    except smtplib.SMTPResponseException as answer:
        _expect(answer.smtp_code, answer.smtp_error if isinstance(answer.smtp_error, bytes) else b"")


def converse(folder: Path) -> int:
    """Let standard input and output speak SMTP with the server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(folder / offline.SOCKET))
        except OSError as gone:
            sys.stdout.write("421 4.3.2 The mail server is away, try again later\r\n")
            raise Unsent(f"the server does not answer: {gone}", Exit.TEMPFAIL) from gone
        waiting = [sys.stdin.fileno(), sock.fileno()]
        while sock.fileno() in waiting:
            ready, _, _ = select.select(waiting, [], [])
            if sys.stdin.fileno() in ready:
                octets = os.read(sys.stdin.fileno(), 65_536)
                if octets:
                    sock.sendall(octets)
                else:
                    waiting.remove(sys.stdin.fileno())
                    sock.shutdown(socket.SHUT_WR)
            if sock.fileno() in ready:
                octets = sock.recv(65_536)
                if not octets:
                    break
                sys.stdout.buffer.write(octets)
                sys.stdout.buffer.flush()
    return Exit.OK


class _Door(smtplib.SMTP):
    """SMTP over the server's local socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(str(path), 25, timeout=PATIENCE)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(str(self._path))
        except OSError:
            sock.close()
            raise
        return sock


def _expect(code: int, text: bytes, *, about: str = "") -> None:
    """See that an answer says yes; raises Away for "not now", Unsent for no."""
    if 200 <= code < 400:
        return
    said = f"{about}: " if about else ""
    said += f"{code} {text.decode('utf-8', 'replace')}"
    if code < 500:
        raise Away(said)
    status = Exit.NOUSER if about else Exit.UNAVAILABLE
    raise Unsent(said, Exit.DATAERR if code in (501, 553, 555) else status)


def _leave(folder: Path, slip: Slip, content: bytes, why: str) -> None:
    try:
        offline.put(folder, slip, content)
    except PermissionError as wrong:
        text = f"{why}; and {wrong.filename} is not for us: [intake] local_dir names a folder for all users"
        raise Unsent(text, Exit.NOPERM) from wrong
    except OSError as wrong:
        raise Unsent(f"{why}; and it cannot be left for later: {wrong}", Exit.TEMPFAIL) from wrong


def _settings(path: Path | None) -> Config | None:
    """Return the configuration; None where this user may not read it, for then the usual places are meant."""
    with contextlib.suppress(PermissionError):
        try:
            return load(config_file(path or _from_environment()))
        except ConfigError as wrong:
            if not isinstance(wrong.__cause__, PermissionError):
                raise
    return None


def _from_environment() -> Path | None:
    named = os.environ.get("GATEPOST_CONFIG")
    return Path(named) if named else None


def _local_dir(settings: Config | None) -> Path:
    if settings is None:
        return Path("/var/spool/gatepost")
    return local.local_dir(settings.intake.local_dir, settings.data_dir)


def _before_end(words: Sequence[str]) -> list[str]:
    return list(words[: words.index("--")] if "--" in words else words)


def _last(options: Sequence[tuple[str, str]], *names: str) -> str | None:
    found = [value for option, value in options if option in names]
    return found[-1] if found else None


def _notify(text: str) -> str:
    words = [word for word in text.upper().split(",") if word]
    if any(word not in ("NEVER", "SUCCESS", "FAILURE", "DELAY") for word in words) or (
        "NEVER" in words and len(words) > 1
    ):
        raise Unsent("-N is never, or some of success, failure, delay", Exit.USAGE)
    return ",".join(words)


def _content(source: BinaryIO, *, dots_end: bool) -> bytes:
    """Read a mail to its end, or to a line of one dot; return it with CRLF line ends."""
    lines = []
    for number, line in enumerate(source):
        text = line.rstrip(b"\r\n") if line.endswith(b"\n") else line
        if dots_end and text == b".":
            break
        if number == 0 and text.startswith(b"From "):
            continue  # mbox's separator, which some programs put first
        lines.append(text)
    if lines and _FIELD.match(lines[0]) is None and lines[0]:
        lines.insert(0, b"")  # no header at all: all of it is body
    return b"".join(line + b"\r\n" for line in lines) or b"\r\n"


def _named(header: HeaderBlock) -> list[str]:
    """Return the addresses in the header: those of Resent- fields where there are any (RFC 5322 §3.6.6)."""
    names = RESENT if any(name in header for name in RESENT) else TO
    found = []
    for name in names:
        for value in header.get(name):
            found += [_mailbox(box) for box in addresses.mailboxes(unfold(value))]
    return [text for text in found if text]


def _mailbox(box: addresses.Mailbox) -> str:
    local_part, domain = box.local.decode("utf-8", "replace"), box.domain.decode("utf-8", "replace")
    return f"{local_part}@{domain}" if domain else local_part


def _sender(given: str | None, user: str, hostname: str) -> str:
    if given is None:
        return f"{user}@{hostname}"
    text = given.strip().removeprefix("<").removesuffix(">")
    return _address(text, hostname) if text else ""


def _address(text: str, hostname: str) -> str:
    """Return an address; a name alone is one of this machine's. Raises Unsent."""
    text = text.strip().removeprefix("<").removesuffix(">")
    whole = text if "@" in text else f"{text}@{hostname}"
    try:
        return str(parse_mailbox(whole.encode("utf-8", "surrogateescape")))
    except BadAddress as bad:
        raise Unsent(f"{text!r} is no address: {bad}", Exit.DATAERR) from bad


def _from_field(name: str, sender: str) -> bytes:
    text = "".join(letter for letter in name if letter.isprintable())
    if any(letter in _QUOTED for letter in text):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"From: {text} <{sender}>\r\n".replace("From:  <", "From: <").encode()
