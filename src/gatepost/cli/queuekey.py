"""`gatepost queue key`, and `queue message` and `queue envelope`: the queue at rest, and what is in it in clear."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from gatepost.aio.process import find_supervisor
from gatepost.base.ids import MailId, parse_id
from gatepost.base.settings import BadSetting
from gatepost.blobs.bodies import Blobs, Damaged, Missing
from gatepost.blobs.keys import Keys, new_key
from gatepost.blobs.known import KeyRefused, known_keys
from gatepost.cli.common import (
    ConfigOption,
    JsonOption,
    configuration,
    fail,
    now,
    print_json,
    say,
    show,
    with_databases,
)
from gatepost.config import Config
from gatepost.databases import Databases, reached
from gatepost.queue import verbs
from gatepost.queue.atrest import keys_of
from gatepost.queue.envelope import Lines, envelopes
from gatepost.queue.rotate import CLEAR, Census, Rotated, census, rotate

T = TypeVar("T")
Raw = Callable[[Databases, Config, Keys], Coroutine[Any, Any, T]]
COLUMNS = ("Key", "In the file", "Mails", "Recipients", "Bodies")

key = typer.Typer(help="The key under which mail is kept encrypted.", no_args_is_help=True)


def register(queue: typer.Typer) -> None:
    """Add the commands below `gatepost queue`."""
    queue.add_typer(key, name="key")
    queue.command("message")(queue_message)
    queue.command("envelope")(queue_envelope)


@key.command("new")
def key_new(
    file: Annotated[Path | None, typer.Option("--output", "-o", help="The file; it must not be there yet.")] = None,
) -> None:
    """Make a key: into a new file of mode 0600, or printed."""
    made = new_key()
    if file is None:
        say(made)
        return
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{file} is there already, and what is encrypted under its keys would be lost: name another file")
    except OSError as wrong:
        fail(f"{file} cannot be written: {wrong.strerror}")
    with os.fdopen(handle, "w") as out:
        out.write(made + "\n")
        out.flush()
        os.fsync(out.fileno())
    say(f"{file} has a new key. Keep a copy where the mail is not: it is in no backup, and without it all is lost.")
    say("It must be the server's user's (chown). To use it, write into the configuration:")
    say(f'\n[queue]\nencryption_key_file = "{file.absolute()}"\n')
    say("and run gatepost upgrade. To replace another key, put this one as the first line into its file instead;")
    say("then gatepost upgrade and gatepost queue key rotate.")


@key.command("check")
def key_check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show which key reads how much; the status is 1 where something cannot be read."""

    async def work(databases: Databases, _: Config, keys: Keys) -> tuple[Census, Keys]:
        return await census(databases.mail, keys), keys

    found, keys = _with_keys(config, work)
    names = dict.fromkeys((*keys.names, *found.known, *found.mails, *found.recipients, *found.bodies))
    missing = [name for name in names if name != CLEAR and keys.key(name) is None]
    if as_json:
        under = {
            name or "clear": {
                "in_file": keys.key(name) is not None,
                "mails": found.mails[name],
                "recipients": found.recipients[name],
                "bodies": found.bodies[name],
            }
            for name in names
        }
        print_json({"keys": under, "missing": missing, "unreadable": found.unreadable})
    else:
        rows = [_row(name, found, keys) for name in names]
        show(rows, COLUMNS, as_json=False, nothing="no key is set, and nothing is stored")
        for name in missing:
            say(f"key {name} is not in the file: what is under it cannot be read, and a server does not start")
        for each in found.unreadable:
            say(f"envelope {each} cannot be read: it is damaged, or its key is missing; it is held, not lost")
    if missing or found.unreadable:
        raise typer.Exit(1)
    if not as_json:
        say("everything can be read")


@key.command("rotate")
def key_rotate(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only count.")] = False,
    clear: Annotated[
        bool, typer.Option("--clear", help="Decrypt everything, before encryption_key_file is taken out.")
    ] = False,
) -> None:
    """Encrypt everything under the first key of the file: what is under others, and what is in clear.

    The server may run, once it was started with this file. It can be stopped and run again at any time.
    """

    async def work(databases: Databases, settings: Config, keys: Keys) -> tuple[Census, Rotated | None]:
        if keys.first is None:
            fail("no key is set: gatepost queue key new -o FILE makes one, and says how to set it")
        await _check_server(databases, settings, keys, clear=clear)
        wanted = keys.under(CLEAR) if clear else keys
        found = await census(databases.mail, wanted)
        if dry_run:
            return found, None
        blobs = Blobs(databases.mail, settings.data_dir / "bodies", keys=wanted)
        with Bar(transient=True, console=Console(stderr=True)) as bar:
            task = bar.add_task("encrypting" if not clear else "decrypting", total=_besides(found, wanted))
            done = await rotate(databases.mail, blobs, wanted, now(), lambda more: bar.advance(task, more))
        return await census(databases.mail, wanted), done

    try:
        found, done = _with_keys(config, work)
    except KeyRefused as wrong:
        fail(str(wrong))
    _tell(found, done, as_json=as_json)
    if found.unreadable or (done is not None and done.unreadable):
        raise typer.Exit(1)


