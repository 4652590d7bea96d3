"""Decide what the TLS of one next hop must prove before a mail may go over it.

In this order, the first that speaks decides:

    the rule         `tls = "none"` or `"verify"` is the operator's word; a login without another word verifies
    DANE             validated TLSA records of the host (RFC 7672)                        relay/dane.py
    MTA-STS          the domain's policy says `enforce` (RFC 8461 §2: DANE goes first)     relay/mtasts.py
    the rule again   `tls = "require"`, `allow_plain = false`: TLS, any certificate
    else             TLS where it is offered and works (RFC 7435)

What the sender wishes (RFC 8689) comes on top: REQUIRETLS asks for a certificate that holds, of a host that surely
is the domain's; `TLS-Required: No` passes over what domains publish, DANE and MTA-STS.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import ip_address
from typing import Final

from gatepost.aio.offload import Overfull
from gatepost.base.envelope import Privacy
from gatepost.codec.mtasts import Mode, Policy
from gatepost.codec.tlsa import RECORDS_MAX, Tlsa
from gatepost.codec.tlsrpt import NOTHING_ASKED, Asked, Failure, PolicyType
from gatepost.policy.action import RelayTls, Route, RouteKind
from gatepost.relay import dane
from gatepost.relay.mtasts import Policies
from gatepost.relay.route import Hop
from gatepost.relay.settings import RelaySettings


class Level(Enum):
    """How much a next hop's TLS must prove."""

    PLAIN = "none"
    MAY = "may"
    """TLS where it works, else plain."""
    ENCRYPT = "encrypt"
    """TLS or no delivery; any certificate."""
    VERIFY = "verify"
    """TLS with a certificate that holds for the host's name, or no delivery."""
    DANE = "dane"
    """TLS with a certificate that fits a TLSA record, or no delivery."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why what is published fails before TLS does (RFC 8460 §4.3.2)."""

    failure: Failure
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Assurance:
    """What is asked of one next hop, and `why` in a sentence.

    `sni`: the name to ask for, when not the host's own. `records` and `names` (reference identifiers,
    RFC 7672 §3.2.2) count for DANE.
    """

    level: Level
    why: str
    sni: str = ""
    records: tuple[Tlsa, ...] = ()
    names: tuple[str, ...] = ()
    published: Asked = NOTHING_ASKED
    """What the domain or the host asks for, as TLS reports tell it."""
    flaw: Flaw | None = None
    """What is wrong with that, known before a word is spoken."""
    testing: bool = False
    """Whether the certificate holds is to be found out; the mail goes all the same (RFC 8461 §5)."""

    @property
    def required(self) -> bool:
        """Tell whether there is no delivery without TLS."""
        return self.level not in (Level.PLAIN, Level.MAY)


class Unsure(Exception):
    """What the hop must prove cannot be known now, or it cannot be that: it is not spoken to."""

    def __init__(self, text: str, published: Asked = NOTHING_ASKED, flaw: Flaw | None = None) -> None:
        super().__init__(text)
        self.published = published
        self.flaw = flaw


class Insecure(Unsure):
    """The hop cannot be what the sender asks for (RFC 8689 §4.2.1)."""


_RULE_NONE: Final = Assurance(Level.PLAIN, "the rule says tls = none")
_SOCKET: Final = Assurance(Level.PLAIN, "a Unix socket")
UNNAMED: Final = "the policy does not name this host"
_MAY: Final = "TLS where it is offered"


