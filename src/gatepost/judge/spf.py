"""SPF's check_host (RFC 7208 §4): who may send for a domain, within the limits of §4.6.4."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Final, Protocol, TypeVar

from gatepost.base.verdict import Result
from gatepost.codec.spf import BadRecord, Ip, Macros, Mechanism, Record, expand, explain, is_spf, parse

LOOKUPS_MAX: Final = 10  # §4.6.4: terms that cause a lookup
VOID_MAX: Final = 2  # §4.6.4: lookups that find nothing
NAMES_MAX: Final = 10  # §4.6.4: MX hosts, PTR names
LABELS_MAX: Final = 127
NAMING_MIN: Final = {4: 8, 6: 24}  # a shorter prefix is as good as `all`

T = TypeVar("T")


class Trouble(Exception):
    """The DNS did not answer: temperror."""


class Names(Protocol):
    """The DNS as SPF needs it: an empty answer where there is nothing, Trouble where nobody knows."""

    def txt(self, name: str) -> Awaitable[Sequence[bytes]]: ...
    def hosts(self, name: str, version: int) -> Awaitable[Sequence[Ip]]: ...
    def exchanges(self, name: str) -> Awaitable[Sequence[str]]: ...
    def pointers(self, ip: Ip) -> Awaitable[Sequence[str]]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result and why; `by` is the domain whose own words named the host, at the end of includes and redirects.

    Who passes by an `include` is a customer of the domain that is included: of that provider's pool. Empty where
    the words name everybody (`all`, networks larger than NAMING_MIN): they know nothing of the host.
    `explanation` is what the domain says to those whom it refuses (§6.2), where it was asked for.
    """

    result: Result
    reason: str = ""
    by: str = ""
    explanation: str = ""


REMEMBERED_MAX: Final = 1024  # octets of a policy that is kept parsed, so that strangers cannot fill the memory
_parsed = lru_cache(maxsize=4096)(parse)


class _PermError(Exception):
    pass


@dataclass(slots=True)
class _Check:
    """One check_host with its counters; `include` and `redirect` share them."""

    names: Names
    macros: Macros
    lookups: int = 0
    voids: int = 0
    pointers: list[str] | None = field(default=None)
    included_by: str = ""
    """The domain whose words matched in the last include that did."""
    failed: tuple[str, Macros] | None = None
    """Where the explanation stands of the record that said fail, and its macros."""


async def check_host(
    names: Names,
    ip: Ip,
    sender_local: str,
    sender_domain: str,
    helo: str,
    *,
    explain_as: tuple[str, int] | None = None,
) -> Outcome:
    """Evaluate the policy of `sender_domain` for `ip`; an empty local part counts as postmaster (§4.3).

    With `explain_as` (our name, seconds since 1970) a failure brings the domain's explanation along.
    """
    macros = Macros(ip, sender_local or "postmaster", sender_domain, helo, sender_domain)
    if explain_as is not None:
        macros = replace(macros, receiver=explain_as[0], moment=explain_as[1])
    check = _Check(names, macros)
    try:
        outcome = await _evaluate(check, sender_domain)
        if outcome.result is Result.FAIL and explain_as is not None and check.failed is not None:
            return replace(outcome, explanation=await _explanation(check, *check.failed))
        return outcome
    except _PermError as wrong:
        return Outcome(Result.PERMERROR, str(wrong))
    except Trouble as trouble:
        return Outcome(Result.TEMPERROR, str(trouble))


async def _evaluate(check: _Check, domain: str) -> Outcome:
    if not _well_formed(domain):
        return Outcome(Result.NONE, "the domain cannot be asked for")
    record = await _record(check, domain)
    if record is None:
        return Outcome(Result.NONE, "no record")
    macros = check.macros if domain == check.macros.domain else replace(check.macros, domain=domain)
    for mechanism in record.mechanisms:
        if await _matches(check, mechanism, macros):
            by = check.included_by if mechanism.name == "include" else domain if _names_somebody(mechanism) else ""
            check.failed = (record.explanation, macros) if record.explanation else None
            return Outcome(Result(mechanism.qualifier.value), f"matched {mechanism.name} of {domain}", by)
    if not record.redirect:
        return Outcome(Result.NEUTRAL, f"nothing of {domain} matched")
    _count_lookup(check)
    target = await _expanded(check, record.redirect, macros)
    outcome = await _evaluate(check, target)
    if outcome.result is Result.NONE:
        raise _PermError(f"redirect to {target}, which has no record")
    return outcome


async def _explanation(check: _Check, where: str, macros: Macros) -> str:
    """Return the explanation; whatever is wrong with it, there is none (§6.2)."""
    try:
        texts = await check.names.txt(await _expanded(check, where, macros))
        if len(texts) != 1:
            return ""
        if b"%{p" in texts[0].lower():
            macros = await _with_validated(check, macros)
        return explain(texts[0].decode("latin-1"), macros)
    except (Trouble, BadRecord, _PermError):
        return ""


