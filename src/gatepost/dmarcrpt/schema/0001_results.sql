-- Mails of a UTC day (days since 1970) that a domain's DMARC policy was asked about. `policy` is a digest of what was
-- published, which stands in dmarc_policy; `alike` is a JSON list of what such mails have in common.
CREATE TABLE dmarc_policy (
    day BIGINT NOT NULL,
    domain TEXT NOT NULL,
    policy TEXT NOT NULL,
    packed TEXT NOT NULL,
    PRIMARY KEY (day, domain, policy)
){CLUSTERED};
CREATE TABLE dmarc_result (
    day BIGINT NOT NULL,
    domain TEXT NOT NULL,
    policy TEXT NOT NULL,
    alike TEXT NOT NULL,
    mails BIGINT NOT NULL,
    PRIMARY KEY (day, domain, policy, alike)
){CLUSTERED};
-- Who has the report of a day: a row for each address, and one with '' when nothing is left to do for it.
CREATE TABLE dmarc_sent (
    day BIGINT NOT NULL,
    domain TEXT NOT NULL,
    policy TEXT NOT NULL,
    uri TEXT NOT NULL,
    PRIMARY KEY (day, domain, policy, uri)
){CLUSTERED};
