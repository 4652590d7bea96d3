"""Joining: what a token is good for, and the configuration that comes of it."""

from pathlib import Path
from typing import Any

import pytest

from gatepost.backupmx.join import VALID_S, Declined, checked, compose, invite, read_token, redeem
from gatepost.backupmx.joined import Backup, all_backups, read_backup, write_backup
from gatepost.backupmx.settings import Recipients
from gatepost.base.units import Seconds
from gatepost.cli.common import Failed
from gatepost.cli.join import join
from gatepost.config import Role, parse
from gatepost.policy.rules import load as load_rules
from gatepost.queue.settings import Unproven

NOW = 1_790_000_000
TOLD: dict[str, Any] = {
    "version": 1,
    "server": "mx1.example.org",
    "domains": ["example.org", "example.net"],
    "size": 1 << 20,
    "addresses": ["198.51.100.2", "2001:db8:2::2"],
    "backups": ["203.0.113.2"],
    "key": "ab" * 32,
    "sync": {"mode": "own", "peers": ["192.0.2.2", "203.0.113.2"], "key": "a2V5" * 10},
}


def test_an_invitation_is_redeemed_once_within_its_hour_and_leaves_no_secret(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    token = invite(folder, "mx2.example.org", (), "", NOW)
    assert read_token(f" {token}\n") == token
    assert token.secret.encode() not in b"".join(each.read_bytes() for each in folder.iterdir())
    for name, secret, now in (
        ("mx2.example.org", token.secret + "x", NOW),
        ("mx3.example.org", token.secret, NOW),
        ("../backups/mx2.example.org", token.secret, NOW),
        ("mx2.example.org", token.secret, NOW + VALID_S + 1),
    ):
        with pytest.raises(Declined):
            redeem(folder, name, secret, "198.51.100.2", now, dry_run=False)
    looked = redeem(folder, "mx2.example.org", token.secret, "198.51.100.2", NOW, dry_run=True)
    assert looked == Backup("mx2.example.org", b"", ("198.51.100.2",))
    joined = redeem(folder, "mx2.example.org", token.secret, "198.51.100.2", NOW + VALID_S, dry_run=False)
    assert len(joined.key) == 32
    assert all_backups(folder) == [joined]
    assert [each.stat().st_mode & 0o777 for each in folder.iterdir()] == [0o600]
    with pytest.raises(Declined):
        redeem(folder, "mx2.example.org", token.secret, "198.51.100.2", NOW, dry_run=False)


def test_a_second_invitation_ends_the_first_and_the_addresses_that_were_said_count(tmp_path: Path) -> None:
    first = invite(tmp_path / "b", "mx2.example.org", (), "", NOW)
    second = invite(tmp_path / "b", "mx2.example.org", ("2001:db8::2",), "ab" * 32, NOW)
    assert read_token(str(second)).fingerprint == "ab" * 32
    with pytest.raises(Declined):
        redeem(tmp_path / "b", "mx2.example.org", first.secret, "::1", NOW, dry_run=False)
    joined = redeem(tmp_path / "b", "mx2.example.org", second.secret, "::1", NOW, dry_run=False)
    assert joined.addresses == ("2001:db8::2",)


@pytest.mark.parametrize("text", ["", "mx2.example.org", "mx2.example.org/", "../x/secret", "a/b/c/d", "a b/c"])
def test_what_is_no_token_is_told_so(text: str) -> None:
    with pytest.raises(ValueError, match="no token"):
        read_token(text)


def test_a_file_that_is_damaged_is_no_backup(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    write_backup(folder, Backup("mx2.example.org", b"k" * 32))
    (folder / "mx2.example.org.backup").write_bytes(b"{}")
    assert read_backup(folder, "mx2.example.org") is None
    assert read_backup(folder, "../../etc/passwd") is None


@pytest.mark.row("BM-01")
@pytest.mark.parametrize("sync", [True, False])
def test_the_configuration_is_that_of_a_backup(tmp_path: Path, sync: bool) -> None:
    told = TOLD if sync else TOLD | {"sync": None}
    written = compose(
        told,
        name="mx2.example.org",
        primary="https://mx1.example.org",
        config=tmp_path / "gatepost.toml",
        data_dir="/var/lib/gatepost",
        certificate="PEM",
    )
    names = {"gatepost.toml", "backup.key", "primary.pem"} | ({"sync.key"} if sync else set())
    assert {each.name for each in written.files} == names
    assert {each.name for each, (_, private) in written.files.items() if private} == names - {
        "gatepost.toml",
        "primary.pem",
    }
    config = parse(written.files[tmp_path / "gatepost.toml"][0].decode(), tmp_path / "gatepost.toml")
    assert config.server.role is Role.BACKUP_MX
    assert [each.kind.value for each in config.listeners.values()] == ["mx"]
    assert config.queue.lifetime == Seconds(14 * 86_400)
    assert not config.queue.warn_after
    assert config.intake.max_size == 1 << 20
    assert config.backup.recipients is Recipients.LIST
    assert config.backup.bounces is Unproven.QUARANTINE
    assert config.gate.backups == ("203.0.113.2",)
    assert config.accounts.postmaster == "postmaster@example.org"
    assert len(load_rules(config.policy).rules) == 2
    assert config.feeds.sync.peers == (("192.0.2.2", "203.0.113.2") if sync else ())
    assert written.records == (
        "example.org. IN MX 20 mx2.example.org.",
        "example.net. IN MX 20 mx2.example.org.",
        "mx2.example.org. IN A 198.51.100.2",
        "mx2.example.org. IN AAAA 2001:db8:2::2",
    )


@pytest.mark.parametrize(
    "octets", [b"[]", b"{}", b'{"version": 2}', b'{"version": 1, "domains": "x", "addresses": [], "backups": []}']
)
def test_another_answer_of_the_primary_is_refused(octets: bytes) -> None:
    with pytest.raises(ValueError, match="primary"):
        checked(octets)


def test_a_file_that_is_there_is_named_before_the_token_is_used(tmp_path: Path) -> None:
    (tmp_path / "sync.key").write_text("precious")
    with pytest.raises(Failed, match="never written over"):
        join("https://192.0.2.1", "mx2.example.org/secret", output=tmp_path / "gatepost.toml")
    assert (tmp_path / "sync.key").read_text() == "precious"


@pytest.mark.parametrize("primary", ["http://mx1.example.org", "mx1.example.org", "https://mx1.example.org/x"])
def test_a_primary_is_the_address_of_a_web_listener(primary: str, tmp_path: Path) -> None:
    with pytest.raises(Failed, match="web listener"):
        join(primary, "mx2.example.org/secret", output=tmp_path / "gatepost.toml")
