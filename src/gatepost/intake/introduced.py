"""For whom a trusted filter or proxy speaks: what XFORWARD and XCLIENT change of a client.

XFORWARD is for attribution: the judge, the Received field and the story see the client that it names; the gate, the
rates and the rules see the filter, which gives us a mail that was accepted before.
XCLIENT stands for the client: gate, rates and logins see it too. The rules see it on a listener without a tag: else
a proxy on this machine would make local senders of all strangers. On a listener with a tag, the way back from a
filter, they see the filter, which `from = "local"` is about there.
"""

from collections.abc import Mapping
from dataclasses import replace

from gatepost.base.envelope import Client
from gatepost.base.ids import MailId, id_text
from gatepost.codec.smtp.xforward import Forwarded, Source


def posed(client: Client, given: Mapping[str, str]) -> Client:
    """Return the client as XCLIENT describes it; what it does not speak of stays."""
    via = client.via or client.ip
    if "ADDR" in given and given["ADDR"] != client.ip:  # somebody else: nothing of the one before is true of it
        client = replace(client, ip=given["ADDR"], port=0, rdns="", user="")
    return replace(
        client,
        via=via,
        port=int(given["PORT"] or 0) if "PORT" in given else client.port,
        rdns=given.get("NAME", client.rdns),
        local_ip=given.get("DESTADDR", client.local_ip),
        local_port=int(given["DESTPORT"] or 0) if "DESTPORT" in given else client.local_port,
        helo=given.get("HELO", client.helo),
        esmtp=given["PROTO"] == "ESMTP" if given.get("PROTO") else client.esmtp,
    )


def author_of(client: Client, forwarded: Forwarded | None) -> Client:
    """Return who wrote to the first of the chain; the client itself where XFORWARD told no address.

    What the first had from one of its own (SOURCE=LOCAL) stays the filter's: no SPF record knows a user's sofa.
    """
    if forwarded is None:
        return client
    if not forwarded.ip or forwarded.source is Source.LOCAL:
        return replace(client, ident=forwarded.ident)
    return replace(
        client,
        ip=forwarded.ip,
        port=forwarded.port,
        helo=forwarded.helo,
        rdns=forwarded.name,
        esmtp=forwarded.proto.upper() != "SMTP",
        tls=None,  # of what the client spoke with the first of the chain nothing is known
        user="",
        via=client.ip,
        ident=forwarded.ident,
    )


def introduction_of(client: Client, mail: MailId) -> Forwarded:
    """Return how we introduce a client of ours to the next of the chain."""
    proto = "ESMTP" if client.esmtp else "SMTP"
    source = Source.LOCAL if client.user or client.loopback else Source.REMOTE
    helo = client.helo if client.helo.isascii() else ""
    return Forwarded(client.rdns, client.ip, client.port, proto, helo, id_text(mail), source)
