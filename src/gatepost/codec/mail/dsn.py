"""Delivery status notifications (RFC 3461, RFC 3464): one well-formed report, whatever the mail was like."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.ids import id_text
from gatepost.base.units import seconds_text
from gatepost.codec.mail.build import field, message_id, printable
from gatepost.codec.mail.date import format_date

RETURNED_MAX: Final = 100 << 10


class Kind(Enum):
    """What is reported (RFC 3464 §2.3.3): Action values, and the words for people."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"
    DELIVERED = "delivered"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of one recipient. `status` is an enhanced code, `diagnostic` the other server's words."""

    recipient: Address
    status: str
    diagnostic: str = ""
    remote: str = ""
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a notification says. `retry_until` is for delays: when it will be given up."""

    id: int
    kind: Kind
    to: Address
    reported: tuple[Reported, ...]
    hostname: str
    postmaster: str
    now: Instant
    arrived_at: Instant
    mail_id: int
    envid: str = ""
    retry_until: Instant | None = None
    deliver_by: Instant | None = None
    """By when its sender wanted it delivered (RFC 2852)."""


_SUBJECTS: Final = {
    Kind.FAILED: "Your mail could not be delivered",
    Kind.DELAYED: "Your mail is delayed, and still being tried",
    Kind.RELAYED: "Your mail was handed on",
    Kind.DELIVERED: "Your mail was delivered",
    Kind.EXPANDED: "Your mail was handed on to several people",
}


def build(report: Report, header: bytes) -> bytes:
    """Return the whole notification, CRLF line ends; `header`: the original's header block, never its body."""
    boundary = f"=_{id_text(report.id)}"
    fields = [
        field(b"From", f"Mail delivery <MAILER-DAEMON@{report.hostname}>".encode()),
        field(b"To", str(report.to).encode("utf-8", "replace")),
        field(b"Subject", _SUBJECTS[report.kind].encode()),
        field(b"Date", format_date(report.now).encode()),
        field(b"Message-ID", message_id(report.id, report.hostname)),
        field(b"Auto-Submitted", b"auto-replied"),
        field(b"MIME-Version", b"1.0"),
        b'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="%b"\r\n' % boundary.encode(),
    ]
    parts = [
        _part(boundary, b"text/plain; charset=utf-8", _for_people(report)),
        _part(boundary, b"message/delivery-status", _for_programs(report)),
        _part(boundary, b"text/rfc822-headers", _returned(header)),
    ]
    return b"".join(fields) + b"\r\n" + b"".join(parts) + b"--%b--\r\n" % boundary.encode()


def _part(boundary: str, content_type: bytes, content: bytes) -> bytes:
    eight = b"Content-Transfer-Encoding: 8bit\r\n" if not content.isascii() else b""
    head = b"--%b\r\nContent-Type: %b\r\n%b\r\n" % (boundary.encode(), content_type, eight)
    return head + content + (b"" if content.endswith(b"\r\n") else b"\r\n")


def _for_people(report: Report) -> bytes:
    lines = [f"This is the mail server at {report.hostname}.", ""]
    lines += [_SUBJECTS[report.kind] + ":", ""]
    for each in report.reported:
        lines.append(f"  {printable(str(each.recipient), 320)}")
        said = printable(each.diagnostic, 900)
        if said:
            who = f"{printable(each.remote, 200)} said: " if each.remote else ""
            lines.append(f"    {who}{said}")
        lines.append("")
    if report.kind is Kind.DELAYED and report.retry_until is not None:
        left = seconds_text(max(0, report.retry_until - report.now) / 1_000_000)
        lines += [f"You need not do anything: it is tried again for another {left}.", ""]
    if report.deliver_by is not None:
        lines += [f"You wanted it to be delivered by {format_date(report.deliver_by)}.", ""]
        if report.kind is Kind.RELAYED:
            lines += ["The next mail server has it now, and may not know of that time.", ""]
    lines += [f"Questions go to {report.postmaster}; the mail's id here is {id_text(report.mail_id)}.", ""]
    return "\r\n".join(lines).encode("utf-8", "replace")


def _for_programs(report: Report) -> bytes:
    blocks = [_per_message(report)] + [_per_recipient(report, each) for each in report.reported]
    return b"\r\n".join(blocks)


def _per_message(report: Report) -> bytes:
    fields = [field(b"Reporting-MTA", f"dns; {report.hostname}".encode())]
    if report.envid:
        fields.append(field(b"Original-Envelope-Id", printable(report.envid).encode()))
    fields.append(field(b"Arrival-Date", format_date(report.arrived_at).encode()))
    if report.deliver_by is not None:
        fields.append(field(b"Deliver-By-Date", format_date(report.deliver_by).encode()))
    return b"".join(fields)


def _per_recipient(report: Report, each: Reported) -> bytes:
    fields = []
    if each.orcpt:
        fields.append(field(b"Original-Recipient", printable(each.orcpt).encode()))
    kind = b"rfc822" if each.recipient.ascii else b"utf-8"
    fields.append(field(b"Final-Recipient", kind + b"; " + _plain(str(each.recipient))))
    fields.append(field(b"Action", report.kind.value.encode()))
    fields.append(field(b"Status", printable(each.status or "4.0.0", 20).encode()))
    if each.remote:
        fields.append(field(b"Remote-MTA", f"dns; {printable(each.remote, 255)}".encode()))
    if each.diagnostic:
        fields.append(field(b"Diagnostic-Code", f"smtp; {printable(each.diagnostic, 900)}".encode()))
    if report.kind is Kind.DELAYED and report.retry_until is not None:
        fields.append(field(b"Will-Retry-Until", format_date(report.retry_until).encode()))
    return b"".join(fields)


def _plain(text: str) -> bytes:
    return "".join(c if c.isprintable() else "?" for c in text).encode("utf-8", "replace")


def _returned(header: bytes) -> bytes:
    """Return the original's header so that it is one block: cut at a line, no empty line, no bare CR, LF or NUL."""
    cut = header[:RETURNED_MAX]
    if len(header) > RETURNED_MAX:
        cut = cut[: cut.rfind(b"\r\n") + 2]
    lines = [line.replace(b"\0", b"?").replace(b"\r", b"?").replace(b"\n", b"?") for line in cut.split(b"\r\n")]
    return b"".join(line + b"\r\n" for line in lines if line)
