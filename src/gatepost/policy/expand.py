"""Turn one recipient into deliveries: rules, virtual users, aliases, the accounts' own aliases.

Theory: the recipient is the root of a tree. A rule decides each address of it; `relay` ends a branch, `deliver`
expands it further or ends it in a mailbox. An address that came out of an expansion is decided as local mail
(smtpd's EF_INTERNAL), so an alias may lead out into the world although its mail came from there. Each address is
visited once: that removes duplicates and breaks loops. An entry that names its own address means its own mailbox,
which is how one keeps a copy.
"""

from dataclasses import replace
from typing import Final, Protocol

from gatepost.accounts.model import Forward, Found, Mailbox, NotOurs, Unknown
from gatepost.base.address import Address, fold, fold_domain
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.policy.action import Deliver, Delivery, Reject, Relay, ToMailbox, ToRelay
from gatepost.policy.match import Facts, Rule, Unanswered, first_match
from gatepost.policy.rules import Ruleset
from gatepost.policy.tables.lookup import Aliases, RunsAs
from gatepost.policy.tables.target import (
    BadTarget,
    Refused,
    ToAddress,
    ToFile,
    ToProgram,
    ToUser,
    read_target,
)

DEPTH_MAX: Final = 10
DELIVERIES_MAX: Final = 1_000  # of one recipient

