"""What is true of every structure, whatever the mail: its parts lie in it, in order, and miss nothing."""

from itertools import pairwise

from gatepost.codec.mail.header import HeaderBlock
from gatepost.codec.mail.structure import DEPTH_MAX, PARTS_MAX, Part, count_lines


def check_header(raw: bytes, header: HeaderBlock) -> None:
    """Assert that a header block lies in the mail and that its fields tile it."""
    assert 0 <= header.start <= header.fields_end <= header.end <= len(raw)
    assert header.octets == raw[header.start : header.fields_end]
    assert raw[header.fields_end : header.end] in (b"", b"\n", b"\r\n")
    ends = [header.start, *(field.end for field in header.fields)]
    assert ends[:-1] == [field.start for field in header.fields]
    assert ends[-1] == header.fields_end or len(header.fields) >= 1_000
    for field in header.fields:
        assert field.start - 1 <= field.colon < field.end
        assert (raw[field.colon : field.colon + 1] == b":" and field.name != b"") or field.colon == field.start - 1


def check_structure(raw: bytes, root: Part) -> None:
    """Assert that every part lies in the one around it, behind the one before it, and that nothing is missed."""
    assert (root.start, root.end) == (0, len(raw))
    parts = list(root.walk())
    assert len(parts) <= PARTS_MAX + 1
    for part in parts:
        check_header(raw, part.header)
        assert part.start <= part.body <= part.end
        assert (part.start, part.body) == (part.header.start, part.header.end)
        if part.message:
            (inside,) = part.children
            assert part.body == inside.start
            assert inside.end <= part.end
        elif part.multipart:
            check_multipart(raw, part)
        else:
            assert part.children == []
        if part.message or part.maintype == b"text":
            assert part.lines == count_lines(raw, part.body, part.end)
    assert depth(root) <= DEPTH_MAX
    assert b"".join(pieces(raw, root)) == raw


def check_multipart(raw: bytes, part: Part) -> None:
    """Assert that between the parts of a multipart there is one delimiter each, and its boundary in it."""
    boundary = (part.content_type.get(b"boundary") or b"").rstrip(b" \t")
    assert part.children
    assert part.preamble is not None
    assert part.preamble.start == part.body
    begins = [part.preamble.end, *(child.end for child in part.children[:-1])]
    for end, child in zip(begins, part.children, strict=True):
        assert part.body <= end <= child.start
        delimiter = raw[end : child.start]
        assert delimiter.lstrip(b"\r\n").rstrip(b" \t\r\n") == b"--" + boundary
    last = part.children[-1]
    assert last.end <= part.end
    if part.epilogue is not None:
        closing = raw[last.end : part.epilogue.start]
        assert closing.lstrip(b"\r\n").rstrip(b" \t\r\n") == b"--" + boundary + b"--"[: len(closing)]
        assert part.epilogue.end == part.end
    for one, next_one in pairwise(part.children):
        assert one.end <= next_one.start


def pieces(raw: bytes, root: Part) -> list[bytes]:
    """Cut a mail by the offsets of its parts: headers, bodies, and what lies between them, each octet once."""
    cut: list[bytes] = []
    at = 0
    for part in root.walk():
        cut += (raw[at : part.start], raw[part.start : part.body])
        at = part.body
        if not part.children:
            cut.append(raw[part.body : part.end])
            at = part.end
    cut.append(raw[at:])
    return cut


def depth(root: Part) -> int:
    """Return how deep the parts lie; a mail of one part is 1 deep."""
    deepest, waiting = 0, [(root, 1)]
    while waiting:
        part, level = waiting.pop()
        deepest = max(deepest, level)
        waiting += [(child, level + 1) for child in part.children]
    return deepest
