"""`gatepost trace` and `gatepost logs`: what happened, and why."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gatepost.accounts.verbs import parse_address
from gatepost.base.address import Address
from gatepost.base.ids import MailId, id_text, parse_id
from gatepost.cli.common import (
    ConfigOption,
    JsonOption,
    configuration,
    fail,
    moment,
    print_json,
    say,
    with_databases,
)
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.diary.verbs import StoryLine
from gatepost.diary.verbs import trace as trace_verb
from gatepost.logs import text_line

_COLOURS = {
    "gate": "red",
    "intake": "cyan",
    "policy": "magenta",
    "judge": "yellow",
    "store": "green",
    "queue": "blue",
}
_COLOURS |= {"relay": "blue"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("trace")(trace)
    app.command("logs")(logs)


def trace(what: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell the story of a mail by its id, or of the newest mails from or to an address."""
    key = _key(what)

    async def work(databases: Databases, settings: Config) -> list[StoryLine]:
        return await trace_verb(databases.mail, key, databases.gate)

    lines = with_databases(config, work)
    if as_json:
        print_json(
            [
                {
                    "id": id_text(line.id),
                    "at": moment(line.at),
                    "stage": line.stage,
                    "event": line.event,
                    **dict(line.fields),
                }
                for line in lines
            ]
        )
        return
    if not lines:
        fail(f"nothing is known of {what}: stories are kept for 30 days, those of refused mail for 7")
    console = Console()
    last = None
    for line in lines:
        if line.id != last:
            console.print(Text(f"\n{id_text(line.id)}", "bold"))
            last = line.id
        fields = " ".join(f"{name}={value}" for name, value in line.fields)
        console.print(
            Text.assemble(
                (f"  {moment(line.at)} ", "dim"),
                (f"{line.stage:<7} ", _COLOURS.get(line.stage, "white")),
                (f"{line.event} ", "bold"),
                (fields, "default"),
            ),
            soft_wrap=True,
        )


def logs(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the newest lines.")] = 50,
    level: Annotated[str, typer.Option(help="Only this level and above: info, warning, error.")] = "debug",
) -> None:
    """Print the newest log lines."""
    path = configuration(config).data_dir / "log" / "gatepost.log"
    if not path.exists():
        fail(f"{path} does not exist: the server has not run yet")
    order = ("debug", "info", "warning", "error")
    if level not in order:
        fail(f"{level!r} is not a level: {', '.join(order)}")
    wanted = order[order.index(level) :]
    position = path.stat().st_size
    for line in path.read_bytes().splitlines()[-lines:]:
        _print(line, wanted, as_json=as_json)
    while follow:
        time.sleep(0.3)
        position = _more(path, position, wanted, as_json=as_json)


def _more(path: Path, position: int, wanted: tuple[str, ...], *, as_json: bool) -> int:
    size = path.stat().st_size
    if size < position:  # the file was turned over
        position = 0
    with path.open("rb") as file:
        file.seek(position)
        for line in file:
            _print(line, wanted, as_json=as_json)
        return file.tell()


def _print(line: bytes, wanted: tuple[str, ...], *, as_json: bool) -> None:
    try:
        record = json.loads(line)
    except ValueError:
        return
    if record.get("level", "info") in wanted:
        say(json.dumps(record) if as_json else text_line(record))


def _key(what: str) -> MailId | Address:
    return parse_address(what) if "@" in what else _id(what)


def _id(text: str) -> MailId:
    try:
        return parse_id(text)
    except ValueError as wrong:
        fail(f"{wrong}; give an id, or an address")
