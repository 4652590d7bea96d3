"""DKIM both ways: our signatures before a foreign verifier, foreign ones before ours."""

import time
from base64 import b64encode
from collections.abc import Sequence

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gatepost.base.clock import Instant
from gatepost.base.verdict import Finding, Result
from gatepost.judge.dkim import verify
from gatepost.judge.keys import generate, record_text
from gatepost.judge.seal import SigningKey, sign_all
from gatepost.judge.spf import Trouble
from tests.support.loop import run

RSA = generate("rsa-sha256")
ED = generate("ed25519-sha256")
FIELDS = [
    b"From: Joe SixPack <joe@football.example.com>\r\n",
    b"To: Suzie Q <suzie@shopping.example.net>\r\n",
    b"Subject: Is dinner\r\n\tready?\r\n",
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n",
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n",
]
BODY = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"

# RFC 8463 appendix A: the keys and the message as published there.
RFC_KEYS = {
    "brisbane._domainkey.football.example.com": (
        b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    ),
    "test._domainkey.football.example.com": b"v=DKIM1; k=rsa; p="
    b"MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3id"
    b"Y6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9Pz"
    b"oxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB",
}
RFC_SIGNATURES = (
    (
        b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
        b" d=football.example.com; i=@football.example.com;\r\n"
        b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
        b" subject : date : message-id : from : subject : date;\r\n"
        b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
        b" b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n"
        b" Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n"
    ),
    (
        b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n"
        b" d=football.example.com; i=@football.example.com;\r\n"
        b" q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n"
        b" date : message-id : from : subject : date;\r\n"
        b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
        b" b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3\r\n"
        b" DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz\r\n"
        b" dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=\r\n"
    ),
)


class KeyZone:
    """TXT records by name; a value of None is trouble."""

    def __init__(self, records: dict[str, bytes | list[bytes] | None]) -> None:
        self.records = records
        self.asked: list[str] = []

    async def txt(self, name: str) -> Sequence[bytes]:
        """Answer as the DNS would."""
        self.asked.append(name)
        found = self.records.get(name, [])
        if found is None:
            raise Trouble(name)
        return found if isinstance(found, list) else [found]


def now() -> Instant:
    """Return the real time: the foreign signer and verifier look at the clock too, at each test."""
    return Instant(time.time_ns() // 1000)


def named(fields: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return [(field.partition(b":")[0].strip().lower(), field) for field in fields]


def rfc_message() -> tuple[list[bytes], bytes]:
    fields = [
        b"From: Joe SixPack <joe@football.example.com>\r\n",
        b"To: Suzie Q <suzie@shopping.example.net>\r\n",
        b"Subject: Is dinner ready?\r\n",
        b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n",
        b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n",
    ]
    return fields, b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"


def checked(
    fields: Sequence[bytes], body: bytes, records: dict[str, bytes | list[bytes] | None]
) -> tuple[Finding, ...]:
    return run(verify(named(fields), body, KeyZone(records), now()))


def ours(keys: Sequence[SigningKey]) -> bytes:
    return sign_all(keys, named(FIELDS), BODY, now())


OUR_KEYS = (
    SigningKey("football.example.com", "r", "rsa-sha256", RSA),
    SigningKey("football.example.com", "e", "ed25519-sha256", ED),
)
OUR_ZONE: dict[str, bytes | list[bytes] | None] = {
    "r._domainkey.football.example.com": record_text(RSA).encode(),
    "e._domainkey.football.example.com": record_text(ED).encode(),
}


@pytest.mark.row("AUTHN-07")
def test_both_signatures_of_rfc_8463_pass() -> None:
    fields, body = rfc_message()
    found = checked([*RFC_SIGNATURES, *fields], body, dict(RFC_KEYS))
    assert [finding.result for finding in found] == [Result.PASS, Result.PASS]


@pytest.mark.row("DK-03")
def test_a_foreign_verifier_passes_our_signatures() -> None:
    signatures = ours(OUR_KEYS)
    mail = signatures + b"".join(FIELDS) + b"\r\n" + BODY
    zone = {name.encode() + b".": record for name, record in OUR_ZONE.items()}

    def answer(name: bytes, timeout: int = 5) -> bytes:
        record = zone[name]
        assert isinstance(record, bytes)
        return record

    for at in (0, 1):
        assert dkimpy.DKIM(mail).verify(idx=at, dnsfunc=answer)


def test_our_verifier_passes_a_foreign_signature() -> None:
    pem = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    mail = b"".join(FIELDS) + b"\r\n" + BODY
    for header, body in ((b"relaxed", b"relaxed"), (b"simple", b"simple"), (b"relaxed", b"simple")):
        signature = dkimpy.sign(mail, b"r", b"football.example.com", pem, canonicalize=(header, body))
        found = checked([signature, *FIELDS], BODY, OUR_ZONE)
        assert found[0].result is Result.PASS, found


def test_lines_of_a_signature_fit_and_nothing_is_left_of_our_folds() -> None:
    signature = ours(OUR_KEYS)
    assert max(map(len, signature.split(b"\r\n"))) <= 78
    assert signature.count(b"DKIM-Signature:") == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda fields, body: (fields, body + b"more\r\n"),
        lambda fields, body: ([b"From: evil@example.net\r\n", *fields], body),
        lambda fields, body: ([fields[0].replace(b"Joe", b"Jim"), *fields[1:]], body),
        lambda fields, body: ([*fields, b"Subject: second\r\n"], body),
    ],
)
@pytest.mark.row("AUTHN-03")
def test_a_changed_mail_fails(change) -> None:  # type: ignore[no-untyped-def]  # a table of lambdas
    signature = ours(OUR_KEYS[:1])
    fields, body = change(FIELDS, BODY)
    assert checked([signature, *fields], body, OUR_ZONE)[0].result is Result.FAIL


