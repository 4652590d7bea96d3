"""Whatever octets come, a session gives events or ends with a NOTIFICATION; nothing else ever happens (BGP-12)."""

import random

import pytest

from gatepost.codec.bgp.session import Session
from gatepost.codec.bgp.types import Complaint, Ended, EndOfRib, Peer, RefreshAsked, State, Update
from tests.codec.bgp.messages import (
    KEEPALIVE,
    LOCAL,
    MP4,
    USUAL,
    communities,
    established,
    message,
    opening,
    prefixes,
    reach,
    real_updates,
    split,
    unreach,
    update,
    usual_open,
)

PEER = Peer(65066, enforce_first_as=False)
OLD = opening(MP4)
MADE = [
    update(USUAL + communities((65066, 42)), prefixes("5.6.7.8/32", "5.6.0.0/17"), prefixes("9.0.0.0/8")),
    update(unreach(prefixes("2a00::/32")) + USUAL + reach(prefixes("2a01::/32", "2a02::/33"))),
    update(USUAL + b"\xc0\x20\x0c" + bytes(12) + b"\xc0\x10\x08" + bytes(8) + b"\xc0\x11\x06\x02\x01" + bytes(4)),
]


def check(session: Session, octets: bytes) -> Session:
    """Give octets to a session, which must live or end as it should; return one that lives."""
    events = session.receive(octets, 0.0)
    for event in events:
        if isinstance(event, Update):
            bits = 32 if event.afi == 1 else 128
            for key in event.announced + event.withdrawn:
                assert key[0] <= bits
                assert len(key) == 1 + (key[0] + 7) // 8
            assert bool(event.announced) == (event.path is not None)
            assert event.announced or event.withdrawn
        else:
            assert isinstance(event, Complaint | EndOfRib | RefreshAsked | Ended)
    output = list(split(session.output()))
    if session.ended is None:
        assert session.state is State.ESTABLISHED
        assert output == []
        return session
    assert events[-1] is session.ended
    assert [type(each) for each in events].count(Ended) == 1
    if session.ended.by_us:
        [(kind, body)] = output
        assert (kind, body[0], body[1]) == (3, session.ended.code, session.ended.subcode)
    return established(OLD if session.capabilities.four_octet_as is None else usual_open(), peer=PEER)


def mutate(octets: bytes, dice: random.Random) -> bytes:
    """Damage a message, mostly behind its header."""
    changed = bytearray(octets)
    for _ in range(dice.randint(1, 4)):
        first = 19 if dice.random() < 0.95 and len(changed) > 19 else 0
        at = dice.randrange(first, len(changed))
        match dice.randrange(4):
            case 0:
                changed[at] = dice.choice((0, 1, 0x20, 0x21, 0x7F, 0x80, 0xFF, dice.randrange(256)))
            case 1:
                changed[at] ^= 1 << dice.randrange(8)
            case 2:
                del changed[at : at + dice.randint(1, 4)]
            case _:
                changed[at:at] = dice.randbytes(dice.randint(1, 4))
    if dice.random() < 0.9:
        changed[16:18] = min(len(changed), 4096).to_bytes(2)
    return bytes(changed)


def fuzz(count: int, seed: int) -> None:
    """Send so many messages, damaged and random."""
    dice = random.Random(seed)
    real = [(OLD, octets) for octets in dice.sample(list(real_updates()), 2_000)]
    seeds = [*real, *((usual_open(), octets) for octets in MADE * 300)]
    sessions = {opened: established(opened, peer=PEER) for opened in (OLD, usual_open())}
    for _ in range(count):
        opened, octets = dice.choice(seeds)
        if dice.random() < 0.3:
            octets = message(2, dice.randbytes(dice.randint(4, 80)))
        else:
            octets = mutate(octets, dice)
        sessions[opened] = check(sessions[opened], octets)


@pytest.mark.row("BGP-12")
@pytest.mark.parametrize("seed", range(4))
def test_damaged_and_random_updates(seed: int) -> None:
    fuzz(5_000, seed)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.row("BGP-12")
def test_a_million_damaged_and_random_updates() -> None:
    for seed in range(100, 110):
        fuzz(100_000, seed)


@pytest.mark.row("BGP-12")
def test_damaged_opens_and_everything_else() -> None:
    dice = random.Random(7)
    whole = [usual_open(), OLD, KEEPALIVE, message(3, b"\x06\x02\x03bye"), message(5, b"\x00\x01\x00\x01")]
    for _ in range(10_000):
        session = Session(LOCAL, PEER, 0.0)
        for octets in (dice.choice(whole[:2]), dice.choice(whole), dice.choice(whole)):
            session.receive(mutate(octets, dice) if dice.random() < 0.5 else octets, 0.0)
        assert all(kind in (1, 2, 3, 4) for kind, _ in split(session.output()))
    for _ in range(2_000):
        Session(LOCAL, PEER, 0.0).receive(dice.randbytes(dice.randint(0, 100)), 0.0)
