"""`gatepost user`, `domain`, `alias`: who lives here."""

import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from gatepost.accounts import verbs
from gatepost.accounts.model import Quota
from gatepost.accounts.password import Hasher
from gatepost.base.address import fold_domain
from gatepost.base.units import octets_text, parse_octets
from gatepost.cli.common import ConfigOption, JsonOption, fail, minter, moment, now, say, show, with_databases
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.db.unit import Unit
from gatepost.judge import verbs as judge_verbs
from gatepost.judge.keys import KeyFile
from gatepost.store import verbs as store_verbs

users = typer.Typer(help="Accounts: people who log in and have mailboxes.", no_args_is_help=True)
domains = typer.Typer(help="Domains whose mail is ours.", no_args_is_help=True)
aliases = typer.Typer(help="Addresses that lead to other addresses.", no_args_is_help=True)

PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="Read the password from this file; - is standard input.")
]


@users.command("add")
def user_add(
    address: str,
    config: ConfigOption = None,
    password_file: PasswordFile = None,
    admin: Annotated[bool, typer.Option(help="May also administer the server.")] = False,
    quota: Annotated[str, typer.Option(help="What the mailbox may hold, such as 2G; nothing is no limit.")] = "",
) -> None:
    """Add an account with its mailboxes; asks for the password where no file gives it."""
    password = _password(password_file)

    async def work(databases: Databases, settings: Config) -> None:
        hasher = Hasher(settings.accounts)
        ids, moment_now = minter(), now()
        limit = Quota(octets=parse_octets(quota)) if quota else Quota()
        account = await verbs.add_user(
            databases.mail, hasher, ids, address, password, moment_now, admin=admin, quota=limit
        )
        steps = store_verbs.create_default_mailboxes_steps(account.id, ids, moment_now)
        await databases.mail.commit(Unit((*account.steps, *steps), account.notices))

    with_databases(config, work)
    say(f"{address} can log in now")


@users.command("passwd")
def user_passwd(address: str, config: ConfigOption = None, password_file: PasswordFile = None) -> None:
    """Give an account a new password."""
    password = _password(password_file)

    async def work(databases: Databases, settings: Config) -> None:
        await verbs.set_password(databases.mail, Hasher(settings.accounts), address, password, now())

    with_databases(config, work)
    say(f"{address} has a new password")


@users.command("list")
def user_list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the accounts."""
    found = with_databases(config, lambda databases, _: verbs.list_users(databases.mail))
    rows = [(each.address, each.admin, each.enabled, _quota(each.quota), moment(each.created_at)) for each in found]
    show(rows, ("Address", "Admin", "Enabled", "Quota", "Since"), as_json=as_json, nothing="no accounts yet")


@users.command("forward")
def user_forward(
    address: str,
    to: Annotated[
        list[str] | None, typer.Option("--to", help="Where the mail goes; may stand several times.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep a copy in the own mailbox.")] = False,
    off: Annotated[bool, typer.Option("--off", help="Forward no more.")] = False,
    config: ConfigOption = None,
) -> None:
    """Let the mail of an account go elsewhere, in place of what was said before; or no more."""
    if bool(to) is off:
        fail("say where with --to, or end it with --off")
    goes = with_databases(
        config, lambda databases, _: verbs.forward_user(databases.mail, address, tuple(to or ()), now(), keep=keep)
    )
    say(f"mail for {address} goes to {', '.join(goes)}")


@users.command("del")
def user_del(
    address: str,
    config: ConfigOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete an account and all its mail."""
    if not yes:
        typer.confirm(f"Delete {address} and all its mail?", abort=True)

    async def work(databases: Databases, settings: Config) -> None:
        account = await verbs.del_user(databases.mail, address, now())
        steps = store_verbs.drop_account_steps(account.id)
        await databases.mail.commit(Unit((*steps, *account.steps), account.notices))

    with_databases(config, work)
    say(f"{address} is gone")


@domains.command("add")
def domain_add(name: str, config: ConfigOption = None) -> None:
    """Take in a domain, and make its DKIM keys."""

    async def work(databases: Databases, settings: Config) -> list[judge_verbs.PublishedKey]:
        await verbs.add_domain(databases.mail, name, now())
        known = [key for key in await judge_verbs.list_keys(databases.mail) if key.domain == fold_domain(name)]
        if not known:
            steps = judge_verbs.new_key_steps(key_file(settings), name, now())
            await databases.mail.commit(Unit(steps, (judge_verbs.notice(),)))
        return [key for key in await judge_verbs.list_keys(databases.mail) if key.domain == fold_domain(name)]

    keys = with_databases(config, work)
    say(f"{name} is ours now. Publish these records in its zone:\n")
    for key in keys:
        say(key.zone_line())


@domains.command("list")
def domain_list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List our domains."""
    found = with_databases(config, lambda databases, _: verbs.list_domains(databases.mail))
    rows = [(each.name, moment(each.created_at)) for each in found]
    show(rows, ("Domain", "Since"), as_json=as_json, nothing="no domains yet: gatepost domain add example.org")


@domains.command("del")
def domain_del(name: str, config: ConfigOption = None) -> None:
    """Let a domain go; its accounts must be gone first."""
    with_databases(config, lambda databases, _: verbs.del_domain(databases.mail, name, now()))
    say(f"{name} is no longer ours")


@aliases.command("add")
def alias_add(address: str, targets: list[str], config: ConfigOption = None) -> None:
    """Send mail for ADDRESS (or @domain, for all that is nobody's) to TARGETS too."""
    with_databases(config, lambda databases, _: verbs.add_alias(databases.mail, address, tuple(targets), now()))
    say(f"{address} leads to {', '.join(targets)}")


@aliases.command("list")
def alias_list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the aliases."""
    found = with_databases(config, lambda databases, _: verbs.list_aliases(databases.mail))
    show(
        [(each.address, each.targets) for each in found],
        ("Alias", "Targets"),
        as_json=as_json,
        nothing="no aliases",
    )


@aliases.command("del")
def alias_del(address: str, target: Annotated[str, typer.Argument()] = "", config: ConfigOption = None) -> None:
    """Drop an alias, or one TARGET of it."""
    with_databases(config, lambda databases, _: verbs.del_alias(databases.mail, address, now(), target))
    say(f"{address} is dropped")


def key_file(settings: Config) -> KeyFile:
    """Return the secret that private keys are stored under."""
    return KeyFile.open(settings.data_dir / "secret.key")


def _password(file: Path | None) -> bytes:
    if file is not None:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        return text.rstrip("\r\n").encode()
    first = getpass("Password: ")
    if getpass("Once more: ") != first:
        fail("the two passwords differ")
    return first.encode()


def _quota(quota: Quota) -> str:
    return octets_text(quota.octets) if quota.octets else "none"
