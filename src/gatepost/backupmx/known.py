"""Refuse at RCPT whom the primary has no mail for: its list, and the primary itself.

    in the list?  yes: taken      no: 550 5.1.1
                  not told of, or the list is stale -> the primary: yes, no
                                  no answer: what the stale list says, else taken

This is asked behind the gate: who writes to a spamtrap must be caught before it hears that there is no such user,
and who is greylisted makes nobody ask the primary.
"""

from collections.abc import Sequence

from gatepost.backupmx.callahead import CallAhead
from gatepost.backupmx.kept import Kept, Notes
from gatepost.backupmx.settings import BackupSettings, Recipients
from gatepost.base.address import Address
from gatepost.base.clock import Clock, seconds
from gatepost.base.envelope import Client
from gatepost.base.reply import Refusal
from gatepost.codec.recipients import Known
from gatepost.policy.action import Delivery, Route, ToRelay
from gatepost.policy.expand import UNKNOWN


class KnownRecipients:
    """What a backup knows of the recipients of strangers; `check` is an intake.ports.Verify."""

    def __init__(self, settings: BackupSettings, kept: Kept | None, ahead: CallAhead, *, clock: Clock) -> None:
        self._settings = settings
        self._kept = kept
        self._ahead = ahead
        self._clock = clock

    async def check(self, client: Client, deliveries: Sequence[Delivery]) -> None:
        """Raise Refusal where one of the deliveries of a recipient would be refused by the primary."""
        if client.user or client.loopback:
            return  # our own users write to anybody
        for each in deliveries:
            if isinstance(each, ToRelay) and not each.route.on_disk:
                known, why = await self.ask(each.recipient, each.route)
                if known is Known.NO:
                    raise Refusal(UNKNOWN, detail=f"{each.recipient}: {why}")

    async def ask(self, address: Address, route: Route) -> tuple[Known, str]:
        """Tell whether the primary has mail for an address, and who says so."""
        match self._settings.recipients:
            case Recipients.ACCEPT_ALL:
                return Known.OPEN, "everybody is taken"
            case Recipients.CALL_AHEAD:
                return await self._ahead.ask(address, route), "the primary was asked"
            case Recipients.LIST:
                return await self._look_up(address, route)

    async def _look_up(self, address: Address, route: Route) -> tuple[Known, str]:
        listed, notes = await self._kept.current() if self._kept is not None else (None, Notes())
        known = (
            listed.knows(address, self._kept.keys) if listed is not None and self._kept is not None else Known.OPEN
        )
        if known is Known.YES or (known is Known.NO and not self._stale(notes)):
            return known, "the primary's list"
        asked = await self._ahead.ask(address, route)
        if asked is Known.OPEN and known is Known.NO:
            return known, "the primary's list, which is old"
        return asked, "the primary was asked"

    def _stale(self, notes: Notes) -> bool:
        return self._clock.now() > notes.confirmed + seconds(self._settings.stale)
