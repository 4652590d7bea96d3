-- Ids sort by time, so a day is a range of them. An address is kept as a 64-bit fingerprint of its key; the addresses
-- themselves stand only in the packed story. A story's first sender and recipient stand in its own row, others apart.
CREATE TABLE story (
    id {ID},
    sender BIGINT NOT NULL,
    recipient BIGINT NOT NULL,
    packed {OCTETS} NOT NULL
);
CREATE INDEX story_sender ON story (sender, id);
CREATE INDEX story_recipient ON story (recipient, id);
CREATE TABLE story_party (
    address BIGINT NOT NULL,
    id BIGINT NOT NULL,
    PRIMARY KEY (address, id)
){CLUSTERED};
CREATE INDEX story_party_id ON story_party (id);
CREATE TABLE story_line (
    id BIGINT NOT NULL,
    at BIGINT NOT NULL,
    packed {OCTETS} NOT NULL
);
CREATE INDEX story_line_id ON story_line (id, at);
