-- How many recipients elsewhere an account wrote to, by slots of ten minutes since 1970; a day of slots is kept.
CREATE TABLE allowance_sent (
    account BIGINT NOT NULL,
    slot BIGINT NOT NULL,
    recipients BIGINT NOT NULL,
    PRIMARY KEY (account, slot)
){CLUSTERED};

-- Limits of one account in place of the settings' own; -1 takes the settings', 0 is no limit.
CREATE TABLE allowance_own (
    account BIGINT NOT NULL PRIMARY KEY,
    per_hour BIGINT NOT NULL,
    per_day BIGINT NOT NULL
){CLUSTERED};

-- Mails of an account that are held because they were too many.
CREATE TABLE allowance_held (
    mail BIGINT NOT NULL PRIMARY KEY,
    account BIGINT NOT NULL
){CLUSTERED};
CREATE INDEX allowance_held_account ON allowance_held (account);
