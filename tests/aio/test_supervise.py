"""The supervisor with real processes: restarts, drains, reloads, upgrades, and never loses a queued client."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gatepost
from gatepost.aio.plan import Plan, TcpPlan, UnixPlan, Unplanned, parse_plan
from gatepost.aio.process import AlreadyRunning, find_supervisor, read_status, take_lock
from gatepost.aio.slots import Place, Unbound, bind_plan
from tests.aio.toy import argv
from tests.support.peers import cannot

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True, params=["processes"])
def each_loop() -> None:
    """Run once: the workers are on uvloop whatever this process has."""


class Greeting:
    """What the toy said at once."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        line = b""
        while not line.endswith(b"\n"):
            more = sock.recv(100)
            assert more, "no greeting"
            line += more
        words = line.decode().split()
        self.generation, self.worker, self.pid = int(words[0]), int(words[1]), int(words[2])
        self.version, self.reloads, self.mint = words[3], int(words[4]), int(words[5])


class Toy:
    """A running toy server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes]
        self.port = 0

    def plan(self, **changes: object) -> None:
        listener = {"name": "toy", "host": "127.0.0.1", "port": 0}
        plan = {"data_dir": str(self.folder / "data"), "workers": 2, "listeners": [listener]}
        (self.folder / "plan.json").write_text(json.dumps(plan | changes))

    def start(self, python: str = sys.executable, **environment: str) -> None:
        (self.folder / "version").write_text("one")
        with (self.folder / "log").open("ab") as log:
            environment = {**os.environ, **environment}
            words = (python, *argv("serve", str(self.folder))[1:])
            self.process = subprocess.Popen(words, stderr=log, env=environment)
        self.until(lambda: self.status().get("state") == "serving", 20)
        listeners = self.status()["listeners"]
        assert isinstance(listeners, dict)
        self.port = listeners.get("toy", 0)

    def status(self) -> dict[str, object]:
        return read_status(self.folder / "data")

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def until(self, condition: Callable[[], object], within: float = 10.0) -> None:
        end = time.monotonic() + within
        while not condition():
            assert time.monotonic() < end, self.log()
            assert self.process.poll() is None, self.log()
            time.sleep(0.02)

    def connect(self, port: int = 0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=10)

    def ask(self) -> Greeting:
        with self.connect() as sock:
            return Greeting(sock)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.process.wait(40)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """A toy with two workers; not yet started."""
    toy = Toy(tmp_path)
    toy.plan()
    yield toy
    if hasattr(toy, "process") and toy.process.poll() is None:
        toy.process.kill()
        toy.process.wait()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.row("REL-15")
def test_a_start_a_drain_and_a_clean_end(toy: Toy) -> None:
    toy.start()
    assert find_supervisor(toy.folder / "data") == toy.process.pid
    pids = {toy.ask().pid for _ in range(40)}
    assert len(pids) == 2
    idle, busy = toy.connect(), toy.connect()
    Greeting(idle)
    Greeting(busy)
    busy.sendall(b"hold\r\n")
    assert busy.recv(100) == b"hold\r\n"
    start = time.monotonic()
    toy.signal(signal.SIGTERM)
    assert idle.recv(100) == b"421 bye\r\n"
    assert time.monotonic() - start < 1
    with pytest.raises(ConnectionRefusedError):
        toy.connect()
    busy.sendall(b"still here\r\n")
    assert busy.recv(100) == b"still here\r\n"
    busy.close()
    idle.close()
    assert toy.process.wait(10) == 0
    assert not any(alive(pid) for pid in pids)
    assert find_supervisor(toy.folder / "data") is None


def test_a_killed_worker_loses_no_queued_client(toy: Toy) -> None:
    toy.start()
    victims = {toy.ask().pid for _ in range(40)}
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)  # from now on clients only queue
    queued = [toy.connect() for _ in range(40)]
    time.sleep(0.1)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    answers = [Greeting(sock) for sock in queued]
    assert {answer.generation for answer in answers} == {1}
    assert not {answer.pid for answer in answers} & victims
    for sock in queued:
        sock.close()
    assert toy.stop() == 0


def test_a_killed_generation_is_replaced_and_loses_no_queued_client(toy: Toy) -> None:
    toy.start()
    workers = {toy.ask().pid for _ in range(40)}
    parent = toy.status()["generation_pid"]
    assert isinstance(parent, int)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    queued = [toy.connect() for _ in range(20)]
    os.kill(parent, signal.SIGKILL)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert {Greeting(sock).generation for sock in queued} == {2}
    for sock in queued:
        sock.close()
    assert toy.stop() == 0


def test_workers_leave_with_their_supervisor(toy: Toy) -> None:
    toy.start()
    pids = {toy.ask().pid for _ in range(40)}
    toy.process.kill()
    toy.process.wait()
    end = time.monotonic() + 5
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert find_supervisor(toy.folder / "data") is None


@pytest.mark.row("REL-16")
def test_reload_keeps_the_old_when_the_new_is_invalid_and_drops_nobody(toy: Toy) -> None:
    toy.start()
    held = toy.connect()
    first = Greeting(held)
    toy.plan(workers=0)
    toy.signal(signal.SIGHUP)
    toy.until(lambda: "workers must be" in str(toy.status().get("error")))
    (toy.folder / "plan.json").write_text("{")
    toy.signal(signal.SIGHUP)
    toy.until(lambda: "JSONDecodeError" in str(toy.status().get("error")))
    assert toy.ask().reloads == 0
    toy.plan()
    for _ in range(10):
        toy.signal(signal.SIGHUP)
        assert toy.ask().generation == 1
    toy.until(lambda: toy.status().get("error") == "" and toy.ask().reloads > 0)
    held.sendall(b"x\r\n")
    assert held.recv(10) == b"x\r\n"
    assert alive(first.pid)
    held.close()
    assert toy.stop() == 0


def test_reload_with_other_listeners_and_workers_makes_a_new_generation(toy: Toy) -> None:
    toy.start()
    held = toy.connect()
    Greeting(held)
    held.sendall(b"hold\r\n")
    assert held.recv(10) == b"hold\r\n"
    path = str(toy.folder / "toy.sock")
    toy.plan(workers=3, unix=[{"name": "lmtp", "path": path, "mode": 0o600}])
    toy.signal(signal.SIGHUP)
    toy.until(lambda: toy.status().get("generation") == 2)
    assert {toy.ask().worker for _ in range(60)} == {0, 1, 2}
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(path)
        assert Greeting(unix).generation == 2
    assert os.stat(path).st_mode & 0o777 == 0o600
    held.sendall(b"y\r\n")
    assert held.recv(10) == b"y\r\n"  # the old generation drains, it does not cut off
    held.close()
    toy.plan(workers=1)
    toy.signal(signal.SIGHUP)
    toy.until(lambda: toy.status().get("generation") == 3 and not toy.status()["draining"])
    assert {toy.ask().worker for _ in range(30)} == {0}  # one worker serves all three slots
    assert toy.stop() == 0


def test_an_upgrade_keeps_accepting(toy: Toy) -> None:
    toy.start()
    pid = toy.process.pid
    held = toy.connect()
    Greeting(held)
    (toy.folder / "version").write_text("two")
    toy.signal(signal.SIGUSR2)
    seen: list[Greeting] = []
    end = time.monotonic() + 15
    while not seen or seen[-1].version != "two" or toy.status().get("draining"):
        assert time.monotonic() < end, toy.log()
        seen.append(toy.ask())  # raises when a client is refused or reset
    assert [answer.version for answer in seen] == sorted(
        (answer.version for answer in seen), key=["one", "two"].index
    ) or {answer.version for answer in seen} == {"one", "two"}
    assert {answer.mint for answer in seen if answer.generation == 1}.isdisjoint(
        {answer.mint for answer in seen if answer.generation == 2}
    )
    assert held.recv(100) == b"421 bye\r\n"
    held.close()
    assert find_supervisor(toy.folder / "data") == pid
    (toy.folder / "unwell").touch()  # the next version cannot start: the serving one stays
    toy.signal(signal.SIGUSR2)
    toy.until(lambda: "before it was ready" in str(toy.status().get("error")))
    assert toy.ask().generation == 2
    (toy.folder / "plan.json").write_text("{")
    toy.signal(signal.SIGUSR2)
    toy.until(lambda: "JSONDecodeError" in str(toy.status().get("error")))
    assert toy.ask().generation == 2
    assert toy.stop() == 0


def test_one_worker_is_the_generation_itself_and_keepers_come_first(toy: Toy) -> None:
    toy.plan(workers=1, keepers=["mail"])
    toy.start()
    assert toy.ask().pid == toy.status()["generation_pid"]
    assert not (toy.folder / "keeper-mail-1").exists()
    toy.plan(workers=2, keepers=["mail", "gate"])
    toy.signal(signal.SIGHUP)
    toy.until(lambda: toy.status().get("generation") == 2)
    keeper = int((toy.folder / "keeper-mail-2").read_text())
    assert alive(keeper)
    os.kill(keeper, signal.SIGKILL)
    toy.until(lambda: int((toy.folder / "keeper-mail-2").read_text() or 0) not in {0, keeper})
    assert toy.stop() == 0


def test_two_servers_on_one_data_directory_are_refused(toy: Toy) -> None:
    toy.start()
    second = subprocess.run(argv("serve", str(toy.folder)), capture_output=True, timeout=20)
    assert second.returncode == 1
    assert f"process {toy.process.pid} serves".encode() in second.stderr
    assert toy.stop() == 0


def test_a_first_generation_that_cannot_start_ends_the_server(toy: Toy) -> None:
    (toy.folder / "unwell").touch()
    done = subprocess.run(argv("serve", str(toy.folder)), capture_output=True, timeout=20)
    assert done.returncode == 1
    assert b"ended before it was ready" in done.stderr


@pytest.mark.row("SYS-05")
def test_the_lock_is_no_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "supervisor.pid").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        take_lock(tmp_path, 1)
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "run" / "supervisor.pid").unlink()
    held = take_lock(tmp_path, 42)
    with pytest.raises(AlreadyRunning, match="process 42 "):
        take_lock(tmp_path, 43)
    os.close(held)


@pytest.mark.row("SYS-02")
def test_no_process_keeps_privileges(toy: Toy) -> None:
    if os.geteuid() != 0:
        cannot("become another user")
    for folder in (toy.folder, *toy.folder.parents[:2]):
        os.chmod(folder, 0o755)
    os.chmod(toy.folder, 0o777)
    toy.plan(user="nobody", keepers=["mail"])
    toy.start(
        python=python_for_all(),
        PYTHONPATH=os.pathsep.join(path for path in sys.path if not path.startswith(sys.base_prefix)),
    )
    greetings = [toy.ask() for _ in range(40)]
    generation = toy.status()["generation_pid"]
    assert isinstance(generation, int)
    for pid in {toy.process.pid, generation, *(answer.pid for answer in greetings)}:
        lines = Path(f"/proc/{pid}/status").read_text().split("\n")
        facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert facts["Uid"].split() == ["65534"] * 4
        assert facts["NoNewPrivs"] == "1"
        assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == 0
    toy.signal(signal.SIGUSR2)  # an upgrade needs no privilege either
    toy.until(lambda: toy.status().get("generation") == 2 and not toy.status()["draining"])
    assert toy.ask().generation == 2
    assert toy.stop() == 0


def python_for_all() -> str:
    """Return a Python of this version that other users may run (this one may be in a home of root's)."""
    here = Path(__file__)
    if not all(os.stat(folder).st_mode & 0o001 for folder in here.parents):
        cannot("read the sources as another user")
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for path in (Path(sys.executable).resolve(), Path("/usr/bin") / name, Path("/usr/local/bin") / name):
        if path.exists() and all(os.stat(folder).st_mode & 0o001 for folder in path.parents):
            return str(path)
    cannot("run this Python as another user")
    raise AssertionError


def test_systemd_is_told_and_its_sockets_are_taken(toy: Toy) -> None:
    path = str(toy.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices, socket.socket() as given:
        notices.bind(path)
        notices.settimeout(10)
        given.bind(("127.0.0.1", 0))
        given.listen()
        port = given.getsockname()[1]
        toy.plan(listeners=[{"name": "toy", "host": "127.0.0.1", "port": port, "steer": True}])
        (toy.folder / "version").write_text("one")
        words = argv("serve", str(toy.folder))
        script = 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
        with (toy.folder / "log").open("ab") as log:
            toy.process = subprocess.Popen(
                ["/bin/bash", "-c", script, str(given.fileno()), *words],
                pass_fds=(given.fileno(),),
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": path},
            )
        toy.port = port
        assert notices.recv(4096).startswith(b"READY=1\n")
        assert {toy.ask().generation for _ in range(5)} == {1}
        toy.signal(signal.SIGHUP)
        assert notices.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert notices.recv(4096).startswith(b"READY=1\n")
        toy.signal(signal.SIGTERM)
        assert notices.recv(4096) == b"STOPPING=1"
        assert toy.process.wait(10) == 0
        with toy.connect():
            given.accept()[0].close()  # systemd's socket still listens


def test_the_supervisor_needs_the_standard_library_alone() -> None:
    source = Path(gatepost.__file__).parents[1]
    script = f"import sys; sys.path.insert(0, {str(source)!r}); import gatepost.aio.supervise"
    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True, timeout=20)


# Sockets without processes


def close(places: list[Place]) -> None:
    for place in places:
        for sock in place.sockets:
            sock.close()


def accepted_by_slot(place: Place, sources: list[str], each: int) -> dict[str, Counter[int]]:
    """Connect `each` times from every source and tell which slots took the connections."""
    for sock in place.sockets:
        sock.setblocking(False)
    taken: dict[str, Counter[int]] = {source: Counter() for source in sources}
    for source in sources:
        for _ in range(each):
            with socket.create_connection(place.sockets[0].getsockname()[:2], source_address=(source, 0)):
                for slot, sock in enumerate(place.sockets):
                    try:
                        sock.accept()[0].close()
                    except BlockingIOError:
                        continue
                    taken[source][slot] += 1
    return taken


def test_loopback_is_spread_over_steered_slots() -> None:
    places = bind_plan(Plan("x", workers=4, listeners=(TcpPlan("mx", "127.0.0.1", 0, steer=True),)), ())
    taken = accepted_by_slot(places[0], ["127.0.0.1"], 200)["127.0.0.1"]
    assert sum(taken.values()) == 200
    assert all(20 <= taken[slot] <= 90 for slot in range(4))
    close(places)


NAMESPACE = """
import json, pathlib, subprocess, sys
from gatepost.aio.plan import Plan, TcpPlan
from gatepost.aio.slots import bind_plan
from tests.aio.test_supervise import accepted_by_slot
for words in sys.argv[1].split(";"):
    subprocess.run(words.split(), check=True)
host, prefix = sys.argv[2], sys.argv[3]
if ":" in host:
    pathlib.Path("/proc/sys/net/ipv6/ip_nonlocal_bind").write_text("1")
place = bind_plan(Plan("x", workers=4, listeners=(TcpPlan("mx", host, 0, steer=True),)), ())[0]
sources = [prefix.format(n) for n in range(1, 65)]
print(json.dumps([sorted(slots.items()) for slots in accepted_by_slot(place, sources, 3).values()]))
"""


@pytest.mark.parametrize(
    ("setup", "host", "prefix"),
    [
        (
            "ip link set lo up;ip addr add 10.9.0.1/16 dev lo",
            "10.9.0.1",
            "10.9.1.{}",
        ),
        (
            "ip link set lo up;ip -6 route add local fd00:9::/32 dev lo;ip addr add fd00:9::1/128 dev lo",
            "fd00:9::1",
            "fd00:9:0:{:x}::77",
        ),
    ],
)
def test_each_source_has_one_slot_and_sources_are_spread(setup: str, host: str, prefix: str) -> None:
    words = ["unshare", "-n", sys.executable, "-c", NAMESPACE, setup, host, prefix]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if done.returncode != 0 and "AssertionError" not in done.stderr:
        cannot(f"make a network namespace: {done.stderr[-300:]}")
    slots = json.loads(done.stdout)
    assert all(len(each) == 1 and each[0][1] == 3 for each in slots), "one source, one slot"
    spread = Counter(each[0][0] for each in slots)
    assert all(6 <= spread[slot] <= 28 for slot in range(4)), spread


def test_an_address_that_is_taken_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost.aio.slots.BIND_PATIENCE", 0.1)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Unbound, match=f"mx: cannot listen on 127.0.0.1 port {port}: Address already in use"):
            bind_plan(Plan("x", listeners=(TcpPlan("mx", "127.0.0.1", port),)), ())


def test_a_stale_unix_socket_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    plan = Plan("x", unix=(UnixPlan("lmtp", str(path)),))
    close(bind_plan(plan, ()))
    places = bind_plan(plan, ())
    with pytest.raises(Unbound, match="another server listens there"):
        bind_plan(plan, ())
    close(places)
    path.unlink()
    path.write_text("precious")
    with pytest.raises(Unbound, match="no socket"):
        bind_plan(plan, ())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"data_dir": "x", "listeners": [{"nam": 1}]}', '{"data_dir": "x", "workers": 65}']
)
def test_a_plan_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Unplanned):
        parse_plan(text)


def test_a_plan_survives_its_own_text() -> None:
    plan = Plan("/d", 4, "u", "g", (TcpPlan("mx", "::", 25, True),), (UnixPlan("l", "/s", 0o600),), ("mail",))
    assert parse_plan(plan.to_json()) == plan
