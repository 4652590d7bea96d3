"""Reports go once a day to the domains that ask for them, by mail or by a POST to a real HTTPS server."""

import gzip
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gatepost.aio.fetch import post
from gatepost.aio.resolve import Answer, Status
from gatepost.aio.tls import client_context
from gatepost.base.clock import DAY, HOUR, Instant
from gatepost.codec.tlsrpt import NOTHING_ASKED, Failed, Failure
from gatepost.codec.tlsrptread import read_report
from gatepost.queue.reporting import Identity
from gatepost.queue.tlsreports import Post, TlsReporter
from gatepost.tlsrpt.results import Results
from gatepost.tlsrpt.settings import ReportSettings
from gatepost.tlsrpt.sql import SCHEMA
from tests.queue.world import T0, Clock, World, world
from tests.relay.authority import paper, serving
from tests.relay.world import Journal
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run

TODAY = T0 // DAY
SENDER = "noreply@here.example"


@dataclass
class Receiver:
    """A real HTTPS server that takes reports."""

    port: int
    status: int = 201
    taken: list[tuple[str, str, bytes]] = field(default_factory=list)


@contextmanager
def receiving(tls: ssl.SSLContext) -> Iterator[Receiver]:
    receiver = Receiver(0)

    class Taker(BaseHTTPRequestHandler):
        timeout = 5

        def do_POST(self) -> None:
            octets = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.taken.append((self.path, self.headers["Content-Type"], octets))
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Dns:
    """Knows who wants reports; a Status is an answer without records."""

    rua: str | Status
    asked: list[str] = field(default_factory=list)

    async def txt(self, name: str) -> Answer[bytes]:
        self.asked.append(name)
        if isinstance(self.rua, Status):
            return Answer((), False, self.rua)
        return Answer((f"v=TLSRPTv1; rua={self.rua}".encode(),), False, Status.OK)

    async def a(self, name: str) -> Answer[str]:
        return Answer(("127.0.0.1",), False, Status.OK)

    async def aaaa(self, name: str) -> Answer[str]:
        return Answer((), False, Status.NODATA)


async def no_post(url: str, octets: bytes, kind: str, at: str) -> None:
    raise AssertionError(f"nothing is to be posted to {url}")


@dataclass
class Case:
    """A server that had sessions with far.example yesterday."""

    w: World
    open_gate: Callable[..., object]
    dns: Dns
    post: Post = no_post
    settings: ReportSettings = ReportSettings(send=True)  # noqa: RUF009  (frozen)
    clock: Clock = field(default_factory=Clock)
    log: Journal = field(default_factory=Journal)
    allow_loopback: bool = True

    async def rounds(self, *steps: Callable[[], object]) -> None:
        """Count, then go round once, and once more after each step."""
        async with self.open_gate((SCHEMA,)) as gate:  # type: ignore[attr-defined]
            self.clock.at = Instant(T0 - DAY)
            results = Results(self.settings, self.clock)
            results.succeeded("far.example", NOTHING_ASKED)
            results.failed("far.example", NOTHING_ASKED, Failed(Failure.NO_STARTTLS, 1, "mx.far.example"))
            unit = results.unit()
            assert unit is not None
            await gate.commit(unit)
            self.clock.at = T0
            for step in (lambda: None, *steps):
                step()
                await self.reporter(gate).round()

    def reporter(self, gate: object) -> TlsReporter:
        return TlsReporter(
            self.w.database,
            gate,  # type: ignore[arg-type]
            self.dns,
            self.w.reporter(),
            self.post,
            identity=lambda: Identity("Here", SENDER, "tls@here.example"),
            settings=lambda: self.settings,
            clock=self.clock,
            log=self.log,
            delay=HOUR,
            allow_loopback=self.allow_loopback,
        )

    def move(self, micros: int) -> Callable[[], None]:
        def step() -> None:
            self.clock.at = Instant(self.clock.at + micros)

        return step


