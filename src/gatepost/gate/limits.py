"""PF's limits of a source: max-src-conn and max-src-conn-rate, with its exact arithmetic (gate of one worker)."""

from dataclasses import dataclass
from typing import Final

from gatepost.gate.settings import RateSettings

SOURCES_MAX: Final = 100_000
SCALE: Final = 1000


@dataclass(slots=True)
class _Source:
    open: int = 0
    counter: int = 0
    last: int = 0


class SourceLimits:
    """One rule's counters. Times are whole seconds of a steady clock."""

    def __init__(self, settings: RateSettings) -> None:
        self._settings = settings
        self._sources: dict[str, _Source] = {}

    def opened(self, source: str, steady: float) -> str:
        """Count a connection; return why it is too much, or nothing.

        A connection that is too much counts too: tell `closed` in every case.
        """
        if not self._settings.connections and not self._settings.count:
            return ""
        found = self._sources.get(source)
        if found is None:
            if len(self._sources) >= SOURCES_MAX:
                self._forget(steady)
            found = self._sources[source] = _Source(last=int(steady))
        found.open += 1
        if self._settings.connections and found.open > self._settings.connections:
            return f"more than {self._settings.connections} connections"
        if self._settings.count and self._rate(found, int(steady)) > self._settings.count * SCALE:
            return f"more than {self._settings.count} connections in {self._settings.within:g} s"
        return ""

    def closed(self, source: str) -> None:
        """Count a connection that ended."""
        found = self._sources.get(source)
        if found is not None:
            found.open -= 1

    def _rate(self, source: _Source, moment: int) -> int:
        """Advance pf's moving count: it decays by its share of the time that went by."""
        within, passed = max(1, int(self._settings.within)), moment - source.last
        source.counter = 0 if passed >= within else source.counter - source.counter * passed // within
        source.counter += SCALE
        source.last = moment
        return source.counter

    def _forget(self, steady: float) -> None:
        """Drop the sources that have nothing open and were not seen of late."""
        old = int(steady) - max(1, int(self._settings.within))
        for name in [name for name, each in self._sources.items() if each.open <= 0 and each.last < old]:
            del self._sources[name]
