"""`gatepost sync`: the key that mail servers share, and whom this one shares its greylist with."""

import os
from pathlib import Path
from typing import Final

import typer

from gatepost.cli.common import ConfigOption, Failed, JsonOption, configuration, print_json, say
from gatepost.feeds.sync.feed import KeyUnusable, read_keys

KEY_OCTETS: Final = 2048

sync = typer.Typer(help="The sync of the greylist with other mail servers.", no_args_is_help=True)


@sync.command("key")
def sync_key(file: Path) -> None:
    """Make a key and write it to FILE, which only its owner may read; copy it to all servers."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as there:
        raise Failed(f"{file} is there already: a key is never written over. Name another file.") from there
    except OSError as wrong:
        raise Failed(f"{file} cannot be written: {wrong}") from wrong
    with os.fdopen(descriptor, "wb") as made:
        made.write(os.urandom(KEY_OCTETS))
    say(f'Wrote {file}. Copy it to the other servers, and name it in each: [feeds.sync] key_files = ["{file}"]')


@sync.command("show")
def sync_show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell with whom the greylist is shared, and whether the keys can be used."""
    settings = configuration(config).feeds.sync
    problem = ""
    try:
        read_keys(settings)
    except KeyUnusable as wrong:
        problem = str(wrong)
    facts = {
        "mode": settings.mode.value,
        "listen": settings.listen,
        "peers": list(settings.peers),
        "allow": list(settings.allow),
        "key_files": list(settings.key_files),
        "problem": problem,
    }
    if as_json:
        print_json(facts)
    else:
        for name, value in facts.items():
            say(f"{name:10} {', '.join(value) if isinstance(value, list) else value}".rstrip())
    if problem:
        raise typer.Exit(1)
