"""The relay against a next hop that behaves as scripted."""

import asyncio
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gatepost.aio.tls import client_context, self_signed
from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.envelope import Notify, Recipient
from gatepost.base.units import Seconds
from gatepost.policy.action import RelayTls, Route, RouteKind
from gatepost.relay.client import Login
from gatepost.relay.deliver import TlsContexts
from gatepost.relay.model import Fate, Result
from gatepost.relay.room import Room
from gatepost.relay.settings import EightBit
from tests.relay.world import MAIL, QUICK, Contacts, Journal, Names, address, consignment, relay
from tests.support.loop import run
from tests.support.nexthop import DROP, HANG, Drip, NextHop


def deliver(hop: NextHop, *to: str, **more: object) -> tuple[Result, ...]:
    """Deliver one mail to a hop and return the results."""
    log, settings = more.pop("log", None), more.pop("settings", QUICK)
    parts = {key: more.pop(key) for key in ("contacts", "logins", "contexts") if key in more}

    async def play() -> tuple[Result, ...]:
        async with hop:
            sender = relay(hop.port, settings=settings, log=log, **parts)  # type: ignore[arg-type]  # taken apart
            try:
                return await sender.deliver(consignment(*to, **more))  # type: ignore[arg-type]  # taken apart
            finally:
                sender.close()

    return run(play())


