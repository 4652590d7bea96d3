"""The tables of gate.db: the greylist and the entries of address tables."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

# One more attempt of a tuple or a trapped host: `grey.seen` says the same as a pure function.
SEEN: Final = Statement(
    "gate.seen",
    "INSERT INTO grey (key, kind, ip, net, first, pass, expire, blocked, passed)"
    " SELECT :key, :kind, :ip, :net, :now, :expire, :expire, 1, :passed"
    " WHERE :kind <> 0 OR (SELECT COUNT(*) FROM grey WHERE grey.net = :net) < :net_max"
    " ON CONFLICT (key) DO UPDATE SET blocked = grey.blocked + 1, passed = :passed,"
    " pass = CASE WHEN grey.first + :pass_time < :now THEN :now ELSE grey.pass END",
)
# A host is white from now on, or for longer; a trapped one stays trapped when it only mails us.
WHITEN: Final = Statement(
    "gate.whiten",
    "INSERT INTO grey (key, kind, ip, net, first, pass, expire, blocked, passed)"
    " VALUES (:key, 1, :ip, :net, :now, :now, :expire, 1, 0)"
    " ON CONFLICT (key) DO UPDATE SET passed = grey.passed + :times, expire = :expire WHERE grey.passed >= 0",
)
PUT: Final = Statement(
    "gate.put",
    "INSERT INTO grey (key, kind, ip, net, first, pass, expire, blocked, passed)"
    " VALUES (:key, :kind, :ip, :net, :first, :pass, :expire, :blocked, :passed)"
    " ON CONFLICT (key) DO UPDATE SET kind = excluded.kind, first = excluded.first, pass = excluded.pass,"
    " expire = excluded.expire, blocked = excluded.blocked, passed = excluded.passed",
)
DROP: Final = Statement("gate.drop", "DELETE FROM grey WHERE key = :key", needs_row=True)
DROP_GREY: Final = Statement("gate.drop_grey", "DELETE FROM grey WHERE ip = :ip AND kind = 0", needs_row=True)
EXPIRE: Final = Statement("gate.expire", "DELETE FROM grey WHERE expire <= :now AND kind <> 2")
CAP: Final = Statement(
    "gate.cap",
    "DELETE FROM grey WHERE key IN (SELECT g.key FROM grey g WHERE g.kind = 0 AND g.pass > :now"
    " ORDER BY g.first LIMIT CAST(:count AS BIGINT))",
)
COUNT: Final = Statement("gate.count", "SELECT COUNT(*) FROM grey")
# Hosts whose tuple has passed and that have no record of their own yet: the scan makes them white.
PASSED: Final = Statement(
    "gate.passed",
    "SELECT g.ip, g.net, g.first, g.pass, g.blocked FROM grey g"
    " WHERE g.kind = 0 AND g.passed >= 0 AND g.pass <= :now"
    " AND NOT EXISTS (SELECT 1 FROM grey h WHERE h.kind = 1 AND h.ip = g.ip) ORDER BY g.ip, g.first",
)
HOSTS: Final = Statement("gate.hosts", "SELECT ip, passed FROM grey WHERE kind = 1 AND expire > :now")
TRAPS: Final = Statement("gate.traps", "SELECT key FROM grey WHERE kind = 2")
ROW: Final = Statement(
    "gate.row", "SELECT key, kind, ip, first, pass, expire, blocked, passed FROM grey WHERE key = :key"
)
ROWS: Final = Statement(
    "gate.rows",
    "SELECT key, kind, ip, first, pass, expire, blocked, passed FROM grey"
    " WHERE key > :after ORDER BY key LIMIT 1000",
)

ADD_ENTRY: Final = Statement(
    "gate.add_entry",
    "INSERT INTO entry (tbl, network, negated, since) VALUES (:tbl, :network, :negated, :since)"
    " ON CONFLICT (tbl, network) DO NOTHING",
)
DROP_ENTRY: Final = Statement("gate.drop_entry", "DELETE FROM entry WHERE tbl = :tbl AND network = :network")
FLUSH_ENTRIES: Final = Statement("gate.flush_entries", "DELETE FROM entry WHERE tbl = :tbl")
ZERO_ENTRIES: Final = Statement("gate.zero_entries", "UPDATE entry SET since = :now WHERE tbl = :tbl")
ENTRIES: Final = Statement("gate.entries", "SELECT tbl, network, negated, since FROM entry ORDER BY tbl, network")
ENTRIES_OF: Final = Statement(
    "gate.entries_of", "SELECT tbl, network, negated, since FROM entry WHERE tbl = :tbl ORDER BY network"
)

STATEMENTS: Final = (
    *(SEEN, WHITEN, PUT, DROP, DROP_GREY, EXPIRE, CAP, COUNT, PASSED, HOSTS, TRAPS, ROW, ROWS),
    *(ADD_ENTRY, DROP_ENTRY, FLUSH_ENTRIES, ZERO_ENTRIES, ENTRIES, ENTRIES_OF),
)
SCHEMA: Final[Schema] = load_schema("gate", __package__, STATEMENTS)
