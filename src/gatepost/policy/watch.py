"""Take changed table files while mail flows: all that changed or, where one of them is wrong, nothing.

A file is looked at, not read, every `policy.watch` seconds. It is read when it looks the same twice: who writes it
may not be done. Files that tables include are not looked at; `gatepost rules tables update` reads everything.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final

from gatepost.base.ports import Log
from gatepost.base.settings import BadSetting
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load
from gatepost.policy.settings import PolicySettings

OFF_LOOK: Final = 60.0  # s between two looks at whether watching was switched on

Looks = tuple[tuple[str, int, int, int], ...]
"""Of each file its path, inode, size and time of change; a missing one has zeros."""


async def watch(policy: Policy, log: Log, pause: Callable[[float], Awaitable[None]]) -> None:
    """Renew the rules of `policy` whenever a file of their tables has changed; for ever."""
    settings = policy.settings
    known = seen = await asyncio.to_thread(looks, settings)
    while True:
        await pause(policy.settings.watch or OFF_LOOK)
        if policy.settings is not settings:  # a reload has read everything
            settings = policy.settings
            known = seen = await asyncio.to_thread(looks, settings)
            continue
        now = await asyncio.to_thread(looks, settings) if settings.watch else known
        if now != known and now == seen:
            known = now
            await _renew(policy, settings, log)
        seen = now


def looks(settings: PolicySettings) -> Looks:
    """Return how the files of all tables look now."""
    paths = [path for table in settings.tables.values() for path in (table.file, table.db)]
    return tuple(_look(path) for path in (*paths, settings.srs.key_file) if path)


async def _renew(policy: Policy, settings: PolicySettings, log: Log) -> None:
    try:
        ruleset = await asyncio.to_thread(load, settings, log.warning)
    except BadSetting as wrong:
        log.error("tables_refused", error=str(wrong), text="The old tables stay in force.")
        return
    if policy.settings is settings:
        policy.renew(settings, ruleset)
        log.info("tables_read")


def _look(path: str) -> tuple[str, int, int, int]:
    try:
        facts = os.stat(path)  # noqa: PTH116  (what a Path adds is not needed)
    except OSError:
        return path, 0, 0, 0
    return path, facts.st_ino, facts.st_size, facts.st_mtime_ns
