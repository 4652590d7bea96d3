"""What a listener offers, out of the settings and of how busy we are."""

from functools import lru_cache
from typing import Final

from gatepost.codec.smtp.data import BareLines
from gatepost.codec.smtp.server import Terms
from gatepost.intake.ports import Services

STRESSED_ERRORS: Final = 1
STRESSED_JUNK: Final = 10


def terms_of(
    services: Services,
    *,
    recipients: int,
    bare_lines: BareLines,
    mechanisms: tuple[str, ...],
    lmtp: bool = False,
    auth_required: bool = False,
    require_tls: bool = False,
) -> Terms:
    """Return the terms of one session; under stress we are less patient (postfix STRESS_README)."""
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
    )


@lru_cache(maxsize=4)
def _words(words: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(word.upper().encode() for word in words)
