"""`gatepost srs`: the key of rewritten senders, and what an address is rewritten to or stands for."""

import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from gatepost.base.address import Address
from gatepost.base.reply import Refusal
from gatepost.base.settings import BadSetting
from gatepost.cli.common import ConfigOption, Failed, JsonOption, configuration, fail, now, print_json, say
from gatepost.codec.smtp.grammar import BadAddress, parse_mailbox
from gatepost.policy.srs import Rewriter, load_rewriter

KEY_OCTETS = 24

srs = typer.Typer(help="Rewritten senders of forwarded mail (SRS).", no_args_is_help=True)


@srs.command("key")
def srs_key(file: Annotated[Path, typer.Argument(help="The file; a new key becomes its first line.")]) -> None:
    """Make a key: a new file of mode 0600, or a new first line of the one that is there.

    The old keys go on checking; take them out when `policy.srs.days` have passed.
    """
    made = secrets.token_urlsafe(KEY_OCTETS) + "\n"
    try:
        old = file.read_text("ascii") if file.exists() else ""
        fresh = file.with_name(f".{file.name}.new")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as out:
            out.write(made + old)
            out.flush()
            os.fsync(out.fileno())
        if old:
            facts = file.stat()
            os.chown(fresh, facts.st_uid, facts.st_gid)
        fresh.replace(file)
    except (OSError, UnicodeDecodeError) as wrong:
        fail(f"{file} cannot be written: {wrong}")
    if old:
        say(f"{file} has a new first key: a running server reads it by itself")
        return
    say(f"{file} has a key. It must be the server's user's (chown). To use it, write into the configuration:")
    say(f'\n[policy.srs]\nkey_file = "{file.absolute()}"\n')
    say("and run gatepost reload. The other MXs of the domain need the same file.")


@srs.command("test")
def srs_test(address: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell what ADDRESS is rewritten to when its mail is forwarded or, for a rewritten one, for whom it stands."""
    rewriter = _rewriter(config)
    try:
        parsed = parse_mailbox(address.encode())
    except (BadAddress, UnicodeEncodeError) as wrong:
        raise Failed(f"{address!r} is no address: write user@domain") from wrong
    facts = _facts(rewriter, parsed)
    if as_json:
        print_json(facts)
    elif "problem" in facts:
        raise Failed(facts["problem"])
    else:
        say(next(iter(facts.values())))


def _facts(rewriter: Rewriter, address: Address) -> dict[str, str]:
    if not rewriter.ours(address):
        return {"rewritten": str(rewriter.outgoing(address, now()))}
    try:
        return {"stands_for": str(rewriter.owner(address, now()))}
    except Refusal as refused:
        return {"problem": refused.detail}


def _rewriter(config: Path | None) -> Rewriter:
    settings = configuration(config)
    try:
        found = load_rewriter(settings.policy.srs)
    except BadSetting as wrong:
        raise Failed(str(wrong)) from wrong
    if found is None:
        raise Failed("senders are not rewritten: [policy.srs] key_file is not set; gatepost srs key FILE makes one")
    return found.at(settings.hostname)
