"""What a result is worth: the machine, how busy it was before the run, the commit; and where results are kept."""

import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results"
QUIET_CORES: Final = 0.15
"""Cores that others may keep busy before a run; above, the result is marked as measured under load."""

Figures = dict[str, Any]  # Any: JSON


def busy_cores(seconds: float = 2.0) -> float:
    """Return how many cores worked, on average, during the next `seconds`."""

    def ticks() -> tuple[int, int]:
        values = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(values), values[3] + values[4]

    (all_before, idle_before), _ = ticks(), time.sleep(seconds)
    all_after, idle_after = ticks()
    share = 1 - (idle_after - idle_before) / max(1, all_after - all_before)
    return round(share * (os.cpu_count() or 1), 2)


def described() -> Figures:
    """Return the machine and how busy it is now. Takes two seconds."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    busy = busy_cores()
    return {
        "cpu": models[0].split(":", 1)[1].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "busy_cores_before": busy,
        "under_load": busy > QUIET_CORES,
    }


def commit() -> str:
    """Return the commit that was measured, with + where the tree had changes; "" outside a repository."""
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+"]
    return subprocess.run(words, capture_output=True, check=False, text=True).stdout.strip()


def keep(name: str, figures: Figures, machine: Figures, path: Path | None = None) -> Path:
    """Write a result as JSON, to `path` or results/NAME.json; return where it is."""
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {
        "benchmark": name,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "machine": machine,
    }
    path.write_text(json.dumps(head | {"figures": figures}, indent=1) + "\n")
    return path