def fates(results: tuple[Result, ...]) -> list[str]:
    return [result.fate.value for result in results]


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    """A server's context for mx.there.example, signed by itself."""
    pem, key = self_signed(["mx.there.example"], Instant(1_790_000_000_000_000))
    (tmp_path / "both.pem").write_bytes(pem + key)
    (tmp_path / "ca.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    return context


def test_a_mail_arrives_octet_by_octet_with_dots_stuffed() -> None:
    hop, contacts = NextHop(), Contacts()
    (result,) = deliver(hop, contacts=contacts)
    assert (result.fate, result.reply.code, result.host, result.ip) == (
        Fate.DELIVERED,
        250,
        "mx.there.example",
        "127.0.0.1",
    )
    assert hop.mails[0].octets == MAIL.replace(b"\r\n.dots", b"\r\n..dots")
    assert hop.mails[0].sender == b"<ann@here.example> SIZE=%d" % len(MAIL)
    assert contacts.ips == ["127.0.0.1"]


def test_without_pipelining_each_command_waits_for_its_answer() -> None:
    hop = NextHop(extensions=())
    assert fates(deliver(hop, "bob@there.example", "bill@there.example")) == ["delivered", "delivered"]
    assert [line.split()[0] for line in hop.commands][:5] == [b"EHLO", b"MAIL", b"RCPT", b"RCPT", b"DATA"]


@pytest.mark.row("SMG-18")
@pytest.mark.parametrize("bad", [b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n", b"\r\r\n.\r\n"])
def test_no_bare_line_end_goes_out_and_nothing_ends_the_mail_early(bad: bytes) -> None:
    hop = NextHop()
    smuggled = b"Subject: a\r\n\r\nx" + bad + b"MAIL FROM:<evil@here.example>\r\nRCPT TO:<v@there.example>\r\n"
    assert fates(deliver(hop, content=smuggled)) == ["delivered"]
    assert len(hop.mails) == 1
    octets = hop.mails[0].octets
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")
    assert b"\r\n.\r\n" not in octets
    assert not any(line.startswith(b"MAIL FROM:<evil") for line in hop.commands)


def test_a_server_without_ehlo_is_asked_with_helo() -> None:
    hop = NextHop(answers={"EHLO": b"502 5.5.1 no\r\n"})
    assert fates(deliver(hop)) == ["delivered"]
    assert hop.mails[0].sender == b"<ann@here.example>"


@pytest.mark.row("OUT-09")
@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("state", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "END"])
def test_421_at_each_state_defers_all(state: str, pipelining: bool) -> None:
    hop = NextHop(
        answers={state: b"421 4.3.2 going down\r\n"}, extensions=("PIPELINING", "8BITMIME") if pipelining else ()
    )
    results = deliver(hop, "bob@there.example", "bill@there.example")
    assert fates(results) == ["deferred", "deferred"]
    assert all(result.reply.code == 421 for result in results)
    assert results[0].host_down is (state in ("greeting", "EHLO", "MAIL"))


@pytest.mark.row("OUT-08", "OUT-09", "REL-12")
@pytest.mark.parametrize("fault", [DROP, HANG])
@pytest.mark.parametrize("state", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "END"])
def test_a_connection_lost_or_silent_at_each_state_defers_all(state: str, fault: str) -> None:
    log = Journal()
    soon = Seconds(0.15)
    settings = replace(QUICK, greeting_time=soon, command_time=soon, data_time=soon, end_time=soon)
    results = deliver(
        NextHop(answers={state: fault}), "bob@there.example", "b@there.example", log=log, settings=settings
    )
    assert fates(results) == ["deferred", "deferred"]
    assert [result.in_doubt for result in results] == [state == "END"] * 2
    assert ("possible_duplicate" in log.words()) is (state == "END")
    assert results[0].reply.enhanced == "4.4.2"
    assert not results[0].said


@pytest.mark.row("OUT-09")
@pytest.mark.parametrize("extensions", [("PIPELINING",), ()])
def test_each_recipient_has_its_own_fate(extensions: tuple[str, ...]) -> None:
    hop = NextHop(
        recipients={"no@there.example": b"550 5.1.1 who?\r\n", "later@there.example": b"450 4.2.1 busy\r\n"},
        extensions=extensions,
    )
    results = deliver(hop, "no@there.example", "bob@there.example", "later@there.example")
    assert fates(results) == ["failed", "delivered", "deferred"]
    assert results[0].reply.enhanced == "5.1.1"
    assert hop.addresses() == [b"<bob@there.example>"]


@pytest.mark.parametrize("data", [b"354 go on\r\n", b"503 5.5.1 no recipients\r\n"])
def test_a_pipelined_data_without_any_recipient_sends_no_mail(data: bytes) -> None:
    hop = NextHop(answers={"RCPT": b"550 5.1.1 who?\r\n", "DATA": data, "END": b"554 5.5.1 no recipients\r\n"})
    assert fates(deliver(hop)) == ["failed"]
    assert hop.mails == []


@pytest.mark.row("OUT-06")
@pytest.mark.parametrize(
    "answer",
    [
        b"250-ok\r\n" * 100_000 + b"250 ok\r\n",
        b"250 " + b"x" * 1_000_000 + b"\r\n",
        b"250-ok\r\n550 no\r\n",
        b"\x1b[2J250 ok\r\n",
        b"hello\r\n",
    ],
)
def test_an_answer_that_is_none_or_too_long_defers(answer: bytes) -> None:
    (result,) = deliver(NextHop(answers={"RCPT": answer}))
    assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.5.0")


@pytest.mark.row("OUT-06")
def test_control_characters_of_an_answer_are_kept_from_the_log() -> None:
    (result,) = deliver(NextHop(answers={"RCPT": b"550-5.1.1 \x1b[2J\r\n550 5.1.1 no\x00\x07\r\n"}))
    assert result.fate is Fate.FAILED
    assert result.reply.text.replace("\n", "").isprintable()


@pytest.mark.row("OUT-08")
def test_only_2yz_after_the_dot_is_delivered() -> None:
    for answer, fate in (
        (b"354 more\r\n", "deferred"),
        (b"452 4.3.1 full\r\n", "deferred"),
        (b"554 no\r\n", "failed"),
    ):
        assert fates(deliver(NextHop(answers={"END": answer}))) == [fate]


@pytest.mark.row("OUT-11")
def test_a_next_hop_that_drips_is_cut_off_by_a_total_deadline() -> None:
    settings = replace(QUICK, command_time=Seconds(0.3))
    (result,) = deliver(NextHop(answers={"EHLO": Drip(b"250 hop.example\r\n" * 20, 0.05)}), settings=settings)
    assert (result.fate, result.host_down) == (Fate.DEFERRED, True)


def test_what_does_not_fit_is_returned_before_it_is_sent() -> None:
    hop = NextHop(extensions=("SIZE 10",))
    (result,) = deliver(hop)
    assert (result.fate, result.reply.code, result.reply.enhanced) == (Fate.FAILED, 552, "5.3.4")
    assert not any(line.startswith(b"MAIL") for line in hop.commands)


def test_utf8_addresses_need_smtputf8() -> None:
    (result,) = deliver(NextHop(extensions=("8BITMIME",)), "jürgen@there.example", smtputf8=True)
    assert (result.fate, result.reply.enhanced) == (Fate.FAILED, "5.6.7")
    hop = NextHop(extensions=("8BITMIME", "SMTPUTF8"))
    assert fates(deliver(hop, "jürgen@there.example", smtputf8=True)) == ["delivered"]
    assert b"SMTPUTF8" in hop.mails[0].sender


def test_a_utf8_domain_alone_goes_out_as_a_labels() -> None:
    names = Names(
        {"xn--bcher-kva.example": {"mx": [(1, "mx.there.example")]}, "mx.there.example": {"a": ["127.0.0.1"]}}
    )

    async def play() -> None:
        async with NextHop(extensions=()) as hop:
            results = await relay(hop.port, names).deliver(consignment("bob@bücher.example", smtputf8=True))
            assert fates(results) == ["delivered"]
            assert hop.addresses() == [b"<bob@xn--bcher-kva.example>"]

    run(play())


def test_eight_bit_mail_is_returned_or_sent_where_8bitmime_is_missing() -> None:
    eight = "Subject: x\r\n\r\nfünf\r\n".encode()
    bounce = replace(QUICK, eight_bit=EightBit.BOUNCE)
    (result,) = deliver(NextHop(extensions=()), content=eight, settings=bounce)
    assert (result.fate, result.reply.enhanced) == (Fate.FAILED, "5.6.3")
    assert fates(
        deliver(NextHop(extensions=()), content=eight, settings=replace(QUICK, eight_bit=EightBit.SEND))
    ) == ["delivered"]
    hop = NextHop()
    assert fates(deliver(hop, content=eight)) == ["delivered"]
    assert b"BODY=8BITMIME" in hop.mails[0].sender


def test_dsn_wishes_go_along_where_they_are_understood() -> None:
    wish = Recipient(address("bob@there.example"), frozenset({Notify.SUCCESS}), "rfc822;bob@there.example")
    hop = NextHop()
    (result,) = deliver(hop, recipients=(wish,), ret="HDRS", envid="a b")
    assert result.dsn_passed
    assert hop.mails[0].sender.endswith(b"RET=HDRS ENVID=a+20b")
    assert hop.addresses() == [b"<bob@there.example> NOTIFY=SUCCESS ORCPT=rfc822;bob@there.example"]
    plain = NextHop(extensions=())
    (result,) = deliver(plain, recipients=(wish,), ret="HDRS", envid="a b")
    assert not result.dsn_passed
    assert plain.addresses() == [b"<bob@there.example>"]


def test_starttls_is_used_where_offered_and_needs_no_valid_certificate(certificate: ssl.SSLContext) -> None:
    hop = NextHop(tls=certificate)
    (result,) = deliver(hop)
    assert result.fate is Fate.DELIVERED
    assert result.tls is not None
    assert hop.mails[0].tls


@pytest.mark.row("TLS-07")
def test_stripped_starttls_is_delivered_plain_or_deferred_when_required() -> None:
    assert fates(deliver(NextHop())) == ["delivered"]
    (result,) = deliver(NextHop(), route=Route(tls=RelayTls.REQUIRE))
    assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.7.4")


@pytest.mark.row("TLS-09")
@pytest.mark.parametrize("answer", [b"220 go\r\ngarbage\r\n", HANG, b"454 4.7.0 not now\r\n", b"220 go\r\n"])
def test_a_failed_handshake_falls_back_to_plain_or_is_deferred_when_required(answer: object) -> None:
    settings = replace(QUICK, tls_time=Seconds(0.2), command_time=Seconds(0.3))
    script = NextHop(answers={"STARTTLS": answer}, extensions=("STARTTLS",))
    (required,) = deliver(script, route=Route(tls=RelayTls.REQUIRE), settings=settings)
    assert required.fate is Fate.DEFERRED
    assert script.mails == []
    script = NextHop(answers={"STARTTLS": answer}, extensions=("STARTTLS",))
    log = Journal()
    assert fates(deliver(script, settings=settings, log=log)) == ["delivered"]
    assert "tls_failed" in log.words()


@pytest.mark.row("TLS-09")
def test_verify_takes_only_a_certificate_that_holds(certificate: ssl.SSLContext, tmp_path: Path) -> None:
    trusting = TlsContexts(client_context(False), client_context(True, authorities=tmp_path / "ca.pem"))
    assert fates(deliver(NextHop(tls=certificate), route=Route(tls=RelayTls.VERIFY), contexts=trusting)) == [
        "delivered"
    ]
    (result,) = deliver(NextHop(tls=certificate), route=Route(tls=RelayTls.VERIFY))
    assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.7.5")


def smarthost(hop_port: int, **more: object) -> Route:
    return Route(RouteKind.HOST, "127.0.0.1", hop_port, **more)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize("mechanisms", ["AUTH PLAIN LOGIN", "AUTH LOGIN"])
def test_a_smart_host_is_logged_in_to(certificate: ssl.SSLContext, mechanisms: str) -> None:
    async def play() -> None:
        answers = {} if "PLAIN" in mechanisms else {"AUTH": b"334 VXNlcm5hbWU6\r\n"}
        async with NextHop(tls=certificate, extensions=(mechanisms,), answers=answers) as hop:
            sender = relay(1, logins={"me": Login("ann", "secret")})
            results = await sender.deliver(
                consignment("x@far.example", route=smarthost(hop.port, auth="me", tls=RelayTls.REQUIRE))
            )
            assert fates(results) == ["delivered"]
            spoken = b"".join(hop.commands)
            assert b"AGFubgBzZWNyZXQ=" in spoken or (b"YW5u\r\n" in spoken and b"c2VjcmV0\r\n" in spoken)

    run(play())


@pytest.mark.parametrize(
    ("srs", "sender"), [(True, b"<SRS0=x=far.example=ann@us.example>"), (False, b"<ann@far.example>")]
)
def test_a_forward_shows_its_rewritten_sender(srs: bool, sender: bytes) -> None:
    async def play() -> None:
        async with NextHop() as hop:
            relaying = relay(1, shown=lambda true, _: address(f"SRS0=x={true.domain}={true.local}@us.example"))
            route = smarthost(hop.port, srs=srs)
            results = await relaying.deliver(consignment("x@far.example", sender="ann@far.example", route=route))
            assert fates(results) == ["delivered"]
            assert any(line.startswith(b"MAIL FROM:" + sender) for line in hop.commands)

    run(play())


@dataclass
class Operator:
    """Remembers what it hears of logins."""

    heard: list[tuple[str, str]] = field(default_factory=list)

    async def refused(self, label: str, host: str, answer: str) -> None:
        self.heard.append((label, answer))

    async def worked(self, label: str) -> None:
        self.heard.append((label, "worked"))


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (b"535 5.7.8 no\r\n", [("me", "login refused: 535 5.7.8 no")]),
        (b"454 4.7.0 busy\r\n", []),
        (b"235 2.7.0 in\r\n", [("me", "worked")]),
    ],
)
def test_the_operator_hears_of_a_password_that_is_refused_and_the_mail_waits(
    certificate: ssl.SSLContext, answer: bytes, heard: list[tuple[str, str]]
) -> None:
    async def play() -> None:
        operator = Operator()
        async with NextHop(tls=certificate, extensions=("AUTH PLAIN",), answers={"AUTH": answer}) as hop:
            sender = relay(1, logins={"me": Login("ann", "secret")}, operator=operator)
            route = smarthost(hop.port, auth="me", tls=RelayTls.REQUIRE)
            results = await sender.deliver(consignment("x@far.example", route=route))
        assert fates(results) == ["delivered" if b"235" in answer else "deferred"]
        assert operator.heard == heard

    run(play())


