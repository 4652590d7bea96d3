"""Verify a mail's chain of custody (RFC 8617 §5.2): whether each hand's word on what it saw still stands."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gatepost.base.clock import Instant
from gatepost.base.verdict import Finding, Result
from gatepost.codec import arc
from gatepost.codec.arc import ArcSet, BrokenChain, Fields
from gatepost.codec.dkim import BadKey, BadSignature
from gatepost.judge.dkim import BodyHashes, KeyNames, check_signature, check_value, find_key
from gatepost.judge.spf import Trouble


@dataclass(frozen=True, slots=True)
class Chain:
    """What a mail's chain is worth. `sets` are empty where there is none, or none that can be told apart.

    `sealers` are the domains that sealed, the oldest first; `oldest_pass` is the lowest instance from which on the
    mail was not changed, 0 where it never was (§5.2).
    """

    result: Result
    reason: str = ""
    sets: tuple[ArcSet, ...] = ()
    sealers: tuple[str, ...] = ()
    oldest_pass: int = 0

    def finding(self) -> Finding:
        """Return it as a result for Authentication-Results (RFC 8617 §4.1.1)."""
        if self.result is not Result.PASS:
            return Finding("arc", self.result, reason=self.reason)
        properties = (("header.oldest-pass", str(self.oldest_pass)),)
        return Finding("arc", self.result, self.sealers[-1], properties, "sealed by " + ", ".join(self.sealers))


NO_CHAIN: Final = Chain(Result.NONE, "no chain")


async def verify(fields: Fields, body: bytes, names: KeyNames, now: Instant) -> Chain:
    """Evaluate the chain: NONE without one, PASS, FAIL, or TEMPERROR where the DNS did not answer."""
    try:
        sets = arc.collect(fields)
    except BrokenChain as broken:
        return Chain(Result.FAIL, str(broken))
    if not sets:
        return NO_CHAIN
    try:
        return await _Evaluation(sets, fields, body, names, now).run()
    except _Failed as failed:
        return Chain(failed.result, str(failed), sets)


class _Failed(Exception):
    def __init__(self, reason: str, result: Result = Result.FAIL) -> None:
        super().__init__(reason)
        self.result = result


class _Evaluation:
    def __init__(
        self, sets: tuple[ArcSet, ...], fields: Fields, body: bytes, names: KeyNames, now: Instant
    ) -> None:
        self._sets = sets
        self._fields = fields
        self._hashes = BodyHashes(body)
        self._names = names
        self._now = now

    async def run(self) -> Chain:
        seals = self._seals()
        await self._message(self._sets[-1])
        for at in range(len(self._sets), 0, -1):
            await self._seal(seals[at - 1], self._sets[:at])
        oldest = await self._oldest_pass()
        sealers = tuple(seal.domain for seal in seals)
        return Chain(Result.PASS, "", self._sets, sealers, oldest)

    def _seals(self) -> list[arc.Seal]:
        """Read all seals and check what they say of the chain (§5.2 step 2 and 3)."""
        seals = []
        for each in self._sets:
            try:
                seal = arc.parse_seal(each.seal)
            except BadSignature as wrong:
                raise _Failed(f"seal {each.instance}: {wrong}") from wrong
            expected = "none" if each.instance == 1 else "pass"
            if seal.chain != expected:
                raise _Failed(f"seal {each.instance} says cv={seal.chain}")
            seals.append(seal)
        return seals

    async def _message(self, each: ArcSet) -> None:
        result, reason = await self._signature(each)
        if result is Result.TEMPERROR:
            raise _Failed(reason, result)
        if result is not Result.PASS:
            raise _Failed(f"message signature {each.instance}: {reason}")

    async def _signature(self, each: ArcSet) -> tuple[Result, str]:
        try:
            signature = arc.parse_message_signature(each.message)
        except BadSignature as wrong:
            return Result.PERMERROR, str(wrong)
        return await check_signature(signature, each.message, self._fields, self._hashes, self._names, self._now)

    async def _seal(self, seal: arc.Seal, sets: Sequence[ArcSet]) -> None:
        which = f"seal {len(sets)}"
        if seal.algorithm not in ("rsa-sha256", "ed25519-sha256"):
            raise _Failed(f"{which}: unknown algorithm {seal.algorithm}")
        try:
            key = await find_key(seal, self._names)
        except Trouble as trouble:
            raise _Failed(str(trouble), Result.TEMPERROR) from trouble
        except BadKey as wrong:
            raise _Failed(f"{which}: {wrong}") from wrong
        result, reason = check_value(seal, key, arc.sealed_octets(sets))
        if result is not Result.PASS:
            raise _Failed(f"{which}: {reason}")

    async def _oldest_pass(self) -> int:
        """Return from which instance on the mail is unchanged: 0 where even the first signature holds (§5.2)."""
        for at in range(len(self._sets) - 1, 0, -1):
            result, _ = await self._signature(self._sets[at - 1])
            if result is not Result.PASS:
                return at + 1
            await asyncio.sleep(0)
        return 0
