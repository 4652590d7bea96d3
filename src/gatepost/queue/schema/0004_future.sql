-- Before when a mail must not be sent, as its sender asked (RFC 4865); 0 for nearly all.
ALTER TABLE queue_rcpt ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0;
