"""The tables queue_mail and queue_rcpt."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

NEVER: Final = 1 << 62
"""`due` of what is held."""

ADD_MAIL: Final = Statement(
    "queue.add_mail",
    "INSERT INTO queue_mail (id, body, created, kind, recipients, touched, sender, packed)"
    " VALUES (:id, :body, :now, :kind, :recipients, :now, :sender, :packed)",
)
ADD_RCPT: Final = Statement(
    "queue.add_rcpt",
    "INSERT INTO queue_rcpt (mail, position, state, owner, due, attempts, suspect, warned, last_try, lane,"
    " recipient, last_error, packed)"
    " VALUES (:mail, :position, 0, :owner, :due, 0, 0, 0, 0, :lane, :recipient, '', :packed)",
)

# Looking for work. Index queue_rcpt_due answers the first alone; the second reads all that is due, off the loop.
DUE_LANES: Final = Statement(
    "queue.due_lanes", "SELECT lane FROM queue_rcpt WHERE due <= :now ORDER BY due, lane LIMIT :most"
)
ALL_DUE_LANES: Final = Statement(
    "queue.all_due_lanes",
    "SELECT lane FROM queue_rcpt WHERE due <= :now GROUP BY lane ORDER BY MIN(due), lane LIMIT :most",
)
NEXT_DUE: Final = Statement(
    "queue.next_due", "SELECT due FROM queue_rcpt WHERE due > :now ORDER BY due, lane LIMIT 1"
)
# `due <= :now` stands outside too: on PostgreSQL a row that another worker has just leased is looked at again, and
# is then no longer due.
LEASE: Final = Statement(
    "queue.lease",
    "UPDATE queue_rcpt SET owner = :owner, due = :until,"
    " suspect = CASE WHEN queue_rcpt.owner <> 0 THEN 1 ELSE 0 END"
    " WHERE due <= :now AND (mail, position) IN (SELECT mail, position FROM queue_rcpt"
    " WHERE lane = :lane AND due <= :now ORDER BY due, mail, position LIMIT :most)"
    " RETURNING mail, position, attempts, suspect, warned, packed",
    returns=True,
)
MAIL: Final = Statement(
    "queue.mail", "SELECT body, created, kind, recipients, packed FROM queue_mail WHERE id = :mail"
)
RENEW: Final = Statement("queue.renew", "UPDATE queue_rcpt SET due = :until WHERE mail = :mail AND owner = :owner")
GIVE_BACK: Final = Statement(
    "queue.give_back",
    "UPDATE queue_rcpt SET owner = 0, due = :now WHERE mail = :mail AND position = :position AND owner = :owner",
)
STILL_MINE: Final = Statement(
    "queue.still_mine", "SELECT position FROM queue_rcpt WHERE mail = :mail AND owner = :owner ORDER BY position"
)

# Results. Each is conditional on the lease: who lost it changes nothing, and the unit is undone.
TOUCH: Final = Statement("queue.touch", "UPDATE queue_mail SET touched = :now WHERE id = :mail", needs_row=True)
DONE: Final = Statement(
    "queue.done",
    "DELETE FROM queue_rcpt WHERE mail = :mail AND position = :position AND owner = :owner",
    needs_row=True,
)
DEFER: Final = Statement(
    "queue.defer",
    "UPDATE queue_rcpt SET owner = 0, due = :due, attempts = queue_rcpt.attempts + 1, suspect = 0,"
    " warned = :warned, last_try = :now, last_error = :error"
    " WHERE mail = :mail AND position = :position AND owner = :owner",
    needs_row=True,
)
DROP_MAIL: Final = Statement(
    "queue.drop_mail",
    "DELETE FROM queue_mail WHERE id = :mail"
    " AND NOT EXISTS (SELECT 1 FROM queue_rcpt WHERE queue_rcpt.mail = :mail)",
)

# After a start: leases of the dead, and plans of another clock. Both read the whole table.
TAKE_OVER: Final = Statement("queue.take_over", "UPDATE queue_rcpt SET due = :now WHERE owner <> 0 AND due > :now")
REPAIR: Final = Statement(
    "queue.repair",
    "UPDATE queue_rcpt SET due = :now WHERE state = 0 AND due > :horizon RETURNING mail",
    returns=True,
)

# The operator's verbs.
LIST: Final = Statement(
    "queue.list",
    "SELECT r.mail, r.position, r.state, r.owner, r.due, r.attempts, r.last_try, r.lane, r.recipient, r.last_error,"
    " m.sender, m.created, m.kind, m.body FROM queue_rcpt r JOIN queue_mail m ON m.id = r.mail"
    " WHERE r.mail > :mail OR (r.mail = :mail AND r.position > :position)"
    " ORDER BY r.mail, r.position LIMIT :most",
)
SHOW: Final = Statement(
    "queue.show",
    "SELECT r.mail, r.position, r.state, r.owner, r.due, r.attempts, r.last_try, r.lane, r.recipient, r.last_error,"
    " m.sender, m.created, m.kind, m.body FROM queue_rcpt r JOIN queue_mail m ON m.id = r.mail"
    " WHERE r.mail = :mail ORDER BY r.position",
)
COUNT: Final = Statement(
    "queue.count",
    "SELECT COUNT(*), COUNT(DISTINCT mail), COALESCE(SUM(state), 0),"
    " COALESCE(SUM(CASE WHEN owner <> 0 THEN 1 ELSE 0 END), 0) FROM queue_rcpt",
)
RETRY: Final = Statement(
    "queue.retry",
    "UPDATE queue_rcpt SET due = :now WHERE mail = :mail AND owner = 0 AND state = 0 RETURNING position",
    returns=True,
)
RETRY_LANE: Final = Statement(
    "queue.retry_lane",
    "UPDATE queue_rcpt SET due = :now WHERE lane = :lane AND owner = 0 AND state = 0 RETURNING position",
    returns=True,
)
RETRY_ALL: Final = Statement(
    "queue.retry_all",
    "UPDATE queue_rcpt SET due = :now WHERE owner = 0 AND state = 0 RETURNING position",
    returns=True,
)
HOLD: Final = Statement(
    "queue.hold",
    "UPDATE queue_rcpt SET state = 1, due = :never WHERE mail = :mail AND owner = 0 RETURNING position",
    returns=True,
)
RELEASE: Final = Statement(
    "queue.release",
    "UPDATE queue_rcpt SET state = 0, due = :now WHERE mail = :mail AND state = 1 RETURNING position",
    returns=True,
)
REMOVE: Final = Statement(
    "queue.remove", "DELETE FROM queue_rcpt WHERE mail = :mail AND position = :position", needs_row=True
)

STATEMENTS: Final = (
    ADD_MAIL, ADD_RCPT, DUE_LANES, ALL_DUE_LANES, NEXT_DUE, LEASE, MAIL, RENEW, GIVE_BACK, STILL_MINE, TOUCH, DONE,
    DEFER, DROP_MAIL, TAKE_OVER, REPAIR, LIST, SHOW, COUNT, RETRY, RETRY_LANE, RETRY_ALL, HOLD, RELEASE, REMOVE,
)  # fmt: skip
SCHEMA: Final[Schema] = load_schema("queue", __package__, STATEMENTS)
