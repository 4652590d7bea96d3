"""DMARC's reports go once a day to those who ask for them and, outside the domain, want them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from gatepost.base.clock import DAY, HOUR, Instant
from gatepost.codec.dmarc import Policy, Request
from gatepost.codec.dmarcreport import Row, read_report
from gatepost.dmarcrpt.results import Results
from gatepost.dmarcrpt.settings import DmarcReportSettings
from gatepost.dmarcrpt.sql import SCHEMA
from gatepost.judge.spf import Trouble
from gatepost.queue.dmarcreports import DmarcReporter, receivers
from gatepost.queue.reporting import Identity
from tests.queue.world import T0, Clock, World, world
from tests.relay.world import Journal
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run

TODAY = T0 // DAY
SENDER = "noreply@here.example"
ROW = Row("192.0.2.7", 1, "reject", "fail", "fail", "far.example", "evil.example")
REJECT = "v=DMARC1; p=reject"


@dataclass
class Names:
    """Texts by name; `down` is not answered."""

    texts: dict[str, str]
    down: set[str] = field(default_factory=set)

    async def txt(self, name: str) -> Sequence[bytes]:
        if name in self.down:
            raise Trouble(f"the DNS does not answer for {name}")
        return [self.texts[name].encode()] if name in self.texts else []

    async def exists(self, name: str) -> bool:
        return True


def wanting(rua: str, **others: str) -> Names:
    """Return a DNS in which far.example asks for reports; `others` are texts by name, `__` for a dot."""
    texts = {name.replace("__", "."): text for name, text in others.items()}
    return Names({"_dmarc.far.example": f"{REJECT}; rua={rua}", "_dmarc.example": "v=DMARC1; psd=y", **texts})


@dataclass
class Case:
    """A server that had mail of far.example yesterday."""

    w: World
    open_gate: OpenDatabase
    names: Names
    settings: DmarcReportSettings = DmarcReportSettings(send=True)  # noqa: RUF009  (frozen)
    clock: Clock = field(default_factory=Clock)
    log: Journal = field(default_factory=Journal)

    async def rounds(self, *steps: Callable[[], object]) -> None:
        """Count, then go round once, and once more after each step."""
        async with self.open_gate((SCHEMA,)) as gate:
            self.clock.at = Instant(T0 - DAY)
            results = Results(self.settings, self.clock)
            results.add("far.example", Policy(Request.REJECT), ROW)
            unit = results.unit()
            assert unit is not None
            await gate.commit(unit)
            self.clock.at = T0
            reporter = DmarcReporter(
                self.w.database,
                gate,
                self.names,
                self.w.reporter(),
                identity=lambda: Identity("Here", SENDER, "dmarc@here.example"),
                settings=lambda: self.settings,
                clock=self.clock,
                log=self.log,
                delay=HOUR,
            )
            for step in (lambda: None, *steps):
                step()
                await reporter.round()

    def later(self) -> None:
        self.clock.at = Instant(self.clock.at + HOUR)


@each_engine
def test_a_report_goes_by_mail_once_as_the_rfc_has_it(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            case = Case(w, open_db, wanting("mailto:dmarc@mail.far.example"))
            await case.rounds(case.later)
            await w.work()
            assert w.relay.tried == ["dmarc@mail.far.example"]
            (content,) = w.relay.contents
            mail = message_from_bytes(content, policy=policy.default)
            assert not mail.defects
            assert content.startswith(b"X-Sealed: here.example\r\n")
            assert (mail["From"], mail["To"]) == (SENDER, "dmarc@mail.far.example")
            told = read_report(content)
            about = f"Report Domain: far.example Submitter: here.example Report-ID: <{told.id}>"
            assert " ".join(str(mail["Subject"]).split()) == about
            assert (told.organization, told.rows) == ("Here", (ROW,))
            text, attached = mail.iter_parts()
            assert "far.example" in text.get_content()
            assert attached.get_content_type() == "application/gzip"
            begin = (TODAY - 1) * 86_400
            name = attached.get_filename() or ""
            assert name.startswith(f"here.example!far.example!{begin}!{begin + 86_399}!")
            assert name.endswith(".xml.gz")

    run(play())


def test_who_was_told_is_not_told_again_while_another_is(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path) as w:
            case = Case(w, open_sqlite, wanting("mailto:a@far.example,mailto:b@far.example,mailto:c@"))
            await case.rounds(case.later)
            await w.work()
            assert sorted(w.relay.tried) == ["a@far.example", "b@far.example"]

    run(play())


def test_nothing_is_sent_unless_it_is_switched_on_or_where_nobody_asks(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path) as w:
            await Case(w, open_sqlite, wanting("mailto:a@far.example"), DmarcReportSettings()).rounds()
            await Case(w, open_sqlite, Names({"_dmarc.far.example": REJECT})).rounds()
            assert await w.counts() == (0, 0, 0)

    run(play())


def test_a_dns_that_is_silent_is_asked_again_and_tells_nobody_meanwhile(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path) as w:
            names = wanting("mailto:a@far.example")
            names.down.add("_dmarc.far.example")
            case = Case(w, open_sqlite, names)
            await case.rounds(names.down.clear)
            assert await w.counts() == (1, 1, 1)
            assert case.log.words() == ["dmarc_report_not_sent", "dmarc_report_sent"]

    run(play())


CONSENT = "far.example._report._dmarc.third.example"


@pytest.mark.row("AUTHN-21")
@pytest.mark.parametrize(
    ("rua", "others", "expected"),
    [
        ("mailto:x@third.example", {}, set()),  # nobody there has agreed
        ("mailto:x@third.example", {CONSENT: "v=DMARC1"}, {"mailto:x@third.example"}),
        ("mailto:x@third.example", {CONSENT: "v=DMARC1; rua=mailto:y@third.example"}, {"mailto:y@third.example"}),
        ("mailto:x@third.example", {CONSENT: "v=DMARC1; rua=mailto:y@victim.example"}, {"mailto:x@third.example"}),
        ("mailto:x@third.example", {CONSENT: "yes, please"}, set()),
        ("mailto:x@sub.far.example", {}, {"mailto:x@sub.far.example"}),  # the same organization needs no consent
        ("mailto:x@victim.example", {CONSENT: "v=DMARC1"}, set()),
        (
            ",".join(f"mailto:x{n}@far.example" for n in range(100)),
            {},
            {f"mailto:x{n}@far.example" for n in range(10)},
        ),
        ("mailto:a%0d%0aBcc:b@far.example", {}, set()),
        ("mailto:a@far.example!10m", {}, {"mailto:a@far.example"}),
        ("https://far.example/reports", {}, set()),  # DMARC knows mail alone
    ],
)
def test_reports_go_to_whom_the_domain_names_and_who_agrees(
    rua: str, others: dict[str, str], expected: set[str]
) -> None:
    names = wanting(rua)
    names.texts |= others
    assert run(receivers(names, "far.example")) == expected


def test_a_consent_that_cannot_be_asked_for_is_trouble_and_no_consent() -> None:
    names = wanting("mailto:x@third.example")
    names.down.add(CONSENT)
    with pytest.raises(Trouble):
        run(receivers(names, "far.example"))


def test_settings_are_checked() -> None:
    for wrong in ({"sender": "nobody"}, {"contact": "a b@c"}, {"send_days": 5}, {"keep_days": 1}):
        with pytest.raises(ValueError, match=r"address|days"):
            DmarcReportSettings(**wrong)
