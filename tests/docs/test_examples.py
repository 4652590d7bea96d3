"""The examples are configurations that work as they stand."""

from pathlib import Path

import pytest

from gatepost.config import load
from gatepost.policy.rules import load as load_rules
from tests.pages import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*/gatepost.toml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_an_example_is_good_as_it_stands(file: Path) -> None:
    config = load(file)
    assert config.server.hostname
    assert load_rules(config.policy).rules


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_what_an_example_has_commented_out_is_good_too(file: Path, tmp_path: Path) -> None:
    """Settings that lie ready behind `# ` must not rot; prose between them starts with a capital."""
    lines = []
    for line in file.read_text().split("\n"):
        bare = line.removeprefix("# ")
        setting = bare.startswith("[") or (" = " in bare and bare.split(" = ")[0].isidentifier())
        lines.append(bare if line.startswith("# ") and setting else line)
    alive = tmp_path / "gatepost.toml"
    alive.write_text("\n".join(lines))
    config = load(alive)
    assert config.tls.certificates
    assert config.gate.tables
    assert load_rules(config.policy).rules


def test_there_are_examples() -> None:
    assert [file.parent.name for file in EXAMPLES] == ["daisy-chain", "home"]
