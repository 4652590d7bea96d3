-- A body is written once and never changed; how often it is used stands apart, so that counting rewrites no body.
-- form: 0 zstd in content; 1 zstd in the file bodies/xx/ID. segment, start and length are for bodies that were moved
-- into append-only segments (form 2), which comes later.
CREATE TABLE body (
    id {ID},
    digest {OCTETS} NOT NULL,
    size BIGINT NOT NULL,
    form BIGINT NOT NULL,
    content {OCTETS},
    segment BIGINT,
    start BIGINT,
    length BIGINT
);
CREATE TABLE body_use (
    id {ID},
    uses BIGINT NOT NULL
);
