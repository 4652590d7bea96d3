"""One connection that speaks HTTP/1.1 (RFC 9110, RFC 9112): h11 knows the protocol, this module waits and limits.

request --page--> answer --keep-alive--> request ... until `requests`, silence, an error, or the client leaves
"""

from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, Protocol

import h11

from gatepost.base.clock import Clock, seconds
from gatepost.base.ports import Log
from gatepost.web.page import Answer, Asked, Page, Site, refusal
from gatepost.web.settings import WebSettings

HEAD_MAX: Final = 16 << 10
"""Octets of a request's line and headers."""
ALWAYS: Final = (("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"))
LEAVING: Final = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
"""Said to a silent connection when the server drains (RFC 9110 §15.5.9): it may ask again on another."""
SAFE_TEXT: Final = 200
"""Characters of a path that go into the log."""

__all__ = ["Page", "Services", "Site", "serve"]


class Wire(Protocol):
    """One connection; `aio.drive.Wire` is the real one."""

    peer_ip: str
    goodbye: bytes

    async def read(self, deadline: float | None = None) -> bytes: ...
    def write(self, octets: bytes) -> None: ...
    async def drain(self, deadline: float | None = None) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """All that a connection uses."""

    settings: WebSettings
    site: Site
    clock: Clock
    log: Log


class _Refused(Exception):
    """The request cannot be answered by a page; what the client is told instead ends the connection."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


async def serve(wire: Wire, services: Services) -> None:
    """Answer requests until one side leaves."""
    settings, clock = services.settings, services.clock
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
    left = settings.requests
    patience = settings.request_time
    try:
        while left:
            left -= 1
            shown = True
            try:
                asked = await _asked(wire, http, services, patience)
                if asked is None:
                    return
                answer = await _answer(asked, services)
                shown = asked.method != "HEAD"
            except _Refused as refused:
                answer, left = refused.answer, 0
            _send(wire, http, answer, clock.now() / seconds(1), shown=shown, last=not left)
            await wire.drain(clock.steady() + settings.request_time)
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()
            patience = settings.idle_time
    except (TimeoutError, ConnectionError):
        pass  # silent, too slow, or gone: there is nobody to tell
    finally:
        wire.close()


async def _asked(wire: Wire, http: h11.Connection, services: Services, patience: float) -> Asked | None:
    """Return the next request whole; None where the client has left. Raises _Refused, TimeoutError."""
    settings, clock = services.settings, services.clock
    deadline = clock.steady() + patience
    request: h11.Request | None = None
    body = bytearray()
    wire.goodbye = LEAVING
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError as wrong:
            raise _Refused(refusal(wrong.error_status_hint, f"{wrong}")) from wrong
        if isinstance(event, h11.Request):
            request = event
            _check_framing(event)
            deadline = clock.steady() + settings.request_time
            if http.they_are_waiting_for_100_continue:
                wire.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > settings.body_size:
                raise _Refused(refusal(413, f"At most {settings.body_size} octets, please."))
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None, "h11 tells of the request first"
            return _read(request, bytes(body), wire.peer_ip)
        elif isinstance(event, h11.ConnectionClosed):
            return None
        else:
            http.receive_data(await wire.read(deadline))
            wire.goodbye = b""


def _check_framing(request: h11.Request) -> None:
    """Refuse two lengths: who stands before us may have believed the other one (RFC 9112 §6.3)."""
    names = {name for name, _ in request.headers}
    if {b"content-length", b"transfer-encoding"} <= names:
        raise _Refused(refusal(400, "A body has one length."))


def _read(request: h11.Request, body: bytes, peer_ip: str) -> Asked:
    """Read h11's words; raises _Refused where the target is not a path (RFC 9112 §3.2)."""
    target = request.target.decode("ascii")
    if not target.startswith("/"):
        raise _Refused(refusal(400, "This server answers for itself only."))
    path, _, query = target.partition("?")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}
    host = headers.get("host", "").lower()
    if not host.startswith("["):  # an IPv6 address has colons of its own
        host = host.partition(":")[0]
    return Asked(request.method.decode("ascii"), host, path, query, headers, body, peer_ip)


async def _answer(asked: Asked, services: Services) -> Answer:
    try:
        answer = await services.site.answer(asked)
    except Exception:
        services.log.exception("web_broke", path=asked.path[:SAFE_TEXT])
        answer = refusal(500, "Something broke here, and was reported.")
    services.log.debug("web", ip=asked.peer_ip, path=asked.path[:SAFE_TEXT], status=answer.status)
    return answer


def _send(wire: Wire, http: h11.Connection, answer: Answer, now: float, *, shown: bool, last: bool) -> None:
    """Write one answer, its body where it is `shown`; `now` in seconds since 1970."""
    headers: list[tuple[str, str]] = [("Date", formatdate(now, usegmt=True)), *ALWAYS, *answer.headers]
    if answer.body:
        headers.append(("Content-Type", answer.type))
    if answer.status not in (204, 304):
        headers.append(("Content-Length", str(len(answer.body))))
    if last:
        headers.append(("Connection", "close"))
    reason = HTTPStatus(answer.status).phrase.encode()
    head = h11.Response(status_code=answer.status, headers=_octets(headers), reason=reason)
    body: list[h11.Event] = [h11.Data(data=answer.body)] if answer.body and shown else []
    events: list[h11.Event] = [head, *body, h11.EndOfMessage()]
    try:
        for event in events:
            wire.write(http.send(event) or b"")
    except h11.LocalProtocolError:  # the client broke the protocol so that even the refusal has no place
        return


def _octets(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
