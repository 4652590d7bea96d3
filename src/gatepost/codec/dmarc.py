"""DMARC policy records and the tree walk (RFC 9989): text in, terms out; `judge/dmarc.py` asks the DNS.

Where RFC 7489 had a list of public suffixes, the revision asks the DNS itself, from the author's domain up to the
top: who owns a name is the highest domain that has a record, unless a record says where the public suffix ends.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

QUERIES_MAX: Final = 8  # §4.10: a name of more labels is cut to seven after the first question
RECORD_MAX: Final = 4096
TAGS_MAX: Final = 64
URIS_MAX: Final = 10  # report addresses that are kept of one record
_VERSION: Final = re.compile(r"[ \t]*v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_TAG: Final = re.compile(r"[ \t]*([A-Za-z]+)[ \t]*=[ \t]*([\x20-\x3a\x3c-\x7e]*?)[ \t]*")
_URI: Final = re.compile(r"(?:mailto:[^@\s%!]+@[A-Za-z0-9.-]+|https://[^\s!]+)(?:![0-9]+[kmgtKMGT]?)?")
_PERCENT: Final = re.compile(r"[0-9]{1,3}")


class Request(IntEnum):
    """What a domain asks to be done with mail that fails; a higher one is harsher."""

    NONE = 0
    QUARANTINE = 1
    REJECT = 2

    @property
    def word(self) -> str:
        """Return the word of the record."""
        return self.name.lower()


class Suffix(Enum):
    """What `psd` says: whether the domain is a public suffix."""

    YES = "y"
    NO = "n"
    UNSAID = "u"


@dataclass(frozen=True, slots=True)
class Policy:
    """One domain's record. `subdomains` and `missing` are what sp and np say, None where they say nothing."""

    request: Request = Request.NONE
    subdomains: Request | None = None
    missing: Request | None = None
    """For subdomains that do not exist."""
    suffix: Suffix = Suffix.UNSAID
    strict_dkim: bool = False
    strict_spf: bool = False
    testing: bool = False
    """The domain asks that its wish is not carried out: `t=y`, or the old `pct` below 100."""
    reports_to: tuple[str, ...] = ()
    """URIs of rua, sizes cut off."""

    def wish(self, *, own: bool, exists: bool) -> Request:
        """Return what it asks for its `own` domain, or for a subdomain of it (§4.10.1)."""
        if own:
            return self.request
        below = self.request if self.subdomains is None else self.subdomains
        return below if exists or self.missing is None else self.missing


def parse(text: str) -> Policy | None:
    """Read one TXT record; None where it is no DMARC record or one that must not be acted on (§4.7, §4.10.1).

    Unknown and broken tags count as absent. A policy word that cannot be read makes it `none` where reports are
    wanted, and no record otherwise.
    """
    if len(text) > RECORD_MAX or _VERSION.match(text) is None:
        return None
    tags = _tags(text)
    reports_to = _uris(tags.get("rua", ""))
    try:
        request = _request(tags.get("p")) or Request.NONE
        subdomains, missing = _request(tags.get("sp")), _request(tags.get("np"))
    except ValueError:
        if not reports_to:
            return None
        request, subdomains, missing = Request.NONE, None, None
    return Policy(
        request,
        subdomains,
        missing,
        _suffix(tags.get("psd", "u").lower()),
        strict_dkim=tags.get("adkim", "").lower() == "s",
        strict_spf=tags.get("aspf", "").lower() == "s",
        testing=tags.get("t", "").lower() == "y" or _partial(tags.get("pct", "100")),
        reports_to=reports_to,
    )


def only_policy(texts: Sequence[str]) -> Policy | None:
    """Return the policy of a domain with these TXT records; several DMARC records are none (§4.10)."""
    found = [text for text in texts if _VERSION.match(text)]
    return parse(found[0]) if len(found) == 1 else None


def walk(domain: str) -> tuple[str, ...]:
    """Return the domains to ask, from `domain` up to its top label; at most QUERIES_MAX."""
    labels = domain.rstrip(".").split(".")
    above = labels[1:] if len(labels) < QUERIES_MAX else labels[1 - QUERIES_MAX :]
    return (domain, *(".".join(above[at:]) for at in range(len(above))))


def ends(policy: Policy | None, *, first: bool) -> bool:
    """Tell whether the walk ends with this answer: psd=n, or psd=y above where it began."""
    if policy is None:
        return False
    return policy.suffix is Suffix.NO or (policy.suffix is Suffix.YES and not first)


def organizational(start: str, found: Sequence[tuple[str, Policy]]) -> str:
    """Return the organizational domain of `start` (§4.10.2), given what its walk found, the longest name first."""
    for domain, policy in found:
        if policy.suffix is Suffix.NO:
            return domain
        if policy.suffix is Suffix.YES and domain != start:
            return ".".join(start.split(".")[-(domain.count(".") + 2) :])
    return found[-1][0] if found else start


def applicable(start: str, found: Sequence[tuple[str, Policy]]) -> tuple[str, Policy] | None:
    """Return the record that counts for the author domain `start`: its own, its organization's, its suffix's."""
    by_domain = dict(found)
    organization = organizational(start, found)
    for domain in (start, organization):
        if domain in by_domain:
            return domain, by_domain[domain]
    return next(((domain, policy) for domain, policy in found if policy.suffix is Suffix.YES), None)


def _tags(text: str) -> dict[str, str]:
    tags: dict[str, str] = {}
    for piece in text.split(";")[1 : TAGS_MAX + 1]:
        tag = _TAG.fullmatch(piece)
        if tag is not None:
            tags.setdefault(tag[1].lower(), tag[2])
    return tags


def _request(word: str | None) -> Request | None:
    if word is None:
        return None
    try:
        return Request[word.upper()]
    except KeyError:
        raise ValueError(word) from None


def _suffix(word: str) -> Suffix:
    return Suffix(word) if word in ("y", "n") else Suffix.UNSAID


def _partial(percent: str) -> bool:
    return _PERCENT.fullmatch(percent) is not None and int(percent) < 100


def _uris(value: str) -> tuple[str, ...]:
    pieces = (piece.strip(" \t") for piece in value.split(","))
    return tuple(piece.partition("!")[0] for piece in pieces if _URI.fullmatch(piece))[:URIS_MAX]
