"""Generated mails, signed and verified by two: dkimpy must think of our signatures what we think of them."""

import random

import dkim as dkimpy

from gatepost.base.verdict import Result
from gatepost.codec.mail.header import HeaderBlock
from gatepost.judge.judge import raw_fields
from gatepost.judge.seal import sign_all
from tests.judge.test_dkim import OUR_KEYS, OUR_ZONE, checked, now
from tests.support.mails import Maker

MAILS = 100
DEEP_MAILS = 2_000
ZONE = {name.encode() + b".": record for name, record in OUR_ZONE.items()}


def by_dkimpy(mail: bytes, at: int) -> bool:
    """Tell whether dkimpy passes the signature at that place."""
    try:
        verdict: bool = dkimpy.DKIM(mail).verify(idx=at, dnsfunc=lambda name, timeout=5: ZONE[name])
    except dkimpy.DKIMException:
        return False
    return verdict


def by_us(mail: bytes) -> list[bool]:
    """Tell which signatures we pass, in their order."""
    header = HeaderBlock.parse(mail)
    fields = [octets for _, octets in raw_fields(mail, header)]
    return [finding.result is Result.PASS for finding in checked(fields, mail[header.end :], OUR_ZONE)]


def test_dkimpy_passes_what_we_sign_and_neither_passes_what_was_changed(deep: bool) -> None:
    for seed in range(DEEP_MAILS if deep else MAILS):
        raw = Maker(seed).mail()
        header = HeaderBlock.parse(raw)
        signatures = sign_all(OUR_KEYS, raw_fields(raw, header), raw[header.end :], now())
        mail = signatures + raw
        assert by_us(mail) == [by_dkimpy(mail, at) for at in (0, 1)] == [True, True], seed
        chance = random.Random(seed)
        at = len(signatures) + chance.randrange(len(raw))
        changed = mail[:at] + bytes([mail[at] ^ chance.choice((1, 2, 32))]) + mail[at + 1 :]
        if HeaderBlock.parse(changed).flaws - HeaderBlock.parse(mail).flaws or changed.count(b"\r\n") != mail.count(
            b"\r\n"
        ):
            continue  # a field that is none any more, or a bare CR or LF: readers differ in where it ends
        assert by_us(changed) == [by_dkimpy(changed, each) for each in (0, 1)], (seed, at)
