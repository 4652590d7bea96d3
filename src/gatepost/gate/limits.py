"""PF's limits: max, max-src-conn and max-src-conn-rate, with its exact arithmetic (pf.c, one worker)."""

from typing import Final

from gatepost.gate.settings import RateSettings

FORGET_EVERY: Final = 4096  # new sources between two looks for those that can be forgotten
SCALE: Final = 1000  # PF_THRESHOLD_MULT


class _Source:
    __slots__ = ("counter", "last", "open")

    def __init__(self, moment: int) -> None:
        self.open = 0
        self.counter = 0
        self.last = moment


class SourceLimits:
    """One rule's counters. Times are whole seconds of a steady clock."""

    def __init__(self, settings: RateSettings, total: int = 0) -> None:
        """Take a source's limits, and how many connections all sources may have together; 0 is no limit."""
        self.settings = settings
        self.total = total
        self._open = 0
        self._within = max(1, int(settings.within))
        self._sources: dict[str, _Source] = {}
        self._new = 0

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def full(self) -> bool:
        """Tell whether all sources have too many together (`max`), which is no source's fault: nobody is banned."""
        return self.total > 0 and self._open > self.total

    def opened(self, source: str, steady: float) -> str:
        """Count a connection; return why it is too much, or nothing.

        A connection that is too much counts too: tell `closed` in every case. One too many of `max` makes PF no
        state, so that the rate of its source does not grow by it.
        """
        settings, moment = self.settings, int(steady)
        found = self._sources.get(source)
        if found is None:
            found = self._sources[source] = _Source(moment)
            self._forget(moment)
        found.open += 1
        self._open += 1
        if self.full:
            return f"more than {self.total} connections in all"
        rate = self._rate(found, moment)
        if settings.connections and found.open > settings.connections:
            return f"more than {settings.connections} connections"
        if settings.count and rate > settings.count * SCALE:
            return f"more than {settings.count} connections in {settings.within:g} s"
        return ""

    def closed(self, source: str) -> None:
        """Count a connection that ended."""
        found = self._sources.get(source)
        if found is not None and found.open:
            found.open -= 1
            self._open -= 1

    def _rate(self, source: _Source, moment: int) -> int:
        """Advance pf_add_threshold's moving count: it decays by its share of the time that went by."""
        went = moment - source.last
        if went >= self._within:
            source.counter = 0
        else:
            source.counter -= source.counter * went // self._within
        source.counter += SCALE
        source.last = moment
        return source.counter

    def _forget(self, moment: int) -> None:
        """Drop the sources that have nothing open and whose count would begin anew."""
        self._new += 1
        if self._new >= FORGET_EVERY:
            self._new = 0
            old = moment - self._within
            for name in [name for name, each in self._sources.items() if not each.open and each.last <= old]:
                del self._sources[name]
