"""Who an address belongs to, and whether somebody is who they say.

Answers are kept in memory until a notice on topic `accounts`, and never longer than a few seconds, for a notice is
only a hint. Logins are not: each reads the account's row, so a changed password or a closed account counts at once.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from gatepost.accounts import sql
from gatepost.accounts.model import (
    Account,
    AccountId,
    Forward,
    Found,
    Mailbox,
    NotOurs,
    Overloaded,
    Unknown,
)
from gatepost.accounts.password import PASSWORD_OCTETS_MAX, Hasher, prepare
from gatepost.accounts.reading import account_of, password_of
from gatepost.accounts.settings import AccountSettings
from gatepost.base.address import Address, fold, fold_domain
from gatepost.base.clock import Clock
from gatepost.db.unit import Database, NotCommitted, Params, Row, Step, Unit

KEPT_SECONDS: Final = 5.0
KEPT_MAX: Final = 10_000
LOGINS_KEPT_MAX: Final = 10_000
USER_LENGTH_MAX: Final = 320
EXPANSION_DEPTH: Final = 10
EXPANSION_MAX: Final = 100

ROLES: Final = frozenset({"postmaster", "abuse"})  # RFC 5321 §4.5.1, RFC 2142 §2

V = TypeVar("V")


class Directory:
    """All domains, accounts and aliases of one database."""

    def __init__(
        self, database: Database, hasher: Hasher, clock: Clock, settings: AccountSettings | None = None
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._settings = settings or AccountSettings()
        self._found: _Kept[Found] = _Kept(clock.steady, KEPT_SECONDS, KEPT_MAX)
        self._domains: _Kept[bool] = _Kept(clock.steady, KEPT_SECONDS, KEPT_MAX)
        self._logins: _Kept[AccountId] = _Kept(clock.steady, self._settings.remember_logins, LOGINS_KEPT_MAX)
        self._key = secrets.token_bytes(32)
        database.listen("accounts", self._forget)

    async def is_local(self, domain: str) -> bool:
        """Tell whether mail for `domain` is ours to deliver."""
        name = fold_domain(domain)
        known = self._domains.get(name)
        if known is None:
            known = bool(_sayable(name) and await self._database.read(sql.DOMAIN, {"name": name}))
            self._domains.put(name, known)
        return known

    async def lookup(self, address: Address, *, aliases: bool = True) -> Found:
        """Return what becomes of mail for `address`.

        In this order: an alias, an account, both again without `+detail`, the domain's catch-all, and for
        postmaster and abuse whoever is responsible. `aliases=False` leaves aliases out: for an alias that names its
        own address among its targets (`ann` to `ann` and elsewhere), which must not go round for ever.
        """
        address = await self._with_domain(address)
        if not _sayable(address.key):
            return NotOurs() if not await self.is_local(address.domain) else Unknown()
        key = f"{address.local}@{fold_domain(address.domain)} {aliases:d}"  # the detail is kept as written
        found = self._found.get(key)
        if found is None:
            found = await self._lookup(address, aliases=aliases)
            self._found.put(key, found)
        return found

    async def account(self, account: AccountId) -> Account | None:
        """Return an account by its id."""
        rows = await self._database.read(sql.ACCOUNT_BY_ID, {"account": account})
        return account_of(rows[0]) if rows else None

    async def authenticate(self, user: str, password: bytes) -> Account | None:
        """Return the account when `user` may log in and this is the password; raises Overloaded.

        Nobody, a closed account and a wrong password take the same time. A password above 1,024 octets is wrong
        at once.
        """
        if len(password) > PASSWORD_OCTETS_MAX:
            return None
        row = await self._login_row(user)
        account = account_of(row) if row is not None else None
        kept = password_of(row) if row is not None and account is not None and account.enabled else None
        if account is None or kept is None:
            await self._hasher.matches(None, password)
            return None
        proof = self._proof(account, kept, password)
        if self._logins.get(proof) == account.id:
            return account
        if not await self._hasher.matches(kept, password):
            return None
        self._logins.put(proof, account.id)
        await self._renew(account, kept, password)
        return account

    async def may_send_as(self, account: AccountId, address: Address) -> bool:
        """Tell whether mail to `address` reaches this account: then it may also write from there."""
        waiting, seen = [(address, 0)], {address.key}
        while waiting:
            each, depth = waiting.pop()
            for found in (await self.lookup(each), await self.lookup(each, aliases=False)):
                if isinstance(found, Mailbox) and found.account == account:
                    return True
                targets = found.targets if isinstance(found, Forward) and depth < EXPANSION_DEPTH else ()
                fresh = [target for target in targets if target.key not in seen][: EXPANSION_MAX - len(seen)]
                seen.update(target.key for target in fresh)
                waiting += [(target, depth + 1) for target in fresh]
        return False

    # Inside.

    def _forget(self, _key: int) -> None:
        self._found.clear()
        self._domains.clear()
        self._logins.clear()

    async def _with_domain(self, address: Address) -> Address:
        """Return `<Postmaster>`, the one address that may stand without a domain (RFC 5321 §4.5.1), with ours."""
        if address.domain or fold(address.local) != "postmaster":
            return address
        rows = await self._database.read(sql.DOMAINS, {})
        return replace(address, domain=str(rows[0][0])) if rows else address

    async def _lookup(self, address: Address, *, aliases: bool) -> Found:
        if not await self.is_local(address.domain):
            return NotOurs()
        base, detail = self._split(address.local)
        plain = Address(base, address.domain)
        found = await self._exact(address, "", aliases=aliases)
        if found is None and detail:
            found = await self._exact(plain, detail, aliases=aliases)
        if found is None and aliases:
            found = await self._alias(f"@{fold_domain(address.domain)}")
        if found is None and fold(base) in ROLES:
            found = await self._responsible(fold_domain(address.domain))
        return found or Unknown()

    async def _exact(self, address: Address, detail: str, *, aliases: bool) -> Found | None:
        if aliases and (forward := await self._alias(address.key)) is not None:
            return forward
        rows = await self._database.read(sql.ACCOUNT, {"address": address.key})
        if not rows:
            return None
        account = account_of(rows[0])
        return Mailbox(account.id, account.address, detail, account.quota)

    async def _alias(self, key: str) -> Forward | None:
        rows = await self._database.read(sql.TARGETS, {"address": key})
        return Forward(tuple(Address(str(local), str(domain)) for local, domain in rows)) if rows else None

    async def _responsible(self, domain: str) -> Found | None:
        """Return who gets a domain's role mail: the one configured, an admin, the first account."""
        local, _, place = self._settings.postmaster.rpartition("@")
        if local:
            rows = await self._database.read(sql.ACCOUNT, {"address": Address(local, place).key})
            if not rows:
                return Forward((Address(local, place),))
        else:
            rows = await self._database.read(sql.POSTMASTER, {"domain": domain})
        account = account_of(rows[0]) if rows else None
        return Mailbox(account.id, account.address, "", account.quota) if account else None

    def _split(self, local: str) -> tuple[str, str]:
        """Return local part and detail (RFC 5233 §4); the first separator parts them, unless it stands first."""
        separator = self._settings.detail_separator
        at = local.find(separator, 1) if separator else -1
        return (local[:at], local[at + 1 :]) if at > 0 else (local, "")

    async def _login_row(self, user: str) -> Row | None:
        if "@" not in user and self._settings.login_domain:
            user = f"{user}@{self._settings.login_domain}"
        local, _, domain = user.rpartition("@")
        if not local or not domain or len(user) > USER_LENGTH_MAX or not _sayable(user):
            return None
        rows = await self._database.read(sql.ACCOUNT, {"address": Address(local, domain).key})
        return rows[0] if rows else None

    def _proof(self, account: Account, kept: str, password: bytes) -> bytes:
        """Return what is remembered of a login: a digest under this process's key that a new password changes."""
        text = b"%d\0%s\0%s" % (account.id, kept.encode("ascii"), prepare(password))
        return blake2b(text, key=self._key, digest_size=32).digest()

    async def _renew(self, account: Account, kept: str, password: bytes) -> None:
        """Hash again a password that was hashed with other parameters; not now is no harm."""
        if not self._hasher.outdated(kept):
            return
        try:
            params: Params = {"account": account.id, "old": kept, "password": await self._hasher.hash(password)}
            await self._database.commit(Unit((Step(sql.RENEW_PASSWORD, params),)))
        except (Overloaded, NotCommitted):
            pass


class _Kept(Generic[V]):
    """A bounded memory of answers that expire; the oldest goes when it is full."""

    def __init__(self, steady: Callable[[], float], seconds: float, most: int) -> None:
        self._steady = steady
        self._seconds = seconds
        self._most = most
        self._answers: dict[object, tuple[V, float]] = {}

    def get(self, key: object) -> V | None:
        """Return the answer, if there is one that still holds."""
        kept = self._answers.get(key)
        if kept is None:
            return None
        if kept[1] <= self._steady():
            del self._answers[key]
            return None
        return kept[0]

    def put(self, key: object, answer: V) -> None:
        """Keep an answer."""
        if len(self._answers) >= self._most:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = (answer, self._steady() + self._seconds)

    def clear(self) -> None:
        """Forget everything."""
        self._answers.clear()


def _sayable(text: str) -> bool:
    """Tell whether `text` can be part of an address: it has no control characters."""
    return text.isprintable()