UNKNOWN: Final = Reply(Code.NO_SUCH_MAILBOX, "5.1.1", "Invalid recipient")
DENIED: Final = Reply(Code.NO_SUCH_MAILBOX, "5.7.1", "Relaying denied")
MISCONFIGURED: Final = Reply(Code.LOCAL_ERROR, "4.3.5", "System incorrectly configured, try again later")
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
        rule = await self._decide(facts)
        if rule is None:
            raise Refusal(UNKNOWN if facts.own else DENIED, detail=f"no rule takes {address} from {facts.ip}")
        match rule.action:
            case Reject():
                raise Refusal(Reply(Code.NO_SUCH_MAILBOX, "5.7.1", "Recipient refused"), detail=rule.text)
            case Relay(route=route):
                self._add(ToRelay(address, route))
            case Deliver() as deliver:
                await self._deliver(address, deliver, depth)

    async def _decide(self, facts: Facts) -> Rule | None:
        """Return the rule that decides; tables that must be asked are asked one by one, as the tests need them."""
        while True:
            try:
                return first_match(self._ruleset.rules, facts)
            except Unanswered as open_:
                answer = await self._ruleset.answer(open_.question)
                facts = replace(facts, answers={**facts.answers, open_.question: answer})

    async def _facts_of(self, address: Address, depth: int) -> Facts:
        if not depth:
            return self._facts
        own = await self._directory.is_local(address.domain)
        return replace(
            self._facts, recipient=address, own=own, local_name=names_us(address, self._own_names), local=True
        )

    async def _deliver(self, address: Address, action: Deliver, depth: int) -> None:
        name = action.virtual or action.alias
        if not name:
            await self._account(address, action, depth)
            return
        table = self._ruleset.aliases[name]
        keys = self._virtual_keys(address) if action.virtual else self._alias_keys(address.local)
        targets = await table.find(keys)
        if targets is not None:
            for target in targets:
                await self._follow(target, address, action, depth + 1, table.runs_as)
        elif action.virtual:
            raise Refusal(UNKNOWN, detail=f"{address} is not in table {name}")
        else:
            await self._account(address, action, depth)

    async def _follow(
        self, value: str, origin: Address, action: Deliver, depth: int, runs_as: RunsAs | None
    ) -> None:
        """Go on with one value of a table. `runs_as`: whether it may be a program or a file, and as whom."""
        if depth > DEPTH_MAX:
            raise Refusal(LOOP, detail=f"{value} is {depth} expansions away from {self._facts.recipient}")
        try:
            target = read_target(value)
        except BadTarget as wrong:
            raise Refusal(MISCONFIGURED, detail=f"{origin}: {wrong}") from wrong
        match target:
            case Refused(reply=reply):
                raise Refusal(reply, detail=f"{origin} is refused by its table")
            case ToAddress(address=address) if address.key == origin.key:
                await self._account(origin, action, depth, alone=True)
            case ToAddress(address=address):
                await self.visit(address, depth)
            case ToUser(name=name, own=own):
                await self._user(name, origin, action, depth, own=own)
            case ToProgram() | ToFile() if runs_as is None:
                raise Refusal(MISCONFIGURED, detail=f"{origin} leads to {value!r}, which nothing permits")
            case ToProgram(command=command) if runs_as is not None:
                self._add(ToRelay(origin, runs_as.program(command)))
            case ToFile(path=path, maildir=maildir) if runs_as is not None:
                self._add(ToRelay(origin, runs_as.file(path, maildir=maildir)))

    async def _user(self, name: str, origin: Address, action: Deliver, depth: int, *, own: bool) -> None:
        """Go on with a bare user: an alias of further users or, `own`, an account in the origin's domain."""
        further = None
        table: Aliases | None = self._ruleset.aliases[action.alias] if action.alias else None
        if table is not None and not own and fold(name) != fold(origin.local):
            further = await table.find(self._alias_keys(name))
        user = Address(name, origin.domain)
        if table is None or further is None:
            await self._account(user, action, depth, bare=True, alone=user.key == origin.key, own=own)
        elif f"alias:{fold(name)}" not in self._seen:
            self._seen.add(f"alias:{fold(name)}")
            for each in further:
                await self._follow(each, user, action, depth + 1, table.runs_as)

    async def _account(
        self,
        address: Address,
        action: Deliver,
        depth: int,
        *,
        bare: bool = False,
        alone: bool = False,
        own: bool = False,
    ) -> None:
        """Deliver to an account, to the LMTP server or program that knows it, or where the user's .forward says.

        `bare`: a table gave the user's name alone. `alone`: leave the accounts' aliases aside. `own`: these and the
        user's .forward.
        """
        if action.forwards and not own and await self._forwarded(address, action, depth, bare=bare):
            return
        if action.end is not None and bare:
            self._add(ToRelay(Address(address.local, address.domain if action.rcpt_to else ""), action.end))
            return
        found = await self._directory.lookup(address, aliases=not (alone or own))
        match found:
            case Mailbox(account=account, detail=detail, address=known, quota=quota):
                if action.end is None:
                    self._add(ToMailbox(account, action.mailbox, address, detail, quota))
                else:
                    local, _, domain = known.rpartition("@")
                    self._add(ToRelay(Address(local, domain if action.rcpt_to else ""), action.end))
            case Forward(targets=targets):
                for target in targets:
                    if target.key == address.key:
                        await self._account(address, action, depth, alone=True)
                    else:
                        await self.visit(target, depth + 1)
            case Unknown():
                raise Refusal(UNKNOWN, detail=f"{address} is no account")
            case NotOurs():
                if action.end is None:
                    raise Refusal(UNKNOWN, detail=f"{address.domain} is no domain of the accounts")
                self._add(ToRelay(address if action.rcpt_to else Address(address.local, ""), action.end))

    async def _forwarded(self, address: Address, action: Deliver, depth: int, *, bare: bool) -> bool:
        """Follow a user's .forward; False where there is none, or where it has led back to the user."""
        user, domain = self._without_detail(fold(address.local)), fold_domain(address.domain)
        if f"forward:{user}@{domain}" in self._seen:
            return False
        self._seen.add(f"forward:{user}@{domain}")
        found = await self._ruleset.forwards[action.forwards].of(user, domain)
        if found is None:
            return False
        for value in found.values:
            if value.removeprefix("\\") in (user, address.local):
                await self._account(address, action, depth, bare=bare, own=True)
            else:
                await self._follow(value, address, action, depth + 1, found.runs_as)
        return True

    def _add(self, delivery: Delivery) -> None:
        match delivery:
            case ToMailbox(account=account, mailbox_name=mailbox):
                key: tuple[object, ...] = (account, mailbox)
            case ToRelay(recipient=recipient, route=route):
                key = (recipient.key, route)
        if len(self._found) >= DELIVERIES_MAX and key not in self._found:
            raise Refusal(LOOP, detail=f"{self._facts.recipient} leads to more than {DELIVERIES_MAX} deliveries")
        self._found.setdefault(key, delivery)

    def _virtual_keys(self, address: Address) -> tuple[str, ...]:
        """Return user+tag@dom, user@dom, user+tag, user, @dom, @: the order of table(5)."""
        local, domain = fold(address.local), fold_domain(address.domain)
        user = self._without_detail(local)
        return (f"{local}@{domain}", f"{user}@{domain}", local, user, f"@{domain}", "@")

    def _alias_keys(self, name: str) -> tuple[str, str]:
        name = fold(name)
        return name, self._without_detail(name)

    def _without_detail(self, local: str) -> str:
        return local.partition(self._subaddress)[0] if self._subaddress else local