@pytest.mark.row("MT-28")
def test_a_password_goes_only_to_a_server_whose_certificate_holds_unless_any_will_do(
    certificate: ssl.SSLContext,
) -> None:
    async def play() -> None:
        async with NextHop(tls=certificate, extensions=("AUTH PLAIN",)) as hop:
            sender = relay(1, logins={"me": Login("ann", "secret")})
            route = smarthost(hop.port, auth="me")
            (result,) = await sender.deliver(consignment("x@far.example", route=route))
            assert (result.fate, result.reply.enhanced) == (Fate.DEFERRED, "4.7.5")
            assert b"AUTH" not in b"".join(hop.commands)

    run(play())


def test_a_password_never_goes_out_in_the_clear() -> None:
    async def play() -> None:
        async with NextHop(extensions=("AUTH PLAIN",)) as hop:
            sender = relay(1, logins={"me": Login("ann", "secret")})
            results = await sender.deliver(consignment("x@far.example", route=smarthost(hop.port, auth="me")))
            assert fates(results) == ["deferred"]
            assert not any(line.startswith(b"AUTH") for line in hop.commands)
            results = await sender.deliver(consignment("x@far.example", route=smarthost(hop.port, auth="nobody")))
            assert results[0].reply.enhanced == "4.7.8"

    run(play())


