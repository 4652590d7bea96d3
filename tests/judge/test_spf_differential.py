"""Generated policies in a generated DNS: pyspf comes to the same result, or the reason why not is written here."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

import pytest
import spf as pyspf

from gatepost.codec.spf import Ip
from gatepost.judge.spf import Trouble, check_host
from tests.support.loop import run

CASES: Final = 1_000
DEEP_CASES: Final = 20_000
DOMAINS: Final = tuple(f"d{n}.example" for n in range(5))
HOSTS: Final = tuple(f"h{n}.d{n % 5}.example" for n in range(8))
IPS: Final = ("192.0.2.1", "192.0.2.77", "198.51.100.9", "2001:db8::1", "2001:db8:1::9")
MACROS: Final = ("%{i}.x.example", "%{ir}.%{v}.x.example", "%{s}.x.example", "%{l}.x.example", "%{d2}", "%{h}")


@dataclass
class Dns:
    """Records by (name, type); names in `silent` are not answered. Serves both verifiers."""

    records: dict[tuple[str, str], list[object]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)

    def find(self, name: str, kind: str) -> list[object]:
        name = name.lower().rstrip(".")
        if name in self.silent:
            raise Trouble(name)
        return self.records.get((name, kind), [])

    async def txt(self, name: str) -> Sequence[bytes]:
        return [str(each).encode() for each in self.find(name, "TXT")]

    async def hosts(self, name: str, version: int) -> Sequence[Ip]:
        return [ip_address(str(each)) for each in self.find(name, "A" if version == 4 else "AAAA")]

    async def exchanges(self, name: str) -> Sequence[str]:
        return [str(each) for each in self.find(name, "MX")]

    async def pointers(self, ip: Ip) -> Sequence[str]:
        return [str(each) for each in self.find(ip.reverse_pointer, "PTR")]

    def lookup(self, name: str, kind: str, _tcp: bool = True, _timeout: float = 30) -> list[object]:
        """Answer as pyspf wants it."""
        try:
            found = self.find(name, kind)
        except Trouble:
            raise pyspf.TempError("DNS " + name) from None
        match kind:
            case "TXT":
                return [((name, kind), [str(each).encode()]) for each in found]
            case "MX":
                return [((name, kind), (10 + n, each)) for n, each in enumerate(found)]
            case "AAAA":
                return [((name, kind), ip_address(str(each)).packed) for each in found]
            case _:
                return [((name, kind), each) for each in found]


class Maker:
    """Makes a DNS, and a client in it, of one seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def dns(self) -> Dns:
        """Return what the DNS has."""
        chance, made = self.chance, Dns()
        for domain in DOMAINS:
            texts = [self.policy() for _ in range(chance.choice((1, 1, 1, 1, 1, 1, 0, 2)))]
            made.records[domain, "TXT"] = [*texts, *chance.choice(([], [], ["other=text"]))]
            made.records[domain, "MX"] = list(chance.sample(HOSTS, chance.randrange(4)))
        for host in (*HOSTS, *DOMAINS):
            made.records[host, "A"] = [ip for ip in chance.sample(IPS, 2) if ":" not in ip]
            made.records[host, "AAAA"] = [ip for ip in chance.sample(IPS, 2) if ":" in ip]
        for ip in IPS:
            made.records[ip_address(ip).reverse_pointer, "PTR"] = list(chance.sample(HOSTS, chance.randrange(3)))
            if chance.random() < 0.3:
                made.records[f"{ip}.x.example", "A"] = ["127.0.0.2"]
        if chance.random() < 0.15:
            made.silent.add(chance.choice((*DOMAINS, *HOSTS)))
        return made

    def policy(self) -> str:
        chance = self.chance
        terms = [self.term() for _ in range(chance.randrange(6))]
        if chance.random() < 0.7:
            terms.append(chance.choice("+-~?") + "all")
        if chance.random() < 0.2:
            terms.insert(chance.randrange(len(terms) + 1), f"redirect={self.name()}")
        if chance.random() < 0.1:
            terms.insert(chance.randrange(len(terms) + 1), f"exp={self.name()}")
        return " ".join(["v=spf1", *terms])

    def term(self) -> str:
        chance = self.chance
        qualifier = chance.choice(("", "", "", "+", "-", "~", "?"))
        match chance.randrange(16):
            case 0 | 1:
                return qualifier + "a" + self.at() + self.width()
            case 2 | 3:
                return qualifier + "mx" + self.at() + self.width()
            case 4 | 5:
                return (
                    qualifier
                    + "ip4:"
                    + chance.choice(("192.0.2.0/24", "192.0.2.1", "198.51.100.0/22", "0.0.0.0/0"))
                )
            case 6:
                return qualifier + "ip6:" + chance.choice(("2001:db8::/32", "2001:db8::1", "2001:db8:1::/64"))
            case 7 | 8 | 9:
                return qualifier + "include:" + self.name()
            case 10:
                return qualifier + "exists:" + chance.choice(MACROS)
            case 11:
                return qualifier + "ptr" + self.at()
            case 12:
                return qualifier + "a:" + chance.choice(MACROS)
            case 13:
                return chance.choice(
                    ("ip4:192.0.2.300", "ip4:192.0.2.1/33", "foo", "foo=bar", "include", "a:", "mx:/24")
                )
            case _:
                return qualifier + chance.choice(("a", "mx", "ip4:192.0.2.77"))

    def at(self) -> str:
        return f":{self.name()}" if self.chance.random() < 0.6 else ""

    def width(self) -> str:
        return self.chance.choice(("", "", "", "/24", "/32", "//64", "/24//48", "/0"))

    def name(self) -> str:
        return self.chance.choice((*DOMAINS, *DOMAINS, *HOSTS, "gone.example"))

    def client(self) -> tuple[str, str, str, str]:
        """Return address, local part, domain and greeting."""
        chance = self.chance
        return (
            chance.choice(IPS),
            chance.choice(("ann", "j.doe", "x+y")),
            chance.choice(DOMAINS),
            chance.choice(HOSTS),
        )


