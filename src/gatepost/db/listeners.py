"""Who wants to hear of which topic."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

from gatepost.db.unit import Notice


class Listeners:
    """Calls whoever listens, on the loop."""

    def __init__(self) -> None:
        self._heard: dict[str, list[Callable[[int], None]]] = defaultdict(list)

    def add(self, topic: str, heard: Callable[[int], None]) -> Callable[[], None]:
        """Register; return the way to stop, which may be called twice."""
        self._heard[topic].append(heard)

        def stop() -> None:
            if heard in self._heard[topic]:
                self._heard[topic].remove(heard)

        return stop

    def tell(self, notices: Sequence[Notice]) -> None:
        """Call everybody who listens; one who fails is reported and keeps nobody else from hearing."""
        for topic, key in notices:
            for heard in tuple(self._heard.get(topic, ())):
                _call(heard, key)

    def tell_everything(self) -> None:
        """Call everybody with key 0: news may have been missed, anything may have changed."""
        for hears in tuple(self._heard.values()):
            for heard in tuple(hears):
                _call(heard, 0)


def _call(heard: Callable[[int], None], key: int) -> None:
    try:
        heard(key)
    except Exception as bug:
        asyncio.get_running_loop().call_exception_handler({"message": "a listener failed", "exception": bug})
