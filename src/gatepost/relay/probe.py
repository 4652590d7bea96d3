"""Speak with a mail server without mail for it: does its TLS prove what is asked? EHLO, STARTTLS, EHLO, QUIT.

It is what `Relay` does before MAIL, with shorter waits: somebody looks on.
"""

from dataclasses import dataclass, replace
from typing import Final

from gatepost.base.clock import Clock
from gatepost.base.envelope import Tls
from gatepost.base.units import Seconds
from gatepost.policy.action import Route
from gatepost.relay.assurance import Assurance
from gatepost.relay.client import Manner, Session, Unreachable
from gatepost.relay.deliver import TlsContexts
from gatepost.relay.route import Hop
from gatepost.relay.settings import RelaySettings

PATIENCE: Final = Seconds(20)


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of it. `good`: a mail would go there; `why` not, or why without TLS; `tls` as it was agreed."""

    good: bool
    tls: Tls | None = None
    why: str = ""


async def probe(
    hop: Hop, assurance: Assurance, contexts: TlsContexts, settings: RelaySettings, hostname: str, clock: Clock
) -> Proof:
    """Return what a server of an MX route proves; `hostname` is the name to greet with."""
    quick = replace(
        settings,
        connect_time=min(settings.connect_time, PATIENCE),
        greeting_time=min(settings.greeting_time, PATIENCE),
        command_time=min(settings.command_time, PATIENCE),
        tls_time=min(settings.tls_time, PATIENCE),
    )
    context = contexts.context(assurance.level)
    manner = Manner(settings.helo or hostname, context, assurance, None, settings.helos, settings.source)
    try:
        session = await Session.open(hop, Route(), manner, quick, clock)
    except Unreachable as reason:
        reply = reason.reply
        why = f"it said {reply.code} {reply.text}" if reason.said else reply.text
        plain = reason.tls and not assurance.required
        return Proof(plain, why=f"mail would go without TLS: {why}" if plain else why)
    tls = session.wire.tls
    session.quit()
    return Proof(True, tls, "" if tls else "mail would go without TLS: none is offered")
