"""SPF against the openspf suite for RFC 7208 (tests/conformance/spf, BSD-3, unchanged)."""

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gatepost.codec.spf import Ip, parse_ip
from gatepost.judge.spf import Trouble, check_host
from tests.support.loop import run

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
    outcome = run(check_host(ZoneOfScenario(zonedata), parse_ip(case["host"]), local, domain, case["helo"]))
    allowed = case["result"] if isinstance(case["result"], list) else [case["result"]]
    assert outcome.result.value in allowed, outcome.reason
