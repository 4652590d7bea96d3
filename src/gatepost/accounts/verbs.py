"""What operators do with domains, accounts and aliases. Mistakes raise AccountRefusal with a text for them."""

import re
from dataclasses import dataclass
from typing import Final

from gatepost.accounts import sql
from gatepost.accounts.model import NO_QUOTA, Account, AccountId, AccountRefusal, Alias, Domain, Quota
from gatepost.accounts.password import Hasher
from gatepost.accounts.reading import account_of
from gatepost.base.address import Address, fold_domain
from gatepost.base.clock import Instant
from gatepost.base.ids import Minter
from gatepost.codec.smtp.grammar import BadAddress, parse_mailbox
from gatepost.db.unit import Clash, Database, Notice, Params, Rows, Step, Unit, Unmet

NOTICE: Final = Notice("accounts")
TARGETS_MAX: Final = 1_000
"""Of one alias; a longer list is a mailing list."""

_DOMAIN: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account that is made once `steps` are committed, together with those of its mailboxes, and `notices`."""

    id: AccountId
    steps: tuple[Step, ...]
    notices: tuple[Notice, ...] = (NOTICE,)


# Domains.


async def add_domain(database: Database, name: str, now: Instant) -> None:
    """Take in a domain, given as people write it."""
    try:
        await _commit(database, Step(sql.ADD_DOMAIN, {"name": domain_key(name), "now": now}))
    except Clash:
        raise AccountRefusal(f"{name} is one of our domains already") from None


async def del_domain(database: Database, name: str, now: Instant) -> None:
    """Let a domain and its aliases go; its accounts must be gone first."""
    params = {"name": domain_key(name)}
    try:
        await _commit(database, Step(sql.DEL_ALIASES_OF_DOMAIN, params), Step(sql.DEL_DOMAIN, params))
    except (Unmet, Clash):
        raise AccountRefusal(f"{name} is not one of our domains, or still has accounts") from None


async def list_domains(database: Database) -> tuple[Domain, ...]:
    """Return our domains by name."""
    rows = await database.read(sql.DOMAINS, {})
    return tuple(Domain(str(name), Instant(int(str(created_at)))) for name, created_at in rows)


# Accounts.


async def add_user(
    database: Database,
    hasher: Hasher,
    minter: Minter,
    address: str,
    password: bytes,
    now: Instant,
    *,
    admin: bool = False,
    quota: Quota = NO_QUOTA,
) -> NewAccount:
    """Return an account's id and steps; the caller commits them in one unit with those of its mailboxes.

    Unmet `accounts.add_account` then means that the domain is gone, Clash that the address was taken meanwhile.
    """
    who = account_address(address)
    if await database.read(sql.ACCOUNT, {"address": who.key}):
        raise AccountRefusal(f"{who} exists already")
    if not await database.read(sql.DOMAIN, {"name": fold_domain(who.domain)}):
        raise AccountRefusal(f"{who.domain} is not one of our domains: add it first")
    key = AccountId(minter.mint(now))
    params: Params = {
        "id": key,
        "address": who.key,
        "domain": fold_domain(who.domain),
        "password": await _hash(hasher, password),
        "admin": int(admin),
        "quota_octets": quota.octets,
        "quota_messages": quota.messages,
        "now": now,
    }
    return NewAccount(key, (Step(sql.ADD_ACCOUNT, params),))


async def set_password(database: Database, hasher: Hasher, address: str, password: bytes, now: Instant) -> None:
    """Give an account a new password."""
    who = account_address(address)
    params: Params = {"address": who.key, "password": await _hash(hasher, password)}
    await _commit_known(database, who, Step(sql.SET_PASSWORD, params))


async def set_quota(database: Database, address: str, quota: Quota, now: Instant) -> None:
    """Limit what an account may keep; 0 lifts a limit."""
    who = account_address(address)
    params: Params = {"address": who.key, "quota_octets": quota.octets, "quota_messages": quota.messages}
    await _commit_known(database, who, Step(sql.SET_QUOTA, params))


async def set_enabled(database: Database, address: str, enabled: bool, now: Instant) -> None:
    """Let somebody log in, or no longer; mail for them is kept in both cases."""
    who = account_address(address)
    await _commit_known(database, who, Step(sql.SET_ENABLED, {"address": who.key, "enabled": int(enabled)}))


async def set_admin(database: Database, address: str, admin: bool, now: Instant) -> None:
    """Make somebody an admin, or no longer."""
    who = account_address(address)
    await _commit_known(database, who, Step(sql.SET_ADMIN, {"address": who.key, "admin": int(admin)}))


async def find_user(database: Database, address: str) -> Account:
    """Return an account by its address."""
    who = account_address(address)
    rows = await database.read(sql.ACCOUNT, {"address": who.key})
    if not rows:
        raise AccountRefusal(f"there is no account {who}")
    return account_of(rows[0])


async def list_users(database: Database) -> tuple[Account, ...]:
    """Return all accounts, by domain and address."""
    rows = await database.read_long(sql.ACCOUNTS, {})
    return tuple(account_of(row) for row in rows)


async def list_addresses(database: Database) -> Rows:
    """Return the key of each account and alias, one in a row; `@domain` is a catch-all."""
    return await database.read_long(sql.ADDRESSES, {})


async def del_user(database: Database, address: str, now: Instant) -> NewAccount:
    """Return the id of an account and the steps that delete it, to be committed with those of its mailboxes."""
    account = await find_user(database, address)
    return NewAccount(account.id, (Step(sql.DEL_ACCOUNT, {"account": account.id}),))


# Aliases.


async def add_alias(database: Database, address: str, targets: tuple[str, ...], now: Instant) -> None:
    """Send mail for `address` (or `@domain`, for all that is nobody's) to further targets, ours or anybody's."""
    if not 0 < len(targets) <= TARGETS_MAX:
        raise AccountRefusal(f"an alias has 1 to {TARGETS_MAX} targets")
    key, domain = alias_key(address)
    steps = []
    for target in (parse_address(each) for each in targets):
        params: Params = {
            "address": key,
            "domain": domain,
            "target_key": target.key,
            "target_local": target.local,
            "target_domain": target.domain,
        }
        steps.append(Step(sql.ADD_TARGET, params))
    try:
        await _commit(database, *steps)
    except Unmet:
        raise AccountRefusal(f"{domain} is not one of our domains: add it first") from None


async def forward_user(
    database: Database, address: str, targets: tuple[str, ...], now: Instant, *, keep: bool = False
) -> tuple[str, ...]:
    """Let the mail of an account go to `targets` in place of what was said before, with `keep` also to its mailbox.

    No targets: to the mailbox alone. Returns where it goes now.
    """
    if len(targets) >= TARGETS_MAX:
        raise AccountRefusal(f"mail is forwarded to {TARGETS_MAX - 1} addresses at most")
    own = parse_address(address)
    if not await database.read(sql.ACCOUNT, {"address": own.key}):
        raise AccountRefusal(
            f"there is no account {address}: an address without one is an alias (gatepost alias add)"
        )
    given = {each.key: each for each in map(parse_address, targets)}
    if not given.keys() - {own.key}:
        given = {}
    elif keep:
        given[own.key] = own
    steps = []
    if await database.read(sql.TARGETS, {"address": own.key}):
        steps.append(Step(sql.DEL_ALIAS, {"address": own.key}))
    for target in given.values():
        params: Params = {
            "address": own.key,
            "domain": fold_domain(own.domain),
            "target_key": target.key,
            "target_local": target.local,
            "target_domain": target.domain,
        }
        steps.append(Step(sql.ADD_TARGET, params))
    if steps:
        await _commit(database, *steps)
    return tuple(str(each) for each in given.values()) or (str(own),)


async def list_aliases(database: Database) -> tuple[Alias, ...]:
    """Return all aliases, by domain and address."""
    rows = await database.read_long(sql.ALIASES, {})
    targets: dict[str, list[str]] = {}
    for address, local, domain in rows:
        targets.setdefault(str(address), []).append(str(Address(str(local), str(domain))))
    return tuple(Alias(address, tuple(found)) for address, found in targets.items())


async def del_alias(database: Database, address: str, now: Instant, target: str = "") -> None:
    """Drop an alias, or one target of it."""
    key, _ = alias_key(address)
    step = Step(sql.DEL_ALIAS, {"address": key})
    if target:
        step = Step(sql.DEL_TARGET, {"address": key, "target_key": parse_address(target).key})
    try:
        await _commit(database, step)
    except Unmet:
        raise AccountRefusal(f"there is no such alias: {address} {target}".rstrip()) from None


# Addresses as operators write them.


def parse_address(text: str) -> Address:
    """Read `local@domain`; raises AccountRefusal."""
    try:
        return parse_mailbox(text.encode("utf-8"))
    except (BadAddress, UnicodeEncodeError) as bad:
        raise AccountRefusal(f"{text!r} is not a mail address: {bad}") from None


def account_address(text: str) -> Address:
    """Read the address of an account, whose domain is a name."""
    who = parse_address(text)
    domain_key(who.domain)
    return who


def alias_key(text: str) -> tuple[str, str]:
    """Return the key of an alias, `local@domain` or `@domain`, and its domain's."""
    if text.startswith("@"):
        domain = domain_key(text[1:])
        return f"@{domain}", domain
    who = parse_address(text)
    return who.key, domain_key(who.domain)


def domain_key(text: str) -> str:
    """Return a domain in lower-case A-labels; raises AccountRefusal when it is not one."""
    name = fold_domain(text)
    if len(name) > 253 or _DOMAIN.fullmatch(name) is None:  # RFC 1035 §2.3.4: 255 octets on the wire
        raise AccountRefusal(f"{text!r} is not the name of a domain")
    return name


async def _hash(hasher: Hasher, password: bytes) -> str:
    try:
        return await hasher.hash(password)
    except ValueError as bad:
        raise AccountRefusal(str(bad)) from None


async def _commit(database: Database, *steps: Step) -> None:
    await database.commit(Unit(steps, (NOTICE,)))


async def _commit_known(database: Database, who: Address, step: Step) -> None:
    try:
        await _commit(database, step)
    except Unmet:
        raise AccountRefusal(f"there is no account {who}") from None
