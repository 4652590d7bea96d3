"""An SMTP proxy that signs, in the place of dkimproxy.out: `gatepost sign-proxy`.

    client ──▸ listen ── commands and replies pass one by one ──▸ relay
               a mail is kept from DATA to its dot, signed, and sent on; the next hop's answer is the client's

What the proxy cannot pass on is not offered: STARTTLS, PIPELINING, CHUNKING and BINARYMIME. It keeps no mail: until
the next hop has answered, the client has no 250.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm

from gatepost.aio.offload import offload
from gatepost.base.address import fold_domain
from gatepost.base.clock import Clock
from gatepost.codec.mail.address import mailboxes
from gatepost.codec.mail.build import printable
from gatepost.codec.mail.header import HeaderBlock, unfold
from gatepost.codec.smtp.client import DotStuffer
from gatepost.codec.smtp.data import BareLines, EndOfData
from gatepost.judge.judge import raw_fields
from gatepost.judge.keys import algorithm_of, read_pem
from gatepost.judge.proxyconf import Kind, ProxyConf, SignatureLine
from gatepost.judge.seal import Fields, SigningKey, Style, domain_key, sign_all

LINE_MAX: Final = 64 * 1024
REPLY_LINES_MAX: Final = 500
MAIL_MAX: Final = 128 * 1024 * 1024
SESSIONS_MAX: Final = 200
PATIENCE_S: Final = 300.0  # RFC 5321 §4.5.3.2: for a command, a reply, a piece of mail
ANSWER_S: Final = 600.0  # for the answer to a whole mail
PIECE: Final = 64 * 1024
NOT_OFFERED: Final = (b"STARTTLS", b"PIPELINING", b"CHUNKING", b"BINARYMIME")
NOT_PASSED: Final = frozenset((b"STARTTLS", b"BDAT"))
DOWN: Final = b"421 Internal error (Next hop is down)\r\n"
SENDERS: Final = (b"resent-sender", b"resent-from", b"sender", b"from")


class _Ended(Exception):
    """One of the two sides is gone, or does not speak SMTP."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One signature line with its key read."""

    line: SignatureLine
    style: Style
    key: SigningKey  # its domain is the first configured one

    def sign(self, fields: Fields, body: bytes, domain: str, clock: Clock) -> bytes:
        key = SigningKey(domain, self.key.selector, self.key.algorithm, self.key.private)
        if self.line.kind is Kind.DOMAINKEYS:
            return domain_key((key,), fields, body, nofws=self.line.method == "nofws")
        return sign_all((key,), fields, body, clock.now(), self.style)


class ProxySigner:
    """Signs a whole mail as the configuration says."""

    def __init__(self, conf: ProxyConf, clock: Clock) -> None:
        """Read the keys; OSError, ValueError where one cannot be."""
        self._domains = conf.domains
        self._clock = clock
        self._lines = tuple(_read_line(each, conf.domains) for each in conf.signatures)

    def sign(self, mail: bytes) -> tuple[bytes, str]:
        """Return the fields to put on top, in the configuration's order, and a line for the log."""
        header = HeaderBlock.parse(mail)
        fields = raw_fields(mail, header)
        sender = _sender(fields)
        added, signer = b"", ""
        for each in self._lines:
            domain = each.line.domain or self._domain_for(sender)
            if domain:
                signature = each.sign(fields, mail[header.end :], domain, self._clock)
                added += signature
                signer = domain if signature else signer
        about = f"message-id={_shown(fields, b'message-id')}, from=<{sender}>"
        told = f"signed; signer=<@{signer}>, {about}" if added else f"skipped; {about}"
        return added, f"DKIM signing - {told}"

    def _domain_for(self, sender: str) -> str:
        """Return the domain that signs: the only one, or the sender's, or the nearest above it; none is empty."""
        if len(self._domains) == 1:
            return self._domains[0]
        domain = sender.rpartition("@")[2]
        while domain and domain not in self._domains:
            domain = domain.partition(".")[2]
        return domain


class SignProxy:
    """Serves clients; each has a connection of its own to the next hop."""

    def __init__(self, conf: ProxyConf, signer: ProxySigner, tell: Callable[[str], None]) -> None:
        """Make it for a `conf` that names the next hop."""
        assert conf.relay is not None
        self._relay = conf.relay
        self._reject = conf.reject_error
        self._signer = signer
        self._tell = tell
        self._open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until one side ends; asyncio.start_server's callback."""
        self._open += 1
        try:
            if self._open > SESSIONS_MAX:
                writer.write(b"421 Too many sessions, come again\r\n")
            else:
                await self._between(reader, writer)
        except (_Ended, OSError, TimeoutError) as ended:
            self._tell(f"session ended: {ended or type(ended).__name__}")
        finally:
            self._open -= 1
            await _close(writer)

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                hop = await asyncio.open_connection(*self._relay, limit=LINE_MAX)
        except OSError as problem:
            self._tell(f"next hop {self._relay[0]}:{self._relay[1]}: {problem}")
            writer.write(DOWN)
            return
        try:
            await _Session(_Side(reader, writer), _Side(*hop), self._signed, reject=self._reject).run()
        finally:
            await _close(hop[1])

    async def _signed(self, mail: bytes) -> bytes | None:
        """Return the fields to add; None where signing failed."""
        try:
            added, told = await offload(self._signer.sign, mail) if len(mail) > PIECE else self._signer.sign(mail)
        except (ValueError, UnsupportedAlgorithm) as wrong:
            self._tell(f"DKIM signing - error; {wrong}")
            return None
        self._tell(told)
        return added


