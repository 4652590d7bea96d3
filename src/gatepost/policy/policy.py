"""The policy of this server: what becomes of one recipient of one mail."""

from collections.abc import Iterable
from dataclasses import replace

from gatepost.base.address import Address, ReversePath, fold, fold_domain
from gatepost.base.clock import Instant
from gatepost.base.envelope import Client
from gatepost.base.reply import Refusal
from gatepost.policy.action import Delivery, Route, ToRelay
from gatepost.policy.expand import LOOP, Directory, Expansion, names_us
from gatepost.policy.match import Facts, is_local
from gatepost.policy.rules import Ruleset
from gatepost.policy.settings import PolicySettings
from gatepost.policy.table import AddressList

OURSELVES = Client(ip="127.0.0.1", port=0, local_ip="127.0.0.1", local_port=0, listener="own")
"""The client of mail that this server makes itself."""


class Policy:
    """Ask `route` at each RCPT. `renew` takes other rules while mail flows: both are read whole beforehand."""

    def __init__(self, settings: PolicySettings, ruleset: Ruleset, *, own_names: Iterable[str] = ()) -> None:
        """Make it from settings and the rules read from them. `own_names`: the server's name(s)."""
        names = ("localhost", *own_names)
        self._hostname = names[1] if len(names) > 1 else names[0]
        self._own_names = frozenset(fold_domain(name) for name in names)
        self._take(settings, ruleset)

    @property
    def settings(self) -> PolicySettings:
        """Return the settings of the rules in force."""
        return self._settings

    def renew(self, settings: PolicySettings, ruleset: Ruleset) -> None:
        """Use other rules from the next recipient on."""
        self._ruleset.close()
        self._take(settings, ruleset)

    def _take(self, settings: PolicySettings, ruleset: Ruleset) -> None:
        self._settings, self._ruleset = settings, ruleset
        self._own_addresses = frozenset(settings.own_addresses)
        self._srs = ruleset.srs and ruleset.srs.at(self._hostname)

    async def route(
        self,
        client: Client,
        envelope_sender: ReversePath,
        recipient: Address,
        *,
        directory: Directory,
        now: Instant | None = None,
    ) -> tuple[Delivery, ...]:
        """Return the deliveries of one recipient, at least one; raises Refusal.

        With `now` rewritten addresses of ours lead to whom they stand for.
        """
        facts = Facts(
            ip=client.ip,
            local=is_local(
                client, self._own_addresses, authenticated_is_local=self._settings.authenticated_is_local
            ),
            sender=envelope_sender,
            recipient=recipient,
            own=await directory.is_local(recipient.domain),
            local_name=names_us(recipient, self._own_names),
            tag=client.tag,
            user=client.user,
            helo=client.helo,
            rdns=client.rdns,
            tls=client.tls is not None,
        )
        expansion = Expansion(
            self._ruleset, directory, facts, subaddress=self._settings.subaddress, own_names=self._own_names
        )
        srs = self._srs
        if srs is not None and now is not None and srs.ours(recipient):
            await expansion.visit(srs.owner(recipient, now), 1)
        else:
            await expansion.visit(recipient)
        if not expansion.deliveries:
            raise Refusal(LOOP, detail=f"{recipient} leads to nothing but itself")
        if srs is None and not self._ruleset.smarthosts:
            return expansion.deliveries
        return await self._outward(envelope_sender, recipient, expansion.deliveries, directory)

    async def _outward(
        self, sender: ReversePath, recipient: Address, deliveries: tuple[Delivery, ...], directory: Directory
    ) -> tuple[Delivery, ...]:
        """Return the deliveries as they leave: with the sender that they show, by the server for that sender."""
        srs, hosts = self._srs, self._ruleset.smarthosts
        strange = srs is not None and sender is not None and not await directory.is_local(sender.domain)
        left = []
        for each in deliveries:
            shown = sender
            forwarded = isinstance(each, ToRelay) and each.recipient.key != recipient.key
            rewrites = strange and forwarded
            if rewrites and srs is not None:
                shown = Address("SRS0", srs.domain)
            (each,) = hosts.apply(shown, (each,))
            if rewrites and isinstance(each, ToRelay) and not each.route.quick:
                each = ToRelay(each.recipient, replace(each.route, srs=True))
            left.append(each)
        return tuple(left)

    def shown(self, sender: Address, now: Instant) -> Address:
        """Return the sender that a forward shows to the next hop; the true one where nothing rewrites it."""
        return sender if self._srs is None else self._srs.outgoing(sender, now)

    async def may_send_as(self, user: str, address: Address) -> bool:
        """Tell whether the table of senders lets a user write from an address; raises Refusal."""
        senders = self._ruleset.senders
        if senders is None:
            return False
        user = fold(user)
        allowed = await senders.find((user, user.rpartition("@")[0] or user))
        return allowed is not None and address in AddressList(allowed)

    def smarthost(self, envelope_sender: ReversePath) -> tuple[str, Route] | None:
        """Return the entry of `[policy.smarthosts]` that counts for a sender, and its route."""
        return self._ruleset.smarthosts.find(envelope_sender)
