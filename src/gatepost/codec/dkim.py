"""DKIM on the wire (RFC 6376, RFC 8301, RFC 8463): tag lists, canonical forms, what a signature covers.

No cryptography and no DNS here: `judge/dkim.py` and `judge/seal.py` bring both. Octets go in with CRLF line
ends; a header field is its raw octets with the final CRLF, exactly as it stands in the mail.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

TAGS_MAX: Final = 64  # more tags than any signature has: bounds what one field can cost
_TAG: Final = re.compile(rb"[ \t\r\n]*([A-Za-z][A-Za-z0-9_]*)[ \t\r\n]*=[ \t\r\n]*([^;]*?)[ \t\r\n]*")
_FOLD: Final = re.compile(rb"\r\n(?=[ \t])")
_BLANKS: Final = re.compile(rb"[ \t]+")
_WHITE: Final = re.compile(rb"[ \t\r\n]+")
_B_VALUE: Final = re.compile(rb"(;[ \t\r\n]*b[ \t\r\n]*=)[^;]*")
_NUMBER: Final = re.compile(rb"[0-9]{1,12}")
_DOMAIN: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SELECTOR: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")

EMPTY_SIMPLE_BODY: Final = b"\r\n"  # RFC 6376 §3.4.3: an empty body is one CRLF; relaxed (§3.4.4): nothing


class BadSignature(ValueError):
    """A DKIM-Signature field that cannot be evaluated: permerror; the text says why."""


class BadKey(ValueError):
    """A key record that cannot be used: permerror; the text says why."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed (d=, s=), how (a=), and the signature's octets (b=)."""

    algorithm: str
    domain: str
    selector: str
    value: bytes

    @property
    def key_name(self) -> str:
        """Return the DNS name of the key (RFC 6376 §3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def identity_domain(self) -> str:
        """Return the domain that i= names: the signer's own."""
        return self.domain


@dataclass(frozen=True, slots=True)
class Signature(Signer):
    """A parsed DKIM-Signature (RFC 6376 §3.5). Times: seconds since 1970; `length` is l=, never trusted."""

    identity: str
    header_relaxed: bool
    body_relaxed: bool
    signed: tuple[bytes, ...]
    body_hash: bytes
    length: int | None = None
    signed_at: int | None = None
    expires_at: int | None = None

    @property
    def identity_domain(self) -> str:
        """Return the domain that i= names."""
        return self.identity.rpartition("@")[2].lower()


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A parsed key record (RFC 6376 §3.6.1); an empty `key` means revoked."""

    kind: str
    key: bytes
    hashes: frozenset[str] | None
    services: frozenset[str]
    testing: bool
    strict: bool


def parse_tags(text: bytes) -> dict[str, bytes]:
    """Split a tag list (RFC 6376 §3.2); ValueError on a broken or repeated tag."""
    tags: dict[str, bytes] = {}
    pieces = text.split(b";")
    if len(pieces) > TAGS_MAX:
        raise ValueError("too many tags")
    last = len(pieces) - 1
    for at, piece in enumerate(pieces):
        if at == last and not piece.strip():
            break
        found = _TAG.fullmatch(piece)
        if found is None:
            raise ValueError("a tag has no name or no =")
        name = found[1].decode("ascii")
        if name in tags:
            raise ValueError(f"tag {name} stands twice")
        tags[name] = found[2]
    return tags


def parse_signature(field: bytes) -> Signature:
    """Read a DKIM-Signature field's raw octets; BadSignature says what is wrong with it."""
    tags = signature_tags(field, ("v", "a", "b", "bh", "d", "h", "s"))
    if tags["v"] != b"1":
        raise BadSignature("the version is not 1")
    return read_signature(tags)


def signature_tags(field: bytes, needed: Sequence[str]) -> dict[str, bytes]:
    """Return the tags of a raw signature field; BadSignature where one of `needed` is missing or empty."""
    try:
        tags = parse_tags(field.partition(b":")[2])
    except ValueError as wrong:
        raise BadSignature(str(wrong)) from wrong
    missing = [name for name in needed if not tags.get(name)]
    if missing:
        raise BadSignature(f"tag {missing[0]} is missing")
    return tags


def read_signature(tags: Mapping[str, bytes]) -> Signature:
    """Read the tags that signatures over a mail have in common (RFC 6376 §3.5, RFC 8617 §4.1.2)."""
    signer = read_signer(tags)
    header, body = _canonicalisations(tags.get("c", b"simple/simple"))
    signed = tuple(_WHITE.sub(b"", tags["h"]).lower().split(b":"))
    if b"from" not in signed:
        raise BadSignature("From is not signed")
    if b"" in signed:
        raise BadSignature("h= names an empty field")
    if "q" in tags and b"dns/txt" not in _WHITE.sub(b"", tags["q"]).lower().split(b":"):
        raise BadSignature("q= names no way that is known")
    signed_at, expires_at = _number(tags, "t"), _number(tags, "x")
    if signed_at is not None and expires_at is not None and expires_at < signed_at:
        raise BadSignature("it expires before it was made")
    return Signature(
        algorithm=signer.algorithm,
        domain=signer.domain,
        selector=signer.selector,
        value=signer.value,
        identity=_identity(tags.get("i"), signer.domain),
        header_relaxed=header,
        body_relaxed=body,
        signed=signed,
        body_hash=_base64(tags["bh"], "bh"),
        length=_number(tags, "l"),
        signed_at=signed_at,
        expires_at=expires_at,
    )


def read_signer(tags: Mapping[str, bytes]) -> Signer:
    """Read who signed; the names are folded to lower case."""
    domain, selector = _name(tags["d"], _DOMAIN, "d"), _name(tags["s"], _SELECTOR, "s")
    return Signer(_word(tags["a"], "a"), domain, selector, _base64(tags["b"], "b"))


