"""The tables of DMARC's results, in the gate's database: losing a second of them in a crash harms nobody."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

ADD_POLICY: Final = Statement(
    "dmarcrpt.add_policy",
    "INSERT INTO dmarc_policy (day, domain, policy, packed) VALUES (:day, :domain, :policy, :packed)"
    " ON CONFLICT (day, domain, policy) DO NOTHING",
)
ADD_RESULT: Final = Statement(
    "dmarcrpt.add_result",
    "INSERT INTO dmarc_result (day, domain, policy, alike, mails) VALUES (:day, :domain, :policy, :alike, :mails)"
    " ON CONFLICT (day, domain, policy, alike) DO UPDATE SET mails = dmarc_result.mails + excluded.mails",
)
POLICIES: Final = Statement(
    "dmarcrpt.policies",
    "SELECT policy, packed FROM dmarc_policy WHERE day = :day AND domain = :domain ORDER BY policy LIMIT :most",
)
RESULTS: Final = Statement(
    "dmarcrpt.results",
    "SELECT alike, mails FROM dmarc_result WHERE day = :day AND domain = :domain AND policy = :policy"
    " ORDER BY mails DESC, alike LIMIT :most",
)
DAYS: Final = Statement(
    "dmarcrpt.days",
    "SELECT day, domain, CAST(SUM(mails) AS BIGINT), COUNT(*) FROM dmarc_result"
    " GROUP BY day, domain ORDER BY day DESC, domain LIMIT :most",
)
DUE: Final = Statement(
    "dmarcrpt.due",
    "SELECT p.day, p.domain, p.policy FROM dmarc_policy AS p WHERE p.day >= :oldest AND p.day < :today"
    " AND NOT EXISTS (SELECT 1 FROM dmarc_sent AS s"
    " WHERE s.day = p.day AND s.domain = p.domain AND s.policy = p.policy AND s.uri = '')"
    " ORDER BY p.day, p.domain, p.policy LIMIT :most",
)
SENT: Final = Statement(
    "dmarcrpt.sent", "SELECT uri FROM dmarc_sent WHERE day = :day AND domain = :domain AND policy = :policy"
)
ADD_SENT: Final = Statement(
    "dmarcrpt.add_sent",
    "INSERT INTO dmarc_sent (day, domain, policy, uri) VALUES (:day, :domain, :policy, :uri)"
    " ON CONFLICT (day, domain, policy, uri) DO NOTHING",
)
DROP_POLICIES: Final = Statement("dmarcrpt.drop_policies", "DELETE FROM dmarc_policy WHERE day < :before")
DROP_RESULTS: Final = Statement("dmarcrpt.drop_results", "DELETE FROM dmarc_result WHERE day < :before")
DROP_SENT: Final = Statement("dmarcrpt.drop_sent", "DELETE FROM dmarc_sent WHERE day < :before")

STATEMENTS: Final = (
    ADD_POLICY,
    ADD_RESULT,
    POLICIES,
    RESULTS,
    DAYS,
    DUE,
    SENT,
    ADD_SENT,
    DROP_POLICIES,
    DROP_RESULTS,
    DROP_SENT,
)
SCHEMA: Final[Schema] = load_schema("dmarcrpt", __package__, STATEMENTS)
