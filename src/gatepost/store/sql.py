"""The store's tables: mailbox, flags (narrow, read whole), listing (wide, read by column), expunged, keyword.

A mailbox that was deleted keeps its row with account 0 until its messages are gone (`Mailboxes.sweep`); every
statement that changes a mailbox therefore asks for `account > 0`.
"""

from collections.abc import Mapping
from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement
from gatepost.store.model import Wanted

# Mailboxes. Index: mailbox_name (account, name).

_MAILBOX: Final = (
    "SELECT m.id, m.account, m.name, m.special, m.uidvalidity, m.uidnext, m.modseq, m.flag_modseq,"
    " m.expunge_modseq, m.forgotten_modseq, m.messages, m.octets,"
    " CASE WHEN s.name IS NULL THEN 0 ELSE 1 END AS subscribed"
)
_FROM_MAILBOX: Final = " FROM mailbox AS m LEFT JOIN subscription AS s ON s.account = m.account AND s.name = m.name"
MAILBOXES_OF: Final = Statement(
    "store.mailboxes_of", f"{_MAILBOX}{_FROM_MAILBOX} WHERE m.account = :account ORDER BY m.name"
)
MAILBOX_BY_NAME: Final = Statement(
    "store.mailbox_by_name", f"{_MAILBOX}{_FROM_MAILBOX} WHERE m.account = :account AND m.name = :name"
)
MAILBOX_BY_ID: Final = Statement(
    "store.mailbox_by_id", f"{_MAILBOX}{_FROM_MAILBOX} WHERE m.id = :mailbox AND m.account > 0"
)
DETACHED_BY_ID: Final = Statement(
    "store.detached_by_id", f"{_MAILBOX}{_FROM_MAILBOX} WHERE m.id = :mailbox AND m.account = 0"
)
INBOX_OF: Final = Statement("store.inbox_of", "SELECT id FROM mailbox WHERE account = :account AND name = 'INBOX'")
STATUS: Final = Statement(
    "store.status",
    f"{_MAILBOX},"  # noqa: S608  (constants)
    " (SELECT COUNT(*) FROM flags AS f WHERE f.mailbox = m.id AND (f.flags & 1) = 0) AS unseen,"
    " (SELECT COUNT(*) FROM flags AS f WHERE f.mailbox = m.id AND (f.flags & 8) <> 0) AS deleted"
    f"{_FROM_MAILBOX} WHERE m.id = :mailbox AND m.account > 0",
)
USAGE: Final = Statement(
    "store.usage",
    "SELECT COALESCE(SUM(octets), 0), COALESCE(SUM(messages), 0) FROM mailbox WHERE account = :account",
)
NEXT_UIDVALIDITY: Final = Statement(
    "store.next_uidvalidity",
    "INSERT INTO account_state (account, uidvalidity) VALUES (:account, :seconds)"
    " ON CONFLICT (account) DO UPDATE SET uidvalidity = CASE"
    " WHEN account_state.uidvalidity >= excluded.uidvalidity THEN account_state.uidvalidity + 1"
    " ELSE excluded.uidvalidity END",
)
_NEW_MAILBOX: Final = (
    "INSERT INTO mailbox (id, account, name, special, uidvalidity, uidnext, modseq, flag_modseq, expunge_modseq,"
    " forgotten_modseq, messages, octets, created_at)"
    " SELECT :id, :account, :name, :special, s.uidvalidity, 1, 1, 1, 1, 1, 0, 0, :now"
    " FROM account_state AS s WHERE s.account = :account"
    " AND (SELECT COUNT(*) FROM mailbox AS m WHERE m.account = :account) < :most"
)
ADD_MAILBOX: Final = Statement("store.add_mailbox", _NEW_MAILBOX, needs_row=True)
ADD_SUPERIOR: Final = Statement("store.add_superior", f"{_NEW_MAILBOX} ON CONFLICT (account, name) DO NOTHING")
RENAME_MAILBOX: Final = Statement(
    "store.rename_mailbox",
    "UPDATE mailbox SET name = :new WHERE id = :mailbox AND account = :account AND name = :old",
    needs_row=True,
)
RENAME_BELOW: Final = Statement(
    "store.rename_below",
    "UPDATE mailbox SET name = :new || SUBSTR(name, CAST(:after AS INTEGER))"
    " WHERE account = :account AND name >= :low AND name < :high",
)
DETACH_MAILBOX: Final = Statement(
    "store.detach_mailbox",
    "UPDATE mailbox SET account = 0, name = :tomb WHERE id = :mailbox AND account = :account",
    needs_row=True,
)
DETACH_ACCOUNT: Final = Statement(
    "store.detach_account",
    "UPDATE mailbox SET name = name || '/' || CAST(id AS TEXT), account = 0 WHERE account = :account",
)
DETACHED: Final = Statement("store.detached", "SELECT id FROM mailbox WHERE account = 0 ORDER BY id LIMIT 100")
DROP_MAILBOX: Final = Statement(
    "store.drop_mailbox",
    "DELETE FROM mailbox WHERE id = :mailbox AND account = 0"
    " AND NOT EXISTS (SELECT 1 FROM listing WHERE mailbox = :mailbox)",
    needs_row=True,
)
DROP_KEYWORDS: Final = Statement("store.drop_keywords", "DELETE FROM keyword WHERE mailbox = :mailbox")
DROP_EXPUNGED: Final = Statement("store.drop_expunged", "DELETE FROM expunged WHERE mailbox = :mailbox")
DROP_ACCOUNT_STATE: Final = Statement(
    "store.drop_account_state", "DELETE FROM account_state WHERE account = :account"
)
DROP_SUBSCRIPTIONS: Final = Statement(
    "store.drop_subscriptions", "DELETE FROM subscription WHERE account = :account"
)
RENEW_UIDVALIDITY: Final = Statement(
    "store.renew_uidvalidity",
    "UPDATE mailbox SET uidvalidity = (SELECT s.uidvalidity FROM account_state AS s WHERE s.account = :account),"
    " modseq = modseq + 1 WHERE account = :account",
)
ACCOUNTS_WITH_MAILBOXES: Final = Statement(
    "store.accounts_with_mailboxes", "SELECT DISTINCT account FROM mailbox WHERE account > 0 ORDER BY account"
)

