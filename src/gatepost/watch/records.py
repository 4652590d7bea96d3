"""The records that a domain wants in the DNS, one typed model that the zone is printed from and checked against."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Final

from gatepost.codec.mtasts import Policy
from gatepost.judge.verbs import STRING_MAX
from gatepost.watch.house import Certificate, House, Service
from gatepost.web.mtasts import HOST_LABEL, policy_id

TTL: Final = 3600
MX_PREFERENCE: Final = 10
BACKUP_PREFERENCE: Final = 20


class Need(Enum):
    """How much a domain needs a record."""

    NEEDED = "needed"
    """Without it mail does not come, or is not believed by those who have most mailboxes."""
    ADVISED = "advised"
    SIGNED = "signed"
    """Only of use, and only safe, in a zone that DNSSEC signs."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `name` without the last dot, `value` as a zone file has it, for a TXT its whole text."""

    name: str
    kind: str
    value: str
    why: str
    need: Need = Need.NEEDED

    @property
    def data(self) -> str:
        """Return what stands behind the type: a TXT in quoted strings of at most 250 characters."""
        if self.kind != "TXT":
            return self.value
        pieces = (self.value[at : at + STRING_MAX] for at in range(0, len(self.value), STRING_MAX))
        return " ".join('"' + piece.replace("\\", "\\\\").replace('"', '\\"') + '"' for piece in pieces)

    @property
    def line(self) -> str:
        """Return it as a line of a zone file."""
        return f"{self.name}. {TTL} IN {self.kind} {self.data}"

    def facts(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "name": self.name, "ttl": TTL, "type": self.kind, "value": self.value, "need": self.need.value,
            "why": self.why, "line": self.line,
        }  # fmt: skip


def wanted(house: House, domain: str) -> tuple[Record, ...]:
    """Return all records for a domain of a server; those of the server's own name where it is within the domain."""
    found = [*mx(house, domain)]
    if within(house.hostname, domain):
        found += [*hosts(house), *helo_spf(house)]
        found += [tlsa(house.hostname, each) for each in house.certificates if isinstance(each, Certificate)]
    found += [spf(house, domain), *dkim(house, domain), dmarc(domain), tlsrpt(domain)]
    if house.policy is not None:
        found += sts(house, domain, house.policy)
    return (*dict.fromkeys(found), *services(house, domain))


def within(name: str, domain: str) -> bool:
    """Tell whether a name is a domain's, or below it."""
    return ("." + name).endswith("." + domain)


def mx(house: House, domain: str) -> Iterator[Record]:
    """Yield where mail for the domain goes."""
    yield Record(domain, "MX", f"{MX_PREFERENCE} {house.hostname}.", "where mail for the domain goes")
    for backup in house.backups:
        yield Record(domain, "MX", f"{BACKUP_PREFERENCE} {backup}.", "who holds mail while this server is away")


def hosts(house: House) -> Iterator[Record]:
    """Yield the server's addresses."""
    for ip in house.addresses:
        kind = "AAAA" if ip_address(ip).version == 6 else "A"
        yield Record(house.hostname, kind, ip, "the server's address")


def pointer(house: House, ip: str) -> Record:
    """Return the name of an address; whoever rents the address out has to set it."""
    name = ip_address(ip).reverse_pointer
    return Record(name, "PTR", f"{house.hostname}.", "the address's name: set it where you rent the address")


def spf(house: House, domain: str) -> Record:
    """Return who may send in the domain's name: its mail servers, and our greeting's name."""
    return Record(domain, "TXT", f"v=spf1 mx{_helo_too(house)} -all", "who may send in the domain's name (SPF)")


def helo_spf(house: House) -> Iterator[Record]:
    """Yield the same for the server's own name, which speaks for mail without a reverse-path."""
    why = "bounces and letters of the server have no sender: its name speaks for them (SPF)"
    yield Record(house.hostname, "TXT", "v=spf1 a -all", why, Need.ADVISED)


def dkim(house: House, domain: str) -> Iterator[Record]:
    """Yield the domain's keys."""
    for key in house.keys_of(domain):
        yield Record(key.name, "TXT", key.record, f"the key that signs its mail ({key.algorithm}, DKIM)")


def dmarc(domain: str) -> Record:
    """Return what others should do with mail that proves nothing."""
    value = f"v=DMARC1; p=quarantine; rua=mailto:postmaster@{domain}"
    return Record(
        f"_dmarc.{domain}", "TXT", value, "what others do with mail that only pretends to be yours (DMARC)"
    )


def tlsrpt(domain: str) -> Record:
    """Return whom others tell of TLS that fails."""
    value = f"v=TLSRPTv1; rua=mailto:postmaster@{domain}"
    why = "whom others tell when TLS to the server fails (TLS-RPT)"
    return Record(f"_smtp._tls.{domain}", "TXT", value, why, Need.ADVISED)


def sts(house: House, domain: str, policy: Policy) -> Iterator[Record]:
    """Yield what announces the policy, and where it is fetched."""
    why = "that mail is to come by TLS that holds (MTA-STS)"
    yield Record(f"_mta-sts.{domain}", "TXT", f"v=STSv1; id={policy_id(policy)}", why, Need.ADVISED)
    why = "where others fetch the MTA-STS policy"
    yield Record(f"{HOST_LABEL}{domain}", "CNAME", f"{house.hostname}.", why, Need.ADVISED)


def tlsa(hostname: str, certificate: Certificate) -> Record:
    """Return the key of a certificate for DANE."""
    why = "the key of the server's certificate (DANE): change it before the key changes"
    return Record(f"_25._tcp.{hostname}", "TLSA", f"3 1 1 {certificate.key}", why, Need.SIGNED)


def services(house: House, domain: str) -> Iterator[Record]:
    """Yield where phones and mail programs find their server."""
    for service in house.services:
        yield service_record(house, domain, service)


def service_record(house: House, domain: str, service: Service) -> Record:
    """Return one of them."""
    first = 0 if service.label in ("_imaps._tcp", "_submissions._tcp", "_pop3s._tcp") else 10
    value = f"{first} 1 {service.port} {house.hostname}."
    return Record(f"{service.label}.{domain}", "SRV", value, "how phones find the server", Need.ADVISED)


def bind(records: Iterable[Record]) -> Iterator[str]:
    """Yield lines of a zone file; what is only safe in a signed zone stands in a comment."""
    why = ""
    for record in records:
        if record.why != why:
            why = record.why
            yield f"; {why}"
        yield (f"; in a zone that DNSSEC signs: {record.line}" if record.need is Need.SIGNED else record.line)


def pointers(house: House) -> Iterator[str]:
    """Yield comments for the zones of the addresses, which are hardly ever one's own."""
    for ip in house.addresses:
        yield f"; where you rent {ip}, set its name (PTR) to {house.hostname}"


def nsupdate(records: Sequence[Record], domain: str) -> Iterator[str]:
    """Yield commands for nsupdate(1), which add what is missing and take nothing away."""
    yield f"zone {domain}."
    for record in records:
        command = f"update add {record.name}. {TTL} {record.kind} {record.data}"
        yield f"; in a zone that DNSSEC signs: {command}" if record.need is Need.SIGNED else command
    yield "send"


def _helo_too(house: House) -> str:
    """Return what lets a server send that is not among the domain's MX: one with another name for its greeting."""
    return f" a:{house.helo}" if house.helo and house.helo != house.hostname else ""
