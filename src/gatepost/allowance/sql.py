"""The tables allowance_sent, allowance_own and allowance_held."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

SENT: Final = Statement(
    "allowance.sent",
    "SELECT CAST(COALESCE(SUM(CASE WHEN slot >= :hour THEN recipients ELSE 0 END), 0) AS BIGINT),"
    " CAST(COALESCE(SUM(recipients), 0) AS BIGINT)"
    " FROM allowance_sent WHERE account = :account AND slot >= :day",
)
COUNT: Final = Statement(
    "allowance.count",
    "INSERT INTO allowance_sent (account, slot, recipients) VALUES (:account, :slot, :recipients)"
    " ON CONFLICT (account, slot) DO UPDATE SET recipients = allowance_sent.recipients + :recipients",
)
FORGET: Final = Statement("allowance.forget", "DELETE FROM allowance_sent WHERE account = :account AND slot < :day")
OWN: Final = Statement("allowance.own", "SELECT per_hour, per_day FROM allowance_own WHERE account = :account")
SET_OWN: Final = Statement(
    "allowance.set_own",
    "INSERT INTO allowance_own (account, per_hour, per_day) VALUES (:account, :per_hour, :per_day)"
    " ON CONFLICT (account) DO UPDATE SET per_hour = :per_hour, per_day = :per_day",
)
HOLD: Final = Statement("allowance.hold", "INSERT INTO allowance_held (mail, account) VALUES (:mail, :account)")
HELD: Final = Statement("allowance.held", "SELECT mail FROM allowance_held WHERE account = :account ORDER BY mail")
LET_GO: Final = Statement("allowance.let_go", "DELETE FROM allowance_held WHERE mail = :mail")
BUSY: Final = Statement(
    "allowance.busy",
    "SELECT account FROM allowance_sent WHERE slot >= :day UNION SELECT account FROM allowance_held"
    " UNION SELECT account FROM allowance_own ORDER BY 1",
)

STATEMENTS: Final = (SENT, COUNT, FORGET, OWN, SET_OWN, HOLD, HELD, LET_GO, BUSY)
SCHEMA: Final[Schema] = load_schema("allowance", __package__, STATEMENTS)