SUBSCRIBE: Final = Statement(
    "store.subscribe",
    "INSERT INTO subscription (account, name) SELECT :account, :name"
    " WHERE (SELECT COUNT(*) FROM subscription AS s WHERE s.account = :account AND s.name <> :name) < :most"
    " ON CONFLICT (account, name) DO UPDATE SET name = excluded.name",
    needs_row=True,
)
UNSUBSCRIBE: Final = Statement(
    "store.unsubscribe", "DELETE FROM subscription WHERE account = :account AND name = :name"
)
SUBSCRIPTIONS: Final = Statement(
    "store.subscriptions", "SELECT name FROM subscription WHERE account = :account ORDER BY name"
)
COPY_SUBSCRIPTIONS: Final = Statement(
    "store.copy_subscriptions",
    "INSERT INTO subscription (account, name)"
    " SELECT account, :new || SUBSTR(name, CAST(:after AS INTEGER)) FROM subscription"
    " WHERE account = :account AND (name = :old OR (name >= :low AND name < :high))"
    " ON CONFLICT (account, name) DO NOTHING",
)
DROP_SUBSCRIPTIONS_BELOW: Final = Statement(
    "store.drop_subscriptions_below",
    "DELETE FROM subscription WHERE account = :account AND (name = :old OR (name >= :low AND name < :high))",
)

