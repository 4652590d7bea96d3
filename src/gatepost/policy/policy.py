"""The policy of this server: what becomes of one recipient of one mail."""

from collections.abc import Iterable

from gatepost.base.address import Address, ReversePath, fold_domain
from gatepost.base.envelope import Client
from gatepost.base.reply import Refusal
from gatepost.policy.action import Delivery, Route
from gatepost.policy.expand import LOOP, Directory, Expansion, names_us
from gatepost.policy.match import Facts, is_local
from gatepost.policy.rules import Ruleset
from gatepost.policy.settings import PolicySettings

OURSELVES = Client(ip="127.0.0.1", port=0, local_ip="127.0.0.1", local_port=0, listener="own")
"""The client of mail that this server makes itself."""


class Policy:
    """Ask `route` at each RCPT. `renew` takes other rules while mail flows: both are read whole beforehand."""

    def __init__(self, settings: PolicySettings, ruleset: Ruleset, *, own_names: Iterable[str] = ()) -> None:
        """Make it from settings and the rules read from them. `own_names`: the server's name(s)."""
        self._settings = settings
        self._ruleset = ruleset
        self._own_names = frozenset(fold_domain(name) for name in ("localhost", *own_names))
        self._own_addresses = frozenset(settings.own_addresses)

    @property
    def settings(self) -> PolicySettings:
        """Return the settings of the rules in force."""
        return self._settings

    def renew(self, settings: PolicySettings, ruleset: Ruleset) -> None:
        """Use other rules from the next recipient on."""
        self._ruleset.close()
        self._settings, self._ruleset = settings, ruleset
        self._own_addresses = frozenset(settings.own_addresses)

    async def route(
        self, client: Client, envelope_sender: ReversePath, recipient: Address, *, directory: Directory
    ) -> tuple[Delivery, ...]:
        """Return the deliveries of one recipient, at least one; raises Refusal."""
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
        await expansion.visit(recipient)
        if not expansion.deliveries:
            raise Refusal(LOOP, detail=f"{recipient} leads to nothing but itself")
        if self._ruleset.smarthosts:
            return self._ruleset.smarthosts.apply(envelope_sender, expansion.deliveries)
        return expansion.deliveries

    def smarthost(self, envelope_sender: ReversePath) -> tuple[str, Route] | None:
        """Return the entry of `[policy.smarthosts]` that counts for a sender, and its route."""
        return self._ruleset.smarthosts.find(envelope_sender)
