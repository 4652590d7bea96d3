"""The server's dialogue: order, counting, bodies, and what must not survive STARTTLS."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.reply import Reply
from gatepost.codec.sasl import Credentials
from gatepost.codec.smtp.data import BareLines, Flaw
from gatepost.codec.smtp.grammar import Hello, Mail, Rcpt, StartTls
from gatepost.codec.smtp.server import (
    Authenticating,
    BodyBegins,
    BodyEnds,
    BodyPart,
    Dialogue,
    Event,
    Terms,
    TransactionReset,
)

TERMS = Terms("mx.example", starttls=True, size=1000, recipients=3, overshoot=2)
SUBMISSION = replace(TERMS, mechanisms=("PLAIN", "LOGIN"), auth_required=True, require_tls=True)


class Yes:
    """A driver that says yes to everything, but no to recipients called `no` and to the password `wrong`."""

    def __init__(self, terms: Terms = TERMS, *, tls: bool = False) -> None:
        self.dialogue = Dialogue(terms, 0.0, tls=tls)
        self.events: list[Event] = []
        self.bodies: list[bytes] = []
        self.body = b""
        self.said = b""

    def feed(self, octets: bytes, size: int = 1 << 20, steady: float = 0.0) -> bytes:
        """Give octets in pieces; return what was said to them."""
        before = len(self.said)
        for at in range(0, len(octets), size):
            self.dialogue.receive(octets[at : at + size], steady)
            while (event := self.dialogue.next_event()) is not None:
                self.on(event)
            self.said += self.dialogue.output()
        return self.said[before:]

    def say(self, *lines: str) -> list[str]:
        """Give lines one by one; return the code of each reply's last line, with its enhanced code."""
        return [code(self.feed(line.encode() + b"\r\n")) for line in lines]

    def on(self, event: Event) -> None:
        if not isinstance(event, BodyPart):
            self.events.append(event)
        match event:
            case Rcpt() if event.address.local == "no":
                self.dialogue.refuse(Reply(550, "5.1.1", "Invalid recipient"))
            case Authenticating() if event.credentials.password == b"wrong":
                self.dialogue.refuse(Reply(535, "5.7.8", "Authentication failed"))
            case Authenticating():
                self.dialogue.authenticated()
            case BodyBegins():
                self.body = b""
                self.dialogue.accept()
            case BodyPart(octets=octets):
                self.body += octets
            case BodyEnds(flaw=flaw):
                if flaw is not None:
                    self.dialogue.refuse(Reply(554, "5.6.0", flaw.value))
                else:
                    self.bodies.append(self.body)
                    self.dialogue.accept(Reply(250, "2.0.0", "accepted"))
            case TransactionReset():
                pass
            case Hello() | Mail() | Rcpt() | StartTls():
                self.dialogue.accept()


def code(octets: bytes) -> str:
    line = octets.removesuffix(b"\r\n").split(b"\r\n")[-1].decode()
    words = line.split(" ")
    return " ".join(words[:2]) if len(words) > 1 and words[1][:2] in ("2.", "4.", "5.") else words[0]


def greeted(terms: Terms = TERMS, *, tls: bool = False) -> Yes:
    yes = Yes(terms, tls=tls)
    yes.say("EHLO client.example")
    return yes


def test_the_extensions_are_these() -> None:
    assert Yes().feed(b"EHLO x\r\n") == (
        b"250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
        b"250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-DSN\r\n250 STARTTLS\r\n"
    )
    assert Yes().feed(b"HELO x\r\n") == b"250 mx.example\r\n"
    assert Yes(SUBMISSION, tls=True).feed(b"EHLO x\r\n").endswith(b"250-DSN\r\n250 AUTH PLAIN LOGIN\r\n")
    assert b"AUTH" not in Yes(SUBMISSION).feed(b"EHLO x\r\n")


def test_a_pipelined_group_is_answered_together_and_in_order() -> None:
    yes = greeted()
    group = b"MAIL FROM:<a@x>\r\nRCPT TO:<no@here>\r\nRCPT TO:<bob@here>\r\nDATA\r\n"
    assert yes.feed(group) == (
        b"250 2.1.0 Ok\r\n550 5.1.1 Invalid recipient\r\n"
        b"250 2.1.5 Destination address valid: Recipient ok\r\n"
        b'354 Enter mail, end with "." on a line by itself\r\n'
    )
    assert (
        yes.feed(b"x\r\n.\r\nMAIL FROM:<>\r\nQUIT\r\n")
        == b"250 2.0.0 accepted\r\n250 2.1.0 Ok\r\n221 2.0.0 Bye\r\n"
    )
    assert yes.bodies == [b"x\r\n"]
    assert yes.dialogue.closed