def _well_formed(domain: str) -> bool:
    labels = domain.removesuffix(".").split(".")
    return 1 < len(labels) <= LABELS_MAX and len(domain) <= 253 and all(0 < len(label) <= 63 for label in labels)


async def _record(check: _Check, domain: str) -> Record | None:
    texts = [text.decode("latin-1") for text in await check.names.txt(domain)]
    records = [text for text in texts if is_spf(text)]
    if not records:
        return None
    if len(records) > 1:
        raise _PermError(f"{domain} has {len(records)} records")
    try:
        return _parsed(records[0]) if len(records[0]) <= REMEMBERED_MAX else parse(records[0])
    except BadRecord as wrong:
        raise _PermError(f"{domain}: {wrong}") from wrong


async def _matches(check: _Check, mechanism: Mechanism, macros: Macros) -> bool:
    match mechanism.name:
        case "all":
            return True
        case "ip4" | "ip6":
            assert mechanism.network is not None
            return macros.ip in mechanism.network
    _count_lookup(check)
    target = await _expanded(check, mechanism.domain, macros) if mechanism.domain else macros.domain
    match mechanism.name:
        case "include":
            return await _included(check, target)
        case "exists":
            return bool(_found(check, await _hosts(check, target, 4)))
        case "a":
            return _within(macros.ip, _found(check, await _hosts(check, target, macros.ip.version)), mechanism)
        case "mx":
            return await _exchanger(check, target, mechanism, macros)
        case _:
            return await _pointed(check, target, macros)


def _names_somebody(mechanism: Mechanism) -> bool:
    network = mechanism.network
    return mechanism.name != "all" and (network is None or network.prefixlen >= NAMING_MIN[network.version])


async def _included(check: _Check, target: str) -> bool:
    outcome = await _evaluate(check, target)
    if outcome.result is Result.NONE:
        raise _PermError(f"include of {target}, which has no record")
    check.included_by = outcome.by
    return outcome.result is Result.PASS


async def _exchanger(check: _Check, target: str, mechanism: Mechanism, macros: Macros) -> bool:
    hosts = _found(check, await check.names.exchanges(target) if _well_formed(target) else ())
    if len(hosts) > NAMES_MAX:
        raise _PermError(f"{target} has more than {NAMES_MAX} MX hosts")
    for host in hosts:
        if _within(macros.ip, await _hosts(check, host, macros.ip.version), mechanism):
            return True
    return False


async def _pointed(check: _Check, target: str, macros: Macros) -> bool:
    suffix = "." + target.lower().rstrip(".")
    return any(("." + name).endswith(suffix) for name in await _validated(check, macros))


async def _validated(check: _Check, macros: Macros) -> list[str]:
    """Return the names that point to the address and back (§5.5); trouble on the way finds nothing."""
    if check.pointers is None:
        check.pointers = []
        try:
            pointers = await check.names.pointers(macros.ip)
        except Trouble:
            pointers = ()
        _found(check, pointers)
        for name in pointers[:NAMES_MAX]:
            try:
                if macros.ip in await _hosts(check, name, macros.ip.version):
                    check.pointers.append(name.lower().rstrip("."))
            except Trouble:
                continue
    return check.pointers


async def _hosts(check: _Check, name: str, version: int) -> Sequence[Ip]:
    return await check.names.hosts(name, version) if _well_formed(name) else ()


async def _expanded(check: _Check, text: str, macros: Macros) -> str:
    if "%{p" in text.lower():
        macros = await _with_validated(check, macros)
    return expand(text, macros)


async def _with_validated(check: _Check, macros: Macros) -> Macros:
    """Return the macros with the name that `p` stands for (§7.3): the domain's own, one below it, any."""
    names = await _validated(check, macros)
    under = [name for name in names if ("." + name).endswith("." + macros.domain.lower())]
    best = next((name for name in names if name == macros.domain.lower()), None)
    return replace(macros, validated=best or next(iter(under or names), "unknown"))


def _within(ip: Ip, hosts: Sequence[Ip], mechanism: Mechanism) -> bool:
    length = mechanism.prefix4 if isinstance(ip, IPv4Address) else mechanism.prefix6
    shift, number = ip.max_prefixlen - length, int(ip)
    return any((number ^ int(host)) >> shift == 0 for host in hosts if host.version == ip.version)


def _count_lookup(check: _Check) -> None:
    check.lookups += 1
    if check.lookups > LOOKUPS_MAX:
        raise _PermError(f"more than {LOOKUPS_MAX} terms ask the DNS")


def _found(check: _Check, answer: Sequence[T]) -> Sequence[T]:
    if not answer:
        check.voids += 1
        if check.voids > VOID_MAX:
            raise _PermError(f"more than {VOID_MAX} lookups found nothing")
    return answer
