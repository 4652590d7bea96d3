"""Find the real programs that tests talk to; say in one way why a test was left out."""

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

MACHINE_CANNOT: Final = "this machine cannot: "
"""The one kind of skip that CI allows: what no set-up could bring here (a kernel without a feature)."""


def program(name: str, *places: str) -> str:
    """Return the path of a real program; skip the test where it is missing, fail it where set-up brought it."""
    found = shutil.which(name) or next((place for place in places if Path(place).exists()), None)
    if found is not None:
        return found
    if os.environ.get("GATEPOST_PEERS") == "required":
        pytest.fail(f"{name} should be installed here and is not")
    pytest.skip(f"{name} is not installed (dev.py test installs it where root and apt are there)")


def cannot(reason: str) -> None:
    """Leave the test out because no set-up could make this machine run it."""
    pytest.skip(MACHINE_CANNOT + reason)
