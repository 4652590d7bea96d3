"""A generation: the parent that loads the program once and forks the keepers and the workers.

It is started by the supervisor with its brief (sockets, readiness pipe) in the environment, has no thread and no
loop, and never serves anyone itself: what is loaded before the fork is shared memory afterwards (`gc.freeze`). With
one worker there is nothing to fork: this process is the worker, and its keepers are threads. Only where the
generation before still has the databases (an upgrade) one worker is forked too, beside keepers that wait for them.

    starting: keepers ready -> workers ready -> "ready" to the supervisor
    serving:  a child that dies is forked anew, at once, then ever later while it keeps dying
    leaving:  SIGTERM -> workers drain -> keepers end -> exit 0
"""

import gc
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gatepost.aio.process import die_with_parent, name_process
from gatepost.base.ports import Log

BRIEF: Final = "GATEPOST_GENERATION"  # environment variable
KEEPER_READY_TIME: Final = 90.0  # s; a migration may run
WORKER_DRAIN_TIME: Final = 32.0  # s until workers that drain are killed
KEEPER_END_TIME: Final = 2.0
BACK_OFF_LEAST: Final = 0.05  # s before a child that died is forked anew; doubles
BACK_OFF_MOST: Final = 5.0
LIVED_WELL: Final = 10.0  # s after which a death starts the back-off anew
SLOTS_OF_A_GENERATION: Final = 64
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR2)

Ready = Callable[[], None]
"""Tell the parent that this process serves; to be called once."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Which worker one is: `index` of `count`, in which generation."""

    index: int
    count: int
    generation: int
    alone: bool = False
    """It is the only process of its generation: its keepers are threads."""

    @property
    def mint(self) -> int:
        """The slot for `base.ids.Minter`: two generations that overlap never make the same id."""
        return self.index + SLOTS_OF_A_GENERATION * (self.generation % 2)


@dataclass(frozen=True, slots=True)
class Brief:
    """What the supervisor hands over. `sockets`: for each listener its name and its descriptors by slot."""

    generation: int
    supervisor: int
    workers: int
    keepers: tuple[str, ...]
    ready: int
    sockets: tuple[tuple[str, tuple[int, ...]], ...]

    def to_json(self) -> str:
        """Return the text for the environment."""
        return json.dumps([self.generation, self.supervisor, self.workers, self.keepers, self.ready, self.sockets])


Sockets = Mapping[str, tuple[socket.socket, ...]]
"""A worker's listening sockets by the listener's name."""


@dataclass(frozen=True, slots=True)
class Program:
    """What app gives: the functions of each kind of process. Each returns when its process is to end.

    `load` imports what the children share; it runs in the parent. `keeper(name, ready)` and `worker(slot, sockets,
    ready)` install their own signal handlers: SIGTERM asks them to drain, SIGHUP to read their settings anew.
    """

    worker: Callable[[Slot, Sockets, Ready], None]
    keeper: Callable[[str, int, Ready], None]
    """Called with the keeper's name and the generation's number: two generations overlap during an upgrade."""
    load: Callable[[], None] = lambda: None
    free: Callable[[], bool] = lambda: True
    """Tell whether nobody has the databases: whether one worker can be alone."""


@dataclass(slots=True)
class _Child:
    """A place for a process: a keeper's or a worker's."""

    kind: str
    start: Callable[[Ready], None]
    pid: int = 0
    started: float = 0.0
    pause: float = BACK_OFF_LEAST
    due: float = 0.0
    readiness: int = -1
    ready: bool = False


def read_brief() -> Brief:
    """Return the brief from the environment; KeyError when this process was not started by a supervisor."""
    generation, supervisor, workers, keepers, ready, sockets = json.loads(os.environ.pop(BRIEF))
    return Brief(
        generation,
        supervisor,
        workers,
        tuple(keepers),
        ready,
        tuple((name, tuple(descriptors)) for name, descriptors in sockets),
    )


def run_generation(program: Program, log: Log) -> int:
    """Be a generation until SIGTERM; return the exit status."""
    brief = read_brief()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    die_with_parent(brief.supervisor)
    for _, descriptors in brief.sockets:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
    os.set_inheritable(brief.ready, False)
    program.load()
    sockets = {
        descriptor: socket.socket(fileno=descriptor)
        for _, descriptors in brief.sockets
        for descriptor in descriptors
    }
    if brief.workers == 1 and program.free():
        name_process("worker 0")
        slot = Slot(0, 1, brief.generation, alone=True)
        program.worker(slot, _own(brief, sockets, 0), lambda: _tell(brief.ready))
        return 0
    name_process("generation")
    gc.collect()
    gc.freeze()
    return _Generation(brief, program, sockets, log).run()


