"""The state machine: what is sent when, timers, and how sessions end (RFC 4271 §8)."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.codec.bgp.message import Cease, Code
from gatepost.codec.bgp.session import OPEN_TIME, Session, end_of_rib
from gatepost.codec.bgp.types import Afi, Ended, Event, RefreshAsked, State
from tests.codec.bgp.messages import (
    KEEPALIVE,
    LOCAL,
    MP4,
    PEER,
    USUAL,
    established,
    message,
    notification,
    opening,
    prefix,
    reach,
    restart,
    split,
    unreach,
    update,
    usual_open,
)

HOST = prefix("5.6.7.8/32")
KEEPS = restart(120, b"\x00\x01\x01\x80")
KEEPS_ALWAYS = restart(120, b"\x00\x01\x01\x80", flags=4)


def test_open_then_keepalive_then_established() -> None:
    session = Session(LOCAL, PEER, 0.0)
    states, sent = [session.state], [session.output()]
    for now, octets in ((1.0, usual_open()), (2.0, KEEPALIVE)):
        session.receive(octets, now)
        states.append(session.state)
        sent.append(session.output())
    assert states == [State.OPEN_SENT, State.OPEN_CONFIRM, State.ESTABLISHED]
    assert [kind for kind, _ in split(sent[0])] == [1]
    assert sent[1:] == [KEEPALIVE, b""]
    assert (session.sent.opens, session.sent.keepalives) == (1, 1)
    assert (session.received.opens, session.received.keepalives) == (1, 1)


def test_no_open_within_four_minutes_ends_it() -> None:
    session = Session(LOCAL, PEER, 10.0)
    assert session.deadline == 10.0 + OPEN_TIME
    assert session.due(249.9) == []
    [ended] = session.due(250.0)
    assert isinstance(ended, Ended)
    assert notification(session.output()) == b"\x04\x00"


def test_keepalives_go_out_every_third_of_the_hold_time() -> None:
    session = established(opening(MP4, hold=9))
    assert session.deadline == 3.0
    assert session.due(2.9) == []
    assert session.output() == b""
    for now in (3.0, 6.0):
        assert session.due(now) == []
        assert session.output() == KEEPALIVE
    assert session.deadline == 9.0


@pytest.mark.row("BGP-09")
def test_a_neighbour_silent_for_the_hold_time_is_gone() -> None:
    for heard in (KEEPALIVE, update(USUAL, HOST), message(5, b"\x00\x01\x00\x01")):
        session = established(opening(MP4, hold=9))
        session.receive(heard, 5.0)
        session.due(13.9)
        assert session.state is State.ESTABLISHED
        session.output()
        [ended] = session.due(14.0)
        assert ended == Ended(True, Code.HOLD_TIMER, 0)
        assert notification(session.output()) == b"\x04\x00"
        assert session.deadline is None


def test_half_of_a_message_does_not_keep_it_alive() -> None:
    session = established(opening(MP4, hold=9))
    session.receive(KEEPALIVE[:18], 8.0)
    [ended] = session.due(9.0)
    assert isinstance(ended, Ended)


def test_with_hold_time_0_there_are_no_timers() -> None:
    session = established(opening(MP4, hold=0))
    assert session.deadline is None
    assert session.due(1e9) == []


@pytest.mark.parametrize(
    ("state", "octets", "answer"),
    [
        (State.OPEN_SENT, KEEPALIVE, b"\x05\x01\x04"),
        (State.OPEN_SENT, update(), b"\x05\x01\x02"),
        (State.OPEN_CONFIRM, usual_open(), b"\x05\x02\x01"),
        (State.OPEN_CONFIRM, update(USUAL, HOST), b"\x05\x02\x02"),
        (State.OPEN_CONFIRM, message(5, b"\x00\x01\x00\x01"), b"\x05\x02\x05"),
        (State.ESTABLISHED, usual_open(), b"\x05\x03\x01"),
    ],
)
def test_messages_out_of_turn_end_it(state: State, octets: bytes, answer: bytes) -> None:
    """RFC 6608: the subcode says in which state, the data which type."""
    session = established()
    if state is not State.ESTABLISHED:
        session = Session(LOCAL, PEER, 0.0)
        if state is State.OPEN_CONFIRM:
            session.receive(usual_open(), 0.0)
    assert session.state is state
    [ended] = session.receive(octets, 1.0)
    assert isinstance(ended, Ended)
    assert notification(session.output()) == answer


def test_stop_says_why_to_the_other_operator() -> None:
    session = established()
    [ended] = session.stop(Code.CEASE, Cease.SHUTDOWN, "maintenance")
    assert notification(session.output()) == b"\x06\x02\x0bmaintenance"
    assert isinstance(ended, Ended)
    assert ended.why == "we said: Cease, administrative shutdown (maintenance)"
    assert not ended.graceful
    assert session.stop() == []
    assert session.lost() == []
    assert session.output() == b""


def test_too_many_prefixes_have_their_own_code() -> None:
    session = established()
    session.stop(Code.CEASE, Cease.TOO_MANY_PREFIXES, "more than 5")
    assert notification(session.output()) == b"\x06\x01"


def test_a_notification_of_theirs_ends_it_without_an_answer() -> None:
    session = established()
    [ended] = session.receive(message(3, b"\x06\x02\x04bye!") + update(USUAL, HOST), 1.0)
    assert ended == Ended(False, 6, 2, "bye!")
    assert ended.why == "it said: Cease, administrative shutdown (bye!)"
    assert session.output() == b""
    assert session.received.notifications == 1


@pytest.mark.row("BGP-09")
def test_routes_are_kept_only_where_graceful_restart_was_agreed_on() -> None:
    def how(opened: bytes, octets: bytes | None, now: float = 1.0) -> bool:
        session = established(opened)
        events: list[Event] = session.receive(octets, now) if octets else session.lost("reset")
        events = events or session.due(now)
        assert isinstance(events[-1], Ended)
        return events[-1].graceful

    assert how(usual_open(KEEPS), None)
    assert not how(usual_open(), None)
    assert not how(usual_open(restart(120)), None)  # it knows of End-of-RIB only
    shutdown, hard = message(3, b"\x06\x02"), message(3, b"\x06\x09\x06\x02")
    assert not how(usual_open(KEEPS), shutdown)
    assert how(usual_open(KEEPS_ALWAYS), shutdown)  # RFC 8538 §4
    assert not how(usual_open(KEEPS_ALWAYS), hard)
    assert not how(usual_open(KEEPS), KEEPALIVE[:1], 90.0)  # the hold timer
    assert how(usual_open(KEEPS_ALWAYS), KEEPALIVE[:1], 90.0)
    assert not how(usual_open(KEEPS_ALWAYS), usual_open())


def test_a_connection_lost_before_the_session_is_up_keeps_nothing() -> None:
    session = Session(LOCAL, PEER, 0.0)
    session.receive(usual_open(KEEPS), 0.0)
    assert session.lost("reset by peer") == [Ended(False, 0, 0, "reset by peer")]
    assert Ended(False, 0, 0, "reset by peer").why == "reset by peer"
    assert Ended(False, 0, 0).why == "the connection was lost"


def test_end_of_rib_is_sent_to_those_who_wait_for_it() -> None:
    session = Session(LOCAL, PEER, 0.0)
    session.receive(usual_open(KEEPS), 0.0)
    session.output()
    session.receive(KEEPALIVE, 0.0)
    assert session.output() == update() + update(unreach(b"")) == end_of_rib(Afi.IPV4) + end_of_rib(Afi.IPV6)
    assert session.sent.updates == 2


def test_refresh_is_asked_for_where_it_is_known() -> None:
    session = established()
    assert session.refresh(Afi.IPV6)
    assert session.output() == message(5, b"\x00\x02\x00\x01")
    assert not established(opening(MP4)).refresh(Afi.IPV4)
    assert not established(opening(MP4, b"\x02\x00")).refresh(Afi.IPV6)
    assert not Session(LOCAL, PEER, 0.0).refresh(Afi.IPV4)


def test_a_refresh_of_theirs_is_told_and_needs_no_answer() -> None:
    session = established()
    assert session.receive(message(5, b"\x00\x02\x00\x01"), 1.0) == [RefreshAsked(Afi.IPV6)]
    assert session.receive(message(5, b"\x00\x19\x00\x41") + message(5, bytes(40)), 1.0) == []
    assert session.output() == b""


def test_without_our_capabilities_theirs_do_not_count() -> None:
    session = established(local=replace(LOCAL, capabilities=False))
    assert session.families == {Afi.IPV4}
    assert not session.refresh(Afi.IPV4)
    path = b"\x40\x01\x01\x00" + b"\x40\x02\x04\x02\x01\xfe\x2a" + b"\x40\x03\x04\xc0\x00\x02\x07"
    [event] = session.receive(update(path, HOST), 1.0)
    assert "65066" in str(event)


MESSAGES = st.sampled_from(
    [
        KEEPALIVE,
        update(USUAL, HOST * 3, HOST),
        update(USUAL + reach(prefix("2a00::/32"))),
        update(unreach(b"")),
        update(b"\x40\x01\x01\x09", HOST),
        update(b"\x40\x01\x01\x09"),
        update(),
        message(5, b"\x00\x01\x00\x01"),
        message(3, b"\x06\x04\x02hi"),
        usual_open(),
        b"\xff" * 18,
        b"\x00",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(MESSAGES, max_size=8), st.integers(1, 60))
def test_events_and_answers_do_not_depend_on_packets(messages: list[bytes], size: int) -> None:
    octets = usual_open(KEEPS) + KEEPALIVE + b"".join(messages)
    whole, parts = Session(LOCAL, PEER, 0.0), Session(LOCAL, PEER, 0.0)
    events = whole.receive(octets, 0.0)
    pieces = [octets[at : at + size] for at in range(0, len(octets), size)]
    assert [event for piece in pieces for event in parts.receive(piece, 0.0)] == events
    assert parts.output() == whole.output()
    assert (parts.state, parts.deadline, parts.received) == (whole.state, whole.deadline, whole.received)
