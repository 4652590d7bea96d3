"""IMAP's grammar (RFC 3501, RFC 9051), sans-IO: octets in, commands out; values in, answers out."""