def parse_key(record: bytes) -> KeyRecord:
    """Read a key record's text (its strings joined); BadKey says what is wrong with it."""
    try:
        tags = parse_tags(record)
    except ValueError as wrong:
        raise BadKey(str(wrong)) from wrong
    if "v" in tags and (tags["v"] != b"DKIM1" or next(iter(tags)) != "v"):
        raise BadKey("v= is not DKIM1 in the first place")
    if "p" not in tags:
        raise BadKey("p= is missing")
    try:
        key = b64decode(_WHITE.sub(b"", tags["p"]), validate=True)
    except Base64Error as wrong:
        raise BadKey("p= is not base64") from wrong
    flags = _words(tags.get("t", b""))
    return KeyRecord(
        kind=tags.get("k", b"rsa").decode("ascii", "replace").lower(),
        key=key,
        hashes=frozenset(_words(tags["h"])) if "h" in tags else None,
        services=frozenset(_words(tags.get("s", b"*"))),
        testing="y" in flags,
        strict="s" in flags,
    )


def canonical_field(field: bytes, *, relaxed: bool) -> bytes:
    """Return one header field in canonical form, CRLF included (RFC 6376 §3.4.1-3.4.2)."""
    if not relaxed:
        return field
    name, _, value = field.partition(b":")
    value = value.strip(b" \t\r\n")
    if b"\r\n" in value:
        value = _FOLD.sub(b"", value)
    if b"  " in value or b"\t" in value:
        value = _BLANKS.sub(b" ", value)
    return name.rstrip(b" \t").lower() + b":" + value + b"\r\n"


def canonical_body(body: bytes, *, relaxed: bool) -> bytes:
    """Return the body in canonical form (RFC 6376 §3.4.3-3.4.4)."""
    if relaxed:
        if b"\t" in body or b"  " in body or b" \r\n" in body:
            body = _BLANKS.sub(b" ", body).replace(b" \r\n", b"\r\n")
        if body.endswith((b" ", b"\t")):
            body = body.rstrip(b" \t")
    end = len(body)
    while end >= 2 and body[end - 2 : end] == b"\r\n":
        end -= 2
    if end == 0:
        return b"" if relaxed else EMPTY_SIMPLE_BODY
    return body[:end] + b"\r\n"


def chosen_fields(fields: Sequence[tuple[bytes, bytes]], names: Iterable[bytes]) -> list[bytes]:
    """Pick the fields that `names` sign, from the bottom up for repeats; what is absent signs nothing (§5.4.2).

    `fields` are (lower-case name, raw octets) from the top of the mail down.
    """
    stacks: dict[bytes, list[bytes]] = {}
    for name, raw in fields:
        stacks.setdefault(name, []).append(raw)
    return [stack.pop() for name in names if (stack := stacks.get(name))]


def signed_octets(
    fields: Sequence[tuple[bytes, bytes]], names: Iterable[bytes], signature_field: bytes, *, relaxed: bool
) -> bytes:
    """Return what the signature signs: the fields, then its own field with b= emptied and no final CRLF (§3.7)."""
    chosen = [canonical_field(raw, relaxed=relaxed) for raw in chosen_fields(fields, names)]
    own = canonical_field(without_value(signature_field), relaxed=relaxed)
    return b"".join(chosen) + own.removesuffix(b"\r\n")


def without_value(signature_field: bytes) -> bytes:
    """Empty the b= tag of a raw DKIM-Signature field, leaving every other octet as it is."""
    name, colon, value = signature_field.partition(b":")
    tail = b"\r\n" if value.endswith(b"\r\n") else b""
    emptied = _B_VALUE.sub(rb"\1", b";" + value.removesuffix(b"\r\n"), count=1)[1:]
    return name + colon + emptied + tail


def _canonicalisations(value: bytes) -> tuple[bool, bool]:
    header, _, body = value.lower().partition(b"/")
    known = {b"simple": False, b"relaxed": True, b"": False}  # RFC 6376 §3.5: a bare name leaves the body simple
    if header not in known or body not in known or not header:
        raise BadSignature("c= names no canonicalisation that is known")
    return known[header], known[body]


def _identity(value: bytes | None, domain: str) -> str:
    if value is None:
        return f"@{domain}"
    text = value.decode("utf-8", "replace")
    host = text.rpartition("@")[2].lower()
    if host != domain and not host.endswith("." + domain):
        raise BadSignature("i= is not within d=")
    return text


def _name(value: bytes, pattern: re.Pattern[str], tag: str) -> str:
    text = value.decode("ascii", "replace").lower().rstrip(".")
    if pattern.fullmatch(text) is None or len(text) > 253:
        raise BadSignature(f"{tag}= is not a name")
    return text


def _word(value: bytes, tag: str) -> str:
    if re.fullmatch(rb"[A-Za-z0-9-]{1,40}", value) is None:
        raise BadSignature(f"{tag}= is not a word")
    return value.decode("ascii").lower()


def _words(value: bytes) -> list[str]:
    return [_WHITE.sub(b"", word).decode("ascii", "replace").lower() for word in value.split(b":")]


def _number(tags: Mapping[str, bytes], name: str) -> int | None:
    value = tags.get(name)
    if value is None:
        return None
    if _NUMBER.fullmatch(value) is None:
        raise BadSignature(f"{name}= is not a number")
    return int(value)


def _base64(value: bytes, tag: str) -> bytes:
    try:
        return b64decode(_WHITE.sub(b"", value), validate=True)
    except Base64Error as wrong:
        raise BadSignature(f"{tag}= is not base64") from wrong
