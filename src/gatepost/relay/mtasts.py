"""The MTA-STS policies of other domains: found, fetched, kept (RFC 8461 §3-5).

    record   policy kept    then
    -        -              no policy
    -        yes            the kept one: who hides the record from us gains nothing until max_age is over
    id       same id        the kept one; when it is old it is fetched again beside the mail, not before it
    id       other, none    fetch; where that fails the kept one, else no policy, and no second try for FAILED_S

A kept policy is a small file in `folder` that all workers read; what fails never takes a policy away.
"""

import asyncio
import json
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from ssl import SSLCertVerificationError, SSLContext
from typing import Final, Protocol, TypeVar

from gatepost.aio.fetch import Fetched, FetchFailed, fetch
from gatepost.aio.offload import Overfull, offload
from gatepost.aio.resolve import Answer
from gatepost.aio.tls import client_context
from gatepost.base.address import fold_domain
from gatepost.base.clock import DAY, Clock, Instant, later, seconds
from gatepost.base.ports import Log
from gatepost.codec.mtasts import OCTETS_MAX, PATH, BadPolicy, Policy, read_policy, read_record
from gatepost.codec.tlsrpt import Failure

FETCH_S: Final = 60.0  # §3.3 suggests a minute
FAILED_S: Final = 300.0  # §3.3: no more than one try in five minutes
LEAST_S: Final = 60  # a policy that is over at once would be fetched for every mail
ADDRESSES_MAX: Final = 2
IN_MEMORY: Final = 5_000  # policies, and failures
FILES_MAX: Final = 10_000
FILES_DROPPED: Final = 500
T = TypeVar("T")
_DOMAIN: Final = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,243}")  # also a file's name, and with `mta-sts.` still a name


class Names(Protocol):
    """What is asked of the DNS."""

    async def txt(self, name: str) -> Answer[bytes]:
        """Return TXT records."""
        ...

    async def a(self, name: str) -> Answer[str]:
        """Return IPv4 addresses."""
        ...

    async def aaaa(self, name: str) -> Answer[str]:
        """Return IPv6 addresses."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """A policy as it was fetched, under the id that was announced then."""

    policy: Policy
    id: str
    fetched: Instant

    @property
    def end(self) -> Instant:
        """Return when it is over."""
        return later(self.fetched, seconds(max(self.policy.max_age, LEAST_S)))

    @property
    def old_at(self) -> Instant:
        """Return from when on it should be fetched again: daily, and long before its end (§3.3, §10.2)."""
        return later(self.fetched, min(DAY, seconds(self.policy.max_age) // 2))


@dataclass(frozen=True, slots=True)
class Finding:
    """A domain's policy, None where it has none; `why` is for the operator, "" where there is nothing to say."""

    known: Known | None
    why: str
    failure: Failure | None = None
    """Why there is none, where one was announced (RFC 8460 §4.3.2.2)."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """No other try before `until` of the steady clock."""

    until: float
    problem: str
    failure: Failure = Failure.POLICY_NOT_FETCHED


_NEVER: Final = _Failure(float("-inf"), "")


def _context() -> SSLContext:
    return client_context(True)


class Policies:
    """The policies of the domains that we send to. Without a `folder` they are forgotten at the end."""

    def __init__(
        self,
        names: Names,
        folder: Path | None,
        *,
        clock: Clock,
        log: Log,
        allow_loopback: bool = False,
        tls: Callable[[], SSLContext] = _context,
        port: int = 443,
    ) -> None:
        """Make it; `tls` makes the context of the fetches, which is theirs alone: httpx sets its ALPN."""
        self._names = names
        self._folder = folder
        self._clock = clock
        self._log = log
        self._allow_loopback = allow_loopback
        self._tls = tls
        self._context: SSLContext | None = None
        self._port = port
        self._kept: dict[str, Known] = {}
        self._failed: dict[str, _Failure] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}

    async def find(self, domain: str) -> Finding:
        """Return the policy of `domain` that is in force now; raises Overfull."""
        domain = fold_domain(domain)
        if _DOMAIN.fullmatch(domain) is None:
            return Finding(None, "")
        known = await self._recall(domain)
        answer = await self._names.txt(f"_mta-sts.{domain}")
        announced = read_record(answer.records)
        if announced and (known is None or known.id != announced):
            known = await self._changed(domain, announced)
        elif announced and known is not None and known.old_at <= self._clock.now():
            self._fetch(domain, announced)
        if known is not None:
            return Finding(known, f"MTA-STS: {domain} has a policy, {known.policy.mode.value}")
        if announced:
            failed = self._failed.get(domain, _NEVER)
            return Finding(
                None, f"no MTA-STS: the policy of {domain} cannot be had: {failed.problem}", failed.failure
            )
        return Finding(None, f"no MTA-STS: _mta-sts.{domain} cannot be looked up" if answer.temporary else "")

    async def close(self) -> None:
        """End what is being fetched."""
        for task in self._fetching.values():
            task.cancel()
        if self._fetching:
            await asyncio.wait(self._fetching.values())

    async def _changed(self, domain: str, announced: str) -> Known | None:
        """Return the policy after one was announced that this worker does not know; another may have it."""
        known = await self._read(domain)
        if known is None or known.id != announced:
            task = self._fetch(domain, announced)
            if task is not None:
                await asyncio.wait((task,))  # a mail that is given up leaves the fetch to the others
        return await self._recall(domain)

    # Fetching

    def _fetch(self, domain: str, announced: str) -> asyncio.Task[None] | None:
        """Begin to fetch, once for all who wait; None where it failed a moment ago."""
        task = self._fetching.get(domain)
        if task is None and self._failed.get(domain, _NEVER).until <= self._clock.steady():
            task = asyncio.get_running_loop().create_task(self._renew(domain, announced))
            self._fetching[domain] = task
            task.add_done_callback(lambda _: self._fetching.pop(domain, None))
        return task

    async def _renew(self, domain: str, announced: str) -> None:
        try:
            octets = await self.document(domain)
            policy = read_policy(octets)
        except (FetchFailed, BadPolicy, Overfull, OSError) as wrong:
            _bounded(self._failed, domain, _Failure(self._clock.steady() + FAILED_S, str(wrong), _failure(wrong)))
            self._log.warning("mta_sts_not_fetched", domain=domain, problem=str(wrong))
            return
        known = Known(policy, announced, self._clock.now())
        self._failed.pop(domain, None)
        _bounded(self._kept, domain, known)
        self._log.info("mta_sts_fetched", domain=domain, mode=policy.mode.value, id=announced)
        if self._folder is not None:
            try:
                await offload(_write, self._folder, domain, known)
            except (Overfull, OSError) as wrong:
                self._log.warning("mta_sts_not_kept", domain=domain, problem=str(wrong))

    async def document(self, domain: str) -> bytes:
        """Fetch a policy; raises FetchFailed. The certificate must hold for the policy's host, wherever that is."""
        if self._context is None:
            self._context = await offload(self._tls)
        host = f"mta-sts.{domain}"
        failed = FetchFailed(f"{host} has no address")
        deadline = self._clock.steady() + FETCH_S
        for ip in await self._addresses(host):
            at = f"[{ip}]:{self._port}" if ":" in ip else f"{ip}:{self._port}"
            left = max(deadline - self._clock.steady(), 1.0)
            try:
                got = await fetch(
                    f"https://{host}{PATH}", most=OCTETS_MAX, within=left, tls=self._context, at=at, redirects=0
                )
            except FetchFailed as wrong:
                failed = wrong
                continue
            assert isinstance(got, Fetched), "only who sends validators is told that nothing changed"
            if got.type and got.type.partition(";")[0].strip().lower() != "text/plain":
                raise FetchFailed(f"{host} answers with {got.type[:60]!r}, which is not text/plain")
            return got.octets
        raise failed

    async def _addresses(self, host: str) -> list[str]:
        six, four = await self._names.aaaa(host), await self._names.a(host)
        found = [*six.records[:1], *four.records, *six.records[1:]]
        return [ip for ip in found if self._allow_loopback or _elsewhere(ip)][:ADDRESSES_MAX]

    # Keeping

    async def _recall(self, domain: str) -> Known | None:
        """Return the kept policy unless it is over."""
        known = self._kept.get(domain)
        if known is not None and known.end > self._clock.now():
            return known
        return await self._read(domain)

    async def _read(self, domain: str) -> Known | None:
        """Return the policy of the file, where it is newer than ours and not over."""
        mine = self._kept.get(domain)
        known = None
        if self._folder is not None:
            try:
                known = await offload(_load, self._folder / domain)
            except (OSError, ValueError) as wrong:
                self._log.warning("mta_sts_unreadable", domain=domain, problem=str(wrong))
        if known is None or (mine is not None and mine.fetched >= known.fetched):
            known = mine
        if known is None or known.end <= self._clock.now():
            return None
        _bounded(self._kept, domain, known)
        return known


