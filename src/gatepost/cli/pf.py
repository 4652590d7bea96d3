"""`gatepost pf check`, `gatepost import pf.conf`, `gatepost gate explain`: what a pf.conf means here, and why."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gatepost.cli.common import CLOCK, ConfigOption, Failed, JsonOption, print_json, say, with_databases
from gatepost.cli.imports import imports, remarks
from gatepost.config import PORTS, Config, bound
from gatepost.databases import Databases
from gatepost.gate.gate import Explanation, Gate
from gatepost.gate.pfconf.lex import PfConfError
from gatepost.gate.pfconf.report import as_toml, remark_text, report
from gatepost.gate.pfconf.rules import PfRules
from gatepost.gate.prefix import Prefix, number_of
from gatepost.gate.table import BadEntry, TableFull

pf = typer.Typer(help="OpenBSD's pf.conf as the gate's rules.", no_args_is_help=True)

PfConfFile = Annotated[Path, typer.Argument(help="OpenBSD's pf.conf.")]
OutsideOption = Annotated[
    list[str] | None,
    typer.Option("--outside", help="An interface that mail comes in on, where the rules name several."),
]


@pf.callback()
def _one_word_each() -> None:
    """Keep `check` a word of the command, also while it is the only one."""


@pf.command("check")
def pf_check(file: PfConfFile, outside: OutsideOption = None, as_json: JsonOption = False) -> None:
    """Tell of each statement whether it is mapped, ignored or unsupported, and why; status 1 for a broken file."""
    rules = _load(file, outside)
    found = report(rules)
    if as_json:
        print_json([{**asdict(each), "heed": each.heed.value} for each in found])
        return
    for each in found:
        say(remark_text(each))
    for name, table in sorted(rules.tables.items()):
        for path in table.files:
            if not Path(path).exists():
                sys.stderr.write(f"{file}:{table.line}: there is no {path} for <{name}>; gate.rules needs it\n")


@imports.command("pf.conf")
def import_pf(file: PfConfFile, outside: OutsideOption = None) -> None:
    """Print the settings that go with a pf.conf; what becomes of each statement stands above them as comments.

    The rules stay in the file: `rules = "/etc/pf.conf"` in [gate] reads it at each start and reload.
    """
    rules = _load(file, outside)
    sys.stdout.write(remarks([remark_text(each) for each in report(rules)]) + as_toml(rules, file.absolute()))


def gate_explain(
    ip: str,
    port: Annotated[str, typer.Argument(help="A port, or the name of a listener.")] = "25",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which rule decides about a connection from IP to PORT, and why none before it did."""
    try:
        number_of(ip)
    except ValueError as wrong:
        raise Failed(f"{wrong}: write 192.0.2.7 or 2001:db8::7") from wrong

    async def work(databases: Databases, settings: Config) -> tuple[Explanation, bool]:
        gate = _gate(databases, settings)
        try:
            await gate.start()
        except (BadEntry, TableFull, PfConfError, OSError) as wrong:
            raise Failed(str(wrong)) from wrong
        found = gate.explain(ip, kind_of(settings, port))
        return found, gate.tarpits(found.decision)

    found, held = with_databases(config, work)
    if as_json:
        print_json(
            {**asdict(found), "decision": {**asdict(found.decision), "verdict": found.decision.verdict.value}}
        )
        return
    for look in found.looks[:-1]:
        say(f"{'matches' if look.matched else '   -   '}  {look.rule}: {look.why}")
    last = found.looks[-1]
    say(f"DECIDES  {last.rule}: {last.why}")
    for table, entry in found.entries:
        say(f"{ip} is in <{table}> by {entry}")
    say(f"{ip} to {port}: {found.decision.verdict.value}{' (held by the tarpit)' if held else ''}")


def kind_of(config: Config, port: str) -> str:
    """Return the kind of the listener of that name, or on that port; raises Failed."""
    if port in config.listeners:
        return config.listeners[port].kind.value
    for name, listener in config.listeners.items():
        usual = PORTS[listener.kind]
        for at, address in enumerate(listener.address):
            if port == str(bound(address, usual, ("listen", name, "address", at))[0][1]):
                return listener.kind.value
    for kind, usual in PORTS.items():
        if port in (kind.value, str(usual)):
            return kind.value
    known = ", ".join(config.listeners)
    raise Failed(f"nobody listens on {port}: name a listener ({known}) or its port")


def _gate(databases: Databases, settings: Config) -> Gate:
    """Return a gate that is only asked."""

    def cut(_: Prefix) -> None:
        raise AssertionError("it is only asked")

    return Gate(
        settings.gate,
        databases.gate,
        hostname=settings.hostname,
        clock=CLOCK,
        log=_Silent(),
        cut=cut,
        scans=False,
    )


def _load(file: Path, outside: list[str] | None) -> PfRules:
    try:
        return PfRules.load(file, outside=outside or ())
    except PfConfError as wrong:
        raise Failed(str(wrong)) from wrong


class _Silent:
    """A log that says nothing: what is wrong is an error of the command."""

    def _nothing(self, event: str, **fields: object) -> None:
        pass

    debug = info = warning = error = exception = _nothing
