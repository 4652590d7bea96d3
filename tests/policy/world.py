"""A directory without a database, and a policy made of TOML-like settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gatepost.accounts.model import AccountId, Forward, Found, Mailbox, NotOurs, Unknown
from gatepost.base.address import Address
from gatepost.base.envelope import Client
from gatepost.base.reply import Refusal
from gatepost.base.settings import fill
from gatepost.policy.action import Delivery, ToMailbox, ToRelay
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load
from gatepost.policy.settings import PolicySettings
from tests.support.loop import run

STRANGER = Client(ip="198.51.100.7", port=4000, local_ip="192.0.2.1", local_port=25, listener="mx")
LOCAL = replace(STRANGER, ip="127.0.0.1", local_ip="127.0.0.1")
ANN = replace(STRANGER, user="ann@here.example")


@dataclass
class People:
    """Accounts and aliases of here.example."""

    accounts: tuple[str, ...] = ("ann@here.example", "joe@here.example")
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    domains: tuple[str, ...] = ("here.example",)

    async def is_local(self, domain: str) -> bool:
        return domain.lower() in self.domains

    async def lookup(self, address: Address, *, aliases: bool = True) -> Found:
        if not await self.is_local(address.domain):
            return NotOurs()
        for local in (address.local, address.local.partition("+")[0]):
            key = f"{local}@{address.domain}".lower()
            if aliases and key in self.aliases:
                return Forward(tuple(address_of(target) for target in self.aliases[key]))
            if key in self.accounts:
                detail = address.local[len(local) + 1 :]
                return Mailbox(AccountId(self.accounts.index(key)), key, detail)
        return Unknown()


def policy(settings: Mapping[str, object] | None = None) -> Policy:
    """Make a policy from settings as TOML would give them."""
    filled = fill(PolicySettings, settings or {}, ("policy",))
    return Policy(filled, load(filled), own_names=["mx.here.example"])


def address_of(text: str) -> Address:
    """Read local@domain."""
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


def route(
    rules: Policy,
    recipient: str,
    client: Client = STRANGER,
    people: People | None = None,
    sender: str | None = "someone@far.example",
) -> list[str]:
    """Return deliveries as text: `box ann`, `relay x@y`, `host:port x@y`."""
    origin = None if sender is None else address_of(sender)
    people = people or People()
    found = run(rules.route(client, origin, address_of(recipient), directory=people))
    return [_text(each, people) for each in found]


def refusal(
    rules: Policy, recipient: str, client: Client = STRANGER, people: People | None = None
) -> tuple[int, str]:
    """Return code and status of the refusal, (0, "") when there is none."""
    try:
        route(rules, recipient, client, people)
    except Refusal as refused:
        return refused.reply.code, refused.reply.enhanced
    return 0, ""


def _text(delivery: Delivery, people: People) -> str:
    match delivery:
        case ToMailbox(account=account, mailbox_name=mailbox, detail=detail):
            name = people.accounts[account].partition("@")[0]
            return f"{mailbox} {name}" + (f"+{detail}" if detail else "")
        case ToRelay(recipient=recipient, route=way):
            where = way.destination(recipient) if way.host else "relay"
            return (
                f"{where} {recipient.local}@{recipient.domain}"
                if recipient.domain
                else f"{where} {recipient.local}"
            )
