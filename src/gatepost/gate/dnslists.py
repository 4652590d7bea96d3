"""DNS lists of senders: all lists are asked at once while a client is being greeted, their weights are added up.

    lists = DnsLists(settings, resolver, clock=clock, log=log)
    group.create_task(lists.watch())          # proves the lists at start and hourly
    score = lists.known(ip)                   # at accept: memory only
    score = await lists.ask(ip)               # while it is greeted: never longer than `timeout`, never raises

A list helps when it can and never decides by being broken:

    UNPROVEN --it does not list 127.0.0.1--> ASKED --5 failures in a row--> resting (1, 2, 4 ... 15 min), then ASKED
       `------- it does (RFC 5782 §5), or refuses us --> OFF: an alarm; proved again every hour

Who is on no list that answered has no score. White lists have a weight below zero. A score is kept per source (an
IPv4 address or an IPv6 /64) as long as its answers, at least a minute and at most an hour.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from gatepost.aio.resolve import Answer
from gatepost.base.clock import Clock
from gatepost.base.ports import Log
from gatepost.base.units import Seconds
from gatepost.codec.dnslist import (
    ALL,
    LISTED_TEST,
    UNLISTED_TEST,
    Answers,
    complaint,
    listed,
    parse_answers,
    parse_zone,
    query_name,
)
from gatepost.gate.prefix import number_of, parse_prefix, sender_prefix

CACHE_MAX: Final = 10_000  # sources
KEPT_LEAST: Final = 60.0  # s
KEPT_MOST: Final = 3_600.0  # s
ASKING_MAX: Final = 200  # sources at the same time; more have no score
LISTS_MAX: Final = 50
TEXT_MAX: Final = 200  # letters of a list's reason
FAILURES_MAX: Final = 5  # in a row: then the list rests
REST: Final = 60.0  # s, doubled each time
REST_MOST: Final = 900.0  # s
PROOF_S: Final = 3_600.0
UNPROVEN_S: Final = 60.0
PROOF_TIME: Final = 30.0  # s for all lists
_UNLISTABLE: Final = tuple(
    parse_prefix(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::/127",
        "fc00::/7",
        "fe80::/10",
    )
)
"""Addresses that mean another machine to everybody: no list knows them."""


@dataclass(frozen=True, slots=True)
class DnsListSettings:
    """One list: `[[gate.dns.lists]]`. A zone may stand here more than once, with other answers and weights."""

    zone: str
    """The list's domain, e.g. `zen.spamhaus.org`."""

    weight: int = 1
    """What being on it adds; below zero it is a white list."""

    answers: tuple[str, ...] = ()
    """Which of its answers count, e.g. `127.0.0.[2..11]`; none given: all within 127.0.0.0/8 but error codes."""

    def __post_init__(self) -> None:
        parse_zone(self.zone)
        for each in self.answers:
            parse_answers(each)
        if not self.weight:
            raise ValueError("a list of weight 0 would be asked for nothing")


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """DNS lists of senders: `[gate.dns]`. They are asked about whom the greylist would meet, on port 25."""

    lists: tuple[DnsListSettings, ...] = ()
    """The lists; most demand a resolver of one's own and have terms of use."""

    black: int = 0
    """From this sum on a sender is kept in the tarpit; 0: never."""

    white: int = 0
    """From this sum below zero on (3 is -3) a sender is let through at once; 0: never."""

    timeout: Seconds = Seconds(10)
    """How long all lists together may take; who has not answered by then does not count."""

    texts: bool = True
    """Also ask the lists for their reasons, which black senders are told."""

    def __post_init__(self) -> None:
        if len(self.lists) > LISTS_MAX:
            raise ValueError(f"more than {LISTS_MAX} lists")
        if self.black < 0 or self.white < 0:
            raise ValueError("black and white are sums from 0 on; white = 3 means a sum of -3")
        if not 0 < self.timeout <= 30:
            raise ValueError("timeout must be between 0 and 30 s: the client waits")