def test_lmtp_answers_for_each_recipient() -> None:
    async def play() -> None:
        answers = {
            "END bill": b"550 5.2.2 full\r\n",
            "END bob": b"250 2.0.0 ok\r\n",
            "END eve": b"451 4.2.0 later\r\n",
        }
        async with NextHop(lmtp=True, answers=answers) as hop:
            route = smarthost(hop.port, lmtp=True)
            recipients = tuple(Recipient(address(each)) for each in ("bob@", "bill@", "eve@"))
            results = await relay(1).deliver(consignment(route=route, recipients=recipients))
            assert fates(results) == ["delivered", "failed", "deferred"]
            assert hop.commands[0] == b"LHLO here.example\r\n"
            assert hop.addresses() == [b"<bob>", b"<bill>", b"<eve>"]

    run(play())


@pytest.mark.row("MT-20")
def test_lmtp_goes_over_a_unix_socket(tmp_path: Path) -> None:
    async def play() -> None:
        async with NextHop(lmtp=True, path=str(tmp_path / "lmtp")) as hop:
            contacts = Contacts()
            route = Route(RouteKind.HOST, hop.path, lmtp=True)
            results = await relay(1, contacts=contacts).deliver(consignment("bob@here.example", route=route))
            assert fates(results) == ["delivered"]
            assert hop.mails[0].octets == MAIL.replace(b"\r\n.dots", b"\r\n..dots")
            assert contacts.ips == []

    run(play())


