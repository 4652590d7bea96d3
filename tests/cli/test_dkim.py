"""`gatepost dkim`: a key's way from `new` over the DNS to its successor; keys of other signers."""

import asyncio
import json
import sys
from pathlib import Path

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gatepost import cli
from gatepost.base.clock import DAY, Instant
from gatepost.base.units import Seconds
from gatepost.cli.asking import SILENT
from gatepost.databases import reached
from gatepost.db.unit import Unit
from gatepost.judge import verbs
from gatepost.judge.keys import KeyFile, StoredKeys, generate, record_text
from gatepost.judge.proxyconf import BadProxyConf, Kind, read_proxy_conf
from gatepost.judge.rotation import Rotation
from gatepost.judge.seal import Seal, SigningKey, Style, domain_key, sign_all
from gatepost.judge.settings import Canonicalization, DomainSigning, SigningSettings
from gatepost.judge.verbs import Turn
from tests.judge.test_dkim import BODY, FIELDS, OUR_KEYS, OUR_ZONE, KeyZone, named, now
from tests.support.loop import run
from tests.support.zone import Zone, txt


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    (tmp_path / "data").mkdir()
    (tmp_path / "gatepost.toml").write_text(f'[server]\nhostname = "mx.a.example"\ndata_dir = "{tmp_path}/data"\n')


