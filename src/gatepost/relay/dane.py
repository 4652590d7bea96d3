"""Ask the DNS what the TLS of a mail server must prove: DANE for SMTP (RFC 7672 §2.2).

    addresses of the host     failed                                          FAILED: not now, never clear
      |  not validated        an alias that is itself validated: look there   else NONE
      v  validated
    TLSA of _port._tcp.name   name: where the aliases led, then the host's own (RFC 7671 §7)
         failed, bogus        FAILED   a validating resolver says SERVFAIL to both (§2.1.2)
         not validated, none  NONE     the domain has no DANE there
         usable ones          RECORDS  TLS that fits one of them, or no delivery
         unusable ones only   UNUSABLE TLS, any certificate (§2.2)

"Validated" is the AD bit of a resolver that is trusted and near; see `aio.resolve`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from gatepost.aio.resolve import Answer
from gatepost.base.address import fold_domain
from gatepost.codec.tlsa import Tlsa, usable


class Names(Protocol):
    """What is asked of the DNS."""

    async def a(self, name: str) -> Answer[str]:
        """Return IPv4 addresses."""
        ...

    async def aaaa(self, name: str) -> Answer[str]:
        """Return IPv6 addresses."""
        ...

    async def cname(self, name: str) -> Answer[str]:
        """Return the alias record of `name` itself."""
        ...

    async def tlsa(self, name: str) -> Answer[Tlsa]:
        """Return TLSA records."""
        ...


class Found(Enum):
    """What the DNS says about a mail server's TLS."""

    NONE = "none"
    RECORDS = "records"
    UNUSABLE = "unusable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """`base`: the name that the records belong to, for SNI and the certificate; `why`: for the operator."""

    found: Found
    why: str
    base: str = ""
    records: tuple[Tlsa, ...] = ()


_INSECURE: Final = "no DANE: the addresses of {} are not validated by DNSSEC"


async def look(names: Names, host: str, port: int) -> Finding:
    """Return what DANE asks of `host`, a name, at `port`."""
    host = fold_domain(host)
    six, four = await names.aaaa(host), await names.a(host)
    heard = [answer for answer in (six, four) if answer] or [six, four]
    if all(answer.temporary for answer in heard):
        return Finding(Found.FAILED, f"the addresses of {host} cannot be looked up")
    end = heard[0].name or host
    if all(answer.secure for answer in heard):
        bases = [end] if end == host else [end, host]
    elif end == host:
        return Finding(Found.NONE, _INSECURE.format(host))
    else:
        alias = await names.cname(host)
        if alias.temporary:
            return Finding(Found.FAILED, f"the alias of {host} cannot be looked up")
        if not (alias and alias.secure):
            return Finding(Found.NONE, _INSECURE.format(host))
        bases = [host]
    why = ""
    for base in bases:
        finding = await _records(names, base, port)
        if finding.found is not Found.NONE:
            return finding
        why = why or finding.why
    return Finding(Found.NONE, why)


async def _records(names: Names, base: str, port: int) -> Finding:
    owner = f"_{port}._tcp.{base}"
    answer = await names.tlsa(owner)
    if answer.temporary:
        return Finding(Found.FAILED, f"the TLSA records of {owner} cannot be looked up, or are bogus")
    if not answer:
        return Finding(Found.NONE, f"no DANE: {owner} has no TLSA records")
    if not answer.secure:
        return Finding(Found.NONE, f"no DANE: the TLSA records of {owner} are not validated by DNSSEC")
    good = usable(answer.records)
    if not good:
        text = f"DANE: {owner} has only TLSA records that SMTP cannot use: TLS with any certificate"
        return Finding(Found.UNUSABLE, text, base, answer.records)
    return Finding(Found.RECORDS, f"DANE: {owner} has {len(good)} usable TLSA records", base, good)
