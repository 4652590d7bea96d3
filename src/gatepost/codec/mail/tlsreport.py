"""The mail that brings a TLS report (RFC 8460 §5.3)."""

from binascii import b2a_base64

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.ids import MailId
from gatepost.codec.mail.build import field, message_id, printable
from gatepost.codec.mail.date import format_date
from gatepost.codec.tlsrpt import Report

OCTETS_OF_LINE = 57  # 76 letters of base64 (RFC 2045 §6.8)


def build(
    number: MailId, report: Report, packed: bytes, name: str, domain: str, submitter: str, sender: str, to: Address,
    now: Instant,
) -> bytes:  # fmt: skip
    """Return the whole mail, CRLF line ends. `packed` is the report as it is sent, `name` its file name."""
    about = f"Report Domain: {domain} Submitter: {submitter} Report-ID: <{report.id}>"
    boundary = f"=_tlsrpt_{number:x}".encode()
    fields = [
        field(b"From", f"{sender}".encode()),
        field(b"To", str(to).encode("utf-8", "replace")),
        field(b"Subject", printable(about).encode()),
        field(b"Date", format_date(now).encode()),
        field(b"Message-ID", message_id(number, submitter)),
        field(b"TLS-Report-Domain", domain.encode()),
        field(b"TLS-Report-Submitter", submitter.encode()),
        field(b"TLS-Required", b"No"),  # RFC 8689 §3: bad TLS is what it may tell of
        field(b"Auto-Submitted", b"auto-generated"),
        field(b"MIME-Version", b"1.0"),
        field(b"Content-Type", b'multipart/report; report-type="tlsrpt"; boundary="' + boundary + b'"'),
    ]
    text = [
        field(b"Content-Type", b"text/plain; charset=us-ascii"),
        b"\r\n",
        f"This is the TLS report of {submitter} on {domain}\r\nfrom {report.start} to {report.end}.\r\n".encode(),
    ]
    attached = [
        field(b"Content-Type", b"application/tlsrpt+gzip"),
        field(b"Content-Transfer-Encoding", b"base64"),
        field(b"Content-Disposition", f'attachment; filename="{name}"'.encode()),
        b"\r\n",
        *(
            b2a_base64(packed[at : at + OCTETS_OF_LINE], newline=False) + b"\r\n"
            for at in range(0, len(packed), OCTETS_OF_LINE)
        ),
    ]
    delimiter = b"--" + boundary
    return b"".join(
        [*fields, b"\r\n", delimiter, b"\r\n", *text, delimiter, b"\r\n", *attached, delimiter, b"--\r\n"]
    )
