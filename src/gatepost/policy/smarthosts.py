"""By which server mail leaves, by who sends it: `[policy.smarthosts]`.

A rule that sends to the recipient's MX says nothing of the sender. Who has a provider for one domain and another
for the next, or several addresses to send from, says it here, once, for all rules. Rules that name a host of their
own are left alone.

    user@domain, then @domain (or domain), then .domain of each domain above, then *; <> for bounces, then *
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from gatepost.base.address import ReversePath, fold, fold_domain
from gatepost.base.settings import BadSetting
from gatepost.policy.action import Action, Delivery, Relay, Route, RouteKind, ToRelay

ANYBODY: Final = "*"
NOBODY: Final = "<>"


class Smarthosts:
    """Routes by the envelope sender."""

    def __init__(self, given: Mapping[str, str], actions: Mapping[str, Action]) -> None:
        """Read sender -> action's name; raises BadSetting."""
        self._routes: dict[str, Route] = {}
        for sender, name in given.items():
            key = _key(sender)
            if key in self._routes:
                raise BadSetting(
                    (sender,), f"{sender!r} stands here twice, written differently", "keep one of them"
                )
            self._routes[key] = _route(sender, name, actions)

    def __bool__(self) -> bool:
        return bool(self._routes)

    def find(self, sender: ReversePath) -> tuple[str, Route] | None:
        """Return the entry that counts for a sender and its route; None where none does."""
        for key in _keys(sender):
            route = self._routes.get(key)
            if route is not None:
                return key, route
        return None

    def apply(self, sender: ReversePath, deliveries: tuple[Delivery, ...]) -> tuple[Delivery, ...]:
        """Return the deliveries, those to an MX sent by the sender's server instead."""
        found = self.find(sender)
        if found is None:
            return deliveries
        return tuple(_by_host(each, found[1]) for each in deliveries)


NO_SMARTHOSTS: Final = Smarthosts({}, {})


def _by_host(delivery: Delivery, host: Route) -> Delivery:
    """Return a delivery by the sender's server, for as long as either says, the server's action first."""
    match delivery:
        case ToRelay(recipient=recipient, route=route) if replace(route, lifetime=0) == Route():
            return ToRelay(recipient, replace(host, lifetime=host.lifetime or route.lifetime))
        case _:
            return delivery


def _route(sender: str, name: str, actions: Mapping[str, Action]) -> Route:
    match actions.get(name):
        case Relay(route=Route(kind=RouteKind.HOST | RouteKind.MX) as route):
            return route
        case None:
            known = ", ".join(sorted(key for key, action in actions.items() if isinstance(action, Relay)))
            raise BadSetting((sender,), f"there is no action {name!r}", f"known: {known}")
        case _:
            raise BadSetting((sender,), f"the action {name!r} does not relay", 'name one with do = "relay"')


def _key(sender: str) -> str:
    """Return an entry in the form in which it is looked for; raises BadSetting."""
    local, at, domain = sender.rpartition("@")
    if sender in (ANYBODY, NOBODY):
        return sender
    if not domain or (at and not local and domain.startswith(".")) or " " in sender:
        raise BadSetting((sender,), f"{sender!r} is no sender", 'write user@domain, domain, .domain, "<>" or "*"')
    dot, name = ("." if domain.startswith(".") else ""), fold_domain(domain.removeprefix("."))
    return f"{fold(local)}@{name}" if local else f"{dot}{name}"


def _keys(sender: ReversePath) -> Iterator[str]:
    if sender is None:
        yield NOBODY
    else:
        domain = fold_domain(sender.domain)
        yield f"{fold(sender.local)}@{domain}"
        yield domain
        above = domain
        while "." in above:
            above = above.partition(".")[2]
            yield f".{above}"
    yield ANYBODY
