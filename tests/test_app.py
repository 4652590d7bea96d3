"""What the assembly does itself: the certificate that is made when there is none, what a reload cannot take."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from gatepost.aio.clock import SystemClock
from gatepost.app import open_certificates, unrenewed
from gatepost.base.units import Seconds
from gatepost.config import Config, ServerSettings
from gatepost.queue.settings import QueueSettings
from tests.aio.world import Journal


def config_in(folder: Path) -> Config:
    return Config(server=ServerSettings(hostname="mx.example", data_dir=str(folder)))


def test_workers_that_start_at_once_share_one_self_signed_certificate(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        holders = list(
            pool.map(lambda _: open_certificates(config_in(tmp_path), SystemClock(), Journal()), range(8))
        )
    assert len({holder.expires for holder in holders}) == 1
    assert (tmp_path / "tls" / "self-signed.key").stat().st_mode & 0o777 == 0o600


def test_a_server_without_a_certificate_says_so_loudly(tmp_path: Path) -> None:
    log = Journal()
    open_certificates(config_in(tmp_path), SystemClock(), log)
    assert [event for event, _ in log.events] == ["self_signed_certificate"]


def test_what_a_reload_cannot_take_is_named(tmp_path: Path) -> None:
    old = config_in(tmp_path)
    assert unrenewed(old, replace(old, server=replace(old.server, log_level="debug"))) == ()
    assert unrenewed(old, replace(old, server=replace(old.server, hostname="other.example"))) == ("server",)
    assert unrenewed(old, replace(old, queue=QueueSettings(lifetime=Seconds(7200)))) == ("queue",)