def folder_of(data_dir: Path) -> Path:
    """Return where the policies of others are kept."""
    return data_dir / "mta-sts"


def _failure(wrong: BaseException) -> Failure:
    """Return what TLS reports call it."""
    if isinstance(wrong, BadPolicy):
        return Failure.POLICY_INVALID
    cause: BaseException | None = wrong
    while cause is not None:
        if isinstance(cause, SSLCertVerificationError):
            return Failure.POLICY_HOST_INVALID
        cause = cause.__cause__ or cause.__context__
    return Failure.POLICY_NOT_FETCHED


def _elsewhere(ip: str) -> bool:
    address = ip_address(ip)
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


def _bounded(table: dict[str, T], key: str, value: T) -> None:
    """Put `value` in, and the oldest out where there are too many."""
    table.pop(key, None)
    while len(table) >= IN_MEMORY:
        del table[next(iter(table))]
    table[key] = value


def _load(file: Path) -> Known | None:
    """Return what a file keeps; raises OSError and ValueError."""
    try:
        kept = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    try:
        return Known(read_policy(kept["policy"].encode()), str(kept["id"]), Instant(int(kept["fetched"])))
    except (KeyError, TypeError, AttributeError) as wrong:
        raise ValueError(f"{file} is none of ours") from wrong


def _write(folder: Path, domain: str, known: Known) -> None:
    """Keep a policy, whole or not at all; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_room(folder)
    text = json.dumps({"id": known.id, "fetched": known.fetched, "policy": known.policy.document().decode()})
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix=".new-", dir=folder, delete=False) as file:
        whole = Path(file.name)
        try:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
            whole.replace(folder / domain)
        except BaseException:
            with suppress(OSError):
                whole.unlink()
            raise


def _make_room(folder: Path) -> None:
    """Drop the policies that were fetched longest ago where there are too many."""
    if sum(1 for _ in os.scandir(folder)) < FILES_MAX:
        return
    aged = []
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # another worker was quicker
            aged.append((entry.stat().st_mtime, entry.path))
    for _, path in sorted(aged)[:FILES_DROPPED]:
        Path(path).unlink(missing_ok=True)
