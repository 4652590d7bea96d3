"""A letter of the server to a person: plain text, marked as automatic so that no vacation answers it (RFC 3834)."""

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.ids import MailId
from gatepost.codec.mail.build import field, message_id, printable
from gatepost.codec.mail.date import format_date


def build(number: MailId, to: Address, subject: str, text: str, hostname: str, now: Instant) -> bytes:
    """Return the whole mail, CRLF line ends; `text` has lines ended by LF."""
    body = text.rstrip("\n").replace("\n", "\r\n").encode("utf-8", "replace") + b"\r\n"
    fields = [
        field(b"From", f"Mail server <MAILER-DAEMON@{hostname}>".encode()),
        field(b"To", str(to).encode("utf-8", "replace")),
        field(b"Subject", printable(subject).encode()),
        field(b"Date", format_date(now).encode()),
        field(b"Message-ID", message_id(number, hostname)),
        field(b"Auto-Submitted", b"auto-generated"),
        field(b"MIME-Version", b"1.0"),
        field(b"Content-Type", b"text/plain; charset=utf-8"),
        field(b"Content-Transfer-Encoding", b"7bit" if body.isascii() else b"8bit"),
    ]
    return b"".join(fields) + b"\r\n" + body
