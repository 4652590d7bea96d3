"""Turn one recipient into deliveries: rules, virtual users, aliases, the accounts' own aliases.

Theory: the recipient is the root of a tree. A rule decides each address of it; `relay` ends a branch, `deliver`
expands it further or ends it in a mailbox. An address that came out of an expansion is decided as local mail
(smtpd's EF_INTERNAL), so an alias may lead out into the world although its mail came from there. Each address is
visited once: that removes duplicates and breaks loops. An entry that names its own address means its own mailbox,
which is how one keeps a copy.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol

from gatepost.accounts.model import Forward, Found, Mailbox, NotOurs, Unknown
from gatepost.base.address import Address, fold, fold_domain
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.policy.action import Deliver, Delivery, Reject, Relay, ToMailbox, ToRelay
from gatepost.policy.match import Facts, first_match
from gatepost.policy.rules import Ruleset, read_target

DEPTH_MAX: Final = 10
DELIVERIES_MAX: Final = 1_000  # of one recipient

UNKNOWN: Final = Reply(Code.NO_SUCH_MAILBOX, "5.1.1", "Invalid recipient")
DENIED: Final = Reply(Code.NO_SUCH_MAILBOX, "5.7.1", "Relaying denied")
LOOP: Final = Reply(Code.NO_SUCH_MAILBOX, "5.4.6", "The address leads back to itself")


class Directory(Protocol):
    """What the rules ask the accounts."""

    async def is_local(self, domain: str) -> bool:
        """Tell whether a domain is ours."""
        ...

    async def lookup(self, address: Address, *, aliases: bool = True) -> Found:
        """Return what an address is; without `aliases`, which account it is."""
        ...


def names_us(address: Address, own_names: frozenset[str]) -> bool:
    """Tell whether an address is at this machine by name; RCPT TO:<postmaster> has no domain at all."""
    return not address.domain or fold_domain(address.domain) in own_names


class Expansion:
    """One recipient's tree; `deliveries` is what came out of it so far."""

    def __init__(
        self, ruleset: Ruleset, directory: Directory, facts: Facts, *, subaddress: str, own_names: frozenset[str]
    ) -> None:
        """Begin with the facts of the root."""
        self._ruleset = ruleset
        self._directory = directory
        self._facts = facts
        self._subaddress = subaddress
        self._own_names = own_names
        self._seen: set[str] = set()
        self._found: dict[tuple[object, ...], Delivery] = {}

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """Return the deliveries, each once."""
        return tuple(self._found.values())

    async def visit(self, address: Address, depth: int = 0) -> None:
        """Decide one address; raises Refusal."""
        if depth > DEPTH_MAX:
            raise Refusal(LOOP, detail=f"{address} is {depth} expansions away from {self._facts.recipient}")
        if address.key in self._seen:
            return
        self._seen.add(address.key)
        facts = await self._facts_of(address, depth)
        rule = first_match(self._ruleset.rules, facts)
        if rule is None:
            raise Refusal(UNKNOWN if facts.own else DENIED, detail=f"no rule takes {address} from {facts.ip}")
        match rule.action:
            case Reject():
                raise Refusal(Reply(Code.NO_SUCH_MAILBOX, "5.7.1", "Recipient refused"), detail=rule.text)
            case Relay(route=route):
                self._add(ToRelay(address, route))
            case Deliver() as deliver:
                await self._deliver(address, deliver, depth)

    async def _facts_of(self, address: Address, depth: int) -> Facts:
        if not depth:
            return self._facts
        own = await self._directory.is_local(address.domain)
        return replace(
            self._facts, recipient=address, own=own, local_name=names_us(address, self._own_names), local=True
        )

    async def _deliver(self, address: Address, action: Deliver, depth: int) -> None:
        if action.virtual:
            targets = self._virtual(address, self._ruleset.mappings[action.virtual])
            if targets is None:
                raise Refusal(UNKNOWN, detail=f"{address} is not in table {action.virtual}")
        elif action.alias:
            targets = self._alias(address.local, self._ruleset.mappings[action.alias])
        else:
            targets = None
        if targets is None:
            await self._account(address, action, depth)
            return
        for target in targets:
            await self._follow(target, address, action, depth + 1)

    async def _follow(self, target: str, origin: Address, action: Deliver, depth: int) -> None:
        """Go on with one value of a table: an address, a bare user, or a refusal."""
        if target.startswith("error:"):
            raise Refusal(_written_refusal(target), detail=f"{origin} is refused by its table")
        address = read_target(target)
        if address.domain:
            if address.key != origin.key:
                await self.visit(address, depth)
                return
            await self._account(origin, action, depth, alone=True)
            return
        if depth > DEPTH_MAX:
            raise Refusal(LOOP, detail=f"{target} is {depth} expansions away from {self._facts.recipient}")
        final = target.startswith("\\")
        await self._user(address.local, origin, action, depth, final=final)

    async def _user(self, name: str, origin: Address, action: Deliver, depth: int, *, final: bool) -> None:
        """Go on with a bare user: an alias of further users or, `final`, an account in the origin's domain."""
        further = None
        if action.alias and not final and fold(name) != fold(origin.local):
            further = self._alias(name, self._ruleset.mappings[action.alias])
        user = Address(name, origin.domain)
        if further is None:
            await self._account(user, action, depth, bare=True, alone=user.key == origin.key)
        elif f"alias:{fold(name)}" not in self._seen:
            self._seen.add(f"alias:{fold(name)}")
            for each in further:
                await self._follow(each, user, action, depth + 1)

    async def _account(
        self, address: Address, action: Deliver, depth: int, *, bare: bool = False, alone: bool = False
    ) -> None:
        """Deliver to an account, or to the LMTP server that knows it.

        `bare`: a table gave the user's name alone. `alone`: leave the accounts' aliases aside.
        """
        if action.lmtp is not None and bare:
            self._add(ToRelay(Address(address.local, address.domain if action.rcpt_to else ""), action.lmtp))
            return
        found = await self._directory.lookup(address, aliases=not alone)
        match found:
            case Mailbox(account=account, detail=detail, address=known, quota=quota):
                if action.lmtp is None:
                    self._add(ToMailbox(account, action.mailbox, address, detail, quota))
                else:
                    local, _, domain = known.rpartition("@")
                    self._add(ToRelay(Address(local, domain if action.rcpt_to else ""), action.lmtp))
            case Forward(targets=targets):
                for target in targets:
                    if target.key == address.key:
                        await self._account(address, action, depth, alone=True)
                    else:
                        await self.visit(target, depth + 1)
            case Unknown():
                raise Refusal(UNKNOWN, detail=f"{address} is no account")
            case NotOurs():
                if action.lmtp is None:
                    raise Refusal(UNKNOWN, detail=f"{address.domain} is no domain of the accounts")
                self._add(ToRelay(address if action.rcpt_to else Address(address.local, ""), action.lmtp))

    def _add(self, delivery: Delivery) -> None:
        match delivery:
            case ToMailbox(account=account, mailbox_name=mailbox):
                key: tuple[object, ...] = (account, mailbox)
            case ToRelay(recipient=recipient, route=route):
                key = (recipient.key, route)
        if len(self._found) >= DELIVERIES_MAX and key not in self._found:
            raise Refusal(LOOP, detail=f"{self._facts.recipient} leads to more than {DELIVERIES_MAX} deliveries")
        self._found.setdefault(key, delivery)

    def _virtual(self, address: Address, table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
        """Look up user+tag@dom, user@dom, user+tag, user, @dom, @ (table(5))."""
        local, domain = fold(address.local), fold_domain(address.domain)
        user = self._without_detail(local)
        for key in (f"{local}@{domain}", f"{user}@{domain}", local, user, f"@{domain}", "@"):
            if key in table:
                return table[key]
        return None

    def _alias(self, name: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
        name = fold(name)
        return table.get(name) or table.get(self._without_detail(name))

    def _without_detail(self, local: str) -> str:
        return local.partition(self._subaddress)[0] if self._subaddress else local


def _written_refusal(target: str) -> Reply:
    """Read `error:550 5.1.1 text` or `error:450 text` (table(5)); what is malformed refuses for good."""
    code, _, text = target[6:].strip().partition(" ")
    if len(code) != 3 or not (code.isascii() and code.isdigit()) or code[0] not in "45":
        return UNKNOWN
    first, _, rest = text.partition(" ")
    numbers = first.split(".")
    if len(numbers) == 3 and numbers[0] == code[0] and all(n.isascii() and n.isdigit() for n in numbers):
        return Reply(int(code), first, rest)
    return Reply(int(code), f"{code[0]}.1.1", text)
