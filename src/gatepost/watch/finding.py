"""What a look at one thing gave."""

from dataclasses import dataclass
from enum import Enum

from gatepost.watch.records import Record


class State(Enum):
    """How it is; problems keep mail away."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `check` names it, `subject` what was looked at, `add` are the records that mend it."""

    check: str
    subject: str
    state: State
    text: str
    add: tuple[Record, ...] = ()

    @property
    def incident(self) -> str:
        """Return what it is known by as long as it is not mended."""
        return f"doctor {self.check} {self.subject}"

    def facts(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "check": self.check, "subject": self.subject, "state": self.state.value, "text": self.text,
            "add": [record.facts() for record in self.add],
        }  # fmt: skip


def ok(check: str, subject: str, text: str) -> Finding:
    """Return that nothing is to do."""
    return Finding(check, subject, State.OK, text)


def warning(check: str, subject: str, text: str, *add: Record) -> Finding:
    """Return what should be better."""
    return Finding(check, subject, State.WARNING, text, add)


def problem(check: str, subject: str, text: str, *add: Record) -> Finding:
    """Return what keeps mail away."""
    return Finding(check, subject, State.PROBLEM, text, add)


def unknown(check: str, subject: str, text: str) -> Finding:
    """Return that it could not be looked at."""
    return Finding(check, subject, State.UNKNOWN, text)
