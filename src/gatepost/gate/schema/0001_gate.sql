-- The greylist, found by the digest of the key (BLAKE2b, 16 octets). kind 0: a tuple (key: IP, HELO, FROM, TO with
-- line feeds between); kind 1: a host (key: its IP), white or, with passed -1, trapped; kind 2: a spamtrap address.
-- Times in microseconds; pass is expire as long as no retry counted; seen: the last offer; net: the source's /24 or
-- /48, for the cap on what one network may fill.
CREATE TABLE grey (
    digest {OCTETS} NOT NULL PRIMARY KEY,
    key {OCTETS} NOT NULL,
    kind BIGINT NOT NULL,
    ip TEXT NOT NULL,
    net TEXT NOT NULL,
    first BIGINT NOT NULL,
    pass BIGINT NOT NULL,
    expire BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    blocked BIGINT NOT NULL,
    passed BIGINT NOT NULL
);
-- for the scan: what passed or expired (what expires without having passed has pass = expire)
CREATE INDEX grey_pass ON grey (kind, pass);
-- for the caps: what did not come back for the longest time
CREATE INDEX grey_net ON grey (net, kind, seen);
CREATE INDEX grey_seen ON grey (kind, seen);
CREATE INDEX grey_ip ON grey (ip);
-- Entries of tables that were made by hand or by a limit (note: by which); what files hold is not here.
-- since: added or last cleared; in_block, in_pass: connections that the entry decided.
CREATE TABLE entry (
    tbl TEXT NOT NULL,
    network TEXT NOT NULL,
    negated BIGINT NOT NULL,
    since BIGINT NOT NULL,
    note TEXT NOT NULL,
    in_block BIGINT NOT NULL,
    in_pass BIGINT NOT NULL,
    PRIMARY KEY (tbl, network)
);
-- Tables that were made by a verb, beside those that always are.
CREATE TABLE made_table (
    name TEXT NOT NULL PRIMARY KEY,
    made_at BIGINT NOT NULL
);
-- One row: what the check of the limit on entries changes, so that it can refuse a unit.
CREATE TABLE entry_limit (
    id BIGINT NOT NULL PRIMARY KEY,
    checks BIGINT NOT NULL
);
INSERT INTO entry_limit (id, checks) VALUES (1, 0);
