"""Signing, verifying, SPF and the whole genuine step on one core, in microseconds of processor time an operation.

    python benchmarks/genuine.py [--seconds 1] [--rounds 3] [--json]

A mail of 4 KB with the fields that a mail program writes. The DNS is in memory: resolver and cache are not in these
figures. dkimpy and pyspf take turns with ours in the same rounds; the median counts.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import ip_address

import dkim as dkimpy
import spf as pyspf
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gatepost.aio.clock import SystemClock
from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.envelope import Client, Envelope
from gatepost.base.ids import MailId
from gatepost.base.verdict import Result
from gatepost.cli.asking import SILENT
from gatepost.codec.mail.header import HeaderBlock
from gatepost.codec.spf import Ip
from gatepost.judge import dkim, spf
from gatepost.judge.judge import Judge, raw_fields
from gatepost.judge.keys import generate, record_text
from gatepost.judge.seal import SigningKey, sign_all
from gatepost.judge.settings import JudgeSettings

FIELDS = (
    b"From: Joe <joe@a.example>\r\nTo: Ann <ann@b.example>, Bob <bob@b.example>\r\nSubject: The peas are in\r\n"
    b"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-ID: <20261124080000.4711@a.example>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\nUser-Agent: a program 1.0\r\n"
)
BODY = (b"The peas are in, and the beans will be before the week is over, says he.\r\n" * 54)[:4096] + b"\r\n"
RSA = SigningKey("a.example", "r", "rsa-sha256", generate("rsa-sha256"))
ED = SigningKey("a.example", "e", "ed25519-sha256", generate("ed25519-sha256"))
POLICY = b"v=spf1 mx include:_spf.a.example ip4:198.51.100.0/24 -all"
TEXTS = {
    "a.example": POLICY,
    "_spf.a.example": b"v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all",
    "_dmarc.a.example": b"v=DMARC1; p=reject; adkim=s",
    "r._domainkey.a.example": record_text(RSA.private).encode(),
    "e._domainkey.a.example": record_text(ED.private).encode(),
}
CLIENT_IP = "192.0.2.9"


class Memory:
    """The DNS, in memory."""

    async def txt(self, name: str) -> Sequence[bytes]:
        """Return the one text of a name."""
        found = TEXTS.get(name)
        return () if found is None else (found,)

    async def hosts(self, name: str, version: int) -> Sequence[Ip]:
        """Return an address that is not the client's."""
        return (ip_address("203.0.113.5"),) if version == 4 else ()

    async def exchanges(self, name: str) -> Sequence[str]:
        """Return one MX."""
        return ("mx.a.example",)

    async def pointers(self, ip: Ip) -> Sequence[str]:
        """Return nothing."""
        return ()

    async def exists(self, name: str) -> bool:
        """Tell that all exist."""
        return True


def now() -> Instant:
    """Return the time, which dkimpy looks at too."""
    return SystemClock().now()


def spin(coroutine: Coroutine[object, object, object]) -> None:
    """Run what never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")


def works() -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    names, header = Memory(), HeaderBlock.parse(FIELDS + b"\r\n" + BODY)
    fields = raw_fields(FIELDS + b"\r\n" + BODY, header)
    pem = RSA.private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    unsigned = FIELDS + b"\r\n" + BODY
    signed = sign_all([RSA], fields, BODY, now()) + unsigned
    whole = HeaderBlock.parse(signed)
    signed_fields = raw_fields(signed, whole)
    judge = Judge(JudgeSettings(), "mx.b.example", names, None, SILENT)
    client = Client(CLIENT_IP, 25, "", 0, "", helo="mx.a.example")
    envelope = Envelope(MailId(0), now(), Address("joe", "a.example"), ())

    async def checks() -> None:
        verdict = await judge.examine(client, envelope, signed, whole, now())
        assert [each.result for each in verdict.findings] == [Result.PASS] * 3, verdict

    asyncio.run(checks())
    assert dkimpy.verify(signed, dnsfunc=lambda *_, **__: TEXTS["r._domainkey.a.example"])
    pyspf.DNSLookup = _lookup
    return {
        "sign rsa-2048": lambda: sign_all([RSA], fields, BODY, now()),
        "sign ed25519": lambda: sign_all([ED], fields, BODY, now()),
        "sign both": lambda: sign_all([RSA, ED], fields, BODY, now()),
        "sign rsa-2048, dkimpy": lambda: dkimpy.sign(unsigned, b"r", b"a.example", pem),
        "verify rsa-2048": lambda: spin(dkim.verify(signed_fields, BODY, names, now())),
        "verify rsa-2048, dkimpy": lambda: dkimpy.verify(
            signed, dnsfunc=lambda *_, **__: TEXTS["r._domainkey.a.example"]
        ),
        "spf": lambda: spin(spf.check_host(names, ip_address(CLIENT_IP), "joe", "a.example", "mx.a.example")),
        "spf, pyspf": lambda: pyspf.check2(i=CLIENT_IP, s="joe@a.example", h="mx.a.example"),
    }


def _lookup(name: str, kind: str, *_: object, **__: object) -> list[tuple[tuple[str, str], object]]:
    if kind == "TXT" and name in TEXTS:
        return [((name, kind), (TEXTS[name],))]
    if kind == "MX":
        return [((name, kind), (10, "mx.a.example"))]
    return [((name, kind), "203.0.113.5")] if kind == "A" else []


def cost(work: Callable[[], object], seconds: float) -> float:
    """Return microseconds of processor time a call."""
    calls, begin = 0, time.process_time()
    while time.process_time() - begin < seconds:
        for _ in range(10):
            work()
        calls += 10
    return (time.process_time() - begin) / calls * 1e6


async def step_cost(seconds: float) -> float:
    """Return microseconds a mail of the genuine step, inside one event loop as in the server."""
    names, raw = Memory(), FIELDS + b"\r\n" + BODY
    signed = sign_all([RSA], raw_fields(raw, HeaderBlock.parse(raw)), BODY, now()) + raw
    judge = Judge(JudgeSettings(), "mx.b.example", names, None, SILENT)
    client = Client(CLIENT_IP, 25, "", 0, "", helo="mx.a.example")
    envelope = Envelope(MailId(0), now(), Address("joe", "a.example"), ())
    header, calls, begin = HeaderBlock.parse(signed), 0, time.process_time()
    while time.process_time() - begin < seconds:
        await judge.examine(client, envelope, signed, header, now())
        calls += 1
    return (time.process_time() - begin) / calls * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each work in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    todo = works()
    found: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for name, work in todo.items():
            found.setdefault(name, []).append(cost(work, given.seconds))
        found.setdefault("genuine step", []).append(asyncio.run(step_cost(given.seconds)))
    rows = {name: (statistics.median(each), min(each), max(each)) for name, each in found.items()}
    if given.json:
        print(json.dumps({name: {"us": us, "per_second": 1e6 / us} for name, (us, _, _) in rows.items()}, indent=2))
        return
    for name, (us, least, most) in rows.items():
        print(f"{name:26}{us:9.1f} us  ({least:.1f} to {most:.1f}){1e6 / us:12,.0f}/s")


if __name__ == "__main__":
    main()
