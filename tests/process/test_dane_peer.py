"""DANE: `gatepost tls check --connect` and Postfix's posttls-finger say the same of the same servers.

All is in a network namespace: a resolver that vouches for its answers (AD) at 127.0.0.1:53, which both trust
because it is that near, and mail servers at port 25, which show the certificate of the host asked for (SNI).
"""

import asyncio
import contextlib
import io
import json
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.main import get_command

from gatepost.cli.tls import tls
from gatepost.codec.tlsa import Tlsa
from tests.process.namespaces import alone, in_namespace, inside
from tests.relay.authority import NOW, Paper, paper, serving
from tests.support.nexthop import NextHop
from tests.support.peers import accounts, as_installed, can_mount, cannot, unpacked
from tests.support.zone import Fault, Zone

pytestmark = pytest.mark.process

VERIFIED, REFUSED, UNUSABLE, NONE, DELAY = "verified", "refused", "any certificate", "no DANE", "delay"
OLD: Final = {"begins": NOW - timedelta(days=9), "ends": NOW - timedelta(days=2)}
ROOT = paper(common="root", authority=True)
MIDDLE = paper(common="middle", authority=True, issuer=ROOT)
STRANGER = paper(common="stranger", authority=True)
PLAIN: Final = "127.0.0.2"


@dataclass
class Case:
    """A domain of this name: its only host `mx.NAME` shows `chain`, `records` stand below it."""

    name: str
    chain: Sequence[Paper]
    records: Sequence[Tlsa]
    verdict: str
    fault: Fault | None = None
    ip: str = "127.0.0.1"
    alias: str = ""
    """Where the host's name leads; the records stand there."""

    @property
    def host(self) -> str:
        return f"mx.{self.name}"

    def zone(self) -> dict[str, dict[str, list[str]]]:
        """Return its part of the DNS."""
        records = [f"{each.usage} {each.selector} {each.matching} {each.data.hex()}" for each in self.records]
        base = self.alias or self.host
        names: dict[str, dict[str, list[str]]] = {self.name: {"MX": [f"10 {self.host}."]}, base: {"A": [self.ip]}}
        if self.alias:
            names[self.host] = {"CNAME": [f"{self.alias}."]}
        if records:
            names[f"_25._tcp.{base}"] = {"TLSA": records}
        return names


def _forms() -> Iterator[Case]:
    """Return all selectors and kinds of matching, of usages 2 and 3."""
    for selector in (0, 1):
        for matching in (0, 1, 2):
            name = f"{selector}{matching}.example"
            own, below = paper(f"mx.ee-{name}"), paper(f"mx.ta-{name}", issuer=MIDDLE)
            yield Case(f"ee-{name}", [own], [own.tlsa(3, selector, matching)], VERIFIED)
            yield Case(f"ta-{name}", [below, MIDDLE, ROOT], [ROOT.tlsa(2, selector, matching)], VERIFIED)
            for usage in (2, 3):
                wrong = STRANGER.tlsa(usage, selector, matching)
                yield Case(f"wrong-{usage}-{name}", [below, MIDDLE, ROOT], [wrong], REFUSED)
            # What the DNS shows whole, the server need not show.
            absent = paper(f"mx.absent-{name}", issuer=MIDDLE)
            verdict = REFUSED if matching else VERIFIED
            yield Case(f"absent-{name}", [absent, MIDDLE], [ROOT.tlsa(2, selector, matching)], verdict)


def _below(name: str, *names: str, issuer: Paper = ROOT, verdict: str = REFUSED, **more: object) -> Case:
    """Return a server's certificate below an authority that the record names."""
    leaf = paper(*(names or (f"mx.{name}",)), issuer=issuer, **more)  # type: ignore[arg-type]  # fields by name
    return Case(name, [leaf, issuer], [issuer.tlsa(2)], verdict)


def _constrained(name: str, permitted: str, verdict: str) -> Case:
    tight = paper(common="tight", authority=True, issuer=ROOT, permitted=[x509.DNSName(permitted)])
    return Case(name, [paper(f"mx.{name}", issuer=tight), tight, ROOT], [ROOT.tlsa(2)], verdict)


def _cases() -> Iterator[Case]:
    yield from _forms()
    own, old = paper("mx.own.example"), paper("mx.old.example", **OLD)  # type: ignore[arg-type]  # fields by name
    right, wrong = own.tlsa(3), STRANGER.tlsa(3)
    yield Case("none.example", [own], [], NONE)
    yield Case("bogus.example", [own], [right], DELAY, fault=Fault.SERVFAIL)
    yield Case("old.example", [old], [old.tlsa(3)], VERIFIED)
    yield Case("others-name.example", [own], [right], VERIFIED)
    yield Case("between.example", [paper("mx.between.example", issuer=MIDDLE), MIDDLE], [MIDDLE.tlsa(2)], VERIFIED)
    yield Case("one-of-two.example", [own], [wrong, right], VERIFIED)
    yield Case("weak-digest.example", [own], [right, STRANGER.tlsa(3, 1, 2)], REFUSED)
    yield Case("pkix.example", [own], [own.tlsa(0), own.tlsa(1)], UNUSABLE)
    yield Case("pkix-and-ee.example", [own], [STRANGER.tlsa(1), right], VERIFIED)
    odd = [Tlsa(3, 1, 9, right.data), Tlsa(3, 7, 1, right.data), Tlsa(9, 1, 1, right.data)]
    yield Case("odd.example", [own], odd, UNUSABLE)
    yield Case("plain.example", [own], [right], REFUSED, ip=PLAIN)
    boxed = paper("box.hosting.example")
    yield Case("alias.example", [boxed], [boxed.tlsa(3)], VERIFIED, alias="box.hosting.example")
    itself = paper("mx.itself.example", authority=True)
    yield Case("itself.example", [itself], [itself.tlsa(2)], REFUSED)
    yield _below("old-ta.example", **OLD)  # type: ignore[arg-type]  # fields by name
    yield _below("wrong-name.example", "mx.elsewhere.example")
    yield _below("domains-name.example", "domains-name.example", verdict=VERIFIED)
    yield _below("wild.example", "*.wild.example", verdict=VERIFIED)
    yield _below("wild-deep.example", "*.example")
    yield _below("client.example", uses=(ExtendedKeyUsageOID.CLIENT_AUTH,))
    yield _below("unknown.example", critical=True)
    none = paper(common="none", issuer=ROOT)
    leaf = paper("mx.no-authority.example", issuer=none)
    yield Case("no-authority.example", [leaf, none, ROOT], [ROOT.tlsa(2)], REFUSED)
    yield _constrained("may.example", "may.example", VERIFIED)
    yield _constrained("may-not.example", "elsewhere.example", REFUSED)


