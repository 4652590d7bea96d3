"""`gatepost backup`, `restore`, `verify`: the care of the data."""

import asyncio
from pathlib import Path

import typer
from rich.progress import Progress as Bar

from gatepost.backup import BackupRefused, back_up, verify
from gatepost.backup import restore as restore_backup
from gatepost.base.settings import BadSetting
from gatepost.blobs.bodies import Progress
from gatepost.blobs.keys import NO_KEYS, Keys
from gatepost.cli.common import CLOCK, ConfigOption, Failed, configuration, fail, say
from gatepost.db.writer import DatabaseInUse
from gatepost.queue.atrest import keys_of


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(folder: Path, config: ConfigOption = None) -> None:
    """Copy all data to a new FOLDER, while the server runs."""
    try:
        back_up(configuration(config).data_dir, folder, CLOCK, say)
    except BackupRefused as wrong:
        fail(str(wrong))


def restore(folder: Path, config: ConfigOption = None) -> None:
    """Put a backup back into the (empty) data directory of the configuration."""
    try:
        restore_backup(folder, configuration(config).data_dir, CLOCK, say)
    except BackupRefused as wrong:
        fail(str(wrong))


def verify_data(folder: Path | None, config: Path | None) -> None:
    """Check the databases and every body of a backup, or of the stopped server's data; name what is damaged."""
    data_dir = folder if folder is not None else configuration(config).data_dir
    keys = _keys(folder, config)
    with Bar(transient=True) as bar:
        task = bar.add_task("bodies", total=None)

        class Shown(Progress):
            def __call__(self, more: int) -> None:
                bar.advance(task, more)

        try:
            wrong = asyncio.run(verify(data_dir, CLOCK, Shown(), keys))
        except DatabaseInUse:
            fail(f"a server runs on {data_dir}: stop it first, or verify a backup of it")
    for each in wrong:
        say(each)
    if wrong:
        raise typer.Exit(1)
    say(f"{data_dir} is sound")


def _keys(folder: Path | None, config: Path | None) -> Keys:
    """Return the keys of the configuration; a backup may be looked at without one."""
    try:
        return keys_of(configuration(config).queue)
    except Failed:
        if folder is None:
            raise
        return NO_KEYS
    except BadSetting as wrong:
        fail(str(wrong))