SESSION = (
    b"EHLO c\r\n",
    b"MAIL FROM:<a@x>\r\nRCPT TO:<b@here>\r\nRCPT TO:<no@here>\r\nDATA\r\n",
    b"one\r\n..\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<b@here>\r\nBDAT 3\r\n.\r\nBDAT 4 LAST\r\nend\rRSET\r\nNOOP\r\n",
    b"MAIL FROM:<>\r\nRCPT TO:<b@here>\r\nBDAT 9 LAST\r\na\r\n.\r\nb\r\nFOO\r\nQUIT\r\n",
)


@given(st.integers(1, 40))
@settings(max_examples=40)
def test_answers_do_not_depend_on_packets(size: int) -> None:
    whole, cut = Yes(), Yes()
    for segment in SESSION:
        whole.feed(segment)
        cut.feed(segment, size)
    assert cut.said == whole.said
    assert cut.events == whole.events
    assert cut.bodies == whole.bodies == [b"one\r\n.\r\n", b"a\r\n.\r\nb\r\n"]
    assert b"554 5.6.0 bare CR or LF\r\n" in whole.said


@pytest.mark.row("SMTP-11")
def test_order_is_kept_and_reset_resets() -> None:
    yes = Yes()
    assert yes.say("MAIL FROM:<a@x>", "EHLO c", "RCPT TO:<b@here>", "DATA") == [
        "503 5.5.1",
        "250",
        "503 5.5.1",
        "503 5.5.1",
    ]
    assert yes.say("MAIL FROM:<a@x>", "MAIL FROM:<a@x>", "DATA") == ["250 2.1.0", "503 5.5.1", "503 5.5.1"]
    assert yes.say("RSET", "RCPT TO:<b@here>", "HELO c", "HELO c") == ["250 2.0.0", "503 5.5.1", "250", "250"]
    assert yes.say("MAIL FROM:<a@x>", "RCPT TO:<b@here>", "EHLO c", "DATA") == [
        "250 2.1.0",
        "250 2.1.5",
        "250",
        "503 5.5.1",
    ]


@pytest.mark.row("SMTP-10")
def test_errors_slow_a_session_down_and_then_end_it() -> None:
    yes = greeted()
    delays = []
    for _ in range(9):
        assert yes.say("FOO") == ["500 5.5.1"]
        delays.append(yes.dialogue.take_delay())
    assert delays == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert yes.feed(b"FOO\r\n").endswith(b"421 4.7.0 Too many errors\r\n")
    assert yes.dialogue.closed


@pytest.mark.row("SMTP-10")
def test_commands_that_bring_no_mail_are_counted() -> None:
    yes = greeted()
    assert yes.say(*["NOOP"] * 50) == ["250 2.0.0"] * 50
    assert yes.say("NOOP") == ["421 4.7.0"]
    assert yes.dialogue.closed


@pytest.mark.row("SMTP-06")
def test_recipients_over_the_limit_are_put_off_and_then_the_session_ends() -> None:
    yes = greeted()
    yes.say("MAIL FROM:<a@x>", *[f"RCPT TO:<u{n}@here>" for n in range(3)])
    assert yes.say(*["RCPT TO:<more@here>"] * 2) == ["452 4.5.3"] * 2
    assert yes.feed(b"RCPT TO:<more@here>\r\n") == b"452 4.5.3 Too many recipients\r\n421 4.7.0 Too many errors\r\n"


def test_refused_recipients_do_not_count_as_errors_but_have_their_own_limit() -> None:
    yes = greeted()
    yes.say("MAIL FROM:<a@x>")
    assert yes.say(*["RCPT TO:<no@here>"] * 49) == ["550 5.1.1"] * 49
    assert yes.say("RCPT TO:<no@here>") == ["421 4.7.0"]


@pytest.mark.row("SMTP-07", "SMTP-21")
@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"post /x HTTP/1.0\r\n",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\nEHLO x\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
def test_another_protocol_is_shown_the_door(octets: bytes) -> None:
    yes = Yes()
    assert yes.feed(octets) == b"421 4.7.0 This is a mail server\r\n"
    assert yes.dialogue.closed


