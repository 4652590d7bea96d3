"""The primary's side: the page that gives a backup the list of recipients.

    GET /.well-known/gatepost/recipients?backup=NAME&time=SECONDS&proof=HEX

Only who has the key of a backup that joined is told anything: `proof` shows it, and is good for a few minutes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from gatepost.accounts import verbs
from gatepost.accounts.directory import ROLES
from gatepost.accounts.model import Unknown
from gatepost.aio.offload import offload
from gatepost.backupmx.joined import read_backup
from gatepost.base.address import Address
from gatepost.base.clock import MICROSECONDS, Clock
from gatepost.base.ports import Log
from gatepost.codec import recipients
from gatepost.codec.recipients import Keys, RecipientList
from gatepost.db.unit import Database, Rows
from gatepost.policy.expand import Directory
from gatepost.policy.settings import Do, PolicySettings
from gatepost.web.page import Answer, Asked, refusal

LIST_TYPE: Final = "text/plain; charset=us-ascii"
STRANGER: Final = "Who asks here shows that it is a backup of this server."


@dataclass(frozen=True, slots=True)
class Publisher:
    """Answers backups."""

    database: Database
    directory: Directory
    folder: Path
    """Where the backups that joined are kept."""
    server: str
    separator: str
    size: Callable[[], int]
    complete: Callable[[], bool]
    """Whether the accounts are all that there is; see `accounts_decide`."""
    clock: Clock
    log: Log

    async def page(self, asked: Asked) -> Answer:
        """Answer one request."""
        given = parse_qs(asked.query, max_num_fields=10)
        name, at, proof = (given.get(word, [""])[0] for word in ("backup", "time", "proof"))
        backup = await offload(read_backup, self.folder, name)
        now = self.clock.now() // MICROSECONDS
        number = int(at) if at.isascii() and at.isdigit() and len(at) < 16 else 0
        if backup is None or not (keys := Keys.derive(backup.key)).proves(proof, name, number, now):
            self.log.warning("recipients_refused_to", ip=asked.peer_ip, backup=name[:200])
            return refusal(403, STRANGER)
        listed = await self.listed(keys)
        tag = f'"{await offload(recipients.tag, listed)}"'
        headers = (("ETag", tag), ("Cache-Control", "private, no-cache"))
        if asked.headers.get("if-none-match", "") == tag:
            return Answer(304, headers=headers)
        self.log.info("recipients_told", backup=name, ip=asked.peer_ip, addresses=listed.addresses)
        return Answer(200, await offload(recipients.write, listed, keys), LIST_TYPE, headers)

    async def listed(self, keys: Keys) -> RecipientList:
        """Return the list as it is now."""
        domains = [each.name for each in await verbs.list_domains(self.database)]
        rows = await verbs.list_addresses(self.database)
        catch_alls, digests = await offload(_digests, rows, await self._roles(domains), keys)
        return RecipientList(
            serial=self.clock.now(),
            server=self.server,
            complete=self.complete(),
            separator=self.separator,
            size=self.size(),
            domains=frozenset(domains),
            catch_alls=catch_alls,
            digests=digests,
        )

    async def _roles(self, domains: Sequence[str]) -> list[str]:
        """Return the addresses that every domain answers without an account of that name (RFC 5321 §4.5.1)."""
        found = []
        for domain in domains:
            for role in sorted(ROLES):
                address = Address(role, domain)
                if not isinstance(await self.directory.lookup(address), Unknown):
                    found.append(address.key)
        return found


def accounts_decide(policy: PolicySettings) -> bool:
    """Tell whether the accounts alone decide who has mail here, and no table of users, nor another server.

    Where they do not, a backup asks about whom its list does not have.
    """
    for rule in policy.rules:
        action = policy.actions.get(rule.action)
        if action is not None and (action.virtual or action.alias or action.lmtp or action.program):
            return False
        relays = rule.action == Do.RELAY.value if action is None else action.do is Do.RELAY
        ours = rule.match.get("from", "local") == "local" or rule.match.get("auth") is True
        if relays and not ours:
            return False
    return True


def _digests(rows: Rows, roles: Sequence[str], keys: Keys) -> tuple[frozenset[str], bytes]:
    """Return the domains with a catch-all, and the digests of all other addresses."""
    names = [*(str(name) for (name,) in rows), *roles]
    catch_alls = frozenset(name[1:] for name in names if name.startswith("@"))
    return catch_alls, recipients.pack(keys.digest(name) for name in names if not name.startswith("@"))
