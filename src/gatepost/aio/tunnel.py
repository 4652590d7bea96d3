"""TLS over two memory buffers: records in, plain octets out, and the reverse. No socket."""

import ssl
from collections.abc import Mapping
from typing import Any, Final

from gatepost.base.envelope import Tls

_CHUNK: Final = 65_536


class ServedObject(ssl.SSLObject):
    """The TLS object of a server-side context: it remembers the name that the client asked for (RFC 6066 §3)."""

    server_name = ""


class Tunnel:
    """One TLS connection without its transport.

    handshaking --established--> open --close_notify from either side--> ended. `ssl.SSLError` from `receive` ends
    it too; what `outgoing` then returns is the alert.
    """

    __slots__ = ("_in", "_object", "_out", "_unsent", "ended", "established")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._in, self._out, server_side=server_side, server_hostname=server_hostname
        )
        self._unsent: bytes = b""
        self.established = False
        self.ended = False

    def start(self) -> None:
        """Begin the handshake: on the client's side this makes the ClientHello."""
        self._shake()

    def receive(self, octets: bytes) -> bytes:
        """Take records, return the plain octets in them; raises ssl.SSLError when the peer breaks the protocol."""
        self._in.write(octets)
        if not self.established:
            self._shake()
            if not self.established:
                return b""
        plain: list[bytes] = []
        try:
            while chunk := self._object.read(_CHUNK):
                plain.append(chunk)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def send(self, octets: bytes) -> None:
        """Encrypt; before the handshake is done the octets wait for it."""
        if not self.established:
            self._unsent += octets
        elif octets:
            self._object.write(octets)

    def outgoing(self) -> bytes:
        """Return the records that now must go to the peer."""
        return self._out.read() if self._out.pending else b""

    def end(self) -> None:
        """Make our close_notify (RFC 8446 §6.1); the peer's is not waited for."""
        if not self.established:
            return
        try:
            self._object.unwrap()
        except ssl.SSLError:
            pass

    def facts(self) -> Tls:
        """Return what the handshake agreed on."""
        name, _, bits = self._object.cipher() or ("", "", 0)
        asked = self._object.server_name if isinstance(self._object, ServedObject) else ""
        return Tls(self._object.version() or "", name, bits, asked, self._client_name())

    def _client_name(self) -> str:
        if not self._object.server_side or self._object.context.verify_mode is ssl.CERT_NONE:
            return ""
        shown: Mapping[str, Any] = self._object.getpeercert() or {}  # Any: typeshed has no shape for each field
        names = (str(value) for part in shown.get("subject", ()) for key, value in part if key == "commonName")
        return next(names, "")

    def chain(self) -> tuple[bytes, ...]:
        """Return the certificates the peer sent, leaf first, each as DER."""
        if hasattr(self._object, "get_unverified_chain"):
            return tuple(self._object.get_unverified_chain() or ())
        certificates = self._object._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]  # public in 3.13
        return tuple(ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in certificates)

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            self._object.write(unsent)
