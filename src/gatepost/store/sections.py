"""Where the parts of a message lie, packed beside it, so that BODY[1.2] is a slice and not a parse."""

import msgspec

from gatepost.codec.mail.structure import Part


class Section(msgspec.Struct, frozen=True, array_like=True):
    """One part: its header is [start, body), its body [body, end). `kind` is `text/plain` in lower case."""

    start: int
    body: int
    end: int
    kind: bytes
    encoding: bytes = b"7bit"
    charset: bytes = b""
    parts: "tuple[Section, ...]" = ()
    """The parts of a multipart; of a message/rfc822 the one message in it."""

    @property
    def multipart(self) -> bool:
        """Tell whether it consists of parts."""
        return self.kind.startswith(b"multipart/") and bool(self.parts)

    @property
    def message(self) -> bool:
        """Tell whether it holds a message."""
        return bool(self.parts) and not self.multipart


def pack(part: Part) -> bytes:
    """Pack the structure that codec.mail found."""
    return _ENCODER.encode(_section(part))


def unpack(octets: bytes) -> Section:
    """Read what `pack` wrote."""
    return _DECODER.decode(octets)


def part_at(root: Section, path: tuple[int, ...]) -> Section | None:
    """Return the part that IMAP calls `1.2.3` (RFC 9051 §6.4.5.1); None when there is none, root for ()."""
    here, begun = root, False
    for number in path:
        if begun and here.message:
            here, begun = here.parts[0], False
        if here.multipart:
            if not 1 <= number <= len(here.parts):
                return None
            here = here.parts[number - 1]
        elif begun or number != 1:  # a message that is one part calls it 1
            return None
        begun = True
    return here


def _section(part: Part) -> Section:
    charset = part.content_type.get(b"charset") or b""
    return Section(
        part.start,
        part.body,
        part.end,
        part.maintype.lower() + b"/" + part.subtype.lower(),
        part.encoding[:40],
        charset[:40],
        tuple(_section(child) for child in part.children),
    )


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Section)
