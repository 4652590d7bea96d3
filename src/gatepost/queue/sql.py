"""The tables queue_mail, queue_rcpt, queue_pause and queue_rest."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

NEVER: Final = 1 << 62
"""`due` of what is held."""
PARKED: Final = NEVER - 1
"""`due` of what fell due while its lane was paused."""
EVERYTHING: Final = "*"
"""The lane under which a pause of all outbound mail is noted."""
RETURNED: Final = "(sender)"
"""The lane of what the operator returns to its sender."""
_ANY_LEVEL: Final = f"urgency IN ({', '.join(map(str, range(-9, 10)))})"
"""Always so: it lets index queue_rcpt_lane lead to what is due at each level."""

ADD_MAIL: Final = Statement(
    "queue.add_mail",
    "INSERT INTO queue_mail (id, body, created, kind, recipients, touched, sender, packed)"
    " VALUES (:id, :body, :now, :kind, :recipients, :now, :sender, :packed)",
)
ADD_RCPT: Final = Statement(
    "queue.add_rcpt",
    "INSERT INTO queue_rcpt (mail, position, state, owner, due, attempts, suspect, warned, last_try, lane,"
    " recipient, last_error, packed, urgency, not_before)"
    " VALUES (:mail, :position, 0, :owner, :due, 0, 0, 0, 0, :lane, :recipient, '', :packed, :urgency,"
    " :not_before)",
)

# Looking for work. Index queue_rcpt_due answers the first alone; the second reads all that is due, off the loop.
# Both tell also whether anything waits whose urgency is not the usual one: then LEASE_ALL, else LEASE.
DUE_LANES: Final = Statement(
    "queue.due_lanes",
    "SELECT lane, EXISTS (SELECT 1 FROM queue_rcpt WHERE urgency <> 0) FROM queue_rcpt"
    " WHERE due <= :now ORDER BY due, lane LIMIT :most",
)
ALL_DUE_LANES: Final = Statement(
    "queue.all_due_lanes",
    "SELECT lane, EXISTS (SELECT 1 FROM queue_rcpt WHERE urgency <> 0) FROM queue_rcpt"
    " WHERE due <= :now GROUP BY lane ORDER BY MIN(due), lane LIMIT :most",
)
# Every lane with what falls due first in it, from seek to seek along queue_rcpt_lane: it costs by lanes and not by
# rows, and so is how to look past a lane with a hundred thousand due mails that are not wanted now.
EACH_LANE: Final = Statement(
    "queue.each_lane",
    "WITH RECURSIVE walk (lane, at) AS (SELECT (SELECT MIN(lane) FROM queue_rcpt), 1"
    " UNION ALL SELECT (SELECT MIN(lane) FROM queue_rcpt WHERE lane > walk.lane), walk.at + 1"
    " FROM walk WHERE walk.lane IS NOT NULL AND walk.at <= :most)"
    " SELECT lane, (SELECT q.due FROM queue_rcpt q WHERE q.lane = walk.lane AND q.urgency = 0"
    " ORDER BY q.due LIMIT 1) FROM walk WHERE lane IS NOT NULL",
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
    " WHERE lane = :lane AND urgency = 0 AND due <= :now ORDER BY due, mail, position LIMIT :most)"
    " RETURNING mail, position, attempts, suspect, warned, packed, urgency",
    returns=True,
)
# The index queue_rcpt_lane is probed once for each level: neither what is not due nor what is less urgent is read.
LEASE_ALL: Final = Statement(
    "queue.lease_all",
    LEASE.sql.replace("urgency = 0", _ANY_LEVEL).replace("ORDER BY due", "ORDER BY urgency, due"),
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
QUARANTINE: Final = Statement(
    "queue.quarantine",
    "UPDATE queue_rcpt SET owner = 0, state = 1, due = :never, attempts = queue_rcpt.attempts + 1, suspect = 0,"
    " last_try = :now, last_error = :error WHERE mail = :mail AND position = :position AND owner = :owner",
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
    "UPDATE queue_rcpt SET due = CASE WHEN not_before > :now THEN not_before ELSE :now END"
    " WHERE state = 0 AND due > :horizon AND due > not_before"
    " AND (due <> :parked OR lane NOT IN (SELECT lane FROM queue_pause)) RETURNING mail",
    returns=True,
)

# The operator's verbs. A list begins after the last row of the page before, and an index leads there: LIST reads
# along the primary key, LIST_LANE along queue_rcpt_lane. Only LIST_SENDER reads all mails.
_LISTED: Final = (
    "SELECT r.mail, r.position, r.state, r.owner, r.due, r.attempts, r.last_try, r.lane, r.recipient, r.last_error,"
    " m.sender, m.created, m.kind, m.body, r.urgency, r.not_before"
    " FROM queue_rcpt r JOIN queue_mail m ON m.id = r.mail"
)
LIST: Final = Statement(
    "queue.list",
    f"{_LISTED} WHERE (r.mail, r.position) > (:mail, :position) ORDER BY r.mail, r.position LIMIT :most",
)
LIST_LANE: Final = Statement(
    "queue.list_lane",
    f"{_LISTED} WHERE r.lane = :lane"
    " AND (r.urgency, r.due, r.mail, r.position) > (:urgency, :due, :mail, :position)"
    " AND (:anyone = 1 OR m.sender = :sender) ORDER BY r.urgency, r.due, r.mail, r.position LIMIT :most",
)
LIST_SENDER: Final = Statement(
    "queue.list_sender",
    f"{_LISTED} WHERE m.sender = :sender AND (r.mail, r.position) > (:mail, :position)"
    " ORDER BY r.mail, r.position LIMIT :most",
)
SHOW: Final = Statement("queue.show", f"{_LISTED} WHERE r.mail = :mail ORDER BY r.position")
COUNT: Final = Statement(
    "queue.count",
    "SELECT COUNT(*), COUNT(DISTINCT mail), COALESCE(SUM(state), 0),"
    " COALESCE(SUM(CASE WHEN owner <> 0 THEN 1 ELSE 0 END), 0) FROM queue_rcpt",
)
RETRY: Final = Statement(
    "queue.retry",
    "UPDATE queue_rcpt SET due = :now, not_before = 0 WHERE mail = :mail AND owner = 0 AND state = 0"
    " RETURNING position",
    returns=True,
)
RETRY_LANE: Final = Statement(
    "queue.retry_lane",
    "UPDATE queue_rcpt SET due = :now WHERE lane = :lane AND owner = 0 AND state = 0 AND not_before <= :now"
    " RETURNING position",
    returns=True,
)
RETRY_ALL: Final = Statement(
    "queue.retry_all",
    "UPDATE queue_rcpt SET due = :now WHERE owner = 0 AND state = 0 AND not_before <= :now RETURNING position",
    returns=True,
)
HOLD: Final = Statement(
    "queue.hold",
    "UPDATE queue_rcpt SET state = 1, due = :never WHERE mail = :mail AND owner = 0 RETURNING position",
    returns=True,
)
RELEASE: Final = Statement(
    "queue.release",
    "UPDATE queue_rcpt SET state = 0, due = :now, not_before = 0 WHERE mail = :mail AND owner = 0"
    " AND (state = 1 OR not_before > :now) RETURNING position",
    returns=True,
)
HOLD_NEW: Final = Statement(
    "queue.hold_new", "UPDATE queue_rcpt SET state = 1, due = :never, last_error = :error WHERE mail = :mail"
)
HOLD_ONE: Final = Statement(
    "queue.hold_one",
    "UPDATE queue_rcpt SET state = 1, due = :never"
    " WHERE mail = :mail AND position = :position AND owner = 0 AND state = 0 RETURNING position",
    returns=True,
)
RELEASE_ONE: Final = Statement(
    "queue.release_one",
    "UPDATE queue_rcpt SET state = 0, due = CASE WHEN not_before > :now THEN not_before ELSE :now END"
    " WHERE mail = :mail AND position = :position AND state = 1"
    " RETURNING position",
    returns=True,
)
REMOVE: Final = Statement(
    "queue.remove", "DELETE FROM queue_rcpt WHERE mail = :mail AND position = :position", needs_row=True
)
REMOVE_IDLE: Final = Statement(
    "queue.remove_idle",
    "DELETE FROM queue_rcpt WHERE mail = :mail AND position = :position AND owner = 0",
    needs_row=True,
)
RETURN: Final = Statement(
    "queue.return",
    "UPDATE queue_rcpt SET lane = :lane, state = 0, due = :now WHERE mail = :mail AND owner = 0 RETURNING position",
    returns=True,
)
PACKED: Final = Statement(
    "queue.packed", "SELECT packed FROM queue_rcpt WHERE mail = :mail AND position = :position AND owner = 0"
)
REDIRECT: Final = Statement(
    "queue.redirect",
    "UPDATE queue_rcpt SET lane = :lane, recipient = :recipient, packed = :packed, state = 0,"
    " due = CASE WHEN not_before > :now THEN not_before ELSE :now END,"
    " attempts = 0, warned = 0, last_error = '' WHERE mail = :mail AND position = :position"
    " AND owner = 0 AND recipient = :old",
    needs_row=True,
)

# Destinations. The first two read the whole table, one lane; the third the index queue_rcpt_lane alone.
COUNT_LANE: Final = Statement(
    "queue.count_lane",
    "SELECT COUNT(*), COUNT(DISTINCT r.mail), COALESCE(SUM(r.state), 0),"
    " COALESCE(SUM(CASE WHEN r.owner <> 0 THEN 1 ELSE 0 END), 0) FROM queue_rcpt r"
    " JOIN queue_mail m ON m.id = r.mail WHERE r.lane = :lane AND (:anyone = 1 OR m.sender = :sender)",
)
COUNT_SENDER: Final = Statement(
    "queue.count_sender",
    "SELECT COUNT(*), COUNT(DISTINCT r.mail), COALESCE(SUM(r.state), 0),"
    " COALESCE(SUM(CASE WHEN r.owner <> 0 THEN 1 ELSE 0 END), 0) FROM queue_rcpt r"
    " JOIN queue_mail m ON m.id = r.mail WHERE m.sender = :sender",
)
DESTINATIONS: Final = Statement(
    "queue.destinations",
    "SELECT lane, COUNT(*), SUM(CASE WHEN due = :never THEN 1 ELSE 0 END), MIN(mail),"
    " MIN(CASE WHEN due < :parked THEN due END) FROM queue_rcpt GROUP BY lane"
    " ORDER BY COUNT(*) DESC, lane LIMIT :most",
)
LANES: Final = Statement("queue.lanes", "SELECT DISTINCT lane FROM queue_rcpt")
LAST_ERROR: Final = Statement(
    "queue.last_error",
    "SELECT last_error FROM (SELECT last_error, last_try FROM queue_rcpt WHERE lane = :lane"
    " ORDER BY urgency DESC, due DESC LIMIT 100) AS newest WHERE last_try > 0 ORDER BY last_try DESC LIMIT 1",
)
PAUSES: Final = Statement("queue.pauses", "SELECT lane, since, why FROM queue_pause ORDER BY lane")
PAUSE: Final = Statement(
    "queue.pause",
    "INSERT INTO queue_pause (lane, since, why) VALUES (:lane, :now, :why)"
    " ON CONFLICT (lane) DO UPDATE SET since = excluded.since, why = excluded.why",
)
RESUME: Final = Statement(
    "queue.resume", "DELETE FROM queue_pause WHERE lane = :lane RETURNING since", returns=True
)
PARK: Final = Statement(
    "queue.park",
    "UPDATE queue_rcpt SET due = :parked WHERE due <= :now AND (mail, position) IN (SELECT mail, position"  # noqa: S608  (our own words)
    f" FROM queue_rcpt WHERE lane = :lane AND {_ANY_LEVEL} AND due <= :now LIMIT :most)"
    " RETURNING position",
    returns=True,
)
UNPARK: Final = Statement(
    "queue.unpark",
    f"UPDATE queue_rcpt SET due = :now WHERE lane = :lane AND {_ANY_LEVEL} AND due = :parked"  # noqa: S608
    " RETURNING position",
    returns=True,
)
RESTS: Final = Statement("queue.rests", "SELECT lane, until, answer FROM queue_rest WHERE until > :now")
REST: Final = Statement(
    "queue.rest",
    "INSERT INTO queue_rest (lane, until, answer) VALUES (:lane, :until, :answer)"
    " ON CONFLICT (lane) DO UPDATE SET until = excluded.until, answer = excluded.answer",
)
WAKE: Final = Statement("queue.wake", "DELETE FROM queue_rest WHERE lane = :lane")
WAKE_ALL: Final = Statement("queue.wake_all", "DELETE FROM queue_rest")

# At rest (queue/atrest.py). A row that changed meanwhile stays as it is: the next pass finds it.
HOLD_UNREADABLE: Final = Statement(
    "queue.hold_unreadable",
    "UPDATE queue_rcpt SET state = 1, owner = 0, due = :never, last_error = :error"
    " WHERE mail = :mail AND position = :position AND owner = :owner",
)
ENVELOPE: Final = Statement(
    "queue.envelope",
    "SELECT m.body, m.created, m.kind, m.recipients, m.packed, r.position, r.state, r.owner, r.due, r.attempts,"
    " r.suspect, r.warned, r.last_try, r.lane, r.last_error, r.packed"
    " FROM queue_mail m JOIN queue_rcpt r ON r.mail = m.id WHERE m.id = :mail ORDER BY r.position",
)
REST_MAILS: Final = Statement(
    "queue.rest_mails", "SELECT id, sender, packed FROM queue_mail WHERE id > :id ORDER BY id LIMIT 200"
)
REST_RCPTS: Final = Statement(
    "queue.rest_rcpts",
    "SELECT mail, position, recipient, last_error, packed FROM queue_rcpt"
    " WHERE (mail, position) > (:mail, :position) ORDER BY mail, position LIMIT 200",
)
RESEAL_MAIL: Final = Statement(
    "queue.reseal_mail",
    "UPDATE queue_mail SET sender = :sender, packed = CAST(:packed AS {OCTETS})"
    " WHERE id = :id AND packed = CAST(:before AS {OCTETS})",
)
RESEAL_RCPT: Final = Statement(
    "queue.reseal_rcpt",
    "UPDATE queue_rcpt SET recipient = :recipient, last_error = :error, packed = CAST(:packed AS {OCTETS})"
    " WHERE mail = :mail AND position = :position AND last_error = :error_before"
    " AND packed = CAST(:before AS {OCTETS})",
)

STATEMENTS: Final = (
    ADD_MAIL, ADD_RCPT, DUE_LANES, ALL_DUE_LANES, EACH_LANE, NEXT_DUE, LEASE, LEASE_ALL, MAIL, RENEW, GIVE_BACK,
    STILL_MINE, TOUCH, DONE, DEFER, QUARANTINE,
    DROP_MAIL, TAKE_OVER, REPAIR, LIST, LIST_LANE, LIST_SENDER, SHOW, COUNT, RETRY, RETRY_LANE, RETRY_ALL,
    HOLD, HOLD_NEW, RELEASE, HOLD_ONE, RELEASE_ONE, REMOVE, REMOVE_IDLE, RETURN, PACKED, REDIRECT,
    COUNT_LANE, COUNT_SENDER,
    DESTINATIONS, LANES, LAST_ERROR, PAUSES, PAUSE, RESUME, PARK, UNPARK, RESTS, REST, WAKE, WAKE_ALL,
    HOLD_UNREADABLE, ENVELOPE, REST_MAILS, REST_RCPTS, RESEAL_MAIL, RESEAL_RCPT,
)  # fmt: skip
SCHEMA: Final[Schema] = load_schema("queue", __package__, STATEMENTS)
