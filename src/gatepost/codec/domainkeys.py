"""DomainKeys (RFC 4870), DKIM's forerunner: what its signature covers. Historic; verifiers of today ignore it.

Octets go in with CRLF line ends; one hash covers the header fields and the body together.
"""

from collections.abc import Sequence
from typing import Final

_NO_WHITE: Final = bytes.maketrans(b"", b"")


def signed_octets(fields: Sequence[bytes], body: bytes, *, nofws: bool) -> bytes:
    """Return what is hashed (RFC 4870 §3.4.2): the fields in their order in the mail, an empty line, the body.

    `fields` are raw, each with its CRLF. `nofws` takes all blanks and folds out; both ways drop the empty lines at
    the body's end, and the empty line before a body of nothing else.
    """
    header = b"".join(_packed(field) + b"\r\n" for field in fields) if nofws else b"".join(fields)
    text = b"\r\n".join(_packed(line) for line in body.split(b"\r\n")) if nofws else body
    end = len(text)
    while text[max(end - 2, 0) : end] == b"\r\n":
        end -= 2
    return header + b"\r\n" + text[:end] + b"\r\n" if end else header


def _packed(line: bytes) -> bytes:
    return line.translate(_NO_WHITE, b" \t\r\n")
