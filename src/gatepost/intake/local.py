"""Mail of programs on this machine: over a Unix socket whose peer the kernel names, or left while we were away.

To the rules it is `local`, as a client on loopback is. It is prepared as a user's mail is (missing fields, no Bcc,
signed), its Received field names the user of this machine, and it is not judged.
"""

import asyncio
import os
import pwd
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gatepost.base.address import ReversePath
from gatepost.base.envelope import Client, Envelope, Notify, Recipient
from gatepost.base.reply import Refusal
from gatepost.codec.smtp.data import BareLines
from gatepost.codec.smtp.etrn import Offer
from gatepost.codec.smtp.grammar import BadAddress, parse_mailbox
from gatepost.db.unit import NotCommitted
from gatepost.intake import offline, receive
from gatepost.intake.ports import Services, Wire
from gatepost.intake.session import Port, Session
from gatepost.intake.terms import terms_of
from gatepost.intake.transaction import Accepted

LISTENER: Final = "local"
LOOPBACK: Final = "127.0.0.1"


async def serve(wire: Wire, services: Services, uid: int) -> None:
    """Serve one connection of the local socket; `uid` is whom the kernel says to be at the other end."""
    terms = terms_of(
        services,
        peer=LOOPBACK,
        recipients=services.settings.max_recipients,
        bare_lines=BareLines.NORMALIZE,
        mechanisms=(),
        trusted=True,
    )
    terms = replace(terms, starttls=False, etrn=Offer.NONE, introductions=frozenset())
    port = Port(LISTENER, "", named=False, judged=False, local_only=False, author=user_name(uid))
    await Session(wire, services, terms, port).run()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of what was left."""

    taken: int = 0
    refused: int = 0
    waiting: int = 0


async def take_all(services: Services, local_dir: Path) -> Outcome:
    """Take in what was left while the server was away. What cannot be taken now stays; what is refused is kept."""
    taken = refused = waiting = stuck = 0
    for path in await asyncio.to_thread(lambda: list(offline.left(local_dir))):
        try:
            await _take(services, await asyncio.to_thread(offline.read, path, services.settings.max_size))
        except (offline.Unusable, Refusal, BadAddress, NotCommitted, OSError) as problem:
            if _may_change(problem):
                services.log.warning("local_mail_waits", file=str(path), error=repr(problem))
                waiting += 1
                continue
            try:
                await asyncio.to_thread(offline.set_aside, path)
            except OSError:
                stuck += 1
                continue
            detail = problem.detail if isinstance(problem, Refusal) else ""
            services.log.error("local_mail_refused", file=str(path), error=str(problem), detail=detail)
            refused += 1
        else:
            await asyncio.to_thread(path.unlink)
            taken += 1
    if stuck:
        services.log.warning("local_folder_has_what_is_no_mail", folder=str(local_dir), files=stuck)
    return Outcome(taken, refused, waiting)


def _may_change(problem: Exception) -> bool:
    """Tell whether it may be better in a while."""
    match problem:
        case Refusal(reply=reply):
            return reply.temporary
        case offline.Unusable() | BadAddress():
            return False
        case _:
            return True


async def _take(services: Services, left: offline.Left) -> None:
    """Accept one mail for all its recipients, or for none; raises Refusal, BadAddress, NotCommitted."""
    slip, now = left.slip, services.clock.now()
    client = Client(
        LOOPBACK,
        0,
        LOOPBACK,
        0,
        LISTENER,
        helo=services.hostname,
        esmtp=True,
        local_user=user_name(left.uid),
    )
    sender: ReversePath = parse_mailbox(slip.sender.encode()) if slip.sender else None
    accepted = []
    for text in slip.recipients:
        recipient = Recipient(parse_mailbox(text.encode()), _notify(slip.notify))
        deliveries = await services.policy.route(
            client, sender, recipient.address, directory=services.directory, now=now
        )
        accepted.append(Accepted(recipient, deliveries))
    envelope = Envelope(
        services.minter.mint(now),
        now,
        sender,
        tuple(each.recipient for each in accepted),
        eight_bit=not left.content.isascii(),
        smtputf8=not "".join((slip.sender, *slip.recipients)).isascii(),
        declared_size=len(left.content),
        ret=slip.ret if slip.ret in ("FULL", "HDRS") else "",
        envid=slip.envid,
    )
    await receive.receive(services, receive.Whole(client, None, envelope, accepted, left.content, judged=False))


def _notify(text: str) -> frozenset[Notify] | None:
    known = {each.value for each in Notify}
    return frozenset(Notify(word) for word in text.split(",") if word in known) or None


def user_name(uid: int) -> str:
    """Return the name of a user of this machine, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def local_dir(setting: str, data_dir: Path) -> Path:
    """Return the folder that programs of this machine reach us by."""
    return Path(os.path.expanduser(setting)) if setting else data_dir / "local"  # noqa: PTH111


def listen_at(path: Path) -> socket.socket:
    """Make the socket that everybody on this machine may connect to (mode 0666)."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.bind(str(fresh))
    fresh.chmod(0o666)
    sock.listen(128)
    fresh.rename(path)  # the one before, if any, goes on until its generation has drained
    return sock
