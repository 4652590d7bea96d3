"""An authoritative DNS server for the demonstration's names, on one loopback port, UDP and TCP.

It is the whole DNS of the demonstration: the server's resolver is pointed at it, and what it does not know is
NXDOMAIN, so nothing that `gatepost try` does asks a name of the outside world.
"""

import asyncio
import struct
from collections.abc import Iterable
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

TTL: Final = 60
UDP_MAX: Final = 1232  # the size that DNS Flag Day 2020 settled on: no fragments


class Zone:
    """Records by name and type, in memory; `add` may be called while the server runs."""

    def __init__(self) -> None:
        self._records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], list[dns.rdata.Rdata]] = {}
        self._names: set[dns.name.Name] = set()

    def add(self, name: str, kind: str, *values: str) -> None:
        """Add records in zone file form, e.g. `add("example.org", "MX", "10 mx.example.org.")`."""
        owner, rdtype = dns.name.from_text(name), dns.rdatatype.from_text(kind)
        found = self._records.setdefault((owner, rdtype), [])
        found += [dns.rdata.from_text(dns.rdataclass.IN, rdtype, value) for value in values]
        while owner != dns.name.root:  # a name above is an empty non-terminal, not NXDOMAIN (RFC 8020)
            self._names.add(owner)
            owner = owner.parent()

    def add_text(self, name: str, text: str) -> None:
        """Add a TXT record of any length, cut into strings of 255 octets (RFC 1035 §3.3)."""
        pieces = [text[at : at + 255] for at in range(0, len(text), 255)]
        escaped = (piece.replace("\\", "\\\\").replace('"', '\\"') for piece in pieces)
        self.add(name, "TXT", " ".join(f'"{piece}"' for piece in escaped))

    def answer(self, query: bytes, limit: int) -> bytes | None:
        """Return the answer to one query in wire form, or None where there is nothing to say."""
        try:
            asked = dns.message.from_wire(query)
        except dns.exception.DNSException:
            return None
        if asked.flags & dns.flags.QR or asked.opcode() != dns.opcode.QUERY or len(asked.question) != 1:
            return None
        reply = dns.message.make_response(asked)
        reply.flags |= dns.flags.AA
        question = asked.question[0]
        found = list(self._follow(question.name, question.rdtype))
        reply.answer.extend(found)
        if not found and question.name not in self._names:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        try:
            return reply.to_wire(max_size=limit)
        except dns.exception.TooBig:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
            return reply.to_wire()

    def _follow(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Iterable[dns.rrset.RRset]:
        for _ in range(8):
            if records := self._records.get((name, kind)):
                yield dns.rrset.from_rdata_list(name, TTL, records)
                return
            alias = self._records.get((name, dns.rdatatype.CNAME))
            if alias is None:
                return
            yield dns.rrset.from_rdata_list(name, TTL, alias)
            name = dns.name.from_text(alias[0].to_text())


class ZoneServer:
    """Serves a Zone on `host`, one port for UDP and TCP."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._tcp: asyncio.Server | None = None
        self._udp: asyncio.DatagramTransport | None = None

    async def start(self, host: str) -> int:
        """Listen on a port that the kernel chooses; return it."""
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._converse, host, 0)
        port: int = self._tcp.sockets[0].getsockname()[1]
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._zone), local_addr=(host, port))
        self._udp = transport
        return port

    async def stop(self) -> None:
        """Close both sockets."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
            await self._tcp.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answer = self._zone.answer(await reader.readexactly(length), 65_535)
                if answer is None:
                    break
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # narrower
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # IPv4 here
        answer = self._zone.answer(data, UDP_MAX)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)
