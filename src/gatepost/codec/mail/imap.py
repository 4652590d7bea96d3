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
_BARE: Final = re.compile(rb"[ !#-\[\]-~]{0,%d}" % QUOTED_MAX)  # needs no backslash between its quotes
_CONTROLS: Final = re.compile(rb"[\0\r\n]+")
_LANGUAGE: Final = re.compile(rb"[A-Za-z0-9-]{1,40}")
NIL: Final = b"NIL"
US_ASCII: Final = b'("CHARSET" "US-ASCII")'
EMPTY_PART: Final = b'("TEXT" "PLAIN" %b NIL NIL "7BIT" 0 0)' % US_ASCII


def imap_string(value: bytes | None) -> bytes:
    """Return an nstring; NUL, CR and LF become a blank, for no string of an IMAP answer may hold NUL."""
    if value is None:
        return NIL
    if _BARE.fullmatch(value):
        return b'"%b"' % value
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


def render_structure(part: Part) -> tuple[bytes, bytes]:
    """Return BODYSTRUCTURE (with extension data) and BODY (without), made in one walk."""
    if part.multipart:
        children = [render_structure(child) for child in part.children] or [(EMPTY_PART, EMPTY_PART)]
        subtype = imap_string(part.subtype.upper())
        extension = b" %b%b%b" % (_params(part.content_type), _disposition(part), _language(part))
        whole, short = (b"".join(each) for each in zip(*children, strict=True))
        return b"(%b %b%b)" % (whole, subtype, extension), b"(%b %b)" % (short, subtype)
    first = part.header.first
    common = b"%b %b %b %b %b %b %d" % (
        imap_string(part.maintype.upper()),
        imap_string(part.subtype.upper()),
        US_ASCII if _untyped_text(part) else _params(part.content_type),
        imap_string(first(b"content-id")),
        imap_string(first(b"content-description")),
        imap_string(part.encoding.upper()[:100]),
        part.end - part.body,
    )
    extension = b" %b%b%b" % (imap_string(first(b"content-md5")), _disposition(part), _language(part))
    if part.message:
        inside = part.children[0]
        whole, short = render_structure(inside)
        envelope = render_envelope(inside.header)
        return (
            b"(%b %b %b %d%b)" % (common, envelope, whole, part.lines, extension),
            b"(%b %b %b %d)" % (common, envelope, short, part.lines),
        )
    if part.maintype == b"text":
        common = b"%b %d" % (common, part.lines)
    return b"(%b%b)" % (common, extension), b"(%b)" % common


def _untyped_text(part: Part) -> bool:
    """Tell whether a part is text for want of a Content-Type: then in US-ASCII (RFC 2045 §5.2)."""
    return part.maintype == b"text" and part.header.first(b"content-type") is None


def _all(header: HeaderBlock, name: bytes) -> bytes | None:
    """Join the values of a field that should stand once: To twice shows both."""
    if not header.repeated:
        return header.first(name)
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
