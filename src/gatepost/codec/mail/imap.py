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
TEXT_MAX: Final = 8 << 10  # one string of an ENVELOPE or a BODYSTRUCTURE; longer ones are cut
ADDRESSES_MAX: Final = 1000
_PLAIN: Final = re.compile(rb"[ -~]*")
_BARE: Final = re.compile(rb"[ !#-\[\]-~]{0,%d}" % QUOTED_MAX)  # needs no backslash between its quotes
_CONTROLS: Final = re.compile(rb"[\0\r\n]+")
_LANGUAGE: Final = re.compile(rb"[A-Za-z0-9-]{1,40}")
NIL: Final = b"NIL"
_NAMED: Final = frozenset((b"content-id", b"content-description"))
_EXTENDED: Final = frozenset((b"content-md5", b"content-disposition", b"content-language", b"content-location"))
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
        _text(header.first(b"date")),
        _text(header.first(b"subject")),
        author,
        _addresses(sender) if sender else author,
        _addresses(reply_to) if reply_to else author,
        _addresses(_all(header, b"to")),
        _addresses(_all(header, b"cc")),
        _addresses(_all(header, b"bcc")),
        _text(header.first(b"in-reply-to")),
        _text(header.first(b"message-id")),
    ]
    return b"(" + b" ".join(fields) + b")"


def render_structure(part: Part) -> tuple[bytes, bytes]:
    """Return BODYSTRUCTURE (with extension data) and BODY (without), made in one walk."""
    whole: list[bytes] = []
    short: list[bytes] = []
    _render(part, whole, short)
    return b"".join(whole), b"".join(short)


def _render(part: Part, whole: list[bytes], short: list[bytes]) -> None:
    if part.multipart:
        _render_multipart(part, whole, short)
        return
    common = b"(%b %b %b %b %b %d" % (
        _text(part.maintype.upper()),
        _text(part.subtype.upper()),
        US_ASCII if _untyped_text(part) else _params(part.content_type),
        _named(part.header),
        imap_string(part.encoding.upper()[:100]),
        part.end - part.body,
    )
    extension = _extension(part)
    if part.message:
        inside = part.children[0]
        common = b"%b %b " % (common, render_envelope(inside.header))
        whole.append(common)
        short.append(common)
        _render(inside, whole, short)
        common = b" %d" % part.lines
    elif part.maintype == b"text":
        common = b"%b %d" % (common, part.lines)
    whole += (common, extension)
    short += (common, b")")


def _named(header: HeaderBlock) -> bytes:
    """Return id and description."""
    if header.lacks(_NAMED):
        return b"NIL NIL"
    return _text(header.first(b"content-id")) + b" " + _text(header.first(b"content-description"))


def _extension(part: Part) -> bytes:
    """Return what only BODYSTRUCTURE tells of a part that has no parts, and its end."""
    if part.header.lacks(_EXTENDED):
        return b" NIL NIL NIL NIL)"
    return b" %b%b%b)" % (_text(part.header.first(b"content-md5")), _disposition(part), _language(part))


def _render_multipart(part: Part, whole: list[bytes], short: list[bytes]) -> None:
    whole.append(b"(")
    short.append(b"(")
    for child in part.children:
        _render(child, whole, short)
    if not part.children:
        whole.append(EMPTY_PART)
        short.append(EMPTY_PART)
    subtype = _text(part.subtype.upper())
    whole.append(b" %b %b%b%b)" % (subtype, _params(part.content_type), _disposition(part), _language(part)))
    short.append(b" %b)" % subtype)


def _untyped_text(part: Part) -> bool:
    """Tell whether a part is text for want of a Content-Type: then in US-ASCII (RFC 2045 §5.2)."""
    return part.maintype == b"text" and part.header.first(b"content-type") is None


def _all(header: HeaderBlock, name: bytes) -> bytes | None:
    """Join the values of a field that should stand once: To twice shows both."""
    if not header.repeated:
        return header.first(name)
    values = header.get(name)
    return b",".join(values) if values else None


def _text(value: bytes | None) -> bytes:
    if value is None:
        return NIL
    return b'"%b"' % value if _BARE.fullmatch(value) else imap_string(value[:TEXT_MAX])


def _addresses(value: bytes | None) -> bytes:
    if value is None:
        return NIL
    rendered: list[bytes] = []
    for entry in parse_addresses(value)[:ADDRESSES_MAX]:
        if isinstance(entry, Group):
            rendered.append(b"(NIL NIL " + _text(entry.name) + b" NIL)")
            rendered += [_address(member) for member in entry.members]
            rendered.append(b"(NIL NIL NIL NIL)")
        else:
            rendered.append(_address(entry))
    return b"(" + b"".join(rendered) + b")" if rendered else NIL


def _address(mailbox: Mailbox) -> bytes:
    # NIL for a host would read as a group's begin, for a mailbox as its end
    return b"(%b NIL %b %b)" % (_text(mailbox.name), _text(mailbox.local), _text(mailbox.domain))


def _params(value: Parameters) -> bytes:
    if not value.params:
        return NIL
    return b"(" + b" ".join(_text(key.upper()) + b" " + _text(text) for key, text in value.params) + b")"


def _disposition(part: Part) -> bytes:
    raw = part.header.first(b"content-disposition")
    if raw is None:
        return b" NIL"
    value = parse_parameters(raw)
    return b" (" + _text(value.value.upper()) + b" " + _params(value) + b")"


def _language(part: Part) -> bytes:
    """Return language and location."""
    location = _text(part.header.first(b"content-location"))
    raw = part.header.first(b"content-language")
    languages = _LANGUAGE.findall(raw)[:20] if raw is not None else []
    shown = NIL
    if languages:
        shown = b"(" + b" ".join(imap_string(language.upper()) for language in languages) + b")"
    return b" " + shown + b" " + location
