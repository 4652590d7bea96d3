"""Connections kept for the next mail to the same destination."""

import asyncio
from collections import defaultdict
from typing import Final

from gatepost.base.envelope import Privacy
from gatepost.policy.action import Route
from gatepost.relay.client import Session

Key = tuple[str, Route, Privacy]
"""What a session proved of its TLS is enough for the next mail that asks for the same."""
KEPT_MAX: Final = 200


class Pool:
    """Idle sessions by destination, route and privacy; each is closed after `idle` seconds."""

    def __init__(self, idle: float) -> None:
        self._idle = idle
        self._kept: dict[Key, list[tuple[Session, asyncio.TimerHandle]]] = defaultdict(list)
        self._count = 0

    def take(self, key: Key) -> Session | None:
        """Return a session that can be used, None when there is none."""
        kept = self._kept.get(key, [])
        while kept:
            session, timer = kept.pop()
            timer.cancel()
            self._count -= 1
            if session.usable:
                return session
            session.quit()
        self._kept.pop(key, None)
        return None

    def put(self, key: Key, session: Session) -> None:
        """Keep a session after a transaction, or end it when it is of no more use."""
        if not session.usable or self._idle <= 0 or self._count >= KEPT_MAX:
            session.quit()
            return
        timer = asyncio.get_running_loop().call_later(self._idle, self._expire, key, session)
        self._kept[key].append((session, timer))
        self._count += 1

    def close(self) -> None:
        """End all of them."""
        for kept in self._kept.values():
            for session, timer in kept:
                timer.cancel()
                session.quit()
        self._kept.clear()
        self._count = 0

    def _expire(self, key: Key, session: Session) -> None:
        kept = self._kept.get(key, [])
        left = [each for each in kept if each[0] is not session]
        self._count -= len(kept) - len(left)
        if left:
            self._kept[key] = left
        else:
            self._kept.pop(key, None)
        session.quit()
