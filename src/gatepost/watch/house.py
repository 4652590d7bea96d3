"""What a domain's records depend on: the server's name and addresses, its services, certificates and keys."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gatepost.aio import interface
from gatepost.backupmx.joined import all_backups
from gatepost.backupmx.joined import folder_of as backups_folder
from gatepost.codec.mtasts import Policy
from gatepost.codec.tlsa import public_key_octets
from gatepost.config import PORTS, Config, Kind, bound
from gatepost.db.unit import Database
from gatepost.judge.verbs import PublishedKey, Turn, list_keys
from gatepost.web.mtasts import own_policy

SERVICES: Final = {
    Kind.SUBMISSIONS: "_submissions._tcp",
    Kind.SUBMISSION: "_submission._tcp",
    Kind.IMAPS: "_imaps._tcp",
    Kind.IMAP: "_imap._tcp",
    Kind.POP3S: "_pop3s._tcp",
    Kind.POP3: "_pop3._tcp",
}
"""What phones and mail programs look up (RFC 6186, RFC 8314 §5.1)."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service that mail programs use: the SRV label, and the port where it listens."""

    label: str
    port: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """The server's own certificate of one file: `key` is the SHA-256 of its public key (TLSA 3 1 1)."""

    file: Path
    names: tuple[str, ...]
    begins: datetime
    ends: datetime
    key: str
    self_signed: bool


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A certificate that could not be read, and why."""

    file: Path
    why: str


@dataclass(frozen=True, slots=True)
class House:
    """A server as the world should see it."""

    hostname: str
    addresses: tuple[str, ...] = ()
    """Public addresses; none where the machine knows none of its own (behind NAT)."""
    keys: tuple[PublishedKey, ...] = ()
    services: tuple[Service, ...] = ()
    backups: tuple[str, ...] = ()
    """Names of backup MXs that have joined."""
    policy: Policy | None = None
    """What MTA-STS says, None where no policy is served."""
    certificates: tuple[Certificate | Unreadable, ...] = ()
    helo: str = ""
    """What we greet other servers with where it is not the hostname."""

    def keys_of(self, domain: str) -> tuple[PublishedKey, ...]:
        """Return the keys of a domain that are in use or waiting."""
        return tuple(key for key in self.keys if key.domain == domain and key.turn is not Turn.RETIRED)


async def house_of(config: Config, mail: Database, addresses: Sequence[str] = ()) -> House:
    """Return the server of a configuration; `addresses` are its public ones, where it cannot know them."""
    backups = all_backups(backups_folder(config.data_dir))
    return House(
        config.hostname,
        tuple(addresses) or _public(config),
        tuple(await list_keys(mail)),
        tuple(_services(config)),
        tuple(each.name for each in backups),
        own_policy(config.tls.mta_sts, config.hostname),
        tuple(_certificates(config)),
        config.relay.helo,
    )


def read_certificate(file: Path) -> Certificate | Unreadable:
    """Read the first certificate of a PEM file."""
    try:
        leaf = x509.load_pem_x509_certificates(file.read_bytes())[0]
    except OSError as wrong:
        return Unreadable(file, wrong.strerror or str(wrong))
    except (ValueError, IndexError) as wrong:
        return Unreadable(file, f"not a PEM certificate: {wrong}")
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, ValueError):
        dns = ()
    key = sha256(public_key_octets(leaf.public_bytes(Encoding.DER))).hexdigest()
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return Certificate(file, dns, begins, ends, key, leaf.subject == leaf.issuer)


def _certificates(config: Config) -> Iterable[Certificate | Unreadable]:
    files = [Path(each.certificate) for each in config.tls.certificates]
    return map(read_certificate, files or [config.data_dir / "tls" / "self-signed.pem"])


def _services(config: Config) -> Iterable[Service]:
    for kind, label in SERVICES.items():
        for listener in config.listeners.values():
            if listener.kind is kind:
                yield Service(label, bound(listener.address[0], PORTS[kind], ("listen",))[0][1])
                break


def _public(config: Config) -> tuple[str, ...]:
    """Return the global addresses on which mail is awaited."""
    found: list[str] = []
    for listener in config.listeners.values():
        if listener.kind is Kind.MX:
            for text in listener.address:
                found += [ip for ip, _ in bound(text, PORTS[Kind.MX], ("listen",))]
    if not found or any(ip_address(ip).is_unspecified for ip in found):
        found += [ip for each in interface.addresses().values() for ip in each]
    return tuple(dict.fromkeys(ip for ip in found if ip_address(ip).is_global))
