CREATE TABLE account_state (
    account {ID},
    uidvalidity BIGINT NOT NULL
);
CREATE TABLE mailbox (
    id {ID},
    account BIGINT NOT NULL,
    name TEXT NOT NULL,
    special TEXT NOT NULL,
    uidvalidity BIGINT NOT NULL,
    uidnext BIGINT NOT NULL,
    modseq BIGINT NOT NULL,
    flag_modseq BIGINT NOT NULL,
    expunge_modseq BIGINT NOT NULL,
    forgotten_modseq BIGINT NOT NULL,
    messages BIGINT NOT NULL,
    octets BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX mailbox_name ON mailbox (account, name);
CREATE TABLE subscription (
    account BIGINT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (account, name)
);
CREATE TABLE keyword (
    mailbox BIGINT NOT NULL,
    bit BIGINT NOT NULL CHECK (bit BETWEEN 16 AND 61),
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    PRIMARY KEY (mailbox, bit)
);
CREATE UNIQUE INDEX keyword_name ON keyword (mailbox, folded);
CREATE TABLE flags (
    mailbox BIGINT NOT NULL,
    uid BIGINT NOT NULL,
    flags BIGINT NOT NULL,
    modseq BIGINT NOT NULL,
    PRIMARY KEY (mailbox, uid)
){CLUSTERED};
CREATE TABLE listing (
    mailbox BIGINT NOT NULL,
    uid BIGINT NOT NULL,
    body BIGINT NOT NULL,
    message BIGINT NOT NULL,
    size BIGINT NOT NULL,
    internal_date BIGINT NOT NULL,
    sent_at BIGINT NOT NULL,
    sent_zone BIGINT NOT NULL,
    header_end BIGINT NOT NULL,
    envelope {OCTETS} NOT NULL,
    structure {OCTETS} NOT NULL,
    body_structure {OCTETS} NOT NULL,
    sections {OCTETS} NOT NULL,
    subject_key {OCTETS} NOT NULL,
    from_key {OCTETS} NOT NULL,
    to_key {OCTETS} NOT NULL,
    cc_key {OCTETS} NOT NULL,
    thread {OCTETS} NOT NULL,
    PRIMARY KEY (mailbox, uid)
);
CREATE TABLE expunged (
    mailbox BIGINT NOT NULL,
    modseq BIGINT NOT NULL,
    uid BIGINT NOT NULL,
    PRIMARY KEY (mailbox, modseq, uid)
){CLUSTERED};
