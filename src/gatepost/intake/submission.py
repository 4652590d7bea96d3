"""Mail of our users: 587 with STARTTLS, 465 with TLS from the first octet; nothing without a password."""

from gatepost.intake.ports import Services, Wire
from gatepost.intake.session import Port, Session
from gatepost.intake.terms import terms_of


async def serve(wire: Wire, services: Services, *, listener: str = "submission", tag: str = "") -> None:
    """Serve one connection of 587, or of 465 where the wire is in TLS already."""
    settings = services.settings
    terms = terms_of(
        services,
        peer=wire.peer_ip,
        recipients=settings.max_recipients_submitted,
        bare_lines=settings.bare_lines_submitted,
        mechanisms=("PLAIN", "LOGIN"),
        auth_required=True,
        require_tls=True,
        trusted=True,
    )
    await Session(wire, services, terms, Port(listener, tag, named=False, judged=True, local_only=False)).run()
