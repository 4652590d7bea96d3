"""What a listener offers, out of the settings and of how busy we are."""

from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

from gatepost.base.clock import MICROSECONDS, Instant, later, seconds
from gatepost.codec.smtp.data import BareLines
from gatepost.codec.smtp.etrn import Offer
from gatepost.codec.smtp.server import Terms
from gatepost.intake.ports import Services
from gatepost.intake.settings import IntakeSettings

STRESSED_ERRORS: Final = 1
STRESSED_JUNK: Final = 10


def terms_of(
    services: Services,
    *,
    peer: str,
    recipients: int,
    bare_lines: BareLines,
    mechanisms: tuple[str, ...],
    lmtp: bool = False,
    auth_required: bool = False,
    require_tls: bool = False,
    trusted: bool = False,
) -> Terms:
    """Return the terms of one session; under stress we are less patient (postfix STRESS_README).

    `peer` is the address at the other end, as normalised text; `trusted`: it may say how its mail is handled.
    """
    settings, usual = services.settings, Terms("")
    crowded = services.crowded()
    return Terms(
        hostname=services.hostname,
        lmtp=lmtp,
        size=settings.max_size,
        recipients=recipients,
        mails=settings.max_mails,
        starttls=services.certificates is not None,
        require_tls=require_tls,
        mechanisms=mechanisms,
        auth_required=auth_required,
        bare_lines=bare_lines,
        hard_errors=STRESSED_ERRORS if crowded else usual.hard_errors,
        junk=STRESSED_JUNK if crowded else usual.junk,
        auth_failures=settings.auth_failures,
        command_time=settings.stress_time if crowded else settings.command_time,
        session_time=settings.session_time,
        forbidden=_words(settings.forbidden_commands),
        foreign=settings.non_smtp,
        bare_newline=settings.bare_newline,
        unannounced=settings.unannounced_pipelining,
        etrn=_may_turn(settings.etrn, peer) if settings.etrn and not lmtp else Offer.NONE,
        priority=trusted,
        deliver_by=trusted,
        future_release=_future(settings, services.clock.now()) if trusted else "",
        introductions=_allowed(settings, peer) if settings.xforward or settings.xclient else frozenset(),
    )


def _future(settings: IntakeSettings, now: Instant) -> str:
    """Return for how long, and until when, mail may be held back; to the minute, so that answers are alike."""
    if not settings.future_release:
        return ""
    until = datetime.fromtimestamp(later(now, seconds(settings.future_release)) // MICROSECONDS, UTC)
    return f"{int(settings.future_release)} {until:%Y-%m-%dT%H:%M:00Z}"


def _may_turn(networks: tuple[str, ...], peer: str) -> Offer:
    """Return what a peer is told of ETRN."""
    address = ip_address(peer)
    return Offer.YES if any(address in ip_network(each) for each in networks) else Offer.OTHERS


def _allowed(settings: IntakeSettings, peer: str) -> frozenset[str]:
    """Return which of XFORWARD and XCLIENT a peer may say."""
    address = ip_address(peer)
    lists = {"XFORWARD": settings.xforward, "XCLIENT": settings.xclient}
    return frozenset(
        verb for verb, networks in lists.items() if any(address in ip_network(each) for each in networks)
    )


@lru_cache(maxsize=4)
def _words(words: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(word.upper().encode() for word in words)
