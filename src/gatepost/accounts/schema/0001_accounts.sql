-- Addresses are keys: local part in ASCII lower case, domain in lower-case A-labels. An alias `@domain` is a catch-all.
CREATE TABLE domain (
    name TEXT NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);
CREATE TABLE account (
    id {ID},
    address TEXT NOT NULL,
    domain TEXT NOT NULL REFERENCES domain (name),
    password TEXT NOT NULL,
    admin BIGINT NOT NULL,
    enabled BIGINT NOT NULL,
    quota_octets BIGINT NOT NULL,
    quota_messages BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX account_address ON account (address);
CREATE INDEX account_domain ON account (domain);
CREATE TABLE alias (
    address TEXT NOT NULL,
    target_key TEXT NOT NULL,
    target_local TEXT NOT NULL,
    target_domain TEXT NOT NULL,
    domain TEXT NOT NULL REFERENCES domain (name),
    PRIMARY KEY (address, target_key)
);
CREATE INDEX alias_target ON alias (target_key);
CREATE INDEX alias_domain ON alias (domain);