@dataclass(slots=True)
class _Generation:
    brief: Brief
    program: Program
    sockets: Mapping[int, socket.socket]
    log: Log
    keepers: list[_Child] = field(default_factory=list)
    workers: list[_Child] = field(default_factory=list)
    leaving: bool = False
    hangup: bool = False
    told: bool = False
    wake: tuple[int, int] = (-1, -1)
    kill_at: float = 0.0

    def run(self) -> int:
        self.keepers = [_Child(f"keeper {name}", self._keeper(name)) for name in self.brief.keepers]
        self.workers = [_Child(f"worker {index}", self._worker(index)) for index in range(self.brief.workers)]
        self._listen_to_signals()
        for child in self.keepers:
            self._fork(child)
        deadline = time.monotonic() + KEEPER_READY_TIME
        while not self.leaving and not all(child.ready for child in self.keepers):
            self._turn(self.keepers)
            if time.monotonic() > deadline:
                self.log.error("keeper_not_ready")
                self.leaving = True
        everyone = self.keepers + self.workers
        while not self.leaving:
            self._turn(everyone)
            if not self.told and all(child.ready for child in everyone):
                self.told = True
                _tell(self.brief.ready)
        self._end(self.workers, WORKER_DRAIN_TIME)
        self._end(self.keepers, KEEPER_END_TIME)
        return 0

    def _turn(self, children: Sequence[_Child]) -> None:
        """Fork what is due, then wait for something to happen and take it in."""
        now = time.monotonic()
        for child in children:
            if not child.pid and child.due <= now:
                self._fork(child)
        waits = [child.due - now for child in children if not child.pid]
        self._wait(children, min([1.0, *waits]))
        self._reap(children)
        if self.hangup:
            self.hangup = False
            _send(children, signal.SIGHUP)

    def _wait(self, children: Sequence[_Child], timeout: float) -> None:
        pipes = {child.readiness: child for child in children if child.readiness >= 0}
        try:
            readable, _, _ = select.select([self.wake[0], *pipes], [], [], max(0.0, timeout))
        except InterruptedError:
            return
        for descriptor in readable:
            if descriptor == self.wake[0]:
                os.read(descriptor, 512)
            else:
                child = pipes[descriptor]
                child.ready = os.read(descriptor, 1) == b"R" or child.ready
                os.close(descriptor)
                child.readiness = -1

    def _reap(self, children: Sequence[_Child]) -> None:
        for child in children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            self.log.error("process_died", process=child.kind, died=pid, status=_ended(status))
            now = time.monotonic()
            if now - child.started > LIVED_WELL:
                child.pause = BACK_OFF_LEAST
            child.pid = 0
            child.due = now + child.pause
            child.pause = min(child.pause * 2, BACK_OFF_MOST)

    def _fork(self, child: _Child) -> None:
        if child.readiness >= 0:
            os.close(child.readiness)
        child.readiness, writer = os.pipe()
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the child must not run our handlers
        pid = os.fork()
        if pid == 0:
            self._become(child, parent, writer)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(writer)
        child.pid, child.started, child.ready = pid, time.monotonic(), False

    def _become(self, child: _Child, parent: int, writer: int) -> None:
        """Be the child; never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # who only starts reads the new settings anyway
            die_with_parent(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            for descriptor in self.wake if self.told else (*self.wake, self.brief.ready):
                os.close(descriptor)
            name_process(child.kind)
            child.start(lambda: _tell(writer))
            status = 0
        except BaseException:
            self.log.exception("process_failed", process=child.kind)
        finally:
            os._exit(status)

    def _end(self, children: Sequence[_Child], patience: float) -> None:
        _send(children, signal.SIGTERM)
        end = time.monotonic() + patience
        while any(child.pid for child in children):
            self._wait(children, 0.1)
            for child in children:
                if child.pid and os.waitpid(child.pid, os.WNOHANG)[0]:
                    child.pid = 0
            if time.monotonic() > end:
                _send(children, signal.SIGKILL)
                end += 1.0

    def _keeper(self, name: str) -> Callable[[Ready], None]:
        return lambda ready: self.program.keeper(name, self.brief.generation, ready)

    def _worker(self, index: int) -> Callable[[Ready], None]:
        slot = Slot(index, self.brief.workers, self.brief.generation)
        return lambda ready: self.program.worker(slot, _own(self.brief, self.sockets, index), ready)

    def _listen_to_signals(self) -> None:
        self.wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.wake[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C: the supervisor tells us
        signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _on_term(self, *_: object) -> None:
        self.leaving = True

    def _on_hangup(self, *_: object) -> None:
        self.hangup = True


def _own(brief: Brief, sockets: Mapping[int, socket.socket], index: int) -> Sockets:
    """Return the sockets of worker `index`: each slot has one worker, each worker at least one socket."""
    own: dict[str, tuple[socket.socket, ...]] = {}
    for name, descriptors in brief.sockets:
        mine = descriptors[index :: brief.workers] or (descriptors[index % len(descriptors)],)
        own[name] = own.get(name, ()) + tuple(sockets[descriptor] for descriptor in mine)
    return own


def _tell(descriptor: int) -> None:
    try:
        os.write(descriptor, b"R")
        os.close(descriptor)
    except OSError:  # the parent has gone; die_with_parent does the rest
        pass


def _send(children: Sequence[_Child], number: int) -> None:
    for child in children:
        if child.pid:
            os.kill(child.pid, number)


def _ended(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit {code}" if code >= 0 else signal.Signals(-code).name
