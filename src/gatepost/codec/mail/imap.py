"""A message as IMAP tells it: ENVELOPE and BODYSTRUCTURE (RFC 9051 §7.5.2), made once, at delivery.

Every string from the mail goes through `imap_string`: quoted when it is plain ASCII, else a literal, so nothing
in a mail can end a response or begin another.
"""

import re
from typing import Final

from gatepost.codec.mail.address import Group, Mailbox, parse_addresses
from gatepost.codec.mail.header import HeaderBlock
from gatepost.codec.mail.params import Parameters, parse_parameters
from gatepost.codec.mail.structure import Part

QUOTED_MAX: Final = 1000
TEXT_MAX: Final = 8 << 10  # one string of an ENVELOPE; longer ones are cut
ADDRESSES_MAX: Final = 1000
_PLAIN: Final = re.compile(rb"[ -~]*")
_CONTROLS: Final = re.compile(rb"[\0\r\n]+")
_LANGUAGE: Final = re.compile(rb"[A-Za-z0-9-]{1,40}")
NIL: Final = b"NIL"
EMPTY_PART: Final = b'("TEXT" "PLAIN" NIL NIL NIL "7BIT" 0 0)'


def imap_string(value: bytes | None) -> bytes:
    """Return an nstring; NUL, CR and LF become a blank, for no string of an IMAP answer may hold NUL."""
    if value is None:
        return NIL
    if not _PLAIN.fullmatch(value):
        value = _CONTROLS.sub(b" ", value)
    if len(value) <= QUOTED_MAX and _PLAIN.fullmatch(value):
        return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return b"{%d}\r\n%b" % (len(value), value)


def render_envelope(header: HeaderBlock) -> bytes:
    """Return the ENVELOPE list; Sender and Reply-To default to From."""
    author = _addresses(header.first(b"from"))
    sender, reply_to = header.first(b"sender"), header.first(b"reply-to")
    fields = [
        imap_string(_cut(header.first(b"date"))),
        imap_string(_cut(header.first(b"subject"))),
        author,
        _addresses(sender) if sender else author,
        _addresses(reply_to) if reply_to else author,
        _addresses(_all(header, b"to")),
        _addresses(_all(header, b"cc")),
        _addresses(_all(header, b"bcc")),
        imap_string(_cut(header.first(b"in-reply-to"))),
        imap_string(_cut(header.first(b"message-id"))),
    ]
    return b"(" + b" ".join(fields) + b")"


def render_structure(part: Part, extensions: bool) -> bytes:
    """Return BODYSTRUCTURE (with extension data) or BODY (without)."""
    if part.multipart:
        inner = b"".join(render_structure(child, extensions) for child in part.children) or EMPTY_PART
        body = inner + b" " + imap_string(part.subtype.upper())
        if extensions:
            body += b" " + _params(part.content_type) + _disposition(part) + _language(part)
        return b"(" + body + b")"
    fields = [
        imap_string(part.maintype.upper()),
        imap_string(part.subtype.upper()),
        _params(part.content_type),
        imap_string(part.header.first(b"content-id")),
        imap_string(part.header.first(b"content-description")),
        imap_string(part.encoding.upper()[:100]),
        b"%d" % (part.end - part.body),
    ]
    if part.message:
        inside = part.children[0]
        fields += [render_envelope(inside.header), render_structure(inside, extensions), b"%d" % part.lines]
    elif part.maintype == b"text":
        fields.append(b"%d" % part.lines)
    body = b" ".join(fields)
    if extensions:
        body += b" " + imap_string(part.header.first(b"content-md5")) + _disposition(part) + _language(part)
    return b"(" + body + b")"


def _all(header: HeaderBlock, name: bytes) -> bytes | None:
    """Join the values of a field that should stand once: To twice shows both."""
    values = header.get(name)
    return b",".join(values) if values else None


def _cut(value: bytes | None) -> bytes | None:
    return value if value is None else value[:TEXT_MAX]


def _addresses(value: bytes | None) -> bytes:
    if value is None:
        return NIL
    rendered: list[bytes] = []
    for entry in parse_addresses(value)[:ADDRESSES_MAX]:
        if isinstance(entry, Group):
            rendered.append(b"(NIL NIL " + imap_string(_cut(entry.name)) + b" NIL)")
            rendered += [_address(member) for member in entry.members]
            rendered.append(b"(NIL NIL NIL NIL)")
        else:
            rendered.append(_address(entry))
    return b"(" + b"".join(rendered) + b")" if rendered else NIL


def _address(mailbox: Mailbox) -> bytes:
    name, local, domain = _cut(mailbox.name), _cut(mailbox.local), _cut(mailbox.domain)
    # an empty host would read as a group's begin, an empty mailbox as its end
    return b"(%b NIL %b %b)" % (imap_string(name), imap_string(local or b""), imap_string(domain or b""))


def _params(value: Parameters) -> bytes:
    if not value.params:
        return NIL
    return (
        b"(" + b" ".join(imap_string(key.upper()) + b" " + imap_string(text) for key, text in value.params) + b")"
    )


def _disposition(part: Part) -> bytes:
    raw = part.header.first(b"content-disposition")
    if raw is None:
        return b" NIL"
    value = parse_parameters(raw)
    return b" (" + imap_string(value.value.upper()) + b" " + _params(value) + b")"


def _language(part: Part) -> bytes:
    """Return language and location."""
    location = imap_string(part.header.first(b"content-location"))
    raw = part.header.first(b"content-language")
    languages = _LANGUAGE.findall(raw)[:20] if raw is not None else []
    shown = NIL
    if languages:
        shown = b"(" + b" ".join(imap_string(language.upper()) for language in languages) + b")"
    return b" " + shown + b" " + location
