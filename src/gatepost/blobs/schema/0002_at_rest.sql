-- sealed_by: the name of the key that a body is encrypted under, '' for none; the file of one that is kept in a file
-- is then bodies/xx/ID.NAME, so that a body can be encrypted anew beside its old file.
-- Further forms: 3 as it came, in content; 4 as it came, in the file.
ALTER TABLE body ADD COLUMN sealed_by TEXT NOT NULL DEFAULT '';

-- The keys that anything here may be encrypted under. proof: a text known to the program, encrypted under that key.
CREATE TABLE rest_key (
    name TEXT NOT NULL PRIMARY KEY,
    proof {OCTETS} NOT NULL,
    since BIGINT NOT NULL
);
