"""`gatepost serve`, `check`, `version`, `reload`, `upgrade`, `try`, and the care of the data."""

import os
import platform
import signal
import ssl
import time
from pathlib import Path
from typing import Annotated, Final

import apsw
import typer

from gatepost import __version__
from gatepost.aio.process import find_supervisor, read_status
from gatepost.base.settings import BadSetting
from gatepost.cli.common import ConfigOption, JsonOption, config_file, fail, print_json, say
from gatepost.config import Config, load, located
from gatepost.feeds.bgp.plan import compose as compose_bgp
from gatepost.policy.rules import load as load_rules
from gatepost.process import check_keys, generation, kernel, plan
from gatepost.supervised import supervise

UPGRADE_S: Final = 130


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (serve, reload, upgrade, status, check, version):
        app.command()(command)
    app.command("plan", hidden=True)(plan_)
    app.command("generation", hidden=True)(generation_)
    app.command("kernel", hidden=True)(kernel_)
    app.command("try")(try_)


def serve(config: ConfigOption = None) -> None:
    """Run the server until SIGTERM; SIGHUP reads the configuration anew, SIGUSR2 upgrades."""
    raise typer.Exit(supervise(str(config_file(config))))


def plan_(config: ConfigOption = None) -> None:
    """Print what the supervisor needs to know of a configuration (for the supervisor)."""
    say(plan(load(config_file(config))).to_json())


def generation_(config: ConfigOption = None) -> None:
    """Be a generation of workers (for the supervisor)."""
    raise typer.Exit(generation(config_file(config)))


def kernel_(config: ConfigOption = None) -> None:
    """Be the gate in the kernel (for the supervisor)."""
    raise typer.Exit(kernel(config_file(config)))


def reload(config: ConfigOption = None) -> None:
    """Let the running server read its configuration and tables anew; an invalid one changes nothing."""
    settings = load(config_file(config))
    os.kill(_supervisor(settings), signal.SIGHUP)
    say("asked; gatepost logs tells how it went")


def upgrade(config: ConfigOption = None) -> None:
    """Replace the running server by what is installed now; its sockets stay open and no client is turned away."""
    settings = load(config_file(config))
    pid = _supervisor(settings)
    before = read_status(settings.data_dir).get("generation")
    os.kill(pid, signal.SIGUSR2)
    ends = time.monotonic() + UPGRADE_S
    while time.monotonic() < ends:
        status = read_status(settings.data_dir)
        if status.get("generation") != before and status.get("state") == "serving":
            say(f"generation {status.get('generation')} serves; the one before drains")
            return
        time.sleep(0.1)
    fail(f"no new generation within {UPGRADE_S} s; the old one serves on. gatepost logs may tell why")


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell whether the server runs, and how."""
    settings = load(config_file(config))
    pid = find_supervisor(settings.data_dir)
    facts = {"running": pid is not None, "pid": pid, **read_status(settings.data_dir)}
    if as_json:
        print_json(facts)
    else:
        for name, value in facts.items():
            say(f"{name:<12} {value}")
    if pid is None:
        raise typer.Exit(3)


def _supervisor(settings: Config) -> int:
    pid = find_supervisor(settings.data_dir)
    if pid is None:
        fail(f"no server runs on {settings.data_dir}")
    return pid


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Read the configuration, its tables and certificates; say what is wrong, or that nothing is."""
    file = config_file(config)
    settings = load(file)
    warnings: list[str] = []

    def warn(event: str, **fields: object) -> None:
        warnings.append(f"{event}: " + ", ".join(f"{key} {value}" for key, value in fields.items()))

    try:
        ruleset = load_rules(settings.policy, warn)
    except BadSetting as wrong:
        raise located(wrong, file.read_text("utf-8"), file) from wrong
    check_keys(settings, file)
    for name, path in settings.gate.tables.items():
        if not Path(path).exists():
            fail(f"{file}: gate.tables.{name}: {path} does not exist (an empty file is an empty table)")
    try:
        warnings += compose_bgp(settings.feeds.bgp, ()).warnings()
    except ValueError as wrong:
        fail(f"{file}: feeds.bgp: {wrong}")
    listeners = {name: list(each.address) for name, each in settings.listeners.items()}
    if as_json:
        print_json({"config": str(file), "listeners": listeners, "rules": len(ruleset.rules), "warnings": warnings})
        return
    for warning in warnings:
        say(f"warning: {warning}")
    say(f"{file} is good: {len(listeners)} listeners, {len(ruleset.rules)} rules, data in {settings.data_dir}")


def version(as_json: JsonOption = False) -> None:
    """Print the versions that matter."""
    facts = {
        "gatepost": __version__,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "system": f"{platform.system()} {platform.release()}",
    }
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        say(f"{name:<9} {value}")


def try_(
    once: Annotated[
        bool, typer.Option("--once", help="Play the flows and end; exit 0 only if all went well.")
    ] = False,
    hold: Annotated[
        bool, typer.Option("--hold", help="Do not play; hold the server for your own programs.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write how to reach it to this file.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Keep the data here.")] = None,
    greylist: Annotated[str, typer.Option(help="on: greylist 127.0.0.1 too.")] = "off",
    filter_: Annotated[str, typer.Option("--filter", help="on: look at the content of mail.")] = "off",
    workers: Annotated[int, typer.Option(help="Processes that speak with the world.")] = 1,
) -> None:
    """Show the whole server on this machine: its own CA, zone, accounts, and the three flows, played live."""
    from gatepost.welcome.trial import Trial, TrialOptions  # only this command needs it

    for name, value in (("--greylist", greylist), ("--filter", filter_)):
        if value not in ("on", "off"):
            fail(f"{name} is on or off, not {value!r}")
    options = TrialOptions(
        once=once,
        hold=hold,
        json_file=json_file,
        data_dir=data_dir,
        greylist=greylist == "on",
        filter=filter_ == "on",
        workers=workers,
    )
    raise typer.Exit(Trial(options).run())
