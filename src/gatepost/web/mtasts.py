"""The MTA-STS policy of our own domains: which servers are theirs, and that their TLS holds (RFC 8461 §3)."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gatepost.base.units import Seconds
from gatepost.codec.mtasts import PATH, Mode, Policy
from gatepost.web.page import Answer, Asked, refusal

__all__ = ["HOST_LABEL", "PATH", "OwnPolicySettings", "Published", "own_policy", "page", "policy_id"]

HOST_LABEL: Final = "mta-sts."  # §3.3


class Published(Enum):
    """What is said of our own domains."""

    OFF = "off"
    """Nothing: no policy is served."""
    TESTING = "testing"
    """Others report what does not fit, and deliver all the same."""
    ENFORCE = "enforce"
    """Others deliver by TLS that holds to the servers that are named, or not at all."""
    NONE = "none"
    """The policy is taken back; served for as long as the last one's `max_age`."""


@dataclass(frozen=True, slots=True)
class OwnPolicySettings:
    """What other mail servers are told of the TLS of our domains: `[tls.mta_sts]` (MTA-STS, RFC 8461)."""

    mode: Published = Published.OFF
    """`off` serves no policy; begin with `testing`, then `enforce`; `none` takes a policy back."""

    mx: tuple[str, ...] = ()
    """The mail servers of our domains as their MX records name them, or `*.example.org`; empty: this one alone."""

    max_age: Seconds = Seconds(7 * 86_400)
    """How long others keep the policy: at most a year (§3.2 advises weeks once it is settled)."""

    def __post_init__(self) -> None:
        _policy(self, "this.example")


def own_policy(settings: OwnPolicySettings, hostname: str) -> Policy | None:
    """Return the policy of our domains, None where none is served."""
    return None if settings.mode is Published.OFF else _policy(settings, hostname)


def policy_id(policy: Policy) -> str:
    """Return the id for the TXT record; another policy has another (§3.1)."""
    return hashlib.sha256(policy.document()).hexdigest()[:32]


def page(
    settings: Callable[[], OwnPolicySettings], hostname: str, is_ours: Callable[[str], Awaitable[bool]]
) -> Callable[[Asked], Awaitable[Answer]]:
    """Return the page of `PATH`: the policy for `mta-sts.` before one of our domains, else 404."""

    async def answer(asked: Asked) -> Answer:
        policy = own_policy(settings(), hostname)
        domain = asked.host.removeprefix(HOST_LABEL)
        if policy is None or domain == asked.host or not await is_ours(domain):
            return refusal(404, "Nothing is here.")
        return Answer(200, policy.document(), "text/plain")

    return answer


def _policy(settings: OwnPolicySettings, hostname: str) -> Policy:
    mode = Mode.NONE if settings.mode is Published.OFF else Mode(settings.mode.value)
    mx = tuple(name.lower().rstrip(".") for name in settings.mx or (hostname,))
    return Policy(mode, int(settings.max_age), mx)
