"""`gatepost import`: configurations of the programs we replace become TOML, with a report of what could not."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from gatepost.cli.common import JsonOption, fail, print_json, say
from gatepost.feeds.bgp import conf as bgpd_conf
from gatepost.feeds.bgp import toml as bgp_toml
from gatepost.feeds.bgp.words import BgpdConfError
from gatepost.feeds.lists import spamdconf
from gatepost.feeds.lists.spamdconf import SpamdConfError
from gatepost.policy.smtpdconf.read import read as read_smtpd
from gatepost.policy.smtpdconf.toml import as_toml as smtpd_as_toml
from gatepost.policy.smtpdconf.toml import remark_text
from gatepost.policy.smtpdconf.toml import report as smtpd_report
from gatepost.policy.smtpdconf.words import SmtpdConfError

imports = typer.Typer(
    name="import",
    help="Turn another program's configuration into TOML for this server; nothing is changed.",
    no_args_is_help=True,
)
REMARK: Final = "# "


@imports.callback()
def _each_program_by_its_file() -> None:
    """Keep the name of the file a word of the command, also while there is only one."""


def remarks(lines: list[str]) -> str:
    """Return a report as TOML comments, so that output can go to a file as it is."""
    return "".join(f"{REMARK}{line}\n" for line in lines)


@imports.command("bgpd.conf")
def import_bgpd(file: Annotated[Path, typer.Argument(help="OpenBGPD's configuration.")]) -> None:
    """Print a bgpd.conf as TOML for this server; what was left out stands above it as comments.

    This is not needed: `conf = "/etc/bgpd.conf"` in [feeds.bgp] reads the file itself.
    """
    try:
        found = bgpd_conf.read(file)
    except BgpdConfError as wrong:
        fail(str(wrong))
    sys.stdout.write(remarks(bgp_toml.report(found)) + bgp_toml.as_toml(found))


@imports.command("spamd.conf")
def import_spamd(file: Annotated[Path, typer.Argument(help="spamd-setup's configuration.")]) -> None:
    """Print a spamd.conf as TOML for this server, its lists in the order of `all`.

    This is not needed: `conf = "/etc/mail/spamd.conf"` in [feeds.lists] reads the file itself.
    """
    try:
        found = spamdconf.read(file)
    except SpamdConfError as wrong:
        fail(str(wrong))
    sys.stdout.write(spamdconf.as_toml(found))


@imports.command("smtpd.conf")
def import_smtpd(
    file: Annotated[
        Path, typer.Argument(help="OpenSMTPD's configuration, in the grammar of 5.x or of 6.4 and later.")
    ],
    as_json: JsonOption = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the settings to this new file.")] = None,
) -> None:
    """Print a smtpd.conf as TOML for this server; what becomes of each statement stands above it as comments."""
    try:
        found = read_smtpd(file)
    except SmtpdConfError as wrong:
        fail(str(wrong))
    except OSError as wrong:
        fail(f"{file}: {wrong.strerror or wrong}")
    told, settings = smtpd_report(found), smtpd_as_toml(found)
    if out is not None:
        _write_new(out, settings)
    if as_json:
        listed = [{**asdict(each), "heed": each.heed.value} for each in told]
        print_json({"report": listed, "toml": settings})
    elif out is not None:
        for each in told:
            say(remark_text(each))
    else:
        sys.stdout.write(remarks([remark_text(each) for each in told]) + settings)


def _write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet: nothing is overwritten."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as wrong:
        fail(f"{path}: {wrong.strerror or wrong}; nothing was overwritten: name a new file")
