-- Sessions of a UTC day (days since 1970) with a domain's servers. `policy` is a digest of what was asked of the TLS,
-- which stands in tls_policy. `failure` is a result type of RFC 8460 §4.3, '' for sessions that went well.
CREATE TABLE tls_policy (
    day BIGINT NOT NULL,
    domain TEXT NOT NULL,
    policy TEXT NOT NULL,
    packed TEXT NOT NULL,
    PRIMARY KEY (day, domain, policy)
){CLUSTERED};
CREATE TABLE tls_result (
    day BIGINT NOT NULL,
    domain TEXT NOT NULL,
    policy TEXT NOT NULL,
    failure TEXT NOT NULL,
    host TEXT NOT NULL,
    ip TEXT NOT NULL,
    ours TEXT NOT NULL,
    reason TEXT NOT NULL,
    sessions BIGINT NOT NULL,
    PRIMARY KEY (day, domain, policy, failure, host, ip, ours, reason)
){CLUSTERED};