KEYWORDS: Final = Statement("store.keywords", "SELECT bit, name FROM keyword WHERE mailbox = :mailbox ORDER BY bit")
ADD_KEYWORD: Final = Statement(
    "store.add_keyword",
    "INSERT INTO keyword (mailbox, bit, name, folded)"
    " SELECT m.id, COALESCE((SELECT MAX(k.bit) FROM keyword AS k WHERE k.mailbox = :mailbox), 15) + 1,"
    " :name, :folded FROM mailbox AS m WHERE m.id = :mailbox AND m.account > 0"
    " ON CONFLICT (mailbox, folded) DO NOTHING",
)

# Append. The mailbox row gives UID and modseq; it is locked until the commit, so both only ever grow.

TAKE_UID: Final = Statement(
    "store.take_uid",
    "UPDATE mailbox SET uidnext = uidnext + 1, modseq = modseq + 1, messages = messages + 1,"
    " octets = octets + :size WHERE id = :mailbox AND account > 0"
    " RETURNING id, uidvalidity, uidnext - 1, modseq",
    returns=True,
    needs_row=True,
)
KEEP_QUOTA: Final = Statement(
    "store.keep_quota",
    "UPDATE mailbox SET octets = octets WHERE id = :mailbox"
    " AND (SELECT SUM(m.octets) FROM mailbox AS m WHERE m.account = mailbox.account) <= :octets_max"
    " AND (SELECT SUM(m.messages) FROM mailbox AS m WHERE m.account = mailbox.account) <= :messages_max",
    needs_row=True,
)
ADD_FLAGS: Final = Statement(
    "store.add_flags",
    "INSERT INTO flags (mailbox, uid, flags, modseq)"
    " SELECT m.id, m.uidnext - 1, :flags, m.modseq FROM mailbox AS m WHERE m.id = :mailbox",
)
ADD_LISTING: Final = Statement(
    "store.add_listing",
    "INSERT INTO listing (mailbox, uid, body, message, size, internal_date, sent_at, sent_zone, header_end,"
    " envelope, structure, body_structure, sections, subject_key, from_key, to_key, cc_key, thread, fields)"
    " SELECT m.id, m.uidnext - 1, :body, :message, :size, :internal_date, :sent_at, :sent_zone, :header_end,"
    " :envelope, :structure, :body_structure, :sections, :subject_key, :from_key, :to_key, :cc_key, :thread,"
    " CAST(:fields AS {OCTETS})"
    " FROM mailbox AS m WHERE m.id = :mailbox",
)

# Flags: the primary key (mailbox, uid) is the table itself; a whole mailbox is one scan of it.

ROWS: Final = Statement("store.rows", "SELECT uid, flags, modseq FROM flags WHERE mailbox = :mailbox ORDER BY uid")
ROWS_SINCE: Final = Statement(
    "store.rows_since",
    "SELECT uid, flags, modseq FROM flags WHERE mailbox = :mailbox AND modseq > :since ORDER BY uid",
)
ROWS_FROM: Final = Statement(
    "store.rows_from",
    "SELECT uid, flags, modseq FROM flags WHERE mailbox = :mailbox AND uid >= :uid ORDER BY uid",
)
BUMP_FLAGS: Final = Statement(
    "store.bump_flags",
    "UPDATE mailbox SET modseq = modseq + 1, flag_modseq = modseq + 1 WHERE id = :mailbox AND account > 0"
    " RETURNING modseq",
    returns=True,
    needs_row=True,
)
CHANGED_LATER: Final = Statement(
    "store.changed_later",
    "SELECT uid FROM flags WHERE mailbox = :mailbox AND uid BETWEEN :low AND :high AND modseq > :unchanged"
    " ORDER BY uid",
    returns=True,
)
CHANGE_FLAGS: Final = Statement(
    "store.change_flags",
    "UPDATE flags SET flags = (flags & :keep) | :add,"
    " modseq = (SELECT m.modseq FROM mailbox AS m WHERE m.id = :mailbox)"
    " WHERE mailbox = :mailbox AND uid BETWEEN :low AND :high AND modseq <= :unchanged"
    " AND ((flags & :keep) | :add) <> flags",
)
CHANGED: Final = Statement(  # RETURNING in CHANGE_FLAGS takes four times as long for 10,000 rows
    "store.changed",
    "SELECT uid, flags, modseq FROM flags WHERE mailbox = :mailbox AND uid BETWEEN :low AND :high"
    " AND modseq = (SELECT m.modseq FROM mailbox AS m WHERE m.id = :mailbox) ORDER BY uid",
    returns=True,
)

