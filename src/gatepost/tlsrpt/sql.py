"""The tables tls_policy and tls_result, in the gate's database: losing a second of them in a crash harms nobody."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

ADD_POLICY: Final = Statement(
    "tlsrpt.add_policy",
    "INSERT INTO tls_policy (day, domain, policy, packed) VALUES (:day, :domain, :policy, :packed)"
    " ON CONFLICT (day, domain, policy) DO NOTHING",
)
ADD_RESULT: Final = Statement(
    "tlsrpt.add_result",
    "INSERT INTO tls_result (day, domain, policy, failure, host, ip, ours, reason, sessions)"
    " VALUES (:day, :domain, :policy, :failure, :host, :ip, :ours, :reason, :sessions)"
    " ON CONFLICT (day, domain, policy, failure, host, ip, ours, reason)"
    " DO UPDATE SET sessions = tls_result.sessions + excluded.sessions",
)
POLICIES: Final = Statement(
    "tlsrpt.policies",
    "SELECT policy, packed FROM tls_policy WHERE day = :day AND domain = :domain ORDER BY policy LIMIT :most",
)
RESULTS: Final = Statement(
    "tlsrpt.results",
    "SELECT policy, failure, host, ip, ours, reason, sessions FROM tls_result"
    " WHERE day = :day AND domain = :domain ORDER BY policy, failure, host, ip, ours, reason LIMIT :most",
)
DAYS: Final = Statement(
    "tlsrpt.days",
    "SELECT day, domain, CAST(SUM(CASE WHEN failure = '' THEN sessions ELSE 0 END) AS BIGINT),"
    " CAST(SUM(CASE WHEN failure = '' THEN 0 ELSE sessions END) AS BIGINT)"
    " FROM tls_result GROUP BY day, domain ORDER BY day DESC, domain LIMIT :most",
)
DROP_POLICIES: Final = Statement("tlsrpt.drop_policies", "DELETE FROM tls_policy WHERE day < :before")
DROP_RESULTS: Final = Statement("tlsrpt.drop_results", "DELETE FROM tls_result WHERE day < :before")
DUE: Final = Statement(
    "tlsrpt.due",
    "SELECT DISTINCT r.day, r.domain FROM tls_result AS r WHERE r.day >= :oldest AND r.day < :today"
    " AND NOT EXISTS (SELECT 1 FROM tls_sent AS s WHERE s.day = r.day AND s.domain = r.domain AND s.uri = '')"
    " ORDER BY r.day, r.domain LIMIT :most",
)
SENT: Final = Statement("tlsrpt.sent", "SELECT uri FROM tls_sent WHERE day = :day AND domain = :domain")
ADD_SENT: Final = Statement(
    "tlsrpt.add_sent",
    "INSERT INTO tls_sent (day, domain, uri) VALUES (:day, :domain, :uri)"
    " ON CONFLICT (day, domain, uri) DO NOTHING",
)
DROP_SENT: Final = Statement("tlsrpt.drop_sent", "DELETE FROM tls_sent WHERE day < :before")

STATEMENTS: Final = (
    ADD_POLICY,
    ADD_RESULT,
    POLICIES,
    RESULTS,
    DAYS,
    DROP_POLICIES,
    DROP_RESULTS,
    DUE,
    SENT,
    ADD_SENT,
    DROP_SENT,
)
SCHEMA: Final[Schema] = load_schema("tlsrpt", __package__, STATEMENTS)
