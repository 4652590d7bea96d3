"""The Received field (RFC 5321 §4.4, RFC 3848): who gave us this mail, in words that nobody can bend."""

import re
from typing import Final

from gatepost.base.clock import Instant
from gatepost.base.envelope import Client, Envelope
from gatepost.base.ids import id_text
from gatepost.codec.mail.build import printable
from gatepost.codec.mail.date import format_date
from gatepost.codec.mail.header import HeaderBlock

HELO_MAX: Final = 255
_BENT: Final = str.maketrans("();", "???")
_BENDING: Final = re.compile("[<>();]")


def received_field(client: Client, hostname: str, envelope: Envelope, now: Instant) -> bytes:
    """Return the field, CRLF included; the recipient stands in it only when there is one."""
    helo = printable(client.helo, HELO_MAX).translate(_BENT) or "unknown"
    address = f"IPv6:{client.ip}" if ":" in client.ip else client.ip
    name = printable(client.rdns, HELO_MAX) or "unknown"
    lines = [f"Received: from {helo} ({name} [{address}])"]
    lines.append(f"\tby {hostname} (gatepost) with {_protocol(client, envelope)} id {id_text(envelope.id)}")
    if client.tls is not None:
        tls = client.tls
        shown = printable(tls.client_name, HELO_MAX).translate(_BENT)
        proven = f" client={shown}" if shown else ""
        lines.append(f"\t(version={tls.version} cipher={tls.cipher} bits={tls.bits}{proven})")
    if client.local_user:
        lines.append(f"\t(user {printable(client.local_user, 64).translate(_BENT)} of this machine)")
    if client.via:
        lines.append(f"\t(handed on by {client.via})")
    if len(envelope.recipients) == 1:
        address_text = printable(str(envelope.recipients[0].address), 320)
        if address_text.isascii() and not _BENDING.search(address_text):
            lines.append(f"\tfor <{address_text}>")
    if envelope.wishes.priority:  # a clause that RFC 6710 has registered
        lines.append(f"\tpriority {envelope.wishes.priority}")
    lines[-1] += ";"
    lines.append(f"\t{format_date(now)}")
    return "\r\n".join(lines).encode("ascii", "replace") + b"\r\n"


def hops(header: HeaderBlock) -> int:
    """Return how many Received fields a mail carries: beyond a limit it goes in circles (RFC 5321 §6.3)."""
    return header.count(b"received")


def _protocol(client: Client, envelope: Envelope) -> str:
    """Return the `with` word (RFC 3848, RFC 6531 §4.3)."""
    if not client.esmtp:
        return "SMTP"
    base = "UTF8SMTP" if envelope.smtputf8 else "ESMTP"
    return base + ("S" if client.tls is not None else "") + ("A" if client.user else "")
