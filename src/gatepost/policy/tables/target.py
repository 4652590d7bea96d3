"""What a value of an alias, a virtual user or a .forward leads to (aliases(5), forward(5)).

user, user@domain           further
\\user                       this user's own mailbox, whatever aliases say
error:550 5.1.1 text        a refusal
|program arguments          a program that reads the mail
/path, maildir:/path        a file that it is added to
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from gatepost.base.address import Address
from gatepost.base.reply import Reply
from gatepost.codec.smtp.grammar import BadAddress, parse_mailbox

_MAILDIR: Final = "maildir:"
_ERROR: Final = "error:"


class BadTarget(ValueError):
    """A value that leads nowhere; the text says why and what to write."""


@dataclass(frozen=True, slots=True)
class ToAddress:
    """An address, of ours or anybody's."""

    address: Address


@dataclass(frozen=True, slots=True)
class ToUser:
    """A user by name alone. `own`: the user's own mailbox, no further alias."""

    name: str
    own: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Mail for it is refused with this reply."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class ToProgram:
    """A command line; what it means, words or a shell's line, is for whoever permits it."""

    command: str


@dataclass(frozen=True, slots=True)
class ToFile:
    """An mbox file, or a Maildir."""

    path: str
    maildir: bool = False


Target = ToAddress | ToUser | Refused | ToProgram | ToFile


def read_target(value: str) -> Target:
    """Read one value; raises BadTarget. What is no address by the grammar is none here either (OUT-12)."""
    if value.startswith(_ERROR):
        return Refused(_refusal(value))
    bare = _unquoted(value)
    if bare.startswith("|"):
        return ToProgram(_command(value, _unquoted(bare[1:].strip())))
    if bare.startswith("/"):
        return ToFile(_path(value, bare))
    if bare.startswith(_MAILDIR):
        return ToFile(_path(value, bare[len(_MAILDIR) :]), maildir=True)
    try:
        return _mailbox(value)
    except (BadAddress, UnicodeEncodeError) as wrong:
        raise BadTarget(f"{value!r} is no address: {wrong}") from wrong


def runs(target: Target) -> bool:
    """Tell whether a target starts a program or writes a file."""
    return isinstance(target, ToProgram | ToFile)


def split_values(text: str) -> tuple[str, ...]:
    """Split values at commas that are not inside quotes or an `error:` text."""
    if text.strip().startswith(_ERROR):
        return (text.strip(),)
    parts, quoted, start = [], False, 0
    for at, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            parts.append(text[start:at].strip())
            start = at + 1
    parts.append(text[start:].strip())
    return tuple(part for part in parts if part)


def _mailbox(value: str) -> ToAddress | ToUser:
    name = value.removeprefix("\\")
    if "@" in name:
        return ToAddress(parse_mailbox(name.encode()))
    user = replace(parse_mailbox(f"{name}@localhost".encode()), domain="")
    return ToUser(user.local, own=value.startswith("\\"))


def _refusal(value: str) -> Reply:
    """Read `error:550 5.1.1 text` or `error:450 text`; without an enhanced code it gets a fitting one."""
    code, _, text = value[len(_ERROR) :].strip().partition(" ")
    if len(code) != 3 or not (code.isascii() and code.isdigit()) or code[0] not in "45":
        raise BadTarget(f"{value!r} is no refusal: write error:550 5.1.1 text, the code from 400 to 599")
    first, _, rest = text.strip().partition(" ")
    numbers = first.split(".")
    if len(numbers) == 3 and all(n.isascii() and n.isdigit() and len(n) <= 3 for n in numbers):
        if numbers[0] != code[0]:
            raise BadTarget(f"{value!r}: {code} and {first} contradict each other: begin both with {code[0]}")
        return Reply(int(code), first, rest or "Recipient refused")
    return Reply(int(code), f"{code[0]}.1.1", text or "Recipient refused")


def _command(value: str, command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError as wrong:
        raise BadTarget(f"{value!r} is no command: {wrong}") from wrong
    if not words or "\0" in command:
        raise BadTarget(f"{value!r} is no command: write |/path/of/program")
    return command


def _path(value: str, path: str) -> str:
    if not path.startswith("/") or path.endswith("/") or "\0" in path or ".." in PurePosixPath(path).parts:
        raise BadTarget(f"{value!r} is no path: write it whole, from /, without ..")
    return path


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1]
    return text
