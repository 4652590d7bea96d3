"""What the results of DMARC and ARC do to a stranger's mail, from the wire to the mailbox."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_address

import pytest

from gatepost.base.verdict import Finding, Result
from gatepost.codec.dmarc import Policy
from gatepost.codec.dmarcreport import Proof, Row
from gatepost.codec.mail.header import HeaderBlock, unfold
from gatepost.codec.spf import Ip
from gatepost.judge.content import SimpleScanner
from gatepost.judge.judge import Judge
from gatepost.judge.settings import Dmarc, JudgeSettings
from gatepost.judge.spf import Trouble
from tests.intake.world import HOST, World, world
from tests.support.loop import run

SENDER = "<a@sender.example>"


class Zone:
    """sender.example sends from 192.0.2.9, where the tests come from; legit.example and bank.example do not."""

    def __init__(self, down: Sequence[str] = ()) -> None:
        self._down = down
        self.texts = {
            "sender.example": "v=spf1 ip4:192.0.2.9 -all",
            "_dmarc.sender.example": "v=DMARC1; p=reject",
            "_dmarc.legit.example": "v=DMARC1; p=reject",
            "_dmarc.bank.example": "v=DMARC1; p=quarantine",
            "_dmarc.trying.example": "v=DMARC1; p=reject; t=y",
        }

    async def txt(self, name: str) -> Sequence[bytes]:
        """Return a name's text."""
        if name in self._down:
            raise Trouble(f"the DNS does not answer for {name}")
        return [self.texts[name].encode()] if name in self.texts else []

    async def hosts(self, name: str, version: int) -> Sequence[Ip]:
        """Return an address."""
        return [ip_address("192.0.2.9")]

    async def exchanges(self, name: str) -> Sequence[str]:
        """Return no server."""
        return []

    async def pointers(self, ip: Ip) -> Sequence[str]:
        """Return no name."""
        return []

    async def exists(self, name: str) -> bool:
        """Tell that everything does."""
        return True


def judging(here: World, zone: Zone, **settings: object) -> None:
    """Let a judge look at what comes."""
    chosen = JudgeSettings(**settings)  # type: ignore[arg-type]  # named by the tests
    here.services = replace(here.services, judge=Judge(chosen, HOST, zone, None, here.log))


def mail(author: str, extra: bytes = b"") -> bytes:
    """Return a mail from `author`."""
    return extra + f"From: {author}\r\nTo: bob@here.example\r\nSubject: peas\r\n\r\nThe peas are in.\r\n".encode()


def answer(
    author: str, zone: Zone | None = None, extra: bytes = b"", **settings: object
) -> tuple[str, list[bytes], int]:
    """Send a mail; return the reply's code, what is in the INBOX, and how many mails are in Junk."""

    async def scene() -> tuple[str, list[bytes], int]:
        async with world() as here:
            judging(here, zone or Zone(), **settings)
            async with here.client() as talk:
                said = await talk.mail(mail(author, extra), SENDER)
            return said, await here.mails("bob"), len(await here.mails("bob", "Junk"))

    return run(scene())


def test_mail_that_its_author_proves_is_taken() -> None:
    said, (stored,), junk = answer("a@sender.example")
    assert (said, junk) == ("250 2.0.0", 0)
    assert b"dmarc=pass\r\n\t\theader.from=sender.example\r\n\t\tpolicy.dmarc=reject" in stored


@pytest.mark.row("HDR-07", "HDR-11")
@pytest.mark.parametrize(
    "author",
    [
        "admin@legit.example",
        "a@sender.example, admin@legit.example",
        "admin@legit.example,<a@sender.example>",
        "team: a@sender.example, admin@legit.example;",
    ],
)
def test_mail_that_forges_a_domain_which_asks_to_refuse_it_is_refused_before_the_250(author: str) -> None:
    said, stored, junk = answer(author)
    assert (said, stored, junk) == ("550 5.7.1", [], 0)


