"""What CONDSTORE (RFC 7162) and ESEARCH (RFC 4731) add to commands: modifiers, parameters, return options."""

from collections.abc import Sequence
from typing import Final

from gatepost.codec.imap.sets import set_text
from gatepost.codec.imap.tokens import BadSyntax, Tokens
from gatepost.codec.imap.write import quoted

RETURNS: Final = frozenset((b"ALL", b"COUNT", b"MAX", b"MIN"))
"""Result options of RFC 4731 §3.1."""


def take_modifier(tokens: Tokens, name: bytes) -> int:
    """Take `(NAME number)`, the one modifier that FETCH (CHANGEDSINCE) and STORE (UNCHANGEDSINCE) have here."""
    tokens.expect(b"(")
    if tokens.word() != name:
        raise BadSyntax(f"expected {name.decode()}")
    tokens.space()
    modseq = tokens.number()
    tokens.expect(b")")
    return modseq


def take_select_parameters(tokens: Tokens) -> bool:
    """Take the parameters of SELECT, if there are any; return whether CONDSTORE is one (RFC 7162 §3.1.8)."""
    if tokens.done:
        return False
    tokens.space()
    words = _words(tokens)
    if words != [b"CONDSTORE"]:
        raise BadSyntax("unknown parameter")
    return True


def take_return(tokens: Tokens) -> frozenset[bytes] | None:
    """Take SEARCH's `RETURN (...) `; None where the old answer is wanted. Nothing named means ALL."""
    if not tokens.skip_word(b"RETURN "):
        return None
    wanted = frozenset(_words(tokens))
    tokens.space()
    if not wanted <= RETURNS:
        raise BadSyntax("unknown return option")
    return wanted or frozenset((b"ALL",))


def esearch(
    tag: bytes, numbers: Sequence[int], wanted: frozenset[bytes], *, uid: bool, modseq: int | None
) -> bytes:
    """Write an ESEARCH answer (RFC 4731 §3.1): `numbers` ascending; without any only COUNT has something to say."""
    said = [b"* ESEARCH (TAG %b)" % quoted(tag)]
    if uid:
        said.append(b"UID")
    if numbers and b"MIN" in wanted:
        said.append(b"MIN %d" % numbers[0])
    if numbers and b"MAX" in wanted:
        said.append(b"MAX %d" % numbers[-1])
    if b"COUNT" in wanted:
        said.append(b"COUNT %d" % len(numbers))
    if numbers and b"ALL" in wanted:
        said.append(b"ALL " + set_text(list(numbers)))
    if numbers and modseq is not None:
        said.append(b"MODSEQ %d" % modseq)
    return b" ".join(said) + b"\r\n"


def _words(tokens: Tokens) -> list[bytes]:
    tokens.expect(b"(")
    words: list[bytes] = []
    while not tokens.skip(b")"):
        if words:
            tokens.space()
        words.append(tokens.word())
        if len(words) > 20:
            raise BadSyntax("too many words")
    return words