# Listings: read by columns, in pages.

LISTING_FACTS: Final = "uid, body, message, size, internal_date, sent_at, sent_zone, header_end"
_WIDE: Final = {
    Wanted.ENVELOPE: "envelope",
    Wanted.STRUCTURE: "structure",
    Wanted.BODY_STRUCTURE: "body_structure",
    Wanted.SECTIONS: "sections",
    Wanted.FIELDS: "fields",
}


def _read_listing(mask: int) -> Statement:
    columns = [LISTING_FACTS, *(name for part, name in _WIDE.items() if part.value & mask)]
    return Statement(
        f"store.read_listing_{mask}",
        f"SELECT {', '.join(columns)} FROM listing"  # noqa: S608  (constants)
        " WHERE mailbox = :mailbox AND uid BETWEEN :low AND :high ORDER BY uid LIMIT :most",
    )


READ_LISTING: Final[Mapping[int, Statement]] = {mask: _read_listing(mask) for mask in range(32)}
"""By `Wanted.value`."""
SORT_KEYS: Final = Statement(
    "store.sort_keys",
    "SELECT uid, internal_date, sent_at, sent_zone, size, subject_key, from_key, to_key, cc_key FROM listing"
    " WHERE mailbox = :mailbox AND uid BETWEEN :low AND :high ORDER BY uid LIMIT :most",
)
THREAD_KEYS: Final = Statement(
    "store.thread_keys",
    "SELECT uid, internal_date, sent_at, subject_key, thread FROM listing"
    " WHERE mailbox = :mailbox AND uid BETWEEN :low AND :high ORDER BY uid LIMIT :most",
)

# Removal, copy and move. What was read before the unit (which messages, which bodies) still holds when nothing was
# expunged meanwhile: the first step asks just that (`expunge_modseq`), so no step needs to read another's result.

