-- What feeds give tables: one row a table and source. listed 1: the table is one of spamd's lists, and message is what
-- its members are told. place: the order of lists. since: when its content last changed, in microseconds.
CREATE TABLE part (
    tbl TEXT NOT NULL,
    source TEXT NOT NULL,
    count BIGINT NOT NULL,
    listed BIGINT NOT NULL,
    message TEXT NOT NULL,
    place BIGINT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (tbl, source)
);
-- Its networks (gate/networks.py, pack), in pieces in their order.
CREATE TABLE piece (
    tbl TEXT NOT NULL,
    source TEXT NOT NULL,
    place BIGINT NOT NULL,
    octets {OCTETS} NOT NULL,
    PRIMARY KEY (tbl, source, place)
);
