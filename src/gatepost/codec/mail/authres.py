"""Authentication-Results (RFC 8601): ours written, those that others wrote in our name found."""

import re
from collections.abc import Sequence
from typing import Final

from gatepost.base.address import fold
from gatepost.base.verdict import Finding
from gatepost.codec.mail.build import printable
from gatepost.codec.mail.header import HeaderBlock, unfold
from gatepost.codec.mail.params import without_comments

LINE_MAX: Final = 76
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~/@-]+")


def render(authserv_id: str, findings: Sequence[Finding]) -> bytes:
    """Return the field, CRLF included, one method a line."""
    results = [_result(finding) for finding in findings] or ["none"]
    return ("Authentication-Results: " + ";\r\n\t".join([authserv_id, *results]) + "\r\n").encode(
        "ascii", "replace"
    )


def forged(header: HeaderBlock, raw: object, authserv_id: str) -> tuple[tuple[int, int], ...]:
    """Return where fields stand that claim results in our name: they must go before anybody reads them (§5)."""
    ours = fold(authserv_id)
    fields = header.all(b"authentication-results")
    return tuple([(field.start, field.end) for field in fields if _claims(header.value(field), ours)])


def _claims(value: bytes, ours: str) -> bool:
    """Tell whether a value speaks for us, or hides whom it speaks for; comments do not count."""
    name = without_comments(unfold(value)).partition(b";")[0]
    words = fold(name.replace(b'"', b"").replace(b"\\", b"").decode("utf-8", "replace")).split()
    return not words or words[0] == ours or words[0].endswith("." + ours)


def _result(finding: Finding) -> str:
    reason = f" reason={_quoted(finding.reason)}" if finding.reason else ""
    properties = "".join(f"\r\n\t\t{name}={_value(value)}" for name, value in finding.properties)
    return f"{finding.method}={finding.result.value}{reason}{properties}"


def _value(value: str) -> str:
    """Return a pvalue: a token or an address as it is, everything else in quotes so that it reads as one word."""
    return value if _TOKEN.fullmatch(value) and value.count("@") < 2 else _quoted(value)


def _quoted(value: str) -> str:
    return '"' + printable(value, 200).replace("\\", "\\\\").replace('"', '\\"') + '"'