def test_the_refusal_names_the_domain_that_asks_for_it() -> None:
    async def scene() -> None:
        async with world() as here:
            judging(here, Zone())
            async with here.client() as talk:
                await talk.begin(SENDER)
                said = await talk.send(mail("admin@legit.example") + b".\r\n")
            assert said.endswith(b" refused: legit.example asks to refuse mail that it does not prove (DMARC)\r\n")

    run(scene())


def test_mail_that_forges_a_domain_which_asks_to_quarantine_it_is_junk() -> None:
    assert answer("x@bank.example")[1:] == ([], 1)


def test_a_domain_that_only_tests_its_policy_changes_nothing() -> None:
    said, (stored,), _ = answer("x@trying.example")
    assert said == "250 2.0.0"
    assert b"dmarc=fail reason=" in stored


def test_a_name_in_front_of_the_address_is_not_the_author() -> None:
    said, (stored,), _ = answer('"admin@legit.example" <a@sender.example>')
    assert said == "250 2.0.0"
    assert b"header.from=sender.example" in stored


@pytest.mark.parametrize(("mode", "mentioned"), [(Dmarc.REPORT, True), (Dmarc.OFF, False)])
def test_an_operator_who_does_not_honour_it_gets_the_mail(mode: Dmarc, mentioned: bool) -> None:
    said, (stored,), _ = answer("admin@legit.example", dmarc=mode)
    assert said == "250 2.0.0"
    assert (b"dmarc=fail" in stored) is mentioned


@pytest.mark.row("AUTHN-25")
def test_a_policy_that_nobody_can_tell_keeps_no_mail_out() -> None:
    said, (stored,), _ = answer("admin@legit.example", Zone(["_dmarc.legit.example"]))
    assert said == "250 2.0.0"
    assert b"dmarc=temperror" in stored


@pytest.mark.row("AUTHN-25")
def test_where_the_policy_is_reject_and_a_key_cannot_be_asked_for_the_mail_is_put_off() -> None:
    signature = (
        b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=legit.example; s=s1; h=from;\r\n"
        b"\tbh=" + b64encode(sha256(b"The peas are in.\r\n").digest()) + b"; b=AAAA\r\n"
    )
    zone = Zone(["s1._domainkey.legit.example"])
    assert answer("admin@legit.example", zone, signature)[0] == "451 4.7.1"
    assert answer("admin@legit.example", Zone(), signature)[0] == "550 5.7.1"


def test_a_mail_that_goes_on_is_vouched_for() -> None:
    async def scene() -> None:
        async with world() as here:
            judging(here, Zone())
            async with here.client() as talk:
                assert await talk.mail(mail("a@sender.example"), SENDER, "team@here.example") == "250 2.0.0"
            (row,) = await here.rows("SELECT body FROM queue_mail")
            queued = await here.services.bodies.get(int(str(row[0])))  # type: ignore[attr-defined]  # Blobs
            assert queued.startswith(b"ARC-Seal: i=1; d=here.example\r\nAuthentication-Results: ")

    run(scene())


def test_a_mail_that_stays_is_not() -> None:
    assert b"ARC-Seal" not in answer("a@sender.example")[1][0]


def counted(author: str, **settings: object) -> list[tuple[str, Policy, Row]]:
    """Send a mail; return what is counted for the report of a domain."""
    zone = Zone()
    zone.texts["_dmarc.sender.example"] = "v=DMARC1; p=reject; rua=mailto:d@sender.example"
    zone.texts["_dmarc.trying.example"] += "; rua=mailto:d@trying.example"
    zone.texts["_dmarc.bank.example"] += "; rua=mailto:d@bank.example"
    found: list[tuple[str, Policy, Row]] = []

    async def scene() -> None:
        async with world() as here:
            chosen = JudgeSettings(**settings)  # type: ignore[arg-type]  # named by the tests
            judge = Judge(chosen, HOST, zone, None, here.log, counted=lambda *told: found.append(told))
            here.services = replace(here.services, judge=judge)
            async with here.client() as talk:
                await talk.mail(mail(author), SENDER)

    run(scene())
    return found


