"""IMAP4rev1 sessions (RFC 3501) over the store."""
