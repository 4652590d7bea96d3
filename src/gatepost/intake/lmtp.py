"""Mail from a server in front of us, for our mailboxes (RFC 2033): one reply for each recipient after the dot."""

from gatepost.codec.smtp.data import BareLines
from gatepost.intake.ports import Services, Wire
from gatepost.intake.session import Port, Session
from gatepost.intake.terms import terms_of


async def serve(wire: Wire, services: Services, *, listener: str = "lmtp", tag: str = "") -> None:
    """Serve one LMTP connection; who may connect is the listener's business. The mail is not judged again."""
    terms = terms_of(
        services,
        peer=wire.peer_ip,
        lmtp=True,
        recipients=services.settings.max_recipients,
        bare_lines=BareLines.NORMALIZE,
        mechanisms=(),
    )
    await Session(wire, services, terms, Port(listener, tag, named=False, judged=False, local_only=True)).run()