@pytest.mark.row("OUT-12")
def test_no_argument_becomes_a_command() -> None:
    """The last line of defence: nothing but addresses that were read by our grammar comes here."""
    for bad in ("a\r\nRCPT TO:<v@y.example>", "a\nb", "a\0"):
        hop = NextHop()
        with pytest.raises(ValueError, match="CR, LF or NUL"):
            deliver(hop, recipients=(Recipient(Address(bad, "there.example")),))
        assert not any(b"RCPT" in line for line in hop.commands)


def test_the_next_mx_is_tried_when_the_first_cannot_be_reached() -> None:
    async def play() -> None:
        names = Names(
            {
                "there.example": {"mx": [(10, "dead.there.example"), (20, "mx.there.example")]},
                "dead.there.example": {"a": ["127.0.0.9"]},
                "mx.there.example": {"a": ["127.0.0.1"]},
            }
        )
        async with NextHop() as hop:
            (result,) = await relay(hop.port, names).deliver(consignment())
            assert (result.fate, result.host) == (Fate.DELIVERED, "mx.there.example")

    run(play())


def test_a_connection_is_used_again_and_a_stale_one_replaced() -> None:
    async def play() -> None:
        async with NextHop() as hop:
            sender = relay(hop.port, settings=replace(QUICK, idle=Seconds(5), mails=2))
            for _ in range(3):
                assert fates(await sender.deliver(consignment())) == ["delivered"]
            assert (hop.sessions, len(hop.mails)) == (2, 3)
            for task in tuple(hop._tasks):  # the hop hangs up on what is kept
                task.cancel()
            await asyncio.sleep(0.02)
            assert fates(await sender.deliver(consignment())) == ["delivered"]
            sender.close()

    run(play())


def test_a_mail_for_many_is_sent_in_parts() -> None:
    hop = NextHop()
    everyone = [f"user{n}@there.example" for n in range(7)]
    assert fates(deliver(hop, *everyone, settings=replace(QUICK, recipients=3))) == ["delivered"] * 7
    assert [len(mail.recipients) for mail in hop.mails] == [3, 3, 1]


def test_bodies_under_way_are_bounded() -> None:
    async def play() -> None:
        room, held, most = Room(300_000), 0, 0

        async def hold(octets: int) -> None:
            nonlocal held, most
            async with room.hold(octets):
                held += octets
                most = max(most, held)
                await asyncio.sleep(0.001)
                held -= octets

        async with asyncio.TaskGroup() as group:
            for octets in (100_000, 200_000, 300_000, 70_000, 300_000, 90_000):
                group.create_task(hold(octets))
            late = group.create_task(hold(300_000))
            await asyncio.sleep(0)
            late.cancel()
        async with asyncio.timeout(1), room.hold(1_000_000):  # larger than all of it: alone
            assert (held, most) == (0, 300_000)

    run(play())
