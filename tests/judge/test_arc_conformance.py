"""ARC against the published suite (tests/conformance/arc: ValiMail's arc_test_suite, MIT, unchanged)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gatepost.base.clock import Instant
from gatepost.codec.mail.header import HeaderBlock
from gatepost.judge import arc
from gatepost.judge.judge import raw_fields
from tests.support.loop import run

SUITE: Final = Path(__file__).parent.parent / "conformance" / "arc" / "arc-validation-odd.yml"
NOW: Final = Instant(1_700_000_000_000_000)


class Zone:
    """The scenario's TXT records."""

    def __init__(self, records: dict[str, str]) -> None:
        self._records = records

    async def txt(self, name: str) -> Sequence[bytes]:
        """Return the record at `name`."""
        record = self._records.get(name)
        return [] if record is None else [record.encode()]


def cases() -> list[Any]:
    """Return every case of every scenario."""
    found = []
    for scenario in yaml.safe_load_all(SUITE.read_text()):
        for name, case in scenario["tests"].items():
            found.append(pytest.param(scenario.get("txt-records") or {}, case, id=name))
    return found


@pytest.mark.row("AUTHN-23")
@pytest.mark.parametrize(("records", "case"), cases())
def test_chain_of_the_published_suite(records: dict[str, str], case: dict[str, Any]) -> None:
    raw = case["message"].encode().replace(b"\n", b"\r\n")
    header = HeaderBlock.parse(raw)
    chain = run(arc.verify(raw_fields(raw, header), raw[header.end :], Zone(records), NOW))
    expected = (case["cv"] or "fail").lower()  # an empty cv: the chain says itself that it failed
    assert chain.result.value == expected, chain.reason
