CREATE TABLE dkim_key (
    domain TEXT NOT NULL,
    selector TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    private {OCTETS} NOT NULL,
    record TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    PRIMARY KEY (domain, selector)
);
