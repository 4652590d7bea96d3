"""How a backup joins a primary: an invitation, redeemed once, over TLS.

    primary   gatepost join --invite mx2.example.org      keeps a digest of the secret, prints a line for the backup
    backup    gatepost join https://mx1... TOKEN          POST /.well-known/gatepost/join, once, within an hour
    primary   answers with what a backup needs, and from then on knows it: `joined.Backup`

A token is NAME/SECRET, and /FINGERPRINT where the primary's certificate is signed by itself: then the backup
believes this certificate and no other.
"""

import hmac
import json
import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from gatepost.accounts import verbs
from gatepost.aio.offload import offload
from gatepost.backupmx.joined import Backup, all_backups, proper, write_backup, write_private
from gatepost.base.clock import MICROSECONDS, Clock
from gatepost.base.ports import Log
from gatepost.db.unit import Database
from gatepost.feeds.sync.settings import SyncSettings
from gatepost.web.page import Answer, Asked, refusal

PATH: Final = "/.well-known/gatepost/join"
VALID_S: Final = 3600
KEY_OCTETS: Final = 32
BODY_MAX: Final = 4096
VERSION: Final = 1


class Declined(ValueError):
    """An invitation that does not hold; the text is for who came with it."""


@dataclass(frozen=True, slots=True)
class Token:
    """What the backup's operator carries over."""

    name: str
    secret: str
    fingerprint: str = ""
    """SHA-256 of the primary's certificate, where that is signed by itself."""

    def __str__(self) -> str:
        return "/".join(part for part in (self.name, self.secret, self.fingerprint) if part)


def read_token(text: str) -> Token:
    """Read a token; raises ValueError."""
    parts = text.strip().split("/")
    if len(parts) not in (2, 3) or not proper(parts[0]) or not all(parts):
        raise ValueError("this is no token: copy the whole line that gatepost join --invite has printed")
    return Token(*parts)


def invite(folder: Path, name: str, addresses: Sequence[str], fingerprint: str, now: int) -> Token:
    """Make an invitation, in place of one before; `now` in seconds. Only a digest of its secret is kept."""
    token = Token(name, secrets.token_urlsafe(32), fingerprint)
    words = {"digest": _digest(token.secret), "expires": now + VALID_S, "addresses": list(addresses)}
    write_private(_invitation(folder, name), json.dumps(words).encode() + b"\n")
    return token


def redeem(folder: Path, name: str, secret: str, ip: str, now: int, *, dry_run: bool) -> Backup:
    """Make a backup of who has an invitation, which then is no more; raises Declined. `now` in seconds."""
    file = _invitation(folder, name)
    declined = Declined("there is no such invitation, or it is used or over: make another (gatepost join --invite)")
    try:
        if not proper(name):
            raise declined
        words = json.loads(file.read_bytes())
        if not hmac.compare_digest(words["digest"], _digest(secret)) or now > words["expires"]:
            raise declined
        addresses = tuple(map(str, words["addresses"])) or (ip,)
        if dry_run:
            return Backup(name, b"", addresses)
        claimed = file.with_name(f".{file.name}.{os.getpid()}")
        file.rename(claimed)  # of two who come with the same token one finds it gone
        claimed.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        raise declined from None
    backup = Backup(name, secrets.token_bytes(KEY_OCTETS), addresses)
    write_backup(folder, backup)
    return backup


@dataclass(frozen=True, slots=True)
class Doorman:
    """The primary's page for those who join."""

    database: Database
    folder: Path
    server: str
    size: Callable[[], int]
    sync: Callable[[], SyncSettings]
    backups: Callable[[], Sequence[str]]
    """`gate.backups`: this server's other mail servers."""
    clock: Clock
    log: Log

    async def page(self, asked: Asked) -> Answer:
        """Answer one who has a token."""
        try:
            given = json.loads(asked.body[:BODY_MAX])
            name, secret, dry_run = str(given["name"]), str(given["secret"]), given["dry_run"] is True
        except (ValueError, KeyError, TypeError):
            return refusal(400, "This is no request to join.")
        now = self.clock.now() // MICROSECONDS
        try:
            backup = await offload(redeem, self.folder, name, secret, asked.peer_ip, now, dry_run=dry_run)
        except Declined as declined:
            self.log.warning("join_declined", ip=asked.peer_ip, backup=name[:200])
            return refusal(403, str(declined))
        if not dry_run:
            self.log.warning("backup_joined", backup=name, ip=asked.peer_ip, addresses=", ".join(backup.addresses))
        told = await self._told(backup)
        return Answer(200, json.dumps(told).encode(), "application/json", (("Cache-Control", "no-store"),))

    async def _told(self, backup: Backup) -> Mapping[str, object]:
        """Return what a backup needs; without its keys where it only looks."""
        domains = [each.name for each in await verbs.list_domains(self.database)]
        joined = await offload(all_backups, self.folder)
        others = {address for each in joined for address in each.addresses} | set(self.backups())
        return {
            "version": VERSION,
            "server": self.server,
            "domains": domains,
            "size": self.size(),
            "addresses": list(backup.addresses),
            "backups": sorted(others - set(backup.addresses)),
            "key": backup.key.hex(),
            "sync": await offload(_sync, self.sync(), backup),
        }


