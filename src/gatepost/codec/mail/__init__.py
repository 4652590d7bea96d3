"""The mail itself: header, addresses, dates, MIME structure and what we write into it (RFC 5322, RFC 2045-2047).

Parsers here give offsets and values and never raise on what a stranger wrote: what is odd becomes a flaw. The
octets of a mail are never written again, so parse → write is the identity.
"""
