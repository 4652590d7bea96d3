-- What somebody must mend, from the moment when it was told until it is over. `name` says what it is about
-- (`login:LABEL`, `sending:ACCOUNT`), `text` is for people.
CREATE TABLE incident (
    name TEXT NOT NULL PRIMARY KEY,
    since BIGINT NOT NULL,
    text TEXT NOT NULL
){CLUSTERED};
