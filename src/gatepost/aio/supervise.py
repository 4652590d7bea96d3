"""The supervisor: owns the listening sockets and the generation that serves on them.

    plan child --JSON--> bind -> drop privileges -> generation --ready--> serving
    SIGHUP    plan again; invalid: log and keep; same sockets: the generation reloads in place; else a new one
    SIGUSR2   upgrade: exec the program anew, sockets kept; start a new generation, drain the old when it is ready
    SIGTERM   drain for at most STOP_TIME, exit 0
    a generation that dies is started anew, at once, then ever later

It reads no octet of a stranger and no configuration; it keeps its process id for life, so systemd and the pid file
stay true through every upgrade. Standard library only.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gatepost.aio.generation import BRIEF, Brief
from gatepost.aio.plan import Plan, Unplanned, parse_plan
from gatepost.aio.process import (
    AlreadyRunning,
    EventLines,
    drop_privileges,
    make_directory,
    name_process,
    notify,
    raise_descriptor_limit,
    take_lock,
    write_status,
)
from gatepost.aio.slots import Place, activated_sockets, bind_plan
from gatepost.base.ports import Log

HANDOVER: Final = "GATEPOST_HANDOVER"  # environment variable
PLAN_TIME: Final = 30.0  # s for the plan child
PLAN_MAX: Final = 1_048_576  # octets
READY_TIME: Final = 120.0  # s for a generation to report ready
STOP_TIME: Final = 35.0  # s from SIGTERM to the last process's end
BACK_OFF_LEAST: Final = 0.1  # s before a generation that died is started anew; doubles
BACK_OFF_MOST: Final = 10.0
LIVED_WELL: Final = 30.0  # s
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


@dataclass(slots=True)
class _Run:
    """A running generation. `pipe` is where it says ready, -1 afterwards."""

    number: int
    pid: int
    pipe: int = -1
    started: float = 0.0
    kill_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Commands:
    """What the supervisor starts: argv of the plan child, of a generation, and of itself for an upgrade."""

    plan: Sequence[str]
    generation: Sequence[str]
    serve: Sequence[str]
    kernel: Sequence[str] = ()
    """The gate in the kernel, where the plan asks for it: it keeps the one capability that all others drop."""


@dataclass(slots=True)
class Supervisor:
    """Serve until SIGTERM. Make one in a process of its own and call `run`."""

    commands: Commands
    log: Log = field(default_factory=EventLines)
    _plan: Plan | None = None
    _places: list[Place] = field(default_factory=list)
    _lock: int = -1
    _current: _Run | None = None
    _next: _Run | None = None
    _old: list[_Run] = field(default_factory=list)
    _kernel: int = 0
    _kernel_kill_at: float = 0.0
    _number: int = 0
    _pause: float = BACK_OFF_LEAST
    _start_at: float = 0.0
    _wake: tuple[int, int] = (-1, -1)
    _stopping: bool = False
    _hangup: bool = False
    _upgrade: bool = False
    _fresh: bool = False
    _reloads: int = 0
    _error: str = ""

    def run(self) -> int:
        """Return the exit status: 0 after SIGTERM, 1 when it could not start."""
        name_process("gatepost")
        self._listen_to_signals()
        raise_descriptor_limit()
        try:
            self._begin()
        except (Unplanned, AlreadyRunning, OSError, KeyError) as error:
            self.log.error("cannot_start", error=str(error))
            notify("STOPPING=1", f"STATUS=cannot start: {error}"[:200])
            return 1
        while True:
            self._wait()
            self._reap()
            if self._stopping:
                if not self._leave():
                    return 0
                continue
            self._see_to_the_generation()
            if self._fresh:
                self.log.error("cannot_start", error="the first generation ended before it was ready")
                return 1
            if self._hangup and self._next is None:
                self._hangup = False
                self._reload()
            if self._upgrade and self._next is None:
                self._upgrade = False
                self._become_new()

    # Starting

    def _begin(self) -> None:
        handed = os.environ.pop(HANDOVER, "")
        if handed:
            self._take_over(json.loads(handed))
            return
        plan = self._ask_for_plan()
        data_dir = Path(plan.data_dir)
        make_directory(data_dir, plan.user, plan.group)
        make_directory(data_dir / "run", plan.user, plan.group)
        self._lock = take_lock(data_dir, os.getpid())
        self._places = bind_plan(plan, (), activated_sockets(os.environ))
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)
        if plan.kernel:
            self._start_kernel()
        drop_privileges(plan.user, plan.group)
        self._plan = plan
        self._start_generation()

    def _take_over(self, handed: dict[str, object]) -> None:
        """Go on where the process that this was before `exec` left off."""
        state = _Handed(**handed)  # type: ignore[arg-type]  # written by _become_new, checked there by its type
        self._lock, self._number, self._reloads = state.lock, state.number, state.reloads
        self._kernel = state.kernel
        self._tell_kernel(signal.SIGUSR2)
        os.set_inheritable(self._lock, False)
        for name, key, descriptors, lent in state.places:
            sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            for sock in sockets:
                sock.set_inheritable(False)
            self._places.append(Place(name, tuple(key), sockets, lent))
        self._plan = parse_plan(state.plan)
        if state.current:
            number, pid = state.current
            self._current = _Run(number, pid, started=time.monotonic())
        end = time.monotonic() + STOP_TIME
        self._old = [_Run(number, pid, kill_at=end) for number, pid in state.old]
        try:
            self._adopt(self._ask_for_plan())
        except (Unplanned, OSError) as error:
            self._fail("upgrade_refused", error)
            if self._current is not None:
                self._serving()
                return
        self._start_generation()

    def _ask_for_plan(self) -> Plan:
        try:
            done = subprocess.run(  # noqa: S603  (our own program)
                list(self.commands.plan),
                capture_output=True,
                timeout=PLAN_TIME,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unplanned(f"the configuration was not read: {error}") from error
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()[-2000:]
            raise Unplanned(said or f"reading the configuration ended with {done.returncode}")
        if len(done.stdout) > PLAN_MAX:
            raise Unplanned("the plan is too long")
        return parse_plan(done.stdout.decode("utf-8", "replace"))

    def _adopt(self, plan: Plan) -> bool:
        """Bind what `plan` adds and close what it drops; return whether the generation must change with it."""
        old = self._plan
        assert old is not None
        if (plan.data_dir, plan.user, plan.group) != (old.data_dir, old.user, old.group):
            raise Unplanned("data_dir, user and group change only at a restart")
        if plan.kernel and not old.kernel:
            raise Unplanned("the gate in the kernel begins only at a restart: it needs the rights of the start")
        places = bind_plan(plan, self._places)
        kept = {id(sock) for place in places for sock in place.sockets}
        changed = [(p.name, p.key, len(p.sockets)) for p in places] != [
            (p.name, p.key, len(p.sockets)) for p in self._places
        ]
        for place in self._places:
            for sock in place.sockets:
                if id(sock) not in kept:
                    sock.close()
        self._places, self._plan = places, plan
        return changed or (plan.workers, plan.keepers) != (old.workers, old.keepers)

    def _start_generation(self) -> None:
        plan = self._plan
        assert plan is not None
        assert self._next is None
        self._number += 1
        reader, writer = os.pipe()
        sockets = tuple((p.name, tuple(sock.fileno() for sock in p.sockets)) for p in self._places)
        brief = Brief(self._number, os.getpid(), plan.workers, plan.keepers, writer, sockets)
        descriptors = [descriptor for _, each in sockets for descriptor in each]
        try:
            process = subprocess.Popen(  # noqa: S603  (our own program)
                list(self.commands.generation),
                pass_fds=(*descriptors, writer),
                env={**os.environ, BRIEF: brief.to_json()},
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            os.close(reader)
            self._fail("generation_not_started", error)
            self._put_off()
            return
        finally:
            os.close(writer)
        process.returncode = 0  # it is ours to wait for, by pid: Popen must not
        self._next = _Run(self._number, process.pid, reader, time.monotonic())
        self.log.info("generation_started", generation=self._number, child=process.pid)

    # Serving

    def _see_to_the_generation(self) -> None:
        now = time.monotonic()
        for old in self._old:
            if old.kill_at and now > old.kill_at:
                _kill(old.pid, signal.SIGKILL)
        starting = self._next
        if starting is not None and starting.pipe < 0:
            self._promote(starting)
        elif starting is not None and now - starting.started > READY_TIME:
            self.log.error("generation_not_ready", generation=starting.number)
            _kill(starting.pid, signal.SIGKILL)
        if self._current is None and self._next is None and now >= self._start_at:
            self._start_generation()

    def _promote(self, ready: _Run) -> None:
        if self._current is not None:
            self._dismiss(self._current)
        self._current, self._next = ready, None
        self._error = ""
        self.log.info("generation_ready", generation=ready.number, child=ready.pid)
        self._serving()

    def _serving(self) -> None:
        self._tell_status("serving")
        notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS={self._error or 'serving'}"[:200])

    def _dismiss(self, run: _Run) -> None:
        run.kill_at = time.monotonic() + STOP_TIME
        _kill(run.pid, signal.SIGTERM)
        self._old.append(run)

    def _reload(self) -> None:
        self._reloads += 1
        notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            changed = self._adopt(self._ask_for_plan())
        except (Unplanned, OSError) as error:
            self._fail("reload_refused", error)
            self._serving()
            return
        self._error = ""
        self.log.info("reloading", new_generation=changed)
        if changed:
            self._start_generation()
        elif self._current is not None:
            _kill(self._current.pid, signal.SIGHUP)
        self._tell_kernel(signal.SIGHUP)
        self._serving()

    def _become_new(self) -> None:
        """Exec the program anew, with all sockets; what is on disk may be another version."""
        self._reloads += 1
        try:
            self._ask_for_plan()  # the new program's own: one that cannot even start must not replace us
        except Unplanned as error:
            self._fail("upgrade_refused", error)
            self._serving()
            return
        assert self._plan is not None
        state = _Handed(
            lock=self._lock,
            number=self._number,
            reloads=self._reloads,
            current=None if self._current is None else (self._current.number, self._current.pid),
            old=[(old.number, old.pid) for old in self._old],
            places=[(p.name, list(p.key), [sock.fileno() for sock in p.sockets], p.lent) for p in self._places],
            plan=self._plan.to_json(),
            kernel=self._kernel,
        )
        notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        self.log.info("upgrading")
        os.environ[HANDOVER] = json.dumps({name: getattr(state, name) for name in _Handed.__dataclass_fields__})
        for descriptor in (self._lock, *(sock.fileno() for p in self._places for sock in p.sockets)):
            os.set_inheritable(descriptor, True)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the new program listens to them
        try:
            os.execv(self.commands.serve[0], list(self.commands.serve))  # noqa: S606  (our own program)
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.environ.pop(HANDOVER, None)
            for descriptor in (self._lock, *(sock.fileno() for p in self._places for sock in p.sockets)):
                os.set_inheritable(descriptor, False)
            self._fail("upgrade_refused", error)

    # Ending

    def _leave(self) -> bool:
        """See that all generations end; return whether some still run."""
        runs = [run for run in (self._current, self._next) if run is not None]
        if runs:
            for place in self._places:
                place.shut()
            for run in runs:
                self._dismiss(run)
            notify("STOPPING=1")
            self._current = self._next = None
            self._tell_status("stopping")
        now = time.monotonic()
        for run in self._old:
            if now > run.kill_at:
                _kill(run.pid, signal.SIGKILL)
        if not self._kernel_kill_at:
            self._kernel_kill_at = now + STOP_TIME
            self._tell_kernel(signal.SIGTERM)
        elif now > self._kernel_kill_at:
            self._tell_kernel(signal.SIGKILL)
        return bool(self._old) or bool(self._kernel)

    def _start_kernel(self) -> None:
        process = subprocess.Popen(list(self.commands.kernel), stdin=subprocess.DEVNULL)  # noqa: S603  (our own)
        process.returncode = 0  # it is ours to wait for, by pid: Popen must not
        self._kernel = process.pid
        self.log.info("kernel_gate_started", child=process.pid)

    def _tell_kernel(self, number: int) -> None:
        if self._kernel:
            _kill(self._kernel, number)

    def _reap_kernel(self) -> None:
        """See whether it ended. It starts itself anew when it fails; who kills it wholly must restart us for it."""
        try:
            pid, status = os.waitpid(self._kernel, os.WNOHANG) if self._kernel else (0, 0)
        except ChildProcessError:
            pid, status = self._kernel, 0
        if pid:
            self._kernel = 0
            if not self._stopping:
                self.log.error("kernel_gate_ended", child=pid, status=os.waitstatus_to_exitcode(status))

    def _reap(self) -> None:
        self._reap_kernel()
        for run in [*self._old, *(each for each in (self._current, self._next) if each is not None)]:
            try:
                pid, status = os.waitpid(run.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = run.pid, 0
            if pid:
                self._ended(run, os.waitstatus_to_exitcode(status))

    def _ended(self, run: _Run, code: int) -> None:
        if run.pipe >= 0:
            os.close(run.pipe)
        if run in self._old:
            self._old.remove(run)
            self.log.info("generation_ended", generation=run.number, status=code)
            self._tell_status("stopping" if self._stopping else "serving")
            return
        self.log.error("generation_died", generation=run.number, status=code)
        if run is self._current:
            self._current = None
        else:
            self._next = None
            self._error = f"generation {run.number} ended with {code} before it was ready"
            self._fresh = run.number == 1 and self._current is None and not self._stopping
            if self._current is not None:
                self._serving()
        if time.monotonic() - run.started > LIVED_WELL:
            self._pause = BACK_OFF_LEAST
        self._put_off()

    def _put_off(self) -> None:
        self._start_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, BACK_OFF_MOST)

    # The rest

    def _wait(self) -> None:
        pipe = self._next.pipe if self._next is not None else -1
        try:
            readable, _, _ = select.select([self._wake[0], *([pipe] if pipe >= 0 else [])], [], [], 0.5)
        except InterruptedError:
            return
        if self._wake[0] in readable:
            os.read(self._wake[0], 512)
        if pipe in readable and self._next is not None and os.read(pipe, 1) == b"R":
            os.close(pipe)
            self._next.pipe = -1

    def _fail(self, event: str, error: Exception) -> None:
        self._error = str(error)
        self.log.error(event, error=self._error)

    def _tell_status(self, state: str) -> None:
        assert self._plan is not None
        status = {
            "state": state,
            "pid": os.getpid(),
            "generation": self._current.number if self._current is not None else 0,
            "generation_pid": self._current.pid if self._current is not None else 0,
            "draining": [old.number for old in self._old],
            "reloads": self._reloads,
            "error": self._error,
            "listeners": {p.name: p.sockets[0].getsockname()[1] for p in self._places if p.key[0] == "tcp"},
        }
        try:
            write_status(Path(self._plan.data_dir), status)
        except OSError as error:  # a full disk must not stop the sockets' owner
            self.log.error("status_not_written", error=str(error))

    def _listen_to_signals(self) -> None:
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_term)
        signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGUSR2, self._on_upgrade)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _on_term(self, *_: object) -> None:
        self._stopping = True

    def _on_hangup(self, *_: object) -> None:
        self._hangup = True

    def _on_upgrade(self, *_: object) -> None:
        self._upgrade = True


@dataclass(frozen=True, slots=True)
class _Handed:
    """What survives `exec`: descriptors by number, running generations as (number, pid)."""

    lock: int
    number: int
    reloads: int
    current: tuple[int, int] | None
    old: list[tuple[int, int]]
    places: list[tuple[str, list[str | int], list[int], bool]]
    plan: str
    kernel: int = 0


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def main_argv(*words: str) -> tuple[str, ...]:
    """Return the argv that starts this program with other words, by the same interpreter."""
    return (sys.executable, "-m", "gatepost", *words)
