"""What is said to a peer: SMTP replies, and the one exception that carries a no."""

from dataclasses import dataclass
from enum import IntEnum


class Code(IntEnum):
    """Reply codes (RFC 5321 §4.2.2-4.2.3, RFC 1985 §5.2, RFC 4954 §6, RFC 5248, RFC 7504, RFC 7505)."""

    STATUS = 211
    HELP = 214
    READY = 220
    BYE = 221
    AUTHENTICATED = 235
    OK = 250
    WILL_FORWARD = 251
    CANNOT_VERIFY = 252
    CONTINUE_AUTH = 334
    START_DATA = 354
    SHUTTING_DOWN = 421
    MAILBOX_BUSY = 450
    LOCAL_ERROR = 451
    NO_STORAGE = 452
    AUTH_TEMPORARY = 454
    PARAMETERS_TEMPORARY = 455
    CANNOT_QUEUE = 458
    NODE_NOT_ALLOWED = 459
    SYNTAX = 500
    ARGUMENTS = 501
    NOT_IMPLEMENTED = 502
    BAD_SEQUENCE = 503
    PARAMETER_NOT_IMPLEMENTED = 504
    NO_MAIL_SERVICE = 521
    ENCRYPTION_NEEDED = 523
    AUTH_REQUIRED = 530
    AUTH_MECHANISM_WEAK = 534
    AUTH_INVALID = 535
    ENCRYPTION_REQUIRED = 538
    NO_SUCH_MAILBOX = 550
    NOT_LOCAL = 551
    TOO_BIG = 552
    NAME_NOT_ALLOWED = 553
    FAILED = 554
    PARAMETERS = 555
    NULL_MX = 556


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply: code, enhanced status code (RFC 3463, `"5.1.1"`; empty for none) and text, one line per `\\n`."""

    code: int
    enhanced: str = ""
    text: str = ""

    @property
    def temporary(self) -> bool:
        """Tell whether the peer should try again (4yz)."""
        return 400 <= self.code < 500

    @property
    def positive(self) -> bool:
        """Tell whether it is a 2yz or 3yz."""
        return self.code < 400

    def octets(self) -> bytes:
        """Return the wire form; anything but printable text is replaced, so no reply can be injected."""
        lead = f"{self.enhanced} " if self.enhanced else ""
        lines = [_clean(lead + line) for line in self.text.split("\n")]
        last = len(lines) - 1
        return b"".join(
            b"%d%c%s\r\n" % (self.code, 0x20 if at == last else 0x2D, line) for at, line in enumerate(lines)
        )


class Refusal(Exception):
    """Say no to a peer: `reply` is public, `detail` goes to the log alone."""

    def __init__(self, reply: Reply, *, detail: str = "", close: bool = False) -> None:
        super().__init__(detail or reply.text)
        self.reply = reply
        self.detail = detail
        self.close = close


def _clean(line: str) -> bytes:
    if line.isprintable():
        return line.encode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in line).encode("utf-8", "replace")
