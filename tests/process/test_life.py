"""The life of a server: drain, reload, upgrade, and the death of its parts, each with clients that are there."""

import os
import signal
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from gatepost.aio.tls import Pair, self_signed, write_pair
from gatepost.base.clock import Instant
from tests.process.served import HEAD, Line, Served, stopped, until

pytestmark = pytest.mark.process


def pem(folder: Path, name: str) -> tuple[str, Pair]:
    """Make a certificate; return its settings and its files."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    write_pair(pair, *self_signed((name,), Instant(time.time_ns() // 1000)))
    return f'[[tls.certificates]]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n', pair


def reloaded(server: Served, times: int) -> None:
    """Wait until every worker has reloaded `times` times."""
    until(lambda: len(server.events("reloaded")) == times * server.workers, 20, server.last_words)


# --- SIGTERM ------------------------------------------------------------------------------------------------


@pytest.mark.row("REL-16")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_ends_takes_the_mail_that_is_under_way(workers: int, tmp_path: Path) -> None:
    with Served(tmp_path, workers) as server:
        writer, idler, newcomer = server.smtp(), server.smtp(), server.smtp()
        idler.mail("before")
        reader = server.imap()
        writer.envelope()
        writer.send(HEAD + b"under way\r\n\r\nHalf of it is said.\r\n")
        reader.send(b"d IDLE\r\n")
        assert reader.line().startswith(b"+")
        assert server.process is not None
        server.process.terminate()
        assert reader.line().startswith(b"* BYE")
        assert idler.line().startswith(b"421")
        newcomer.mail("came before the end")
        assert newcomer.line().startswith(b"421")
        until(lambda: refused(server), 5, server.last_words)
        writer.say(b"The other half.\r\n.", b"250")
        assert writer.line().startswith(b"421")
        assert server.process.wait(20) == 0, server.last_words()
        server.start()
        assert server.subjects() == ["before", "came before the end", "under way"]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.deep), 2])
def test_a_server_ends_within_its_time_whoever_dawdles(workers: int, tmp_path: Path) -> None:
    with Served(tmp_path, workers) as server:
        dawdler = server.smtp()
        dawdler.envelope()
        dawdler.send(HEAD + b"never finished\r\n")
        assert server.process is not None
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(36) == 0, server.last_words()
        assert time.monotonic() - began < 35
        assert dawdler.ended()
        server.start()
        assert server.subjects() == []


def refused(server: Served) -> bool:
    """Tell whether nobody listens any more."""
    try:
        Line(server.ports["mx"]).close()
    except ConnectionRefusedError:
        return True
    return False


# --- SIGHUP -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_takes_everything_and_drops_nobody(workers: int, tmp_path: Path) -> None:
    first, _ = pem(tmp_path, "first.example")
    second, _ = pem(tmp_path, "second.example")
    table = tmp_path / "friends"
    table.write_text("192.0.2.1\n")
    tables = f'[gate.tables]\nnospamd = "{table}"\n'
    with Served(tmp_path, workers, f"{first}{tables}[intake]\nmax_size = 100000\n") as server:
        shown = server.certificate()
        writer, reader = server.smtp(), server.imap()
        writer.envelope()
        writer.send(HEAD + b"across the reload\r\n\r\n")
        reader.send(b"d IDLE\r\n")
        assert reader.line().startswith(b"+")
        table.write_text("192.0.2.1\n198.51.100.7\n")
        server.write_config(f"{second}{tables}[intake]\nmax_size = 50000\n")
        server.command("reload")
        reloaded(server, 1)
        assert server.certificate() != shown
        assert "198.51.100.7" in server.command("tables", "show", "nospamd")
        client = server.line("mx")
        client.line()
        client.send(b"EHLO client.example\r\n")
        assert b"250-SIZE 50000" in client.until(b"250 ")
        writer.say(b"Still here.\r\n.", b"250")
        assert b" EXISTS" in reader.line()
        reader.send(b"DONE\r\n")
        reader.until(b"d OK")
        writer.say(b"NOOP", b"250")
        assert not server.events("upgrade_needed")
        server.write_config(f'{second}{tables}[queue]\nlifetime = "2d"\n')
        server.command("reload")
        reloaded(server, 2)
        assert {each["sections"] for each in server.events("upgrade_needed")} == {"queue"}


@pytest.mark.row("REL-16")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[intake]\nmax_size = -1\n", r"gatepost\.toml:\d+: .*max_size"),
        ("[intake]\nmax_siez = 5\n", r"gatepost\.toml:\d+: .*max_siez"),
        ("[[\n", r"gatepost\.toml:\d+: "),
        ('[[tls.certificates]]\ncertificate = "/nowhere.pem"\nkey = "/nowhere.key"\n', "/nowhere.pem"),
        ('[gate.tables]\nspamd = "FOLDER/broken"\n', "broken.*line 2|line 2.*broken"),
    ],
)
def test_an_invalid_configuration_is_refused_and_the_old_one_stays(
    settings: str, said: str, tmp_path: Path
) -> None:
    first, _ = pem(tmp_path, "first.example")
    (tmp_path / "broken").write_text("192.0.2.1\nnobody\n")
    with Served(tmp_path, 1, f"{first}[intake]\nmax_size = 100000\n") as server:
        writer, shown = server.smtp(), server.certificate()
        server.write_config(settings.replace("FOLDER", str(tmp_path)))
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.said("reload_refused") == 1, 20, server.last_words)
        assert server.said(said) >= 1, server.last_words()
        writer.mail("old settings")
        assert server.certificate() == shown
        assert server.subjects() == ["old settings"]
        server.write_config(f"{first}[intake]\nmax_size = 60000\n")
        server.process.send_signal(signal.SIGHUP)
        reloaded(server, 1)


@pytest.mark.row("REL-16")
def test_a_hundred_reloads_under_load_drop_nobody(tmp_path: Path) -> None:
    with Served(tmp_path, 2) as server:
        load = Load(server)
        load.start()
        assert server.process is not None
        for _ in range(100):
            server.process.send_signal(signal.SIGHUP)
            load.wait_for(1)
        load.end()
        assert load.wrong == []
        assert sorted(server.subjects()) == sorted(load.taken)


# --- upgrade ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_an_upgrade_turns_no_client_away(workers: int, tmp_path: Path) -> None:
    with Served(tmp_path, workers) as server:
        load = Load(server)
        load.start()
        load.wait_for(3)
        writer, reader = server.smtp(), server.imap()
        writer.envelope()
        writer.send(HEAD + b"across the upgrade\r\n\r\n")
        assert "generation 2 serves" in server.command("upgrade")
        load.wait_for(3)
        writer.say(b"To the old generation.\r\n.", b"250")
        load.wait_for(3)
        assert reader.until(b"* BYE")
        until(lambda: server.status().get("draining") == [], 40, server.last_words)
        load.wait_for(10)
        server.command("alias", "add", "robert@here.example", "bob@here.example")  # commands find the new keeper
        assert "generation 3 serves" in server.command("upgrade")
        load.wait_for(3)
        load.end()
        assert load.wrong == []
        assert sorted(server.subjects()) == sorted([*load.taken, "across the upgrade"])
        assert len(server.pids("gatepost")) == 1


def test_an_upgrade_to_a_configuration_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with Served(tmp_path, 1) as server:
        good = server.config.read_text()
        server.config.write_text(good + "[nonsense]\n")
        assert server.process is not None
        server.process.send_signal(signal.SIGUSR2)
        until(lambda: server.said("upgrade_refused") == 1, 20, server.last_words)
        with closing(server.smtp()) as client:
            client.mail("the old one serves")
        server.config.write_text(good)
        assert server.subjects() == ["the old one serves"]


# --- death --------------------------------------------------------------------------------------------------


def test_clients_that_wait_for_a_worker_that_is_killed_are_served(tmp_path: Path) -> None:
    with Served(tmp_path, 2) as server:
        victim = server.pids("worker 0")[0]
        with stopped(victim):
            waiting = [server.line("imap") for _ in range(20)]
            os.kill(victim, signal.SIGKILL)
        assert all(client.line().startswith(b"* OK") for client in waiting)
        until(lambda: server.pids("worker 0") not in ([], [victim]), 10, server.last_words)


def test_a_server_whose_keepers_are_killed_asks_senders_to_wait_a_moment_and_loses_nothing(tmp_path: Path) -> None:
    with Served(tmp_path, 2) as server:
        load = Load(server, refusals=(b"451", b"452"))
        load.start()
        for _ in range(3):
            load.wait_for(3)
            for pid in server.pids("keeper"):
                os.kill(pid, signal.SIGKILL)
        load.wait_for(5)
        load.end()
        assert load.wrong == []
        kept = server.subjects()
        assert sorted(each for each in kept if each in load.taken) == sorted(load.taken)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_generation_that_is_killed_is_started_anew_and_clients_only_wait(workers: int, tmp_path: Path) -> None:
    with Served(tmp_path, workers) as server:
        with closing(server.smtp()) as client:
            client.mail("before")
        os.kill(int(server.status()["generation_pid"]), signal.SIGKILL)
        with closing(server.smtp()) as client:
            client.mail("after")
        assert server.subjects() == ["before", "after"]


def test_a_second_server_on_the_same_data_says_so(tmp_path: Path) -> None:
    with Served(tmp_path, 1) as server:
        assert server.process is not None
        second = subprocess.run(server.process.args, capture_output=True, text=True, timeout=40)
        assert second.returncode == 1
        assert "another" in second.stderr or "already" in second.stderr, second.stderr
        with closing(server.smtp()) as client:
            client.mail("undisturbed")


class Load:
    """Clients that deliver one mail a connection, one after the other, until they are told to end.

    What may be answered at the end of the data besides 250 is in `refusals`; a connection that is refused, cut or
    dismissed before its mail is a wrong.
    """

    def __init__(self, server: Served, clients: int = 3, refusals: tuple[bytes, ...] = ()) -> None:
        self._server = server
        self._refusals = refusals
        self.taken: list[str] = []
        self.wrong: list[str] = []
        self._more = threading.Condition()
        self._ends = False
        self._threads = [threading.Thread(target=self._run, args=(at,)) for at in range(clients)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def wait_for(self, mails: int) -> None:
        """Wait until `mails` more were taken."""
        with self._more:
            goal = len(self.taken) + mails
            got = self._more.wait_for(lambda: len(self.taken) >= goal or bool(self.wrong), 30)
        assert got, self._server.last_words()

    def end(self) -> None:
        """Stop, and wait for the last of them."""
        self._ends = True
        for thread in self._threads:
            thread.join(60)

    def _run(self, at: int) -> None:
        number = 0
        while not self._ends:
            number += 1
            subject = f"{at}-{number}"
            try:
                taken = self._deliver(subject)
            except (OSError, EOFError, AssertionError) as error:
                taken, problem = False, repr(error)
                with self._more:
                    self.wrong.append(f"{subject}: {problem}")
                    self._more.notify_all()
                return
            with self._more:
                if taken:
                    self.taken.append(subject)
                self._more.notify_all()

    def _deliver(self, subject: str) -> bool:
        with closing(Line(self._server.ports["mx"])) as client:
            assert client.reply().startswith(b"220")
            client.say(b"EHLO client.example", b"250")
            client.send(b"MAIL FROM:<ann@sender.example>\r\n")
            if self._put_off(client):
                return False
            client.send(b"RCPT TO:<bob@here.example>\r\n")
            if self._put_off(client):
                return False
            client.say(b"DATA", b"354")
            client.send(HEAD + subject.encode() + b"\r\n\r\nHello\r\n.\r\n")
            return not self._put_off(client)

    def _put_off(self, client: Line) -> bool:
        reply = client.reply()
        assert reply[:3] in (b"250", *self._refusals), reply
        return reply[:3] != b"250"