@pytest.mark.row("SMTP-08")
@pytest.mark.parametrize(
    "octets",
    [b"EHLO c\r\nMAIL FROM:<a@x>\r\n", b"HELO c\r\nN", b"EHLO c\r\nSTARTTLS\r\n"],
)
def test_who_does_not_wait_for_a_reply_is_left(octets: bytes) -> None:
    yes = Yes()
    assert code(yes.feed(octets)) == "554 5.5.0"
    assert yes.dialogue.closed
    assert yes.events == []


def test_a_body_sent_before_the_go_ahead_is_not_read() -> None:
    yes = greeted()
    assert code(yes.feed(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@here>\r\nDATA\r\nx\r\n.\r\n")) == "554 5.5.0"
    assert yes.bodies == []


@pytest.mark.row("TLS-01")
def test_octets_after_starttls_are_an_injection() -> None:
    yes = greeted()
    assert code(yes.feed(b"STARTTLS\r\nNOOP injected\r\n")) == "554 5.5.0"
    assert yes.dialogue.closed


@pytest.mark.row("TLS-04")
def test_tls_forgets_all_that_was_said_before() -> None:
    yes = greeted()
    assert yes.say("MAIL FROM:<a@x>", "STARTTLS", "RSET", "STARTTLS") == [
        "250 2.1.0",
        "503 5.5.1",
        "250 2.0.0",
        "220 2.0.0",
    ]
    yes.dialogue.secured()
    assert yes.say("MAIL FROM:<a@x>", "RCPT TO:<bob@here>") == ["503 5.5.1", "503 5.5.1"]
    assert b"STARTTLS" not in yes.feed(b"EHLO c\r\n")


@pytest.mark.row("TLS-05")
def test_starttls_has_its_place() -> None:
    yes = greeted(SUBMISSION, tls=True)
    assert yes.say("AUTH PLAIN", "STARTTLS", "STARTTLS") == ["334", "501 5.5.2", "503 5.5.1"]
    assert greeted(replace(TERMS, starttls=False)).say("STARTTLS") == ["502 5.5.1"]


@pytest.mark.row("TLS-06")
def test_no_password_is_looked_at_in_the_clear() -> None:
    yes = greeted(SUBMISSION)
    assert yes.say("AUTH PLAIN AGJvYgBwdw==", "MAIL FROM:<a@x>") == ["538 5.7.11", "530 5.7.0"]
    assert not any(isinstance(event, Authenticating) for event in yes.events)


def test_authentication_comes_before_mail_and_once() -> None:
    yes = greeted(SUBMISSION, tls=True)
    assert yes.say("MAIL FROM:<a@x>") == ["530 5.7.0"]
    assert yes.say("AUTH PLAIN AGJvYgBwdw==", "AUTH PLAIN =", "MAIL FROM:<a@x>") == [
        "235 2.7.0",
        "503 5.5.1",
        "250 2.1.0",
    ]
    assert yes.events[1] == Authenticating(Credentials("bob", b"pw"))


def test_login_prompts_as_clients_expect() -> None:
    yes = greeted(SUBMISSION, tls=True)
    assert yes.feed(b"AUTH LOGIN\r\n") == b"334 VXNlcm5hbWU6\r\n"
    assert yes.feed(b"Ym9i\r\n") == b"334 UGFzc3dvcmQ6\r\n"
    assert yes.feed(b"cHc=\r\n") == b"235 2.7.0 Authentication succeeded\r\n"


@pytest.mark.row("AUTH-06")
@pytest.mark.parametrize("response", ["a*b", "====", "YQ", "é"])
def test_bad_base64_is_501_and_the_session_goes_on(response: str) -> None:
    yes = greeted(SUBMISSION, tls=True)
    assert yes.say(f"AUTH PLAIN {response}", "AUTH PLAIN", response) == ["501 5.5.2", "334", "501 5.5.2"]
    assert yes.say("AUTH PLAIN AGJvYgBwdw==") == ["235 2.7.0"]


def test_an_exchange_can_be_cancelled_and_an_unknown_mechanism_refused() -> None:
    yes = greeted(SUBMISSION, tls=True)
    assert yes.say("AUTH LOGIN", "*", "AUTH CRAM-MD5", "NOOP") == ["334", "501 5.7.0", "504 5.5.4", "250 2.0.0"]
    assert greeted(tls=True).say("AUTH PLAIN =") == ["502 5.5.1"]


@pytest.mark.row("AUTH-01")
def test_three_wrong_passwords_end_the_session() -> None:
    yes = greeted(SUBMISSION, tls=True)
    assert yes.say(*["AUTH PLAIN AGJvYgB3cm9uZw=="] * 2) == ["535 5.7.8"] * 2
    assert yes.feed(b"AUTH PLAIN AGJvYgB3cm9uZw==\r\n").endswith(b"421 4.7.0 Too many authentication failures\r\n")


@pytest.mark.row("AUTH-04")
def test_an_authentication_line_has_a_limit() -> None:
    yes = greeted(SUBMISSION, tls=True)
    yes.say("AUTH PLAIN")
    assert code(yes.feed(b"A" * 12_286)) == ""
    assert code(yes.feed(b"AA")) == "500 5.5.6"
    assert yes.dialogue.closed
    assert code(greeted(SUBMISSION, tls=True).feed(b"auth PLAIN " + b"A" * 12_288)) == "500 5.5.6"
    assert code(greeted().feed(b"A" * 2048)) == "500 5.5.2"


@pytest.mark.row("SMTP-05")
@pytest.mark.parametrize("size", [512, 4096])
def test_a_line_that_is_too_long_ends_the_session(size: int) -> None:
    assert greeted().say("NOOP " + "x" * 505) == ["250 2.0.0"]
    for octets in (b"NOOP " + b"x" * 506 + b"\r\n", b"x" * 20_000):
        yes = greeted()
        assert code(yes.feed(octets, size)) == "500 5.5.2"
        assert yes.dialogue.closed


@pytest.mark.row("SMTP-04")
def test_a_declared_size_over_the_limit_is_refused_at_once() -> None:
    assert greeted().say(
        "MAIL FROM:<a@x> SIZE=1001", "MAIL FROM:<a@x> SIZE=99999999999", "MAIL FROM:<a@x> SIZE=1000"
    ) == [
        "552 5.3.4",
        "552 5.3.4",
        "250 2.1.0",
    ]


@pytest.mark.row("SMTP-13", "SMTP-23", "SMTP-24")
def test_what_we_know_and_refuse() -> None:
    yes = greeted()
    assert (
        yes.feed(b"VRFY root\r\n")
        == yes.feed(b"VRFY nobody\r\n")
        == b"252 2.5.2 Cannot VRFY: try RCPT to attempt delivery\r\n"
    )
    assert yes.say("EXPN list", "XCLIENT ADDR=127.0.0.1", "XFORWARD ADDR=127.0.0.1", "ETRN #q;DROP--", "HELP") == [
        "502 5.5.1",
        "550 5.7.0",
        "550 5.7.0",
        "502 5.5.1",
        "214 2.0.0",
    ]


def at_recipients(terms: Terms = TERMS) -> Yes:
    yes = greeted(terms)
    yes.say("MAIL FROM:<a@x>", "RCPT TO:<b@here>")
    return yes


@pytest.mark.row("SMG-13")
def test_a_chunk_swallows_what_looks_like_commands() -> None:
    yes = at_recipients()
    assert yes.feed(b"BDAT 20 LAST\r\nabcdefgQUIT\r\n") == b""
    assert not yes.dialogue.closed
    assert yes.bodies == []


@pytest.mark.row("SMG-15")
def test_data_after_bdat_is_out_of_order_and_rset_mends_it() -> None:
    yes = at_recipients()
    assert yes.feed(b"BDAT 10\r\n0123456789") == b"250 2.0.0 10 octets received\r\n"
    assert yes.say("DATA", "MAIL FROM:<a@x>", "RCPT TO:<c@here>") == ["503 5.5.1"] * 3
    assert yes.say("RSET", "MAIL FROM:<a@x>", "RCPT TO:<b@here>", "DATA", "x\r\n.") == [
        "250 2.0.0",
        "250 2.1.0",
        "250 2.1.5",
        "354",
        "250 2.0.0",
    ]
    assert yes.bodies == [b"x\r\n"]


def test_a_chunk_out_of_order_is_read_and_refused() -> None:
    yes = greeted()
    assert yes.feed(b"BDAT 6\r\nRSET\r\nNOOP\r\n") == (
        b"503 5.5.1 Command not allowed at this point\r\n250 2.0.0 Ok\r\n"
    )
    assert code(yes.feed(b"BDAT 99999999999\r\n")) == "503 5.5.1"
    assert yes.dialogue.closed


def test_a_chunk_whose_size_is_unknown_ends_the_session() -> None:
    yes = at_recipients()
    assert code(yes.feed(b"BDAT x\r\nMAIL FROM:<evil@x>\r\n")) == "501 5.5.4"
    assert yes.dialogue.closed


def test_an_empty_last_chunk_ends_the_mail() -> None:
    yes = at_recipients()
    assert yes.feed(b"BDAT 3\r\na\r\nBDAT 0 LAST\r\n").endswith(b"250 2.0.0 accepted\r\n")
    assert yes.bodies == [b"a\r\n"]


@pytest.mark.row("SMG-01", "SMG-02", "SMG-03", "SMG-04")
@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r"])
def test_a_smuggled_mail_stays_content(end: bytes) -> None:
    smuggled = b"MAIL FROM:<smug@evil.example>\r\nRCPT TO:<bob@here>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n"
    yes = at_recipients()
    yes.say("DATA")
    assert yes.feed(b"Subject: x\r\n\r\na" + end + smuggled + b"\r\n.\r\nQUIT\r\n") == (
        b"554 5.6.0 bare CR or LF\r\n221 2.0.0 Bye\r\n"
    )
    assert [event for event in yes.events if isinstance(event, BodyEnds)] == [BodyEnds(Flaw.BARE, 0)]
    mends = at_recipients(replace(TERMS, bare_lines=BareLines.NORMALIZE))
    mends.say("DATA")
    assert code(mends.feed(b"Subject: x\r\n\r\na" + end + smuggled + b"\r\n.\r\n")) == "250 2.0.0"
    (body,) = mends.bodies
    assert smuggled in body
    assert b"\n" not in body.replace(b"\r\n", b"")


@pytest.mark.row("SMTP-14")
def test_a_command_has_one_deadline_and_a_body_a_least_rate() -> None:
    yes = greeted()
    yes.feed(b"NOOP\r\n", steady=10.0)
    yes.feed(b"NO", steady=200.0)
    assert yes.dialogue.deadline == 310.0
    assert not yes.dialogue.expire(309.9)
    yes.feed(b"OP\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@here>\r\n", steady=300.0)
    yes.feed(b"DATA\r\n", steady=400.0)
    assert yes.dialogue.deadline == 460.0
    yes.feed(b"x" * 5000, steady=410.0)
    assert yes.dialogue.deadline == 470.0
    assert yes.dialogue.expire(470.0)
    assert yes.dialogue.output() == b"421 4.4.2 Timeout\r\n"


def test_a_session_has_a_life_unless_it_authenticated() -> None:
    yes = greeted()
    yes.feed(b"NOOP\r\n", steady=1199.0)
    assert yes.dialogue.deadline == 1200.0
    known = greeted(SUBMISSION, tls=True)
    known.say("AUTH PLAIN AGJvYgBwdw==")
    known.feed(b"NOOP\r\n", steady=1199.0)
    assert known.dialogue.deadline == 1499.0


def test_lmtp_answers_for_each_recipient() -> None:
    terms = replace(TERMS, lmtp=True)
    assert Yes(terms).say("EHLO x", "HELO x", "LHLO x") == ["500 5.5.1", "500 5.5.1", "250"]
    assert Yes().say("LHLO x") == ["500 5.5.1"]
    yes = Yes(terms)
    yes.say("LHLO x", "MAIL FROM:<>", "RCPT TO:<a@here>", "RCPT TO:<b@here>", "DATA")
    assert yes.feed(b"x\r\n.\r\n") == b"250 2.0.0 accepted\r\n" * 2


def test_mails_of_a_session_are_counted() -> None:
    yes = greeted(replace(TERMS, mails=1))
    yes.say("MAIL FROM:<>", "RCPT TO:<a@here>", "DATA", "x\r\n.")
    assert yes.say("MAIL FROM:<>") == ["452 4.5.3"]


WORDS: Iterable[bytes] = (
    b"EHLO c\r\n",
    b"MAIL FROM:<a@x>\r\n",
    b"RCPT TO:<b@here>\r\n",
    b"DATA\r\n",
    b"BDAT 3\r\n",
    b"BDAT 2 LAST\r\n",
    b".\r\n",
    b"\r\n",
    b"x",
    b"RSET\r\n",
    b"QUIT\r\n",
    b"AUTH PLAIN\r\n",
    b"AGJvYgBwdw==\r\n",
    b"\0",
    b"\n",
)


@given(st.lists(st.sampled_from(list(WORDS)), max_size=25), st.integers(1, 50), st.booleans())
@settings(max_examples=200)
def test_any_octets_get_replies_and_no_exception(words: list[bytes], size: int, tls: bool) -> None:
    octets = b"".join(words)
    segments = [octets[at : at + size] for at in range(0, len(octets), size)]
    yes = Yes(SUBMISSION if tls else TERMS, tls=tls)
    for segment in segments:
        yes.feed(segment)
    assert all(line[:1] in b"2345" for line in yes.said.split(b"\r\n") if line)
