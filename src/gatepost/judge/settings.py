"""The judge's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gatepost.base.units import Octets, Seconds
from gatepost.dmarcrpt.settings import DmarcReportSettings


class Dmarc(Enum):
    """What becomes of DMARC's result."""

    OFF = "off"
    REPORT = "report"
    HONOUR = "honour"


class Canonicalization(Enum):
    """How much a signature lets others change: c= of RFC 6376 §3.4, the header's way before the body's."""

    RELAXED = "relaxed/relaxed"
    RELAXED_SIMPLE = "relaxed/simple"
    SIMPLE_RELAXED = "simple/relaxed"
    SIMPLE = "simple/simple"


@dataclass(frozen=True, slots=True)
class DomainSigning:
    """What one domain does in its own way: `[judge.signing.domain."example.org"]`."""

    selectors: tuple[str, ...] = ()
    """Sign with these keys alone; empty: with all that are in turn."""

    canonicalization: Canonicalization | None = None
    """As in `[judge.signing]`."""

    lifetime: Seconds | None = None
    """As in `[judge.signing]`."""

    identity: str = ""
    """What i= says: an address, or `@` and a domain, within the domain that signs."""

    domainkeys: bool | None = None
    """As in `[judge.signing]`."""


@dataclass(frozen=True, slots=True)
class SigningSettings:
    """How mail of ours is signed: `[judge.signing]`. `gatepost dkim` has the keys."""

    canonicalization: Canonicalization = Canonicalization.RELAXED
    """c= of DKIM: how a mail may change on its way without harm; the header's way, then the body's."""

    lifetime: Seconds = Seconds(14 * 86_400)
    """After how long a signature is void (x=), longer than a mail may wait in a queue; 0: never."""

    foreign: str = ""
    """The domain whose keys sign for authors whose domain, and those above it, have no keys (so does dkimproxy that
    knows one domain); empty: such mail goes unsigned."""

    domainkeys: bool = False
    """Add a DomainKey-Signature (RFC 4870, rsa-sha1, nofws) too. It is historic: nobody looks at it any more."""

    rotate: Seconds = Seconds(0)
    """How old a key gets until a successor is made, and the postmaster told what to publish; the successor signs as
    soon as the DNS shows it. 0: never by itself."""

    domain: Mapping[str, DomainSigning] = field(default_factory=dict)
    """What single domains do in their own way."""

    def __post_init__(self) -> None:
        if 0 < self.lifetime < 86_400:
            raise ValueError("lifetime must be a day at least, or 0: a mail may wait that long")
        if 0 < self.rotate < 7 * 86_400:
            raise ValueError("rotate must be a week at least, or 0")


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Whether mail is genuine and wanted: `[judge]`."""

    verify: bool = True
    """Check SPF, DKIM and ARC of mail from strangers and write Authentication-Results."""

    dmarc: Dmarc = Dmarc.HONOUR
    """DMARC (RFC 9989) for mail from strangers: `honour` what the author's domain asks for, refuse before the 250
    or file into Junk; only `report` the result in Authentication-Results; or `off`."""

    sealers: tuple[str, ...] = ()
    """Domains whose ARC seals are believed: a mail that fails DMARC is taken if one of them saw it pass and nobody
    else handled it since. Forwarders and list hosts that you know belong here."""

    lists: tuple[str, ...] = ()
    """List-Ids of mailing lists that are believed where a signature of the list's own domain holds."""

    signing: SigningSettings = field(default_factory=SigningSettings)
    """How mail of ours is signed."""

    reports: DmarcReportSettings = field(default_factory=DmarcReportSettings)
    """What other domains are told of mail in their name."""

    dns_time: Seconds = Seconds(20)
    """How long all DNS questions of one mail may take together; then the result is temperror."""

    filter: bool = False
    """Look at the content too, and mark spam with X-Spam fields."""

    filter_max_size: Octets = Octets(256 * 1024)
    """Larger mails are not looked at (spampd's --maxsize=256)."""

    junk_score: float = 5.0
    """From this score on a mail is marked as spam and filed into Junk."""

    refuse_score: float = 15.0
    """From this score on a mail is refused while its sender is still connected."""

    def __post_init__(self) -> None:
        if self.refuse_score < self.junk_score:
            raise ValueError("refuse_score must not be below junk_score: what is refused cannot be filed")
