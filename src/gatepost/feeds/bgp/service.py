"""The BGP feed as a server runs it: read what it is to do, do it, and take another plan at a reload."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from gatepost.base.clock import Clock
from gatepost.base.ports import Log
from gatepost.feeds.bgp.connect import Speaker
from gatepost.feeds.bgp.door import door_path
from gatepost.feeds.bgp.feed import BgpFeed, Tables
from gatepost.feeds.bgp.link import Linked
from gatepost.feeds.bgp.plan import Plan, compose, own_addresses
from gatepost.feeds.bgp.settings import BgpSettings


class BgpService:
    """The feed of one server. A bgpd.conf that cannot be used stops the feed, never the mail."""

    def __init__(
        self,
        settings: BgpSettings,
        tables: Tables,
        *,
        own: Sequence[str],
        clock: Clock,
        log: Log,
        data_dir: Path,
        connect: Linked | None = None,
    ) -> None:
        """Make it.

        `own` are addresses at which this server is reached, besides those of its interfaces; `connect` makes links,
        if not by TCP.
        """
        self._settings = settings
        self._tables = tables
        self._speaker = Speaker(clock=clock, log=log)
        self._connect = connect or self._speaker.link
        self._own = own
        self._clock = clock
        self._log = log
        self._data_dir = data_dir
        self._feed: BgpFeed | None = None
        self._mended: asyncio.Future[Plan]
        self._task: asyncio.Task[object] | None = None

    async def run(self) -> None:
        """Feed the tables until cancelled."""
        self._task = asyncio.current_task()
        self._mended = asyncio.get_running_loop().create_future()
        try:
            plan = await self._compose(self._settings)
        except (ValueError, OSError) as wrong:
            self._log.error("bgp_refused", error=str(wrong), text="There is no BGP feed until it is mended.")
            plan = await self._mended
        self._feed = BgpFeed(
            plan, self._tables, self._connect, clock=self._clock, log=self._log, door=door_path(self._data_dir)
        )
        try:
            await self._feed.run()
        finally:
            self._speaker.close()

    async def renew(self, settings: BgpSettings) -> None:
        """Read settings and bgpd.conf anew; raises ValueError or OSError, and then all goes on as it is."""
        plan = await self._compose(settings)
        self._settings = settings
        if self._feed is not None:
            await self._feed.renew(plan)
        elif self._task is not None and not self._mended.done():
            self._mended.set_result(plan)

    def leave(self) -> None:
        """End all sessions; the tables stay as they are, for the server that comes next."""
        if self._task is not None:
            self._task.cancel()

    async def _compose(self, settings: BgpSettings) -> Plan:
        return await asyncio.to_thread(lambda: compose(settings, own_addresses(self._own)))