def excused(ours: str, theirs: str, said: str, policies: str) -> str:
    """Return why pyspf may come to another result; empty for no reason."""
    if theirs == "permerror" and "trivial recursion" in said:
        return "it refuses an include of the domain itself at sight; §4.6.4 knows limits alone"
    if theirs == "permerror" and "Void lookup limit" in said and ("mx" in policies or "ptr" in policies):
        return "it counts each query of mx and ptr; §4.6.4 counts the terms that find nothing"
    if theirs == "temperror" and "ptr" in policies:
        return "an address that is not told fails its ptr; §5.5 skips that name"
    if theirs == "temperror" and "mx" in policies:
        return "it asks for the addresses of all MX hosts; §5.4 ends at the one that matches"
    if theirs == "permerror" and "at most once: foo" in said:
        return "it refuses an unknown modifier that comes twice; §6 has them ignored"
    return ""


def compared(seed: int) -> tuple[str, str, str, str]:
    """Return our result, theirs, why they may differ, and what was asked."""
    maker = Maker(seed)
    dns, (ip, local, domain, helo) = maker.dns(), maker.client()
    ours = run(check_host(dns, ip_address(ip), local, domain, helo))
    pyspf.DNSLookup = dns.lookup
    asked = pyspf.query(i=ip, s=f"{local}@{domain}", h=helo, strict=True, querytime=0)
    theirs, _, said = asked.check()
    policies = str({name: texts for (name, kind), texts in dns.records.items() if kind == "TXT"})
    told = f"{seed}: {ip} {local}@{domain} {helo} {policies} {ours.reason} / {said}"
    return ours.result.value, theirs, excused(ours.result.value, theirs, said, policies), told


def test_pyspf_comes_to_the_same_result_or_there_is_a_reason(deep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyspf, "DNSLookup", None)  # as it was, afterwards
    cases = DEEP_CASES if deep else CASES
    seen: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for seed in range(cases):
        ours, theirs, why, case = compared(seed)
        seen[ours] += 1
        if ours != theirs:
            assert why, f"{ours}, pyspf {theirs}: {case}"
            reasons[why] += 1
    assert len(seen) == 7, seen  # each result came about
    assert reasons.total() < 0.03 * cases, reasons