class _Side:
    """One of the two connections: lines and replies in, octets out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ahead = b""

    async def line(self) -> bytes:
        """Return the next line with its end; _Ended where there is none."""
        while b"\n" not in self._ahead:
            if len(self._ahead) > LINE_MAX:
                raise _Ended("a line that does not end")
            held, self._ahead = self._ahead, b""
            self._ahead = held + await self.piece()
        line, end, self._ahead = self._ahead.partition(b"\n")
        return line + end

    async def piece(self) -> bytes:
        """Return what comes next."""
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        async with asyncio.timeout(PATIENCE_S):
            octets = await self._reader.read(PIECE)
        if not octets:
            raise _Ended("the connection was closed")
        return octets

    def put_back(self, octets: bytes) -> None:
        """Let `octets` come next."""
        self._ahead = octets + self._ahead

    async def reply(self, patience: float = PATIENCE_S) -> list[bytes]:
        """Return a whole reply, line by line."""
        lines: list[bytes] = []
        async with asyncio.timeout(patience):
            while not lines or lines[-1][3:4] == b"-":
                lines.append(await self.line())
                if not lines[-1][:3].isdigit() or len(lines) > REPLY_LINES_MAX:
                    raise _Ended("that is no SMTP reply")
        return lines

    async def say(self, octets: bytes) -> None:
        """Send, as fast as the other side takes it."""
        self._writer.write(octets)
        async with asyncio.timeout(PATIENCE_S):
            await self._writer.drain()


class _Session:
    """One client and its next hop."""

    def __init__(
        self, client: _Side, hop: _Side, signed: Callable[[bytes], Awaitable[bytes | None]], *, reject: bool
    ) -> None:
        self._client = client
        self._hop = hop
        self._signed = signed
        self._reject = reject

    async def run(self) -> None:
        """Pass on until QUIT or until a side ends."""
        await self._answer()
        verb = b""
        while verb != b"QUIT":
            command = await self._client.line()
            verb = command.split(None, 1)[0].upper() if command.strip() else b""
            if verb in NOT_PASSED:
                await self._client.say(b"502 5.5.1 Not offered here\r\n")
                continue
            await self._hop.say(command)
            code = await self._answer(offers=verb == b"EHLO")
            while code == b"334":
                await self._hop.say(await self._client.line())
                code = await self._answer()
            if verb == b"DATA" and code == b"354":
                await self._mail()

    async def _answer(self, *, offers: bool = False, patience: float = PATIENCE_S) -> bytes:
        """Pass on a reply and return its code."""
        lines = await self._hop.reply(patience)
        if offers:
            lines = _passed_on(lines)
        await self._client.say(b"".join(lines))
        return lines[0][:3]

    async def _mail(self) -> None:
        """Take a mail, sign it and send it on."""
        mail = await self._taken()
        added = await self._signed(mail)
        if added is None and self._reject:
            await self._client.say(b"450 DKIM - the mail could not be signed\r\n")
            raise _Ended("a mail could not be signed")  # the next hop still waits for it: nothing else can be said
        stuffer = DotStuffer()
        whole = (added or b"") + mail
        for at in range(0, len(whole), PIECE):
            await self._hop.say(stuffer.stuff(whole[at : at + PIECE]))
        await self._hop.say(stuffer.end())
        await self._answer(patience=ANSWER_S)

    async def _taken(self) -> bytes:
        scan, pieces, size = EndOfData(BareLines.NORMALIZE), list[bytes](), 0
        while not scan.ended:
            pieces.append(scan.feed(await self._client.piece()))
            size += len(pieces[-1])
            if size > MAIL_MAX:
                await self._client.say(b"552 5.3.4 The mail is too large\r\n")
                raise _Ended("a mail is too large")
        self._client.put_back(scan.rest)
        return b"".join(pieces)


def _passed_on(lines: Sequence[bytes]) -> list[bytes]:
    """Take out of an EHLO reply what the proxy does not pass on."""
    kept = [lines[0], *(line for line in lines[1:] if not line[4:].upper().startswith(NOT_OFFERED))]
    last = len(kept) - 1
    return [line[:3] + (b" " if at == last else b"-") + line[4:] for at, line in enumerate(kept)]


def _read_line(line: SignatureLine, domains: Sequence[str]) -> _Line:
    try:
        private = read_pem(Path(line.keyfile).read_bytes())
    except ValueError as wrong:
        raise ValueError(f"{line.keyfile}: {wrong}") from wrong
    header, _, body = line.method.partition("/")
    style = Style(
        header_relaxed=header == "relaxed", body_relaxed=body == "relaxed", lifetime=0, identity=line.identity
    )
    domain = line.domain or domains[0]
    return _Line(line, style, SigningKey(domain, line.selector, algorithm_of(private), private))


def _sender(fields: Fields) -> str:
    """Return the address of the first of Resent-Sender, Resent-From, Sender, From (Mail::DKIM's message_sender)."""
    for wanted in SENDERS:
        for name, raw in fields:
            found = next(iter(mailboxes(unfold(raw.partition(b":")[2]))), None) if name == wanted else None
            if found is not None:
                domain = fold_domain(found.domain.decode("utf-8", "replace"))
                text = f"{found.local.decode('utf-8', 'replace')}@{domain}"
                return printable(text, 320)
    return ""


def _shown(fields: Fields, wanted: bytes) -> str:
    for name, raw in fields:
        if name == wanted:
            return printable(raw.partition(b":")[2].strip().decode("utf-8", "replace"), 200)
    return "<>"


async def _close(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(5):
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    if not writer.is_closing():
        writer.transport.abort()