TO_COPY: Final = Statement(
    "store.to_copy",
    "SELECT f.uid, f.flags, l.body, l.size FROM flags AS f"
    " JOIN listing AS l ON l.mailbox = f.mailbox AND l.uid = f.uid"
    " WHERE f.mailbox = :mailbox AND f.uid BETWEEN :low AND :high ORDER BY f.uid",
)
TO_REMOVE: Final = Statement(
    "store.to_remove",
    "SELECT f.uid, l.body, l.size FROM flags AS f"
    " JOIN listing AS l ON l.mailbox = f.mailbox AND l.uid = f.uid"
    " WHERE f.mailbox = :mailbox AND f.uid BETWEEN :low AND :high AND (f.flags & :mask) = :mask"
    " ORDER BY f.uid LIMIT :most",
)
STILL_THERE: Final = Statement(
    "store.still_there",
    "UPDATE mailbox SET modseq = modseq WHERE id = :mailbox AND account = :account"
    " AND expunge_modseq = :expunge_modseq",
    needs_row=True,
)
TAKE_OUT: Final = Statement(
    "store.take_out",
    "UPDATE mailbox SET modseq = modseq + 1, expunge_modseq = modseq + 1, messages = messages - :count,"
    " octets = octets - :octets WHERE id = :mailbox AND account = :account"
    " AND expunge_modseq = :expunge_modseq AND flag_modseq <= :flag_modseq RETURNING modseq",
    returns=True,
    needs_row=True,
)
MAKE_ROOM: Final = Statement(
    "store.make_room",
    "UPDATE mailbox SET uidnext = uidnext + :count, modseq = modseq + 1, messages = messages + :count,"
    " octets = octets + :octets WHERE id = :mailbox AND account > 0 RETURNING id, uidvalidity, uidnext, modseq",
    returns=True,
    needs_row=True,
)
COPY_FLAGS: Final = Statement(
    "store.copy_flags",
    "INSERT INTO flags (mailbox, uid, flags, modseq)"
    " SELECT t.id, t.uidnext - :after - ROW_NUMBER() OVER (ORDER BY f.uid DESC), f.flags & :keep, t.modseq"
    " FROM flags AS f, mailbox AS t"
    " WHERE t.id = :target AND f.mailbox = :source AND f.uid BETWEEN :low AND :high",
)
COPY_LISTING: Final = Statement(
    "store.copy_listing",
    "INSERT INTO listing (mailbox, uid, body, message, size, internal_date, sent_at, sent_zone, header_end,"
    " envelope, structure, body_structure, sections, subject_key, from_key, to_key, cc_key, thread, fields)"
    " SELECT t.id, t.uidnext - :after - ROW_NUMBER() OVER (ORDER BY l.uid DESC), l.body, l.message, l.size,"
    " l.internal_date, l.sent_at, l.sent_zone, l.header_end, l.envelope, l.structure, l.body_structure, l.sections,"
    " l.subject_key, l.from_key, l.to_key, l.cc_key, l.thread, l.fields"
    " FROM listing AS l, mailbox AS t"
    " WHERE t.id = :target AND l.mailbox = :source AND l.uid BETWEEN :low AND :high",
)
ADD_COPIED_KEYWORDS: Final = Statement(
    "store.add_copied_keywords",
    "UPDATE flags SET flags = flags | :add WHERE mailbox = :target"
    " AND uid = (SELECT m.uidnext FROM mailbox AS m WHERE m.id = :target) - :back",
)
LOG_EXPUNGED: Final = Statement(
    "store.log_expunged",
    "INSERT INTO expunged (mailbox, modseq, uid)"
    " SELECT f.mailbox, m.expunge_modseq, f.uid FROM flags AS f, mailbox AS m"
    " WHERE m.id = :mailbox AND f.mailbox = :mailbox AND f.uid BETWEEN :low AND :high"
    " AND (f.flags & :mask) = :mask",
)
DROP_LISTINGS: Final = Statement(
    "store.drop_listings",
    "DELETE FROM listing WHERE mailbox = :mailbox AND uid BETWEEN :low AND :high"
    " AND uid IN (SELECT f.uid FROM flags AS f WHERE f.mailbox = :mailbox"
    " AND f.uid BETWEEN :low AND :high AND (f.flags & :mask) = :mask)",
)
DROP_FLAGS: Final = Statement(
    "store.drop_flags",
    "DELETE FROM flags WHERE mailbox = :mailbox AND uid BETWEEN :low AND :high AND (flags & :mask) = :mask",
)
EXPUNGED_SINCE: Final = Statement(
    "store.expunged_since",
    "SELECT uid FROM expunged WHERE mailbox = :mailbox AND modseq > :since ORDER BY modseq, uid",
)
FORGET_EXPUNGED: Final = Statement(
    "store.forget_expunged", "DELETE FROM expunged WHERE mailbox = :mailbox AND modseq <= :modseq"
)
FORGOTTEN: Final = Statement(
    "store.forgotten",
    "UPDATE mailbox SET forgotten_modseq = :modseq WHERE id = :mailbox AND forgotten_modseq < :modseq",
)
LONG_RECORDS: Final = Statement(
    "store.long_records",
    "SELECT mailbox, COUNT(*) FROM expunged GROUP BY mailbox HAVING COUNT(*) > :most ORDER BY mailbox LIMIT 100",
)
RECORD_AT: Final = Statement(
    "store.record_at",
    "SELECT modseq FROM expunged WHERE mailbox = :mailbox ORDER BY modseq DESC LIMIT 1 OFFSET :most",
)

STATEMENTS: Final = (
    *(value for value in tuple(globals().values()) if isinstance(value, Statement)),
    *READ_LISTING.values(),
)
SCHEMA: Final[Schema] = load_schema("store", __package__, STATEMENTS)
