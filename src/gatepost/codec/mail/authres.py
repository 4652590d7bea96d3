"""Authentication-Results (RFC 8601): ours written, those that others wrote in our name found."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gatepost.base.address import fold
from gatepost.base.verdict import Finding
from gatepost.codec.mail.build import printable
from gatepost.codec.mail.header import HeaderBlock, unfold
from gatepost.codec.mail.params import without_comments

LINE_MAX: Final = 76
RESULTS_MAX: Final = 100  # methods read of one field
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~/@-]+")
_PIECE: Final = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*"?)*', re.DOTALL)
_METHOD: Final = re.compile(r"\s*([A-Za-z0-9-]+)(?:\s*/\s*[0-9]+)?\s*=\s*([A-Za-z]+)")
_PROPERTY: Final = re.compile(
    r"""([A-Za-z0-9]+\s*\.\s*[A-Za-z0-9_-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s";]+)""", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Reported:
    """One method's result as somebody wrote it down, in lower case; properties by `ptype.property`."""

    method: str
    result: str
    properties: Mapping[str, str]


def render(authserv_id: str, findings: Sequence[Finding]) -> bytes:
    """Return the field, CRLF included, one method a line."""
    results = [_result(finding) for finding in findings] or ["none"]
    return ("Authentication-Results: " + ";\r\n\t".join([authserv_id, *results]) + "\r\n").encode(
        "ascii", "replace"
    )


def parse(value: bytes) -> list[Reported]:
    """Read the results of a field's value, whoever wrote it; what cannot be read is left out."""
    text = without_comments(unfold(value)).decode("utf-8", "replace")
    found = []
    for piece in _pieces(text)[:RESULTS_MAX]:
        method = _METHOD.match(piece)
        if method is not None:
            pairs = _PROPERTY.findall(piece, method.end())
            properties = {"".join(name.split()).lower(): _unquoted(each) for name, each in pairs}
            found.append(Reported(method[1].lower(), method[2].lower(), properties))
    return found


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


def _pieces(text: str) -> list[str]:
    """Split at the semicolons that no quotes hold."""
    pieces: list[str] = []
    at = 0
    while at <= len(text) and len(pieces) <= RESULTS_MAX:
        found = _PIECE.match(text, at)
        assert found is not None  # it matches nothing, too
        pieces.append(found[0])
        at = found.end() + 1
    return pieces


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _result(finding: Finding) -> str:
    reason = f" reason={_quoted(finding.reason)}" if finding.reason else ""
    properties = "".join(f"\r\n\t\t{name}={_value(value)}" for name, value in finding.properties)
    return f"{finding.method}={finding.result.value}{reason}{properties}"


def _value(value: str) -> str:
    """Return a pvalue: a token or an address as it is, everything else in quotes so that it reads as one word."""
    return value if _TOKEN.fullmatch(value) and value.count("@") < 2 else _quoted(value)


def _quoted(value: str) -> str:
    return '"' + printable(value, 200).replace("\\", "\\\\").replace('"', '\\"') + '"'
