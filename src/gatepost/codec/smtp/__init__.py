"""SMTP and LMTP, both sides, sans-IO (RFC 5321, 2033, 1870, 2920, 3030, 3207, 3461, 4954, 6152, 6531)."""
