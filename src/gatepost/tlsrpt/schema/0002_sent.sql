-- What became of the report of a day: a row for each address (`uri`) that has it, and one with '' when nothing is left
-- to do for it.
CREATE TABLE tls_sent (
    day BIGINT NOT NULL,
    domain TEXT NOT NULL,
    uri TEXT NOT NULL,
    PRIMARY KEY (day, domain, uri)
){CLUSTERED};
