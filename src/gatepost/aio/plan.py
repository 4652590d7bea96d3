"""What the supervisor is told: one JSON object, made by a short-lived child that read the configuration.

The supervisor itself never parses the configuration, so a mistake in there, or a bug in its reader, ends a child.
Standard library only.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

WORKERS_MAX = 64


@dataclass(frozen=True, slots=True)
class TcpPlan:
    """A TCP listener; `steer` sends all connections of one source to one worker."""

    name: str
    host: str
    port: int
    steer: bool = False


@dataclass(frozen=True, slots=True)
class UnixPlan:
    """A Unix stream listener; `mode` is its file's permissions."""

    name: str
    path: str
    mode: int = 0o660


@dataclass(frozen=True, slots=True)
class Plan:
    """What to bind and to start. `user` empty: stay who we are; `group` empty: the user's own."""

    data_dir: str
    workers: int = 1
    user: str = ""
    group: str = ""
    listeners: tuple[TcpPlan, ...] = ()
    unix: tuple[UnixPlan, ...] = ()
    keepers: tuple[str, ...] = ()
    """Names of the keeper processes; none are started when `workers` is 1 (they are threads then)."""
    kernel: bool = False
    """Start the process that keeps the kernel's ruleset, before privileges are dropped."""

    def to_json(self) -> str:
        """Return the one line that a plan child prints."""
        return json.dumps(asdict(self))


class Unplanned(ValueError):
    """The plan cannot be used; the text says why."""


def parse_plan(text: str) -> Plan:
    """Read what `Plan.to_json` wrote; raises Unplanned."""
    try:
        raw: dict[str, Any] = json.loads(text)  # Any: JSON; the constructors below take only what they know
        plan = Plan(
            data_dir=str(raw["data_dir"]),
            workers=int(raw.get("workers", 1)),
            user=str(raw.get("user", "")),
            group=str(raw.get("group", "")),
            listeners=tuple(TcpPlan(**each) for each in raw.get("listeners", ())),
            unix=tuple(UnixPlan(**each) for each in raw.get("unix", ())),
            keepers=tuple(str(each) for each in raw.get("keepers", ())),
            kernel=bool(raw.get("kernel", False)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unplanned(f"the plan is not one: {error}") from error
    if not 1 <= plan.workers <= WORKERS_MAX:
        raise Unplanned(f"workers must be 1 to {WORKERS_MAX}, not {plan.workers}")
    return plan
