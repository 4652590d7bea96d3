"""The mail that brings a report to those who ask for it: of TLS (RFC 8460 §5.3) or DMARC (RFC 9990 §3.5.2)."""

from binascii import b2a_base64
from collections.abc import Sequence
from dataclasses import dataclass

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.ids import MailId
from gatepost.codec.mail.build import field, message_id, printable
from gatepost.codec.mail.date import format_date

OCTETS_OF_LINE = 57  # 76 letters of base64 (RFC 2045 §6.8)


@dataclass(frozen=True, slots=True)
class Parcel:
    """A report on its way: `number` is its Report-ID, `domain` whom it is about, `submitter` who tells."""

    number: str
    domain: str
    submitter: str
    text: str
    """What a person reads, one line."""
    kind: str
    """The media type of what is attached."""
    name: str
    packed: bytes
    envelope: str = "multipart/mixed"
    """The media type of the mail, with its parameters."""
    fields: Sequence[tuple[bytes, bytes]] = ()
    """Header fields that reports of the kind have."""

    def mail(self, mail: MailId, sender: str, to: Address, now: Instant) -> bytes:
        """Return the whole mail, CRLF line ends; raises build.Unwritable."""
        about = f"Report Domain: {self.domain} Submitter: {self.submitter} Report-ID: <{self.number}>"
        boundary = f"=_report_{mail:x}".encode()
        fields = [
            field(b"From", sender.encode()),
            field(b"To", str(to).encode("utf-8", "replace")),
            field(b"Subject", printable(about).encode()),
            field(b"Date", format_date(now).encode()),
            field(b"Message-ID", message_id(mail, self.submitter)),
            *(field(name, value) for name, value in self.fields),
            field(b"Auto-Submitted", b"auto-generated"),
            field(b"MIME-Version", b"1.0"),
            field(b"Content-Type", self.envelope.encode() + b'; boundary="' + boundary + b'"'),
        ]
        text = [field(b"Content-Type", b"text/plain; charset=us-ascii"), b"\r\n", f"{self.text}\r\n".encode()]
        attached = [
            field(b"Content-Type", self.kind.encode()),
            field(b"Content-Transfer-Encoding", b"base64"),
            field(b"Content-Disposition", f'attachment; filename="{self.name}"'.encode()),
            b"\r\n",
            *(
                b2a_base64(self.packed[at : at + OCTETS_OF_LINE], newline=False) + b"\r\n"
                for at in range(0, len(self.packed), OCTETS_OF_LINE)
            ),
        ]
        delimiter = b"--" + boundary
        return b"".join(
            [*fields, b"\r\n", delimiter, b"\r\n", *text, delimiter, b"\r\n", *attached, delimiter, b"--\r\n"]
        )