def queue_message(mail: Annotated[str, typer.Argument(help="The mail's id.")], config: ConfigOption = None) -> None:
    """Print a waiting mail, octet for octet as it will be sent."""
    number = _mail_id(mail)

    async def work(databases: Databases, settings: Config) -> bytes:
        row = (await verbs.show(databases.mail, number))[0]
        blobs = Blobs(databases.mail, settings.data_dir / "bodies", keys=keys_of(settings.queue))
        return await blobs.get(row.body)

    try:
        content = with_databases(config, work)
    except verbs.NotThere:
        fail(f"{mail} is not in the queue")
    except (Damaged, Missing) as wrong:
        fail(f"the text of {mail} cannot be read: {wrong}")
    sys.stdout.buffer.write(content)


def queue_envelope(
    mail: Annotated[str, typer.Argument(help="The mail's id.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the envelope of a waiting mail for each of its recipients, in lines as smtpctl does."""
    number = _mail_id(mail)
    try:
        found = with_databases(
            config, lambda databases, settings: envelopes(databases.mail, number, settings.queue)
        )
    except verbs.NotThere:
        fail(f"{mail} is not in the queue")
    if as_json:
        print_json([dict(lines) for lines in found])
        return
    say("\n\n".join(map(_block, found)))


def _with_keys(config: Path | None, work: Raw[T]) -> T:
    """Run `work` with the databases as they are and the keys of the configuration."""
    settings = configuration(config)
    try:
        keys = keys_of(settings.queue)
    except BadSetting as wrong:
        fail(str(wrong))

    async def run() -> T:
        async with reached(settings.data_dir) as databases:
            return await work(databases, settings, keys)

    return asyncio.run(run())


async def _check_server(databases: Databases, settings: Config, keys: Keys, *, clear: bool) -> None:
    """See that a server that runs can read what we write."""
    if find_supervisor(settings.data_dir) is None or keys.first is None:
        return
    if clear:
        fail("the server would go on to encrypt: stop it, decrypt, take encryption_key_file out, start it")
    if keys.first.name not in await known_keys(databases.mail):
        fail(f"the server that runs does not know key {keys.first.name} yet: gatepost upgrade first")


def _tell(found: Census, done: Rotated | None, *, as_json: bool) -> None:
    envelopes_left = sum(found.mails.values()) + sum(found.recipients.values())
    if as_json:
        facts: dict[str, object] = {
            "envelopes": {name or "clear": found.mails[name] + found.recipients[name] for name in _names(found)},
            "bodies": {name or "clear": count for name, count in found.bodies.items()},
            "unreadable": [*found.unreadable, *(done.unreadable if done is not None else ())],
        }
        if done is not None:
            facts["changed"] = {"envelopes": done.envelopes, "bodies": done.bodies}
            facts["struck_out"] = done.struck_out
        print_json(facts)
        return
    for name in _names(found):
        count = found.mails[name] + found.recipients[name]
        where = f"under key {name}" if name else "in clear"
        say(f"{count} envelopes and {found.bodies[name]} bodies {'are' if done is None else 'are now'} {where}")
    if done is None:
        say(f"{envelopes_left} envelopes and {sum(found.bodies.values())} bodies in all; nothing was changed")
        return
    say(f"{done.envelopes} envelopes and {done.bodies} bodies were changed")
    for each in (*done.unreadable, *found.unreadable):
        say(f"{each} could not be read, and stays as it is")
    for name in done.struck_out:
        say(f"nothing is under key {name} any more: it may leave the file; backups from before still need it")


def _names(found: Census) -> list[str]:
    return sorted({*found.mails, *found.recipients, *found.bodies})


def _besides(found: Census, keys: Keys) -> int:
    return found.besides(CLEAR if keys.first is None else keys.first.name)


def _row(name: str, found: Census, keys: Keys) -> tuple[object, ...]:
    if name == CLEAR:
        place = ""
    elif keys.key(name) is None:
        place = "no"
    else:
        place = "first" if keys.first is not None and keys.first.name == name else "yes"
    return name or "(in clear)", place, found.mails[name], found.recipients[name], found.bodies[name]


def _block(lines: Lines) -> str:
    return "\n".join(f"{name}: {value}" for name, value in lines)


def _mail_id(text: str) -> MailId:
    try:
        return parse_id(text)
    except ValueError as wrong:
        fail(str(wrong))
