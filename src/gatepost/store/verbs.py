"""What operators do with mailboxes."""

from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.base.ids import Minter
from gatepost.db.unit import Database, Step, Unit
from gatepost.store import sql
from gatepost.store.model import Mailbox
from gatepost.store.naming import default_steps, mailboxes_notice
from gatepost.store.reading import mailbox_of


def create_default_mailboxes_steps(account: int, minter: Minter, now: Instant) -> tuple[Step, ...]:
    """Return the steps that give a new account INBOX, Archive, Drafts, Junk, Sent and Trash."""
    return default_steps(account, minter, now)


def drop_account_steps(account: int) -> tuple[Step, ...]:
    """Return the steps that take all mailboxes from a deleted account; `Mailboxes.sweep` then removes the mail."""
    params = {"account": account}
    statements = (sql.DETACH_ACCOUNT, sql.DROP_SUBSCRIPTIONS, sql.DROP_ACCOUNT_STATE)
    return tuple(Step(statement, params) for statement in statements)


async def list_mailboxes(database: Database, account: int) -> tuple[Mailbox, ...]:
    """Return an account's mailboxes."""
    rows = await database.read(sql.MAILBOXES_OF, {"account": account})
    return tuple(mailbox_of(row) for row in rows)


async def renew_uidvalidity(database: Database, now: Instant, account: int | None = None) -> int:
    """Give every mailbox, or those of one account, a new UIDVALIDITY; return how many accounts were changed.

    Needed after a restore from a backup: UIDs given out since the backup would otherwise be given out again for
    other messages (RFC 9051 §2.3.1.1), and clients would show one message under another's UID.
    """
    accounts = [account]
    if account is None:
        rows = await database.read_long(sql.ACCOUNTS_WITH_MAILBOXES, {})
        accounts = [int(str(row[0])) for row in rows]
    for each in accounts:
        params = {"account": each, "seconds": now // MICROSECONDS}
        steps = (Step(sql.NEXT_UIDVALIDITY, params), Step(sql.RENEW_UIDVALIDITY, params))
        assert each is not None
        await database.commit(Unit(steps, (mailboxes_notice(each),)))
    return len(accounts)
