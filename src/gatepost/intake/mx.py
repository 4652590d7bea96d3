"""Mail from strangers: port 25."""

from gatepost.intake.ports import Services, Wire
from gatepost.intake.session import Port, Session
from gatepost.intake.terms import terms_of


async def serve(wire: Wire, services: Services, *, listener: str = "mx", tag: str = "") -> None:
    """Serve one connection of port 25. `tag` marks its mail for the rules."""
    settings = services.settings
    terms = terms_of(
        services,
        peer=wire.peer_ip,
        recipients=settings.max_recipients,
        bare_lines=settings.bare_lines,
        mechanisms=("PLAIN", "LOGIN") if settings.mx_auth else (),
    )
    port = Port(listener, tag, named=True, judged=True, local_only=False, gated=True)
    await Session(wire, services, terms, port).run()
