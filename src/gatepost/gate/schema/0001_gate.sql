-- The greylist. kind 0: a tuple (key: IP, HELO, FROM, TO with line feeds between); kind 1: a host (key: its IP),
-- white or, with passes -1, trapped; kind 2: a spamtrap address. Times in microseconds; `net` is the source's /24 or
-- /48, for the cap on what one network may fill.
CREATE TABLE grey (
    key {OCTETS} NOT NULL PRIMARY KEY,
    kind BIGINT NOT NULL,
    ip TEXT NOT NULL,
    net TEXT NOT NULL,
    first BIGINT NOT NULL,
    pass BIGINT NOT NULL,
    expire BIGINT NOT NULL,
    blocked BIGINT NOT NULL,
    passed BIGINT NOT NULL
);
CREATE INDEX grey_expire ON grey (expire);
CREATE INDEX grey_net ON grey (net);
CREATE INDEX grey_kind ON grey (kind, pass);
-- Entries of tables that were made by hand or by a limit; what files hold is not here.
CREATE TABLE entry (
    tbl TEXT NOT NULL,
    network TEXT NOT NULL,
    negated BIGINT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (tbl, network)
);