@pytest.mark.parametrize(
    ("author", "settings", "told"),
    [
        ("a@sender.example", {}, ("pass", "fail", "pass", ())),
        ("x@bank.example", {}, ("quarantine", "fail", "fail", ())),
        ("x@bank.example", {"dmarc": Dmarc.REPORT}, ("none", "fail", "fail", ("local_policy: only reported",))),
        ("x@trying.example", {}, ("none", "fail", "fail", ("policy_test_mode",))),
    ],
)
def test_what_became_of_a_mail_is_counted_for_its_domains_report(
    author: str, settings: dict[str, object], told: tuple[object, ...]
) -> None:
    ((domain, policy, row),) = counted(author, **settings)
    assert domain == author.rpartition("@")[2]
    assert policy.reports_to == (f"mailto:d@{domain}",)
    assert (row.disposition, row.dkim, row.spf, row.reasons) == told
    assert (row.ip, row.author, row.sender) == ("192.0.2.9", domain, "sender.example")
    assert row.proofs == (Proof("spf", "sender.example", "pass"),)


def test_a_domain_that_asks_for_no_report_is_not_counted() -> None:
    assert counted("x@legit.example") == []
    assert counted("a@sender.example", dmarc=Dmarc.OFF) == []


def spam_status(author: str, sender: str = SENDER, extra: bytes = b"", **settings: object) -> str:
    """Send a mail through a judge that scans; return what X-Spam-Status says."""

    async def scene() -> str:
        async with world() as here:
            chosen = JudgeSettings(filter=True, **settings)  # type: ignore[arg-type]  # named by the tests
            judge = Judge(chosen, HOST, Zone(), SimpleScanner(), here.log)
            here.services = replace(here.services, judge=judge)
            async with here.client() as talk:
                assert await talk.mail(mail(author, extra), sender) == "250 2.0.0"
            (stored,) = await here.mails("bob")
        return unfold(HeaderBlock.parse(stored).get(b"x-spam-status")[0]).decode()

    return run(scene())


@pytest.mark.row("FI-08")
def test_what_proves_a_mail_or_does_not_is_part_of_its_score() -> None:
    proven = spam_status("a@sender.example")
    assert "SPF_PASS,DMARC_PASS" in proven
    forged = spam_status("a@legit.example", dmarc=Dmarc.REPORT)
    assert "SPF_PASS,DMARC_FAIL" in forged
    softer = spam_status("a@free.example", "<a@free.example>")
    assert "SPF" not in softer
    scores = [float(status.partition("score=")[2].partition(" ")[0]) for status in (proven, softer, forged)]
    assert scores == sorted(scores)
    assert scores[2] - scores[0] == pytest.approx(2.0)


@pytest.mark.row("FI-08")
@pytest.mark.parametrize(
    ("result", "domain", "rules", "score"),
    [
        (Result.PASS, "far.example", ("DKIM_SIGNED", "DKIM_VALID", "DKIM_VALID_AU"), -0.3),
        (Result.PASS, "list.example", ("DKIM_SIGNED", "DKIM_VALID"), -0.2),
        (Result.FAIL, "far.example", ("DKIM_SIGNED", "DKIM_INVALID"), 1.1),
        (Result.TEMPERROR, "far.example", ("DKIM_SIGNED",), 0.1),
        (Result.NONE, "", (), 0.0),
    ],
)
def test_signatures_have_the_names_that_spamassassin_gives_them(
    result: Result, domain: str, rules: tuple[str, ...], score: float
) -> None:
    raw = b"From: a@far.example\r\nDate: x\r\nMessage-ID: <x@y>\r\nSubject: peas\r\n\r\nhi\r\n"
    findings = (Finding("dkim", result, domain), Finding("dmarc", Result.NONE, "far.example"))
    scanned = SimpleScanner().scan(raw, HeaderBlock.parse(raw), findings)
    assert (scanned.rules, scanned.score) == (rules, score)