@each_engine
def test_a_report_goes_by_mail_once_as_the_rfc_has_it(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            case = Case(w, open_db, Dns("mailto:tls@reports.example"))
            await case.rounds(case.move(HOUR))
            assert case.dns.asked == ["_smtp._tls.far.example"]
            await w.work()
            assert w.relay.tried == ["tls@reports.example"]
            (content,) = w.relay.contents
            mail = message_from_bytes(content, policy=policy.default)
            assert not mail.defects
            assert content.startswith(b"X-Sealed: here.example\r\n")
            assert (mail["From"], mail["To"]) == (SENDER, "tls@reports.example")
            assert (mail["TLS-Report-Domain"], mail["TLS-Report-Submitter"]) == ("far.example", "here.example")
            assert mail["TLS-Required"] == "No"
            assert mail.get_content_type() == "multipart/report"
            assert mail.get_param("report-type") == "tlsrpt"
            told = read_report(content)
            about = f"Report Domain: far.example Submitter: here.example Report-ID: <{told.id}>"
            assert " ".join(str(mail["Subject"]).split()) == about
            assert told.id.endswith("far.example@here.example")
            assert (told.results[0].successes, told.results[0].failures) == (1, 1)
            text, attached = mail.iter_parts()
            assert "far.example" in text.get_content()
            begin = (TODAY - 1) * 86_400
            assert attached.get_filename() == f"here.example!far.example!{begin}!{begin + 86_399}.json.gz"
            assert json.loads(gzip.decompress(attached.get_content()))["organization-name"] == "Here"

    run(play())


def test_a_report_is_posted_to_an_https_server_until_it_is_taken(
    tmp_path: Path,
) -> None:
    root = paper(common="root", authority=True)
    (tmp_path / "root.pem").write_bytes(root.pem)
    context = client_context(True, authorities=tmp_path / "root.pem")

    async def send(url: str, octets: bytes, kind: str, at: str) -> None:
        await post(url, octets, kind, within=5, tls=context, at=at)

    with receiving(serving(tmp_path, paper("tls.far.example", issuer=root))) as receiver:

        async def play() -> None:
            async with world(open_sqlite, tmp_path) as w:
                rua = f"https://tls.far.example:{receiver.port}/v1?x=y,mailto:tls@far.example"
                case = Case(w, open_sqlite, Dns(rua), send)
                receiver.status = 503
                await case.rounds(lambda: setattr(receiver, "status", 201), case.move(HOUR))
                assert await w.counts() == (1, 1, 1)  # by mail it went the first time, and not again
                assert case.log.words() == ["tls_report_not_sent", "tls_report_sent", "tls_report_sent"]

        run(play())
    assert [each[:2] for each in receiver.taken] == [("/v1?x=y", "application/tlsrpt+gzip")] * 2
    assert read_report(receiver.taken[1][2]).results[0].domain == "far.example"


@pytest.mark.parametrize(
    ("dns", "asked"),
    [
        (Dns(Status.NXDOMAIN), 1),  # nobody wants it: once is enough
        (Dns(Status.SERVFAIL), 2),
        (Dns("mailto:nobody"), 2),
        (Dns("https://127.0.0.1/"), 2),
    ],
)
def test_who_cannot_be_told_is_asked_again_until_the_day_is_too_old(dns: Dns, asked: int, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path) as w:
            case = Case(w, open_sqlite, dns, allow_loopback=False)
            await case.rounds(case.move(HOUR), case.move(3 * DAY))
            assert len(dns.asked) == asked
            assert await w.counts() == (0, 0, 0)

    run(play())


def test_a_day_is_told_when_it_is_over_and_its_delay_too(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path) as w:
            case = Case(w, open_sqlite, Dns("mailto:tls@far.example"))

            def early() -> None:
                case.clock.at = Instant(TODAY * DAY + HOUR - 1)
                case.settings = ReportSettings(send=True)

            def late() -> None:
                case.clock.at = Instant(TODAY * DAY + HOUR)

            case.settings = ReportSettings()  # nothing is sent unless it is asked for
            await case.rounds(early, late)
            assert case.dns.asked == ["_smtp._tls.far.example"]

    run(play())


def test_settings_are_checked() -> None:
    for wrong in ({"sender": "nobody"}, {"contact": "a b@c"}, {"send_days": 14}, {"keep_days": 1}):
        with pytest.raises(ValueError, match=r"address|days"):
            ReportSettings(**wrong)