@pytest.mark.row("AUTHN-01")
def test_a_signature_with_l_is_never_a_pass() -> None:
    pem = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    mail = b"".join(FIELDS) + b"\r\n" + BODY
    signature = dkimpy.sign(mail, b"r", b"football.example.com", pem, length=True)
    assert checked([signature, *FIELDS], BODY, OUR_ZONE)[0].result is Result.POLICY
    assert checked([signature, *FIELDS], BODY + b"<html>phish\r\n", OUR_ZONE)[0].result is Result.POLICY
    assert b"l=" not in ours(OUR_KEYS)


@pytest.mark.parametrize(
    ("bits", "allowed"),
    [
        (512, {Result.POLICY, Result.PERMERROR}),
        (768, {Result.POLICY, Result.PERMERROR}),
        (1024, {Result.FAIL}),
        (16384, {Result.NEUTRAL}),
    ],
)
@pytest.mark.row("AUTHN-05")
def test_rsa_keys_of_odd_sizes_prove_nothing(bits: int, allowed: set[Result]) -> None:
    modulus = (1 << bits) - 159
    integers = b"".join(_der(0x02, b"\0" + n.to_bytes(-(-n.bit_length() // 8), "big")) for n in (modulus, 65537))
    record = b"v=DKIM1; k=rsa; p=" + b64encode(_der(0x30, integers))
    zone: dict[str, bytes | list[bytes] | None] = {"r._domainkey.football.example.com": record}
    assert checked([ours(OUR_KEYS[:1]), *FIELDS], BODY, zone)[0].result in allowed


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


@pytest.mark.row("AUTHN-06")
def test_rsa_sha1_is_policy_and_asks_no_dns() -> None:
    signature = ours(OUR_KEYS[:1]).replace(b"rsa-sha256", b"rsa-sha1")
    zone = KeyZone(OUR_ZONE)
    found = run(verify(named([signature, *FIELDS]), BODY, zone, now()))
    assert (found[0].result, zone.asked) == (Result.POLICY, [])


@pytest.mark.parametrize(
    ("record", "result"),
    [
        (b"v=DKIM1; k=unknown; p=AAAA", Result.PERMERROR),
        (b"v=DKIM1; p=", Result.PERMERROR),
        (b"v=DKIM1; s=tlsrpt; p=AAAA", Result.PERMERROR),
        (b"v=DKIM1; h=sha1; p=AAAA", Result.PERMERROR),
        ([b"v=DKIM1; p=AAAA", b"v=DKIM1; p=AAAA"], Result.PERMERROR),
        ([], Result.PERMERROR),
        (None, Result.TEMPERROR),
        (b"v=DKIM1; p=AAAA", Result.PERMERROR),
    ],
)
@pytest.mark.row("AUTHN-08", "AUTHN-25")
def test_an_unusable_key_never_passes(record: bytes | list[bytes] | None, result: Result) -> None:
    zone = {"r._domainkey.football.example.com": record}
    assert checked([ours(OUR_KEYS[:1]), *FIELDS], BODY, zone)[0].result is result


@pytest.mark.row("AUTHN-11")
def test_at_most_ten_signatures_are_looked_at() -> None:
    zone = KeyZone(OUR_ZONE)
    found = run(verify(named([ours(OUR_KEYS[:1])] * 100 + FIELDS), BODY, zone, now()))
    assert len(found) == len(zone.asked) == 10


def test_no_signature_is_none() -> None:
    assert checked(FIELDS, BODY, {})[0].result is Result.NONE


def test_the_oracle_knows_our_ed25519_type() -> None:
    assert isinstance(ED, Ed25519PrivateKey)