class Opinion(Enum):
    """What a score means for a sender that no table knows."""

    BLACK = "black"
    WHITE = "white"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Hit:
    """A list that a source is on: its zone and weight, the answers that counted, and its reason."""

    zone: str
    weight: int
    answers: tuple[str, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """The sum of all lists; `silent` are those that did not answer in time."""

    total: int
    hits: tuple[Hit, ...]
    opinion: Opinion
    silent: tuple[str, ...] = ()

    @property
    def lists(self) -> str:
        """Write the lists with their weights, for the log: `zen.example*3 white.example*-2`."""
        return " ".join(f"{hit.zone}*{hit.weight}" for hit in self.hits)


NO_SCORE: Final = Score(0, (), Opinion.NONE)


class Names(Protocol):
    """The DNS: an `aio.resolve.Resolver`, better one of their own than the one that mail waits for."""

    async def a(self, name: str) -> Answer[str]: ...
    async def txt(self, name: str) -> Answer[bytes]: ...


class State(Enum):
    """What is known of a list."""

    UNPROVEN = "unproven"
    ASKED = "asked"
    OFF = "off"


class _Zone:
    """One list as it behaves."""

    __slots__ = ("failures", "lists_itself", "name", "rest", "rests_until", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.UNPROVEN
        self.lists_itself = True
        self.failures = 0
        self.rest = REST
        self.rests_until = 0.0


class DnsLists:
    """See the module's words."""

    def __init__(self, settings: DnsSettings, names: Names, *, clock: Clock, log: Log) -> None:
        self._names = names
        self._clock = clock
        self._log = log
        self._zones: dict[str, _Zone] = {}
        self._scores: dict[str, tuple[Score, float]] = {}
        self._asking = 0
        self._renewed = asyncio.Event()
        self.renew(settings)

    def renew(self, settings: DnsSettings) -> None:
        """Take other settings; what is known of lists that stay is kept, scores are forgotten."""
        self._settings = settings
        self._filters = tuple(
            (parse_zone(each.zone), each.weight, tuple(map(parse_answers, each.answers)) or (ALL,))
            for each in settings.lists
        )
        zones = dict.fromkeys(zone for zone, _, _ in self._filters)
        self._zones = {name: self._zones.get(name) or _Zone(name) for name in zones}
        self._scores.clear()
        self._renewed.set()

    @property
    def wanted(self) -> bool:
        """Tell whether there are lists and a sum that matters."""
        return bool(self._zones) and bool(self._settings.black or self._settings.white)

    def states(self) -> Mapping[str, str]:
        """Return what is known of each list: unproven, asked, off or resting."""
        steady = self._clock.steady()
        return {
            name: "resting" if zone.state is State.ASKED and steady < zone.rests_until else zone.state.value
            for name, zone in self._zones.items()
        }

    def known(self, ip: str) -> Score | None:
        """Return a source's score where it is remembered; asks nobody."""
        kept = self._scores.get(source(ip))
        if kept is None or kept[1] <= self._clock.steady():
            return None
        return kept[0]

    async def ask(self, ip: str) -> Score:
        """Return a source's score after `timeout` at most, from whatever lists have answered by then."""
        known = self.known(ip)
        if known is not None:
            return known
        zones = [zone for zone in self._zones.values() if self._usable(zone)]
        if not zones or not listable(ip) or self._asking >= ASKING_MAX:
            return NO_SCORE
        self._asking += 1
        try:
            score, ttl = await self._look_up(ip, zones)
        finally:
            self._asking -= 1
        self._keep(source(ip), score, ttl)
        if score.hits or score.silent:
            self._log.info(
                "dnslists",
                ip=ip,
                total=score.total,
                lists=score.lists,
                opinion=score.opinion.value,
                silent=" ".join(score.silent),
            )
        return score

    async def watch(self) -> None:
        """Prove the lists now, hourly, and after `renew`; until cancelled."""
        while True:
            self._renewed.clear()
            await self.prove()
            proven = all(zone.state is not State.UNPROVEN for zone in self._zones.values())
            try:
                async with asyncio.timeout(PROOF_S if proven else UNPROVEN_S):
                    await self._renewed.wait()
            except TimeoutError:
                pass

    async def prove(self) -> None:
        """Ask every list for its test points (RFC 5782 §5) once."""
        try:
            async with asyncio.timeout(PROOF_TIME), asyncio.TaskGroup() as group:
                for zone in self._zones.values():
                    group.create_task(self._prove(zone))
        except TimeoutError:
            pass

    # --- asking ---------------------------------------------------------------------------------------------

    def _usable(self, zone: _Zone) -> bool:
        return zone.state is State.ASKED and self._clock.steady() >= zone.rests_until

    async def _look_up(self, ip: str, zones: Sequence[_Zone]) -> tuple[Score, float]:
        found: dict[str, Answer[str]] = {}
        reasons: dict[str, str] = {}

        async def look(zone: _Zone) -> None:
            name = query_name(ip, zone.name)
            answer = await self._names.a(name)
            if answer.temporary:
                return
            found[zone.name] = answer
            if self._settings.texts and any(weight > 0 for weight, _ in self._counting(zone.name, answer.records)):
                reasons[zone.name] = reason(await self._names.txt(name))

        try:
            async with asyncio.timeout(self._settings.timeout), asyncio.TaskGroup() as group:
                for zone in zones:
                    group.create_task(look(zone))
        except TimeoutError:
            pass
        for zone in zones:
            self._judge(zone, answered=zone.name in found)
        hits = tuple(
            Hit(zone.name, weight, answers, reasons.get(zone.name, ""))
            for zone in zones
            if zone.name in found
            for weight, answers in self._counting(zone.name, found[zone.name].records)
        )
        silent = tuple(zone.name for zone in zones if zone.name not in found)
        ttl = 0.0 if silent else min(answer.ttl for answer in found.values())
        total = sum(hit.weight for hit in hits)
        return Score(total, hits, self._opinion(total), silent), ttl

    def _counting(self, name: str, records: Iterable[str]) -> list[tuple[int, tuple[str, ...]]]:
        """Return the weight and the answers of each entry of a list that counts."""
        said = sorted(each for each in records if listed(each))
        matches = [
            (weight, tuple(each for each in said if _counts(each, masks)))
            for zone, weight, masks in self._filters
            if zone == name
        ]
        return [(weight, answers) for weight, answers in matches if answers]

    def _opinion(self, total: int) -> Opinion:
        settings = self._settings
        if settings.black and total >= settings.black:
            return Opinion.BLACK
        if settings.white and total <= -settings.white:
            return Opinion.WHITE
        return Opinion.NONE

    def _keep(self, key: str, score: Score, ttl: float) -> None:
        self._scores.pop(key, None)
        while len(self._scores) >= CACHE_MAX:
            del self._scores[next(iter(self._scores))]
        self._scores[key] = score, self._clock.steady() + min(max(ttl, KEPT_LEAST), KEPT_MOST)

    def _judge(self, zone: _Zone, *, answered: bool) -> None:
        """Count a list's failures; let it rest after too many in a row."""
        if answered:
            if zone.failures >= FAILURES_MAX:
                self._log.info("dnslist_back", list=zone.name)
            zone.failures, zone.rest = 0, REST
            return
        zone.failures += 1
        if zone.failures >= FAILURES_MAX and self._clock.steady() >= zone.rests_until:
            zone.rests_until = self._clock.steady() + zone.rest
            self._log.warning("dnslist_rests", list=zone.name, seconds=zone.rest, failures=zone.failures)
            zone.rest = min(2 * zone.rest, REST_MOST)

    # --- proving --------------------------------------------------------------------------------------------

    async def _prove(self, zone: _Zone) -> None:
        never = await self._names.a(query_name(UNLISTED_TEST, zone.name))
        always = await self._names.a(query_name(LISTED_TEST, zone.name))
        if never.temporary or always.temporary:
            return
        wrong = ""
        if any(complaint(each) for each in never.records + always.records):
            wrong = "it refuses our questions: ask it through a resolver of your own, or get a key"
        elif never.records:
            wrong = f"it lists {UNLISTED_TEST}, so it would list everybody"
        state = State.OFF if wrong else State.ASKED
        if state is not zone.state:
            if wrong:
                said = " ".join(sorted({*never.records, *always.records}))
                self._log.error("dnslist_off", list=zone.name, answers=said, text=f"Switched off: {wrong}.")
            elif zone.state is State.OFF:
                self._log.warning("dnslist_on", list=zone.name, text="It behaves again.")
            zone.state = state
        lists_itself = any(listed(each) for each in always.records)
        if not lists_itself and zone.lists_itself and not wrong:
            self._log.warning(
                "dnslist_empty", list=zone.name, text=f"It does not list {LISTED_TEST}: is there still such a list?"
            )
        zone.lists_itself = lists_itself


def source(ip: str) -> str:
    """Return what has one score: an IPv4 address, or the /64 of an IPv6 one."""
    return sender_prefix(*number_of(ip)).text


def listable(ip: str) -> bool:
    """Tell whether an address means the same machine to everybody."""
    version, number = number_of(ip)
    return not any(network.holds(version, number) for network in _UNLISTABLE)


def reason(answer: Answer[bytes]) -> str:
    """Return a list's words as one line of plain ASCII, for a reply."""
    if not answer.records:
        return ""
    text = min(answer.records).decode("ascii", "replace")
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:TEXT_MAX]


def _counts(answer: str, masks: Iterable[Answers]) -> bool:
    return any(mask.match(answer) for mask in masks)
