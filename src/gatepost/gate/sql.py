"""The tables of gate.db: the greylist and the entries of address tables."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

_COLUMNS: Final = "digest, key, kind, ip, net, first, pass, expire, seen, blocked, passed"

# One more offer of a tuple or by a trapped host: what `grey.seen` says, without a read.
SEEN: Final = Statement(
    "gate.seen",
    f"INSERT INTO grey ({_COLUMNS})"  # noqa: S608  (our own words)
    " VALUES (:digest, :key, :kind, :ip, :net, :now, :expire, :expire, :now, 1, :passed)"
    " ON CONFLICT (digest) DO UPDATE SET blocked = grey.blocked + 1, passed = :passed, seen = :now,"
    " pass = CASE WHEN grey.first + :pass_time < :now THEN :now ELSE grey.pass END",
)
# The same in friendly mode, which does not wait for the scan to forget what has ended.
_ENDED: Final = "WHEN grey.expire <= :now THEN"
ATTEMPT: Final = Statement(
    "gate.attempt",
    f"INSERT INTO grey ({_COLUMNS})"  # noqa: S608
    " VALUES (:digest, :key, :kind, :ip, :net, :now, :expire, :expire, :now, 1, :passed)"
    f" ON CONFLICT (digest) DO UPDATE SET first = CASE {_ENDED} :now ELSE grey.first END,"
    f" pass = CASE {_ENDED} :expire WHEN grey.first + :pass_time <= :now THEN :now ELSE grey.pass END,"
    f" blocked = CASE {_ENDED} 1 ELSE grey.blocked + 1 END,"
    f" expire = CASE {_ENDED} :expire ELSE grey.expire END, seen = :now",
)
# An offer at the least preferred MX: a host whose tuple was never seen before is trapped anew.
TRAP_NEW: Final = Statement(
    "gate.trap_new",
    f"INSERT INTO grey ({_COLUMNS})"  # noqa: S608
    " SELECT :digest, CAST(:key AS {OCTETS}), 1, CAST(:ip AS TEXT), CAST(:net AS TEXT), CAST(:now AS BIGINT),"
    " CAST(:expire AS BIGINT), CAST(:expire AS BIGINT), CAST(:now AS BIGINT), 1, -1"
    " WHERE NOT EXISTS (SELECT 1 FROM grey t WHERE t.digest = :tuple)"
    " ON CONFLICT (digest) DO UPDATE SET first = excluded.first, pass = excluded.pass, expire = excluded.expire,"
    " seen = excluded.seen, blocked = 1, passed = -1",
)
# The same offer, of a tuple that is known: it is an offer like others.
SEEN_AGAIN: Final = Statement(
    "gate.seen_again",
    "UPDATE grey SET blocked = grey.blocked + 1, passed = 0, seen = :now,"
    " pass = CASE WHEN grey.first + :pass_time < :now THEN :now ELSE grey.pass END WHERE digest = :digest",
)
# `grey.mailed`, `times` at once.
WHITEN: Final = Statement(
    "gate.whiten",
    f"INSERT INTO grey ({_COLUMNS})"  # noqa: S608
    " VALUES (:digest, :key, 1, :ip, :net, :now, :now, :expire, :now, 1, :times - 1)"
    " ON CONFLICT (digest) DO UPDATE SET passed = grey.passed + :times, expire = :expire, seen = :now"
    " WHERE grey.passed >= 0",
)
# A peer's word (spamd's sync): a white host is white at once, but what is known already is not prolonged, and a
# trapped one stays trapped; a trapped host is trapped.
HEARD_WHITE: Final = Statement(
    "gate.heard_white",
    f"INSERT INTO grey ({_COLUMNS})"  # noqa: S608
    " VALUES (:digest, :key, 1, :ip, :net, :now, 0, :expire, :now, 0, 0)"
    " ON CONFLICT (digest) DO UPDATE SET passed = grey.passed + 1, seen = :now WHERE grey.passed >= 0",
)
HEARD_TRAPPED: Final = Statement(
    "gate.heard_trapped",
    f"INSERT INTO grey ({_COLUMNS})"  # noqa: S608
    " VALUES (:digest, :key, 1, :ip, :net, :now, :expire, :expire, :now, 1, -1)"
    " ON CONFLICT (digest) DO UPDATE SET passed = -1, blocked = grey.blocked + 1, seen = :now",
)


# A peer's record (our own sync) beside ours of that key, in any order and as often as one likes: `merge.merge`.
def _merged(column: str, alike: str) -> str:
    return (
        f"{column} = CASE WHEN grey.expire <= excluded.seen THEN excluded.{column}"
        f" WHEN grey.passed = -1 AND excluded.passed <> -1 THEN grey.{column}"
        f" WHEN excluded.passed = -1 AND grey.passed <> -1 THEN excluded.{column} {alike} END"
    )


def _better(column: str, sign: str) -> str:
    return _merged(column, f"WHEN grey.{column} {sign} excluded.{column} THEN grey.{column} ELSE excluded.{column}")


# `pass` is `expire` as long as no retry counted: two tuples that did not pass are one that did not pass.
_EARLIER: Final = (
    "WHEN grey.pass < grey.expire AND (grey.pass < excluded.pass OR excluded.pass >= excluded.expire)"
    " THEN grey.pass WHEN excluded.pass < excluded.expire THEN excluded.pass"
    " WHEN grey.expire > excluded.expire THEN grey.expire ELSE excluded.expire"
)
MERGE: Final = Statement(
    "gate.merge",
    f"INSERT INTO grey ({_COLUMNS})"  # noqa: S608
    " VALUES (:digest, :key, :kind, :ip, :net, :first, :pass, :expire, :seen, :blocked, :passed)"
    f" ON CONFLICT (digest) DO UPDATE SET {_better('first', '<')}, {_merged('pass', _EARLIER)},"
    f" {_better('expire', '>')}, {_better('blocked', '>')}, {_better('passed', '>')},"
    " seen = CASE WHEN grey.seen > excluded.seen THEN grey.seen ELSE excluded.seen END",
)
# Everything that can excuse a first contact, in one look.
ASK: Final = Statement(
    "gate.ask",
    "SELECT digest, kind, first, pass, expire FROM grey"
    " WHERE digest IN (:attempt, :good, :signed, :wrote, :expected) AND expire > :now",
)
# A friendly record that lasts: made, or made to last longer.
WHITEN_FRIEND: Final = Statement(
    "gate.whiten_friend",
    f"INSERT INTO grey ({_COLUMNS})"  # noqa: S608
    " VALUES (:digest, :key, :kind, :ip, :net, :now, :now, :expire, :now, 1, :times - 1)"
    " ON CONFLICT (digest) DO UPDATE SET passed = grey.passed + :times, expire = :expire, seen = :now",
)
PUT: Final = Statement(
    "gate.put",
    f"INSERT INTO grey ({_COLUMNS})"  # noqa: S608
    " VALUES (:digest, :key, :kind, :ip, :net, :first, :pass, :expire, :seen, :blocked, :passed)"
    " ON CONFLICT (digest) DO UPDATE SET kind = excluded.kind, first = excluded.first, pass = excluded.pass,"
    " expire = excluded.expire, seen = excluded.seen, blocked = excluded.blocked, passed = excluded.passed",
)
# A host whose tuple passed, where it has no record of its own.
PROMOTE: Final = Statement(
    "gate.promote",
    f"INSERT INTO grey ({_COLUMNS})"  # noqa: S608
    " VALUES (:digest, :key, :kind, :ip, :net, :first, :pass, :expire, :seen, :blocked, :passed)"
    " ON CONFLICT (digest) DO NOTHING",
)
DROP: Final = Statement("gate.drop", "DELETE FROM grey WHERE digest = :digest", needs_row=True)
# spamdb -d -G: one tuple of a host, the first.
DROP_GREY: Final = Statement(
    "gate.drop_grey",
    "DELETE FROM grey WHERE digest IN (SELECT g.digest FROM grey g WHERE g.ip = :ip AND g.kind = 0"
    " ORDER BY g.first, g.digest LIMIT 1)",
    needs_row=True,
)
# A host on a list is no longer white: grey_ip.
DROP_LISTED: Final = Statement(
    "gate.drop_listed", "DELETE FROM grey WHERE ip = :ip AND kind <> 2 AND passed >= 0 AND pass <= :now"
)
EXPIRE: Final = Statement(
    "gate.expire", "DELETE FROM grey WHERE kind IN (0, 1, 3, 4, 5, 6) AND pass <= :now AND expire <= :now"
)
COUNT: Final = Statement("gate.count", "SELECT COUNT(*) FROM grey")
# Tuples that did not pass, the longest unseen first: those that never came back, then (EVICT_ANY) those that came
# back too early; and one network's beyond those it may keep, in the same order.
EVICT: Final = Statement(
    "gate.evict",
    "DELETE FROM grey WHERE digest IN (SELECT g.digest FROM grey g WHERE g.kind IN (0, 3) AND g.pass = g.expire"
    " AND g.blocked = 1 ORDER BY g.seen LIMIT CAST(:count AS BIGINT))",
)
EVICT_ANY: Final = Statement(
    "gate.evict_any",
    "DELETE FROM grey WHERE digest IN (SELECT g.digest FROM grey g WHERE g.kind IN (0, 3) AND g.pass = g.expire"
    " ORDER BY g.seen LIMIT CAST(:count AS BIGINT))",
)
EVICT_NET: Final = Statement(
    "gate.evict_net",
    "DELETE FROM grey WHERE digest IN (SELECT g.digest FROM grey g WHERE g.net = :net AND g.kind IN (0, 3)"
    " AND g.pass = g.expire ORDER BY CASE WHEN g.blocked > 1 THEN 0 ELSE 1 END, g.seen DESC"
    " LIMIT 100000 OFFSET CAST(:keep AS BIGINT))",
)
# Tuples that passed, of hosts that have no record of their own: the scan makes them white.
PASSED: Final = Statement(
    "gate.passed",
    "SELECT g.key, g.kind, g.ip, g.first, g.pass, g.expire, g.blocked, g.passed FROM grey g"
    " WHERE g.kind = 0 AND g.passed >= 0 AND g.pass <= :now AND g.expire > :now AND NOT EXISTS"
    " (SELECT 1 FROM grey h WHERE h.ip = g.ip AND h.kind = 1 AND h.expire > :now) ORDER BY g.ip, g.first",
)
# The white (passed >= 0) and the trapped hosts.
HOSTS: Final = Statement(
    "gate.hosts",
    "SELECT ip, passed FROM grey WHERE kind = 1 AND expire > :now AND (passed < 0 OR pass <= :now)",
)
TRAPS: Final = Statement("gate.traps", "SELECT key FROM grey WHERE kind = 2")
ROW: Final = Statement(
    "gate.row", "SELECT key, kind, ip, first, pass, expire, blocked, passed FROM grey WHERE digest = :digest"
)
ROWS: Final = Statement(
    "gate.rows",
    "SELECT digest, key, kind, ip, first, pass, expire, blocked, passed FROM grey"
    " WHERE digest > :after ORDER BY digest LIMIT 2000",
)
ROWS_WITHIN: Final = Statement(
    "gate.rows_within",
    "SELECT digest, key, kind, ip, first, pass, expire, blocked, passed FROM grey"
    " WHERE digest > :after AND digest < :before ORDER BY digest LIMIT 500",
)
STATES: Final = Statement(
    "gate.states",
    "SELECT kind, CASE WHEN passed < 0 THEN 1 ELSE 0 END AS trapped, COUNT(*) FROM grey"
    " GROUP BY 1, 2 ORDER BY 1, 2",
)

# What feeds give: `place` keeps a list where it is in the order.
PUT_PART: Final = Statement(
    "gate.put_part",
    "INSERT INTO part (tbl, source, count, listed, message, place, since)"
    " SELECT CAST(:tbl AS TEXT), CAST(:source AS TEXT), CAST(:count AS BIGINT), CAST(:listed AS BIGINT),"
    " CAST(:message AS TEXT), (SELECT COALESCE(MAX(p.place), 0) + 1 FROM part p), CAST(:since AS BIGINT)"
    " WHERE 1 = 1 ON CONFLICT (tbl, source) DO UPDATE SET count = excluded.count, listed = excluded.listed,"
    " message = excluded.message, since = excluded.since",
)
DROP_PART: Final = Statement("gate.drop_part", "DELETE FROM part WHERE tbl = :tbl AND source = :source")
PUT_PIECE: Final = Statement(
    "gate.put_piece",
    "INSERT INTO piece (tbl, source, place, octets) VALUES (:tbl, :source, :place, :octets)",
)
DROP_PIECES: Final = Statement("gate.drop_pieces", "DELETE FROM piece WHERE tbl = :tbl AND source = :source")
PARTS: Final = Statement(
    "gate.parts", "SELECT tbl, source, count, listed, message, since FROM part ORDER BY place, tbl, source"
)
PIECES: Final = Statement("gate.pieces", "SELECT source, octets FROM piece WHERE tbl = :tbl ORDER BY source, place")

# A unit's last word: where the entries are too many it undoes the unit, and the tables keep what they had.
CHECK_LIMIT: Final = Statement(
    "gate.check_limit",
    "UPDATE entry_limit SET checks = entry_limit.checks + 1 WHERE id = 1 AND (SELECT COUNT(*) FROM entry)"
    " + (SELECT COALESCE(SUM(p.count), 0) FROM part p) <= :tables_max",
    needs_row=True,
)
ADD_ENTRY: Final = Statement(
    "gate.add_entry",
    "INSERT INTO entry (tbl, network, negated, since, note, in_block, in_pass)"
    " VALUES (:tbl, :network, :negated, :since, :note, 0, 0) ON CONFLICT (tbl, network) DO NOTHING",
)
# Many at once: `packed` holds `count` pieces of PIECE letters, `!` or a blank and the network.
PIECE: Final = 50
_PIECES: Final = (
    "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT n.i + 1 FROM n WHERE n.i + 1 < :count)"  # noqa: S608
    f" SELECT RTRIM(SUBSTR(CAST(:packed AS TEXT), n.i * {PIECE} + 2, {PIECE - 1})) AS network,"
    f" SUBSTR(CAST(:packed AS TEXT), n.i * {PIECE} + 1, 1) AS sign FROM n"
)
ADD_MANY: Final = Statement(
    "gate.add_many",
    "INSERT INTO entry (tbl, network, negated, since, note, in_block, in_pass)"  # noqa: S608
    " SELECT CAST(:tbl AS TEXT), p.network, CASE WHEN p.sign = '!' THEN 1 ELSE 0 END, CAST(:since AS BIGINT),"
    " '', 0, 0"
    f" FROM ({_PIECES}) p WHERE 1 = 1"
    " ON CONFLICT (tbl, network) DO UPDATE SET negated = excluded.negated, since = excluded.since,"
    " note = '', in_block = 0, in_pass = 0",
)
DROP_MANY: Final = Statement(
    "gate.drop_many",
    f"DELETE FROM entry WHERE tbl = :tbl AND network IN (SELECT p.network FROM ({_PIECES}) p)",  # noqa: S608
)
FLUSH_ENTRIES: Final = Statement("gate.flush_entries", "DELETE FROM entry WHERE tbl = :tbl")
ZERO_ENTRIES: Final = Statement(
    "gate.zero_entries", "UPDATE entry SET since = :now, in_block = 0, in_pass = 0 WHERE tbl = :tbl"
)
COUNT_HITS: Final = Statement(
    "gate.count_hits",
    "UPDATE entry SET in_block = entry.in_block + :blocked, in_pass = entry.in_pass + :passed"
    " WHERE tbl = :tbl AND network = :network",
)
ENTRIES: Final = Statement(
    "gate.entries", "SELECT network, negated, since, note, in_block, in_pass FROM entry WHERE tbl = :tbl"
)
ENTRY_COUNTS: Final = Statement("gate.entry_counts", "SELECT tbl, COUNT(*) FROM entry GROUP BY tbl ORDER BY tbl")
MAKE_TABLE: Final = Statement(
    "gate.make_table", "INSERT INTO made_table (name, made_at) VALUES (:name, :now) ON CONFLICT (name) DO NOTHING"
)
DROP_TABLE: Final = Statement("gate.drop_table", "DELETE FROM made_table WHERE name = :name")
MADE_TABLES: Final = Statement("gate.made_tables", "SELECT name FROM made_table ORDER BY name")

STATEMENTS: Final = (
    *(SEEN, TRAP_NEW, SEEN_AGAIN, WHITEN, PUT, PROMOTE, DROP, DROP_GREY, DROP_LISTED, EXPIRE, COUNT, EVICT),
    *(EVICT_ANY, EVICT_NET, PASSED, HOSTS, TRAPS, ROW, ROWS, ROWS_WITHIN, STATES),
    *(CHECK_LIMIT, ADD_ENTRY, ADD_MANY, DROP_MANY, FLUSH_ENTRIES, ZERO_ENTRIES, COUNT_HITS, ENTRIES, ENTRY_COUNTS),
    *(MAKE_TABLE, DROP_TABLE, MADE_TABLES, PUT_PART, DROP_PART, PUT_PIECE, DROP_PIECES, PARTS, PIECES),
    *(ATTEMPT, HEARD_WHITE, HEARD_TRAPPED, MERGE, ASK, WHITEN_FRIEND),
)
SCHEMA: Final[Schema] = load_schema("gate", __package__, STATEMENTS)
