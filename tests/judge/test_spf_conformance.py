"""SPF against the openspf suite for RFC 7208 (tests/conformance/spf, BSD-3, unchanged)."""

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import dns.name
import pytest
import yaml

from gatepost.aio.clock import SystemClock
from gatepost.aio.resolve import Resolver
from gatepost.base.verdict import Result
from gatepost.codec.spf import Ip, parse_ip
from gatepost.judge.names import ResolvedNames
from gatepost.judge.spf import Trouble, check_host
from tests.support.loop import run
from tests.support.zone import Fault, Zone

SUITE: Final = Path(__file__).parent.parent / "conformance" / "spf" / "rfc7208-tests.yml"
Record = Any  # the suite's own loose YAML: a string, or a mapping of one type to its value


class ZoneOfScenario:
    """The suite's zonedata answering as DNS: TIMEOUT entries are trouble, SPF records also stand as TXT."""

    def __init__(self, zonedata: dict[str, list[Record]]) -> None:
        self._zone = {name.lower().rstrip("."): records for name, records in zonedata.items()}

    def _ask(self, name: str, kind: str, depth: int = 0) -> list[Any]:
        records = self._zone.get(name.lower().rstrip("."), [])
        found: list[Any] = []
        trouble = False
        for record in records:
            if record == "TIMEOUT":
                trouble = True
                continue
            ((rtype, value),) = record.items()
            if rtype == kind and value == "TIMEOUT":
                trouble = True
            elif rtype == kind:
                found.append(value)
            elif rtype == "CNAME" and depth < 8:
                return self._ask(value, kind, depth + 1)
        if trouble and not found:
            raise Trouble(name)
        return found

    async def txt(self, name: str) -> Sequence[bytes]:
        """Return TXT records; where the suite gives only SPF ones, those stand for both."""
        records = self._zone.get(name.lower(), [])
        has_txt = any(isinstance(record, dict) and "TXT" in record for record in records)
        values = [value for value in self._ask(name, "TXT") if value != "NONE"]
        if not values and "TIMEOUT" in records:
            raise Trouble(name)
        if not has_txt and not values:
            values = self._ask(name, "SPF")
        texts = ["".join(value) if isinstance(value, list) else value for value in values]
        return [text.encode("latin-1" if all(ord(c) < 256 for c in text) else "utf-8") for text in texts]

    async def hosts(self, name: str, version: int) -> Sequence[Ip]:
        """Return addresses of one family."""
        return [ip_address(value) for value in self._ask(name, "A" if version == 4 else "AAAA")]

    async def exchanges(self, name: str) -> Sequence[str]:
        """Return MX host names by preference."""
        return [host for _, host in sorted(self._ask(name, "MX"))]

    async def pointers(self, ip: Ip) -> Sequence[str]:
        """Return PTR names."""
        return self._ask(ip.reverse_pointer, "PTR")


def _cases() -> list[Any]:
    cases = []
    for scenario in yaml.safe_load_all(SUITE.read_text()):
        for name, case in scenario["tests"].items():
            cases.append(pytest.param(scenario["zonedata"], case, id=f"{scenario['description']}-{name}"))
    return cases


@pytest.mark.row("AUTHN-15", "AUTHN-16", "AUTHN-17")
@pytest.mark.parametrize(("zonedata", "case"), _cases())
def test_openspf_case(zonedata: dict[str, list[Record]], case: dict[str, Any]) -> None:
    sender = case["mailfrom"] or f"postmaster@{case['helo']}"
    local, _, domain = sender.rpartition("@")
    zone = ZoneOfScenario(zonedata)
    us = ("receiver.example", 1_700_000_000)
    outcome = run(check_host(zone, parse_ip(case["host"]), local, domain, case["helo"], explain_as=us))
    allowed = case["result"] if isinstance(case["result"], list) else [case["result"]]
    assert outcome.result.value in allowed, outcome.reason
    if outcome.result is Result.FAIL and "explanation" in case:
        assert outcome.explanation == case["explanation"].replace("DEFAULT", "")


def _presented(text: str) -> str:
    """Return a character-string in presentation form (RFC 1035 §5.1)."""
    octets = text.encode("latin-1" if all(ord(c) < 256 for c in text) else "utf-8")
    return '"' + "".join(chr(o) if 32 <= o < 127 and chr(o) not in '"\\' else f"\\{o:03d}" for o in octets) + '"'


def _records(zonedata: dict[str, list[Record]]) -> tuple[dict[str, dict[str, list[str]]], dict[str, Fault]]:
    """Return a scenario's data for the DNS double: SPF records stand as TXT where there are no TXT ones."""
    records: dict[str, dict[str, list[str]]] = {}
    faults: dict[str, Fault] = {}
    for name, entries in zonedata.items():
        labels = [label.encode() for label in name.rstrip(".").split(".")]
        shown = dns.name.Name(labels).to_text() if all(0 < len(label) < 64 for label in labels) else name
        sets = records.setdefault(shown, {})
        texts = [entry["TXT"] for entry in entries if isinstance(entry, dict) and "TXT" in entry]
        has_text = any(text not in ("NONE", "TIMEOUT") for text in texts)
        for entry in entries:
            if entry == "TIMEOUT" or "TIMEOUT" in entry.values():
                if not has_text:
                    faults[name.lower().rstrip(".")] = Fault.SERVFAIL
                continue
            ((kind, value),) = entry.items()
            if kind in ("TXT", "SPF"):
                if value != "NONE" and not (kind == "SPF" and texts):
                    strings = value or [""] if isinstance(value, list) else [value]
                    sets.setdefault("TXT", []).append(" ".join(_presented(each) for each in strings))
            elif kind == "MX":
                sets.setdefault("MX", []).append(
                    f"{value[0]} {value[1].rstrip('.')}." if value[1] else f"{value[0]} ."
                )
            elif kind in ("CNAME", "PTR"):
                sets.setdefault(kind, []).append(value.rstrip(".") + ".")
            else:
                sets.setdefault(kind, []).append(value)
    return records, faults


SCENARIOS: Final = [pytest.param(each, id=each["description"]) for each in yaml.safe_load_all(SUITE.read_text())]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_openspf_scenario_through_the_resolver(scenario: dict[str, Any]) -> None:
    """The same cases with real DNS messages between: every name goes through the resolver and its cache."""
    records, faults = _records(scenario["zonedata"])

    async def play() -> dict[str, tuple[str, str]]:
        results = {}
        async with Zone(records, faults=faults) as zone:
            resolver = Resolver([zone.address], clock=SystemClock())
            for name, case in scenario["tests"].items():
                sender = case["mailfrom"] or f"postmaster@{case['helo']}"
                local, _, domain = sender.rpartition("@")
                names = ResolvedNames(resolver)
                outcome = await check_host(names, parse_ip(case["host"]), local, domain, case["helo"])
                results[name] = (outcome.result.value, outcome.reason)
            await resolver.close()
        return results

    for name, (result, reason) in run(play()).items():
        allowed = scenario["tests"][name]["result"]
        assert result in (allowed if isinstance(allowed, list) else [allowed]), f"{name}: {reason}"