def command(
    capsys: pytest.CaptureFixture[str], *words: str, records: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run a command; with records, against a DNS that has them."""

    async def play() -> int:
        zone = {name: {"TXT": [txt(text)]} for name, text in (records or {}).items()}
        async with Zone(zone) as served:
            asked = ["--dns", f"127.0.0.1:{served.address[1]}"] if records is not None else []
            sys.argv = ["gatepost", "dkim", *words, *asked]
            return await asyncio.to_thread(cli.run)

    status = run(play())
    told = capsys.readouterr()
    return status, told.out + told.err


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(command(capsys, "list", "--json")[1])
    return found


@pytest.mark.row("DK-05")
def test_a_new_key_is_printed_as_a_zone_has_it_and_checked_in_the_dns(capsys: pytest.CaptureFixture[str]) -> None:
    status, told = command(capsys, "new", "a.example", "--algorithm", "rsa", "--selector", "default")
    assert status == 0
    assert told.startswith('default._domainkey\tIN\tTXT\t( "v=DKIM1; k=rsa; p=')
    assert "; ----- DKIM key default for a.example" in told
    record = listed(capsys)[0]["record"]
    assert command(capsys, "check", "a.example", records={"default._domainkey.a.example": record})[0] == 0
    status, told = command(capsys, "check", "a.example", records={})
    assert status == 1
    assert "missing" in told
    other = record_text(generate("rsa-sha256"))
    status, told = command(capsys, "check", "a.example", records={"default._domainkey.a.example": other})
    assert (status, "another key" in told) == (1, True)


def test_a_successor_signs_once_the_dns_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "new", "a.example", "--algorithm", "ed25519", "--selector", "old")
    status, told = command(capsys, "rotate", "a.example", records={})
    assert (status, "missing. Publish this" in told) == (0, True)
    old, new = listed(capsys)
    assert (old["state"], new["state"]) == ("signs", "waits for the DNS")
    status, told = command(capsys, "rotate", "a.example", records={new["name"]: new["record"]})
    assert (status, "old._domainkey.a.example is retired" in told) == (0, True)
    assert [each["state"] for each in listed(capsys)] == ["retired", "signs"]
    assert command(capsys, "retire", "a.example", new["selector"])[0] == 0
    assert [each["state"] for each in listed(capsys)] == ["retired", "retired"]


@pytest.mark.row("DK-06")
def test_keys_of_dkimproxy_opendkim_and_rspamd_are_taken_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    private = generate("rsa-sha256")
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    proxy = tmp_path / "default.private"
    proxy.write_bytes(pem)
    conf = tmp_path / "dkimproxy_out.conf"
    conf.write_text(
        "# the article's\nlisten 127.0.0.1:10027\nrelay 127.0.0.1:10028\ndomain p1.example,p2.example\n"
        f"signature dkim(c=relaxed)\nsignature domainkeys(c=nofws)\nkeyfile {proxy}\nselector default\n"
    )
    opened = tmp_path / "opendkim" / "o.example" / "mail.private"
    opened.parent.mkdir(parents=True)
    opened.write_bytes(pem)
    rspamd = tmp_path / "rspamd" / "r.example.dkim.key"
    rspamd.parent.mkdir()
    rspamd.write_bytes(pem)
    table = tmp_path / "KeyTable"
    table.write_text(f"one t.example:mail:{proxy}\n")
    for source in (conf, opened.parent.parent, rspamd.parent, table):
        assert command(capsys, "adopt", str(source), "--dry-run")[0] == 0
        assert command(capsys, "adopt", str(source))[0] == 0
    assert {each["name"] for each in listed(capsys)} == {
        "default._domainkey.p1.example",
        "default._domainkey.p2.example",
        "mail._domainkey.o.example",
        "dkim._domainkey.r.example",
        "mail._domainkey.t.example",
    }
    assert {each["record"] for each in listed(capsys)} == {record_text(private)}
    status, told = command(capsys, "adopt", str(tmp_path / "data"))
    assert (status, "there are no keys" in told) == (1, True)


@pytest.mark.row("DK-02")
@pytest.mark.row("DK-07")
def test_dkimproxy_out_conf_is_read_as_it_stands() -> None:
    text = "listen = 127.0.0.1:10027\nrelay 127.0.0.1\ndomain a.example\nkeyfile /k\nselector s1\nmin_servers 5\n"
    conf = read_proxy_conf(text + "signature dkim(c=relaxed/simple,s=s2)\nsignature domainkeys\n")
    assert (conf.listen, conf.relay) == (("127.0.0.1", 10027), ("127.0.0.1", 25))
    assert [(each.kind, each.selector, each.method) for each in conf.signatures] == [
        (Kind.DKIM, "s2", "relaxed/simple"),
        (Kind.DOMAINKEYS, "s1", "nofws"),
    ]
    assert conf.ignored == ("min_servers",)
    for wrong, told in (
        ("signature dkim(c=nowsp)", "line 7: method nowsp"),
        ("colour red", "line 7: colour is no"),
    ):
        with pytest.raises(BadProxyConf, match=told):
            read_proxy_conf(text + wrong + "\n")


class Letters:
    """Keeps what the postmaster is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def begin(self, name: str, subject: str, text: str, to: object = ()) -> bool:
        self.told.append(subject)
        return True


class Time:
    """A clock that is set."""

    at = Instant(0)

    def now(self) -> Instant:
        return self.at

    def steady(self) -> float:
        return self.at / 1e6


def test_a_rotation_on_schedule_breaks_no_mail(tmp_path: Path) -> None:
    time, letters, zone = Time(), Letters(), KeyZone({})
    time.at = Instant(20_000 * DAY)

    async def story() -> None:
        async with reached(tmp_path / "data") as databases:
            secret, mail = KeyFile.open(tmp_path / "data" / "secret.key"), databases.mail
            settings = SigningSettings(rotate=Seconds(90 * 86_400))
            rotation = Rotation(mail, secret, zone, letters, lambda: settings, time, SILENT)
            await mail.commit(Unit(verbs.new_key_steps(secret, "a.example", time.at), (verbs.notice(),)))

            async def turns() -> list[Turn]:
                await rotation.round()
                return [key.turn for key in await verbs.list_keys(mail)]

            assert await turns() == [Turn.SIGNS] * 2
            time.at = Instant(time.at + 91 * DAY)
            assert await turns() == [Turn.SIGNS] * 2 + [Turn.WAITS] * 2
            assert await turns() == [Turn.SIGNS] * 2 + [Turn.WAITS] * 2
            signing = await StoredKeys(mail, secret).of("a.example", time.at)
            assert {key.selector for key in signing} == {"gp-rsa", "gp-ed"}
            zone.records = {key.name: key.record.encode() for key in await verbs.list_keys(mail)}
            assert await turns() == [Turn.RETIRED] * 2 + [Turn.SIGNS] * 2
            signing = await StoredKeys(mail, secret).of("a.example", time.at)
            assert {key.selector for key in signing} == {"gp20240106-rsa", "gp20240106-ed"} or len(signing) == 2
            assert not {"gp-rsa", "gp-ed"} & {key.selector for key in signing}
            time.at = Instant(time.at + 15 * DAY)
            assert await turns() == [Turn.SIGNS] * 2
            assert len(letters.told) == 4

    run(story())


@pytest.mark.parametrize("way", Canonicalization)
def test_each_canonicalization_is_verified_by_another(way: Canonicalization) -> None:
    style = Style.of(SigningSettings(canonicalization=way, lifetime=Seconds(0)), DomainSigning())
    signed = sign_all(OUR_KEYS, named(FIELDS), BODY, now(), style)
    assert b"c=" + way.value.encode() in signed
    assert b"x=" not in signed
    mail = dkimpy.DKIM(signed + b"".join(FIELDS) + b"\r\n" + BODY)

    def answer(name: bytes, **_: object) -> object:
        return OUR_ZONE[name.decode().rstrip(".")]

    assert [mail.verify(at, dnsfunc=answer) for at in range(2)] == [True, True]


@pytest.mark.parametrize(
    "added", ["Reply-To: x@evil.example\r\n", "Content-Type: text/html\r\n", "From: x@y.example\r\n"]
)
def test_a_field_that_was_signed_as_absent_cannot_be_added(added: str) -> None:
    signed = sign_all(OUR_KEYS, named(FIELDS), BODY, now())
    mail = dkimpy.DKIM(signed + added.encode() + b"".join(FIELDS) + b"\r\n" + BODY)
    assert not mail.verify(0, dnsfunc=lambda name, **_: OUR_ZONE[name.decode().rstrip(".")])


def test_a_domain_below_signs_with_the_key_above_and_a_foreign_author_with_the_one_named() -> None:
    class One:
        async def of(self, domain: str, at: Instant) -> list[SigningKey]:
            return [key for key in OUR_KEYS if key.domain == domain]

    def signs(settings: SigningSettings, domain: str) -> int:
        return run(Seal(One(), settings).seal(named(FIELDS), BODY, domain, now())).count(b"d=football.example.com")

    assert signs(SigningSettings(), "a.football.example.com") == 2
    assert signs(SigningSettings(), "elsewhere.example") == 0
    assert signs(SigningSettings(foreign="football.example.com"), "elsewhere.example") == 2
    own = {"football.example.com": DomainSigning(selectors=("e",))}
    assert signs(SigningSettings(domain=own), "football.example.com") == 1


def test_domainkeys_sign_only_for_an_author_within_their_domain() -> None:
    other = [SigningKey("other.example", "r", "rsa-sha256", OUR_KEYS[0].private)]
    assert domain_key(other, named(FIELDS), BODY) == b""
    assert domain_key(OUR_KEYS, named(FIELDS), BODY).startswith(b"DomainKey-Signature: a=rsa-sha1; q=dns; c=nofws;")