class Assurer:
    """Knows what to ask of a hop; without `names` there is no DANE, without `policies` no MTA-STS."""

    def __init__(self, settings: RelaySettings, names: dane.Names | None, policies: Policies | None = None) -> None:
        self._settings = settings
        self._names = names if settings.dane else None
        self._policies = policies if settings.mta_sts else None

    async def assure(self, hop: Hop, route: Route, destination: str, privacy: Privacy = Privacy.USUAL) -> Assurance:
        """Return what `hop` must prove for mail to `destination` (a domain, for MX routes); raises Unsure."""
        usual = await self._usual(hop, route, destination, policies=privacy is not Privacy.WAIVED)
        if privacy is Privacy.REQUIRED and not hop.ip.startswith("/"):
            return await self._required(usual, hop, route, destination)
        return usual

    async def _required(self, usual: Assurance, hop: Hop, route: Route, destination: str) -> Assurance:
        """Return what REQUIRETLS asks of a hop beyond the usual (RFC 8689 §2); raises Insecure."""
        if usual.level is Level.PLAIN:
            raise Insecure(f"the sender requires TLS, and {usual.why}")
        looked_up = route.kind is RouteKind.MX and hop.name != destination
        if looked_up and not hop.secure and not await self._named(destination, hop.name):
            text = "neither DNSSEC nor an MTA-STS policy says"
            raise Insecure(f"the sender requires TLS, and {text} that {hop.name} is a server of {destination}")
        if usual.level in (Level.VERIFY, Level.DANE):
            return usual
        return Assurance(Level.VERIFY, f"the sender requires TLS; {usual.why}", usual.sni)

    async def _named(self, domain: str, host: str) -> bool:
        """Tell whether the domain's MTA-STS policy names a host (RFC 8461 §4.1); raises Unsure."""
        if self._policies is None:
            return False
        try:
            known = (await self._policies.find(domain)).known
        except Overfull as full:
            raise Unsure(f"the MTA-STS policy of {domain} cannot be read now: {full}") from full
        return known is not None and known.policy.mode is not Mode.NONE and known.policy.fits(host)

    async def _usual(self, hop: Hop, route: Route, destination: str, *, policies: bool) -> Assurance:
        if route.tls is RelayTls.NONE and not route.implicit_tls:
            return _RULE_NONE
        if hop.ip.startswith("/") and not route.implicit_tls:
            return _SOCKET
        if route.tls is RelayTls.VERIFY:
            return Assurance(Level.VERIFY, "the rule says tls = verify")
        if route.auth and route.tls is RelayTls.MAY:
            return Assurance(Level.VERIFY, "a password is for the server whose name stands in the rule")
        plainly = self._by_rule(route)
        if not policies:
            return replace(plainly, why=f"{plainly.why}; the sender says TLS-Required: No")
        if self._names is not None and not route.lmtp and not _is_address(hop.name):
            finding = await dane.look(self._names, hop.name, hop.port)
            match finding.found:
                case dane.Found.FAILED:
                    raise Unsure(finding.why, Asked(PolicyType.TLSA), Flaw(Failure.DNSSEC_INVALID, finding.why))
                case dane.Found.RECORDS:
                    names = _references(finding.base, hop, destination)
                    published = _tlsa(finding.records)
                    return Assurance(Level.DANE, finding.why, finding.base, finding.records, names, published)
                case dane.Found.UNUSABLE:
                    flaw = Flaw(Failure.TLSA_INVALID, "no record that SMTP can use")
                    published = _tlsa(finding.records)
                    plainly = Assurance(Level.ENCRYPT, finding.why, finding.base, published=published, flaw=flaw)
                case dane.Found.NONE:
                    plainly = replace(plainly, why=f"{plainly.why}; {finding.why}")
        if self._policies is None or route.lmtp or route.kind is not RouteKind.MX or destination.startswith("["):
            return plainly
        return await self._by_policy(self._policies, hop, destination, plainly)

    async def _by_policy(self, policies: Policies, hop: Hop, domain: str, plainly: Assurance) -> Assurance:
        """Return what the domain's policy asks (RFC 8461 §5); raises Unsure for a host that it does not name."""
        try:
            finding = await policies.find(domain)
        except Overfull as full:
            raise Unsure(f"the MTA-STS policy of {domain} cannot be read now: {full}") from full
        if finding.known is None and finding.failure is not None and plainly.flaw is None:
            flaw = Flaw(finding.failure, finding.why)
            plainly = replace(plainly, published=Asked(PolicyType.STS), flaw=flaw)
        if finding.known is None:
            return replace(plainly, why=f"{plainly.why}; {finding.why}") if finding.why else plainly
        policy = finding.known.policy
        fits = policy.fits(hop.name)
        why = finding.why if fits else f"{finding.why}, which does not name {hop.name}"
        match policy.mode:
            case Mode.ENFORCE if fits:
                return Assurance(Level.VERIFY, why, published=_sts(policy))
            case Mode.ENFORCE:
                raise Unsure(why, _sts(policy), Flaw(Failure.OTHER, UNNAMED))
            case Mode.TESTING:
                plainly = replace(plainly, flaw=None if fits else Flaw(Failure.OTHER, UNNAMED), testing=fits)
                return replace(plainly, why=f"{plainly.why}; {why}", published=_sts(policy))
            case Mode.NONE:
                return replace(plainly, why=f"{plainly.why}; {why}")

    def _by_rule(self, route: Route) -> Assurance:
        if route.tls is RelayTls.REQUIRE:
            return Assurance(Level.ENCRYPT, "the rule says tls = require")
        if route.implicit_tls:
            return Assurance(Level.ENCRYPT, "the rule says implicit TLS")
        if not self._settings.allow_plain:
            return Assurance(Level.ENCRYPT, "allow_plain is off")
        return Assurance(Level.MAY, _MAY)


def _tlsa(records: Sequence[Tlsa]) -> Asked:
    lines = (f"{each.usage} {each.selector} {each.matching} {each.data.hex()}" for each in records[:RECORDS_MAX])
    return Asked(PolicyType.TLSA, tuple(lines))


def _sts(policy: Policy) -> Asked:
    return Asked(PolicyType.STS, tuple(policy.document().decode("ascii").split("\r\n")[:-1]), policy.mx)


def _references(base: str, hop: Hop, destination: str) -> tuple[str, ...]:
    """Return the names that a certificate under a DANE-TA record may bear (RFC 7672 §3.2.2).

    The recipient's domain is one of them only where validated MX records led to the host: else a forged MX
    record would choose which of two names is asked for.
    """
    names = [base, hop.name, *((destination, hop.domain) if hop.secure else ())]
    return tuple(dict.fromkeys(name for name in names if name))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
