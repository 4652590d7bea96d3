"""What a mail must become before this host takes it, and whether it can.

RFC 6152 §3, RFC 6531 §3.2, RFC 1870 §6.1.

8-bit octets, no 8BITMIME        recoded to 7 bits, or returned with 5.6.3, as `[relay] eight_bit` says
other letters, no SMTPUTF8       sent without it where the envelope and all headers are ASCII, else 5.6.7: an
                                 address is never rewritten (RFC 6530 §8)
lines of more than 998           recoded, but not where a signature of the header would break by it
larger than SIZE                 5.3.4
"""

from dataclasses import dataclass
from typing import Final

from gatepost.base.reply import Code, Reply
from gatepost.codec.mail.downgrade import (
    Unrecodable,
    header_needs_utf8,
    needs_seven_bit,
    needs_short_lines,
    recode,
    signed,
)
from gatepost.codec.smtp.client import Extensions
from gatepost.relay.model import Consignment
from gatepost.relay.settings import EightBit

NO_SMTPUTF8: Final = Reply(
    Code.NAME_NOT_ALLOWED, "5.6.7", "the mail needs SMTPUTF8, which the server does not offer"
)
NO_8BITMIME: Final = "the mail has 8-bit octets, and the server does not offer 8BITMIME"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A mail as this host takes it. `utf8`: it must be sent with SMTPUTF8; `changed`: what was done, empty for
    nothing."""

    content: bytes
    utf8: bool
    changed: str = ""


def fit(consignment: Consignment, content: bytes, offered: Extensions, eight_bit: EightBit) -> Fitted | Reply:
    """Return the mail for a host that offered this, or the reply that its sender gets instead.

    A large mail takes long: see `recode`.
    """
    utf8 = needs_utf8(consignment, content)
    if utf8 and not offered.smtputf8:
        return NO_SMTPUTF8
    fitted: Fitted | Reply = Fitted(content, utf8)
    if needs_seven_bit(content) and not (offered.eight_bit or offered.smtputf8):
        fitted = _in_seven_bits(content, eight_bit)
    elif needs_short_lines(content) and not signed(content):
        fitted = _in_short_lines(content, utf8=utf8)
    if isinstance(fitted, Fitted) and offered.size and len(fitted.content) > offered.size:
        text = f"the mail has {len(fitted.content)} octets, the server takes {offered.size}"
        return Reply(Code.TOO_BIG, "5.3.4", text)
    return fitted


def needs_utf8(consignment: Consignment, content: bytes) -> bool:
    """Tell whether a mail can only be sent with SMTPUTF8: a local part or a header has other letters than ASCII.

    A domain never does: it has an A-label form.
    """
    senders = () if consignment.sender is None else (consignment.sender,)
    addresses = (*senders, *(recipient.address for recipient in consignment.recipients))
    if not all(address.local.isascii() for address in addresses):
        return True
    return consignment.smtputf8 and header_needs_utf8(content)


def _in_seven_bits(content: bytes, eight_bit: EightBit) -> Fitted | Reply:
    match eight_bit:
        case EightBit.SEND:
            return Fitted(content, utf8=False)
        case EightBit.BOUNCE:
            return Reply(Code.FAILED, "5.6.3", NO_8BITMIME)
        case EightBit.CONVERT:
            try:
                recoded = recode(content, seven_bit=True)
            except Unrecodable as why:  # RFC 6152 §3: return it as undeliverable
                return Reply(Code.FAILED, "5.6.3", f"{NO_8BITMIME}; it cannot be recoded: {why}")
            broken = ", its signature does not hold any more" if signed(content) else ""
            return Fitted(recoded, utf8=False, changed=f"recoded to 7 bits{broken}")


def _in_short_lines(content: bytes, *, utf8: bool) -> Fitted:
    try:
        return Fitted(recode(content, seven_bit=False), utf8, changed="recoded to lines of 998 octets")
    except Unrecodable:  # many servers take long lines; who does not says so
        return Fitted(content, utf8)