CASES: Final = {case.name: case for case in _cases()}


@contextlib.contextmanager
def _world(namespace: str) -> Iterator[None]:
    """Serve all cases inside the namespace."""
    ready, ends = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        records = {name: sets for case in CASES.values() for name, sets in case.zone().items()}
        faults = {f"_25._tcp.{case.host}": case.fault for case in CASES.values() if case.fault}
        zone = Zone(records, secure=True, faults=faults, port=53)
        async with zone, NextHop(tls=_shown(), port=25), NextHop(host=PLAIN, port=25):
            loops.append(asyncio.get_running_loop())
            ready.set()
            await ends.wait()

    thread = threading.Thread(target=inside, args=(namespace, lambda: asyncio.run(serve())))
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        for loop in loops:
            loop.call_soon_threadsafe(ends.set)
        thread.join(10)


def _shown() -> ssl.SSLContext:
    """Return a context that shows each host's chain to who asks for its name."""
    with tempfile.TemporaryDirectory() as folder:
        made = {case.alias or case.host: serving(Path(folder), *case.chain) for case in CASES.values()}
        usual = serving(Path(folder), STRANGER)

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = made.get(name or "", usual)

    usual.sni_callback = choose
    return usual


def _ours() -> dict[str, str]:
    """Ask the command, within the namespace."""
    return {name: _our_verdict(name) for name in CASES}


def _our_verdict(name: str) -> str:
    words = ["check", name, "--dns", "127.0.0.1:53", "--connect", "--json"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = get_command(tls).main(words, "gatepost", standalone_mode=False)
    (row,) = json.loads(out.getvalue())
    proof = row["proof"]
    assert (status == 1) is not (proof is not None and proof["good"]), row
    match row["asks"]:
        case "dane":
            return VERIFIED if proof["good"] else REFUSED
        case "encrypt":
            return UNUSABLE
        case "may":
            return NONE
    return str(row["asks"])


def _asked(namespace: str, folder: Path) -> "subprocess.Popen[str]":
    """Ask posttls-finger about all cases, in the namespace and with this resolver."""
    own = folder / "postfix"
    accounts(own, {"postfix": 9_101, "postdrop": 9_102})
    (own / "var").mkdir()
    (own / "etc" / "postfix").mkdir()
    (own / "etc" / "postfix" / "main.cf").write_text("compatibility_level = 3.6\nmyhostname = here.example\n")
    (own / "etc" / "resolv.conf").write_text("nameserver 127.0.0.1\noptions trust-ad\n")
    command = 'posttls-finger -c -l dane -L routine,certmatch,verbose "$name" 2>&1'
    script = f'for name; do echo "== $name"; {command}; done'
    argv = as_installed(unpacked("postfix"), own, "sh", "-c", script, "sh", *CASES)
    return subprocess.Popen(in_namespace(namespace, *argv), stdout=subprocess.PIPE, text=True)


def _their_verdict(said: str) -> str:
    if "Verified TLS connection established" in said:
        return VERIFIED
    if "TLSA lookup error" in said:
        return DELAY
    if "all TLSA records unusable" in said:
        return UNUSABLE
    if "DNSSEC-signed TLSA record:" in said:
        return REFUSED
    return UNUSABLE if "unsupported TLSA certificate usage" in said else NONE


@dataclass(frozen=True)
class Verdicts:
    """By case; `said` is what posttls-finger wrote."""

    ours: dict[str, str]
    said: dict[str, str]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    if why := can_mount():
        cannot(f"mount: {why}")
    folder = tmp_path_factory.mktemp("dane")
    with alone() as namespace, _world(namespace):
        finger = _asked(namespace, folder)
        try:
            ours = inside(namespace, _ours)
            out, _ = finger.communicate(timeout=60)
        finally:
            finger.kill()
            finger.communicate()
    parts = [part.partition("\n") for part in out.split("== ")[1:]]
    return Verdicts(ours, {name: said for name, _, said in parts})


@pytest.mark.peer("postfix")
@pytest.mark.parametrize("name", CASES)
def test_both_give_the_same_verdict(verdicts: Verdicts, name: str) -> None:
    theirs = _their_verdict(verdicts.said[name])
    assert (verdicts.ours[name], theirs) == (CASES[name].verdict, CASES[name].verdict), verdicts.said[name]
