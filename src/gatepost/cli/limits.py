"""`gatepost user limits`: what accounts send, how much they may, and what is held because it was too much."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from gatepost.accounts import verbs as accounts
from gatepost.accounts.model import Account
from gatepost.allowance.allowance import USUAL, Allowance, Standing, let_go_step
from gatepost.cli.common import ConfigOption, JsonOption, fail, now, say, show, with_databases
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.db.unit import Unit
from gatepost.incidents.sql import end_step
from gatepost.queue import verbs as queue

NEAR = 0.5
COLUMNS = ("Account", "Last hour", "Of", "Last day", "Of a day", "Held")


def register(users: typer.Typer) -> None:
    """Add the command to `gatepost user`."""
    users.command("limits")(user_limits)


@dataclass(frozen=True, slots=True)
class _Shown:
    account: Account
    standing: Standing


def user_limits(
    address: Annotated[str, typer.Argument(help="The account; without one, all that hold mail or are near.")] = "",
    hour: Annotated[
        str, typer.Option("--hour", help="Recipients in any hour: a number, 0 for no limit, usual for [allowance].")
    ] = "",
    day: Annotated[str, typer.Option("--day", help="Recipients in any 24 hours, likewise.")] = "",
    release: Annotated[bool, typer.Option("--release", help="Send what is held.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an account has sent and may send; set its own limits, or let go what is held."""
    if not address and (hour or day or release):
        fail("name the account")
    per_hour, per_day = _number(hour, "--hour"), _number(day, "--day")

    async def work(databases: Databases, settings: Config) -> tuple[list[_Shown], int]:
        allowance = Allowance(settings.allowance, databases.mail)
        if not address:
            return await _near(databases, allowance), 0
        account = await accounts.find_user(databases.mail, address)
        if per_hour is not None or per_day is not None:
            await allowance.set_own(account.id, per_hour=per_hour, per_day=per_day)
        gone = await _release(databases, allowance, account) if release else 0
        return [_Shown(account, await allowance.standing(account.id, now()))], gone

    found, gone = with_databases(config, work)
    if release and not as_json:
        say(f"{gone} mails of {address} go out now")
    show(
        [_row(each) for each in found], COLUMNS, as_json=as_json, nothing="no account holds mail or is near a limit"
    )


async def _near(databases: Databases, allowance: Allowance) -> list[_Shown]:
    busy = set(await allowance.busy(now()))
    known = [each for each in await accounts.list_users(databases.mail) if each.id in busy]
    shown = [_Shown(each, await allowance.standing(each.id, now())) for each in known]
    return [each for each in shown if each.standing.held or each.standing.share >= NEAR]


async def _release(databases: Databases, allowance: Allowance, account: Account) -> int:
    """Let all held mail of an account go, and end the incident: the next one is told again."""
    gone = 0
    for mail in (await allowance.standing(account.id, now())).held:
        gone += await queue.release(databases.mail, mail, now()) > 0
        await databases.mail.commit(Unit((let_go_step(mail),)))
    await databases.mail.commit(Unit((end_step(f"sending:{account.id}"),)))
    return gone


def _row(shown: _Shown) -> Sequence[object]:
    each = shown.standing
    most = (each.limits.per_hour or "no limit", each.limits.per_day or "no limit")
    return shown.account.address, each.hour, most[0], each.day, most[1], len(each.held)


def _number(text: str, option: str) -> int | None:
    if not text:
        return None
    if text == "usual":
        return USUAL
    if not (text.isascii() and text.isdigit()):
        fail(f"{option}: {text!r} is no number; 0 is no limit, usual takes that of [allowance]")
    return int(text)
