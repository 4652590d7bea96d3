"""A DNS server double on loopback, UDP and TCP, in the loop of the test.

    async with Zone({"example.org": {"MX": ["10 mx.example.org."], "TXT": [txt("v=spf1 -all")]}}) as zone:
        resolver = Resolver([zone.address], clock=SystemClock())

Values are in presentation form (RFC 1035 §5); an alias is followed within the zone, as a recursive server does.
`faults` maps a name to what goes wrong when it is asked for; see `Fault`.
"""

import asyncio
import struct
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Records = Mapping[str, Mapping[str, Sequence[str]]]


class Fault(Enum):
    """What goes wrong with a question."""

    SERVFAIL = auto()
    REFUSED = auto()
    SILENT = auto()
    SILENT_ONCE = auto()
    """The first question is lost."""
    LATE = auto()
    """The answer comes after `Zone.lateness` seconds."""
    TRUNCATED = auto()
    """By UDP the answer is cut (TC); TCP gives it whole."""
    WRONG_ID_FIRST = auto()
    WRONG_QUESTION_FIRST = auto()
    GARBAGE_FIRST = auto()
    """Something unusable comes at once, the answer 20 ms later (CVE-2023-29483)."""
    NO_EDNS = auto()
    """FORMERR to all questions with OPT."""
    STRANGER = auto()
    """The answer also tells records of names that nobody asked for."""


def txt(text: str) -> str:
    """Return the presentation form of a TXT record, cut into strings of 255 octets."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return " ".join(f'"{escaped[at : at + 255]}"' for at in range(0, max(len(escaped), 1), 255))


class Zone(asyncio.DatagramProtocol):
    """Serve `records`; `asked` tells every question as (name, type, id, source port)."""

    def __init__(
        self,
        records: Records | None = None,
        *,
        secure: bool = False,
        faults: Mapping[str, Fault] | None = None,
        ttl: int = 300,
        lateness: float = 0.3,
        port: int = 0,
    ) -> None:
        self.records: dict[str, dict[str, list[str]]] = {}
        for name, sets in (records or {}).items():
            self.records[name.rstrip(".").lower()] = {kind: list(values) for kind, values in sets.items()}
        self.secure = secure
        self.faults = dict(faults or {})
        self.ttl = ttl
        self.lateness = lateness
        self.asked: list[tuple[str, str, int, int]] = []
        self.by_tcp = 0
        self.address = ("127.0.0.1", port)
        self._asked_for = self.address
        self._transport: asyncio.DatagramTransport
        self._server: asyncio.Server
        self._once: set[str] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        while True:
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=self._asked_for)
            self.address = self._transport.get_extra_info("sockname")[:2]
            try:
                self._server = await asyncio.start_server(self._tcp, *self.address)
            except OSError:  # the same port is taken for TCP
                self._transport.close()
                if self._asked_for[1]:
                    raise
                continue
            return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()
        self._server.close()
        await self._server.wait_closed()

    def datagram_received(self, octets: bytes, source: tuple[str | Any, int]) -> None:  # Any: as typeshed has it
        """Answer by UDP."""
        question = dns.message.from_wire(octets)
        for delay, answer in self._answers(question, source[1], udp=True):
            asyncio.get_running_loop().call_later(delay, self._send, answer, source)

    def _send(self, answer: bytes, source: tuple[str | Any, int]) -> None:  # Any: as above
        if not self._transport.is_closing():
            self._transport.sendto(answer, source)

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        question = dns.message.from_wire(await reader.readexactly(size))
        self.by_tcp += 1
        for _, answer in self._answers(question, writer.get_extra_info("peername")[1], udp=False):
            writer.write(struct.pack("!H", len(answer)) + answer)
        await writer.drain()
        writer.close()

    def _answers(self, question: dns.message.Message, port: int, *, udp: bool) -> list[tuple[float, bytes]]:
        asked = question.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        self.asked.append((name, dns.rdatatype.to_text(asked.rdtype), question.id, port))
        answer = self.answer(question)
        right = answer.to_wire()
        match self.faults.get(name):
            case Fault.SERVFAIL | Fault.REFUSED as fault:
                answer = dns.message.make_response(question)
                answer.set_rcode(dns.rcode.from_text(fault.name))
                return [(0, answer.to_wire())]
            case Fault.SILENT:
                return []
            case Fault.SILENT_ONCE if name not in self._once:
                self._once.add(name)
                return []
            case Fault.LATE:
                return [(self.lateness, right)]
            case Fault.TRUNCATED if udp:
                cut = dns.message.make_response(question)
                cut.flags |= dns.flags.TC
                return [(0, cut.to_wire())]
            case Fault.WRONG_ID_FIRST:
                forged = struct.pack("!H", question.id ^ 1) + _forged(question, asked.name).to_wire()[2:]
                return [(0, forged), (0.02, right)]
            case Fault.WRONG_QUESTION_FIRST:
                other = dns.message.make_query("other.example", asked.rdtype)
                other.id = question.id
                return [(0, _forged(other, other.question[0].name).to_wire()), (0.02, right)]
            case Fault.GARBAGE_FIRST:
                return [*((0.0, cut) for cut in _broken(right)), (0.02, right)]
            case Fault.NO_EDNS if question.edns >= 0:
                answer = dns.message.make_response(question)
                answer.use_edns(False)
                answer.set_rcode(dns.rcode.FORMERR)
                return [(0, answer.to_wire())]
            case Fault.STRANGER:
                answer.answer.append(dns.rrset.from_text("victim.example.", 9999, "IN", "A", "203.0.113.66"))
                answer.additional.append(dns.rrset.from_text("victim.example.", 9999, "IN", "A", "203.0.113.66"))
                return [(0, answer.to_wire())]
            case _:
                return [(0, right)]

    def answer(self, question: dns.message.Message) -> dns.message.Message:
        """Return the faultless answer to a question."""
        answer = dns.message.make_response(question, recursion_available=True)
        if self.secure:
            answer.flags |= dns.flags.AD
        kind = dns.rdatatype.to_text(question.question[0].rdtype)
        name = question.question[0].name.to_text(omit_final_dot=True).lower()
        for _ in range(40):
            sets = self.records.get(name, {})
            alias = sets.get("CNAME")
            if alias is None or kind == "CNAME":
                break
            answer.answer.append(self._rrset(name, "CNAME", alias))
            name = alias[0].rstrip(".").lower()
        if kind in sets:
            answer.answer.append(self._rrset(name, kind, sets[kind]))
            return answer
        if not sets and not any(known.endswith("." + name) for known in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        soa = "ns.example. hostmaster.example. 1 3600 600 86400 60"
        answer.authority.append(dns.rrset.from_text(name.rpartition(".")[2] + ".", 900, "IN", "SOA", soa))
        return answer

    def _rrset(self, name: str, kind: str, values: Sequence[str]) -> dns.rrset.RRset:
        rdatas = [dns.rdata.from_text("IN", kind, value, relativize=False) for value in values]
        return dns.rrset.from_rdata_list(dns.name.from_text(name), self.ttl, rdatas)


def _broken(right: bytes) -> list[bytes]:
    """Return ways in which an answer is none: cut anywhere, a pointer to itself, nothing but its head."""
    cuts = [right[:at] for at in range(0, len(right), 5)]
    return [*cuts, right[:-1], right[:12] + b"\xc0\x0c" * 8]


def _forged(question: dns.message.Message, name: dns.name.Name) -> dns.message.Message:
    answer = dns.message.make_response(question)
    answer.answer.append(dns.rrset.from_text(name, 9999, "IN", "A", "203.0.113.66"))
    return answer