def _sync(settings: SyncSettings, backup: Backup) -> Mapping[str, object] | None:
    """Return how the greylist is shared; None where it is not, or where there is no key that can be read."""
    if not settings.listen or not settings.key_files:
        return None
    try:
        key = Path(settings.key_files[0]).read_bytes()
    except OSError:
        return None
    others = [each for each in settings.peers if each not in backup.addresses]
    return {
        "mode": settings.mode.value,
        "peers": [settings.listen, *others],
        "key": b64encode(key).decode() if backup.key else "",
    }


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "replace")).hexdigest()


def _invitation(folder: Path, name: str) -> Path:
    return folder / f"{name}.invite"


# What the backup makes of the answer


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a backup, by path: what is in them, and whether only the owner may read them."""

    files: Mapping[Path, tuple[bytes, bool]]
    records: tuple[str, ...]
    """Lines for the DNS."""


def compose(
    told: Mapping[str, Any],  # Any: JSON, checked by `checked`
    *,
    name: str,
    primary: str,
    config: Path,
    data_dir: str,
    certificate: str,
) -> Written:
    """Return the configuration of a backup and its keys, which stand beside it."""
    folder = config.parent
    files: dict[Path, tuple[bytes, bool]] = {folder / "backup.key": (f"{told['key']}\n".encode(), True)}
    if certificate:
        files[folder / "primary.pem"] = (certificate.encode(), False)
    sync = told["sync"]
    if sync is not None:
        files[folder / "sync.key"] = (_octets(sync["key"]), True)
    text = _config(told, name=name, primary=primary, folder=folder, data_dir=data_dir, pinned=bool(certificate))
    files[config] = (text.encode(), False)
    records = [f"{domain}. IN MX 20 {name}." for domain in told["domains"]]
    records += [f"{name}. IN {'AAAA' if ':' in ip else 'A'} {ip}" for ip in told["addresses"]]
    return Written(files, tuple(records))


def _config(told: Mapping[str, Any], *, name: str, primary: str, folder: Path, data_dir: str, pinned: bool) -> str:
    def said(value: object) -> str:
        return json.dumps(value)  # a string, a number or a list of strings: TOML writes them alike

    sync = told["sync"]
    lines = [
        f"# A backup of {told['server']}, written by gatepost join.",
        "[server]",
        'role = "backup-mx"',
        f"hostname = {said(name)}",
        f"data_dir = {said(data_dir)}",
        "",
        "[backup]",
        f"primary = {said(primary)}",
        f"name = {said(name)}",
        f"key_file = {said(str(folder / 'backup.key'))}",
        *([f"certificate = {said(str(folder / 'primary.pem'))}"] if pinned else []),
        "",
        *(
            ["[accounts]", f"postmaster = {said('postmaster@' + told['domains'][0])}", ""]
            if told["domains"]
            else []
        ),
        "[gate]",
        f"backups = {said(told['backups'])} # our other servers: never greylisted, never banned",
        "",
        "[policy.tables.domains]",
        f"values = {said(told['domains'])}",
        "",
        "[[policy.rules]]",
        'match = { from = "any", for = "<domains>" }',
        'action = "relay" # to a better MX than this one',
        "",
        "[[policy.rules]]",
        'match = { from = "local", for = "any" }',
        'action = "relay" # the mail of cron',
        "",
        "[intake]",
        f"max_size = {told['size']} # as the primary's",
        "",
        "[queue]",
        'lifetime = "14d" # a primary may be away for long',
        'warn_after = "0s" # its senders need not know',
    ]
    if sync is not None:
        lines += [
            "",
            "[feeds.sync]",
            f"mode = {said(sync['mode'])}",
            f"listen = {said(told['addresses'][0])}",
            f"peers = {said(sync['peers'])}",
            f"key_files = {said([str(folder / 'sync.key')])}",
        ]
    return "\n".join(lines) + "\n"


def checked(octets: bytes) -> Mapping[str, Any]:
    """Read the primary's answer; raises ValueError where it is none."""
    told = json.loads(octets)
    if not isinstance(told, dict) or told.get("version") != VERSION:
        raise ValueError("the primary's answer is not understood: is it of another version?")
    for word in ("domains", "addresses", "backups"):
        if not isinstance(told[word], list) or not all(isinstance(each, str) for each in told[word]):
            raise ValueError(f"the primary's answer has no {word}")
    if not told["addresses"] or not isinstance(told["size"], int) or not isinstance(told["key"], str):
        raise ValueError("the primary's answer lacks something")
    return told


def _octets(text: str) -> bytes:
    return b64decode(text)
