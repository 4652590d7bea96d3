"""Making, renaming and detaching mailboxes, and subscriptions."""

from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.base.ids import Minter
from gatepost.db.unit import Clash, Database, Notice, Params, Step, Unit, Unmet
from gatepost.store import sql
from gatepost.store.model import (
    DEFAULT_MAILBOXES,
    INBOX,
    MAILBOXES_MAX,
    SEPARATOR,
    BadName,
    Mailbox,
    MailboxExists,
    MailboxId,
    NoSuchMailbox,
    NotAllowed,
    TooMany,
)
from gatepost.store.names import below, check_name, superiors
from gatepost.store.reading import mailbox_of


def mailboxes_notice(account: int) -> Notice:
    """Return the news that an account's names changed."""
    return Notice("mailboxes", account)


def default_steps(account: int, minter: Minter, now: Instant) -> tuple[Step, ...]:
    """Return the steps that give a new account its mailboxes, all subscribed."""
    steps = [_next_uidvalidity(account, now)]
    for name, special in DEFAULT_MAILBOXES:
        steps.append(Step(sql.ADD_MAILBOX, _row(account, minter, name, special, now)))
        steps.append(_subscribe(account, name))
    return tuple(steps)


async def find(database: Database, account: int, name: str) -> Mailbox:
    """Return the mailbox of that name; raises NoSuchMailbox."""
    try:
        params: Params = {"account": account, "name": check_name(name)}
    except BadName:
        raise NoSuchMailbox("there is no such mailbox") from None
    rows = await database.read(sql.MAILBOX_BY_NAME, params)
    if not rows:
        raise NoSuchMailbox("there is no such mailbox")
    return mailbox_of(rows[0])


async def create(
    database: Database, minter: Minter, account: int, name: str, now: Instant, *, special: str = ""
) -> Mailbox:
    """Make a mailbox and what is missing above it; raises BadName, MailboxExists, TooMany."""
    name = check_name(name.removesuffix(SEPARATOR))  # RFC 9051 §6.3.4: the separator announces names below
    steps = [
        _next_uidvalidity(account, now),
        *_superiors(account, minter, name, now),
        Step(sql.ADD_MAILBOX, _row(account, minter, name, special, now)),
    ]
    try:
        await database.commit(Unit(tuple(steps), (mailboxes_notice(account),)))
    except Clash:
        raise MailboxExists(f"{name} exists already") from None
    except Unmet:
        raise TooMany(f"an account has at most {MAILBOXES_MAX} mailboxes") from None
    return await find(database, account, name)


async def rename(database: Database, minter: Minter, account: int, old: str, new: str, now: Instant) -> None:
    """Rename a mailbox, all below it, and their subscriptions, in one unit."""
    old, new = check_name(old), check_name(new.removesuffix(SEPARATOR))
    low, high = below(old)
    if new.startswith(low):
        raise NotAllowed("a mailbox cannot move below itself")
    names = [each.name for each in await _all(database, account)]
    for name in names:
        if low <= name < high:
            check_name(new + name[len(old) :])
    mailbox = await find(database, account, old)
    span: Params = {"account": account, "low": low, "high": high, "new": new, "after": len(old) + 1}
    whole: Params = {**span, "old": old}
    steps = (
        *_superior_steps(account, minter, new, now),
        Step(sql.RENAME_MAILBOX, {"mailbox": mailbox.id, "account": account, "old": old, "new": new}),
        Step(sql.RENAME_BELOW, span),
        Step(sql.COPY_SUBSCRIPTIONS, whole),
        Step(sql.DROP_SUBSCRIPTIONS_BELOW, whole),
    )
    try:
        await database.commit(Unit(steps, (mailboxes_notice(account),)))
    except Clash:
        raise MailboxExists(f"{new}, or a name below it, exists already") from None
    except Unmet:
        raise NoSuchMailbox("there is no such mailbox") from None


async def detach(database: Database, account: int, name: str) -> MailboxId:
    """Take a mailbox away from its account; what is left is for `removal.purge`."""
    mailbox = await find(database, account, name)
    if mailbox.name == INBOX:
        raise NotAllowed("INBOX cannot be deleted")
    params: Params = {"mailbox": mailbox.id, "account": account, "tomb": f"{account}/{mailbox.id}"}
    notices = (mailboxes_notice(account), Notice("mailbox", mailbox.id))
    try:
        await database.commit(Unit((Step(sql.DETACH_MAILBOX, params),), notices))
    except Unmet:
        raise NoSuchMailbox("there is no such mailbox") from None
    return mailbox.id


async def subscribe(database: Database, account: int, name: str) -> None:
    """Subscribe to a name; raises BadName."""
    try:
        await database.commit(Unit((_subscribe(account, check_name(name)),), (mailboxes_notice(account),)))
    except Unmet:
        raise TooMany(f"an account has at most {MAILBOXES_MAX} subscriptions") from None


async def unsubscribe(database: Database, account: int, name: str) -> None:
    """Undo a subscription; raises BadName."""
    step = Step(sql.UNSUBSCRIBE, {"account": account, "name": check_name(name)})
    await database.commit(Unit((step,), (mailboxes_notice(account),)))


async def _all(database: Database, account: int) -> tuple[Mailbox, ...]:
    rows = await database.read(sql.MAILBOXES_OF, {"account": account})
    return tuple(mailbox_of(row) for row in rows)


def _superior_steps(account: int, minter: Minter, name: str, now: Instant) -> tuple[Step, ...]:
    above = _superiors(account, minter, name, now)
    return (_next_uidvalidity(account, now), *above) if above else ()


def _superiors(account: int, minter: Minter, name: str, now: Instant) -> tuple[Step, ...]:
    return tuple(Step(sql.ADD_SUPERIOR, _row(account, minter, each, "", now)) for each in superiors(name))


def _next_uidvalidity(account: int, now: Instant) -> Step:
    """Return the step that moves the account's counter: seconds since 1970, never the same twice."""
    return Step(sql.NEXT_UIDVALIDITY, {"account": account, "seconds": now // MICROSECONDS})


def _subscribe(account: int, name: str) -> Step:
    return Step(sql.SUBSCRIBE, {"account": account, "name": name, "most": MAILBOXES_MAX})


def _row(account: int, minter: Minter, name: str, special: str, now: Instant) -> dict[str, int | str]:
    return {
        "id": minter.mint(now),
        "account": account,
        "name": name,
        "special": special,
        "now": now,
        "most": MAILBOXES_MAX,
    }
