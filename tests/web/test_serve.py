"""The web's connections, octet by octet: what is answered, what is refused, and when they end."""

import asyncio

import pytest

from gatepost.web.page import Answer, Asked, Site, refusal
from gatepost.web.serve import Services, serve
from gatepost.web.settings import WebSettings
from tests.support.loop import run
from tests.support.wire import MemoryWire, MovedClock

POLICY = b"version: STSv1\nmode: testing\n"
HEADERS = (
    b"Date: Mon, 23 Nov 2026 08:00:00 GMT\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
)


class ListLog:
    """The events that were logged."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def debug(self, event: str, **fields: object) -> None:
        self.events.append(event)

    info = warning = error = exception = debug


async def _policy(asked: Asked) -> Answer:
    return Answer(200, POLICY)


async def _said(asked: Asked) -> Answer:
    return Answer(200, f"{asked.host} {asked.query} {asked.body!r} {asked.peer_ip}".encode())


async def _broken(asked: Asked) -> Answer:
    raise RuntimeError("a page with a mistake")


SITE = Site({("GET", "/policy"): _policy, ("POST", "/said"): _said, ("GET", "/broken"): _broken})


def talk(*sent: bytes, settings: WebSettings | None = None, hang_up: bool = True) -> tuple[bytes, ListLog]:
    """Send octets as they are cut here; return all that is answered."""
    log = ListLog()

    async def played() -> bytes:
        clock = MovedClock()
        wire = MemoryWire(clock)
        services = Services(settings or WebSettings(), SITE, clock, log)
        task = asyncio.ensure_future(serve(wire, services))
        for octets in sent:
            wire.send(octets)
            await wire.settle()
        if hang_up:
            wire.hang_up()
        else:
            clock.move(10_000)
            wire.tick()
        await task
        return wire.look()

    return run(played()), log


def answered(status: bytes, body: bytes, *more: bytes, close: bool = False) -> bytes:
    """Return a whole answer in text."""
    lines = b"".join(each + b"\r\n" for each in more)
    kind = b"Content-Type: text/plain; charset=utf-8\r\n" if body else b""
    length = b"Content-Length: %d\r\n" % len(body)
    end = b"Connection: close\r\n" if close else b""
    return b"HTTP/1.1 " + status + b"\r\n" + HEADERS + lines + kind + length + end + b"\r\n" + body


def test_a_page_is_answered_and_the_connection_kept() -> None:
    ask = b"GET /policy HTTP/1.1\r\nHost: mta-sts.example.org\r\n\r\n"
    said, _ = talk(ask, ask)
    assert said == answered(b"200 OK", POLICY) * 2


def test_a_request_may_come_octet_by_octet() -> None:
    ask = b"POST /said?x=1 HTTP/1.1\r\nHost: Mail.Example.org:443\r\nContent-Length: 2\r\n\r\nhi"
    said, _ = talk(*(bytes((octet,)) for octet in ask))
    assert said == answered(b"200 OK", b"mail.example.org x=1 b'hi' 192.0.2.9")


def test_requests_that_came_together_are_answered_in_order() -> None:
    said, _ = talk(b"GET /policy HTTP/1.1\r\nHost: a\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
    assert said == answered(b"200 OK", POLICY) + answered(b"404 Not Found", b"Nothing is here.\n")


def test_head_tells_the_length_alone() -> None:
    said, _ = talk(b"HEAD /policy HTTP/1.1\r\nHost: a\r\n\r\n")
    assert said == answered(b"200 OK", POLICY)[: -len(POLICY)]


def test_another_method_is_told_which_there_are() -> None:
    said, _ = talk(b"DELETE /policy HTTP/1.1\r\nHost: a\r\n\r\n")
    assert said == answered(b"405 Method Not Allowed", b"Another method, please.\n", b"Allow: GET")


def test_a_broken_page_is_500_and_in_the_log() -> None:
    said, log = talk(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
    assert said == answered(b"500 Internal Server Error", b"Something broke here, and was reported.\n")
    assert "web_broke" in log.events


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET /policy HTTP/1.1\r\n\r\n", b"400"),  # no Host (RFC 9112 §3.2)
        (b"GET http://other.example/ HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"431"),
        (
            b"POST /said HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"400",
        ),
        (b"POST /said HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1_100_000, b"413"),
        (b"GET /policy\r\nHost: a\r\n\r\n", b"400"),
    ],
    ids=["tls", "no host", "a proxy's request", "long", "two lengths", "large", "HTTP/0.9"],
)
def test_what_cannot_be_answered_is_refused_and_ends_the_connection(sent: bytes, status: bytes) -> None:
    said, _ = talk(sent[:20_000], sent[20_000:])
    assert said.startswith(b"HTTP/1.1 " + status)
    assert b"Connection: close\r\n" in said
    assert said.count(b"HTTP/1.1 ") == 1


def test_silence_ends_the_connection_without_a_word() -> None:
    said, _ = talk(b"GET /policy HTTP/1.1\r\nHos", hang_up=False)
    assert said == b""


def test_a_connection_has_so_many_requests() -> None:
    ask = b"GET /policy HTTP/1.1\r\nHost: a\r\n\r\n"
    said, _ = talk(ask * 3, settings=WebSettings(requests=2))
    assert said == answered(b"200 OK", POLICY) + answered(b"200 OK", POLICY, close=True)


def test_a_refusal_is_a_line_of_text() -> None:
    assert refusal(404, "no").body == b"no\n"
