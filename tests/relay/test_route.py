"""Which machines a mail is sent to."""

import pytest

from gatepost.aio.resolve import Status
from gatepost.base.settings import BadSetting
from gatepost.policy.action import Route, RouteKind
from gatepost.relay.deliver import read_logins
from gatepost.relay.route import NoRoute
from gatepost.relay.settings import RelaySettings
from tests.relay.world import Names, router
from tests.support.loop import run

STRICT = RelaySettings()


def hops(names: Names, domain: str = "d.example", route: Route | None = None, **own: object) -> list[str]:
    """Return the addresses to try, in order; raises NoRoute."""

    async def collect() -> list[str]:
        found = router(names, STRICT, **own)  # type: ignore[arg-type]  # own_names, own_ips
        return [ip async for hop in found.hops(route or Route(), domain) for ip in hop.addresses]

    return run(collect())


def reply(names: Names, domain: str = "d.example", **own: object) -> tuple[int, str]:
    """Return code and status of the refusal."""
    with pytest.raises(NoRoute) as refused:
        hops(names, domain, **own)  # type: ignore[arg-type]  # own_names, own_ips
    return refused.value.reply.code, refused.value.reply.enhanced


def test_hosts_go_by_preference_and_ipv6_comes_first() -> None:
    names = Names(
        {
            "d.example": {"mx": [(20, "b.example"), (10, "a.example")]},
            "a.example": {"a": ["192.0.2.1"], "aaaa": ["2001:db8::1"]},
            "b.example": {"a": ["192.0.2.2"]},
        }
    )
    assert hops(names) == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]


def test_without_mx_the_domain_itself_is_asked() -> None:
    assert hops(Names({"d.example": {"a": ["192.0.2.1"]}})) == ["192.0.2.1"]
    assert reply(Names({"d.example": {"txt": ["x"]}})) == (550, "5.1.2")


@pytest.mark.row("DNS-04")
@pytest.mark.parametrize("null", ["", "."])
def test_null_mx_takes_no_mail(null: str) -> None:
    assert reply(Names({"d.example": {"mx": [(0, null)], "a": ["192.0.2.1"]}})) == (556, "5.1.10")


def test_a_missing_domain_is_permanent_and_a_silent_dns_is_not() -> None:
    assert reply(Names()) == (550, "5.1.2")
    assert reply(Names({"d.example": Status.SERVFAIL})) == (451, "4.4.3")


@pytest.mark.row("REL-19")
def test_hosts_whose_addresses_cannot_be_asked_for_are_temporary() -> None:
    names = Names({"d.example": {"mx": [(10, "a.example")]}, "a.example": Status.SERVFAIL})
    assert reply(names) == (451, "4.4.3")
    gone = Names({"d.example": {"mx": [(10, "a.example")]}})
    assert reply(gone) == (451, "4.4.4")


@pytest.mark.row("DNS-04")
@pytest.mark.parametrize("ip", ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1", "192.0.2.99"])
def test_an_mx_that_is_this_machine_is_a_loop(ip: str) -> None:
    kind = "aaaa" if ":" in ip else "a"
    names = Names({"d.example": {"mx": [(10, "a.example")]}, "a.example": {kind: [ip]}})
    assert reply(names, own_ips=["192.0.2.99"]) == (554, "5.4.6")
    assert reply(names, f"[{'IPv6:' if ':' in ip else ''}{ip}]", own_ips=["192.0.2.99"]) == (554, "5.4.6")


@pytest.mark.row("DNS-04", "BM-03")
def test_a_backup_only_hands_on_to_better_hosts() -> None:
    names = Names(
        {
            "d.example": {
                "mx": [(10, "one.example"), (20, "TWO.example"), (20, "twin.example"), (30, "three.example")]
            },
            "one.example": {"a": ["192.0.2.1"]},
            "twin.example": {"a": ["192.0.2.2"]},
        }
    )
    assert hops(names, own_names=["two.example"]) == ["192.0.2.1"]
    assert reply(names, own_names=["one.example"]) == (554, "5.4.6")


@pytest.mark.row("DNS-04")
def test_at_most_five_of_two_hundred_hosts_are_tried() -> None:
    table: dict[str, object] = {"d.example": {"mx": [(n, f"h{n}.example") for n in range(200)]}}
    table |= {f"h{n}.example": {"a": [f"192.0.2.{n}"]} for n in range(200)}
    names = Names(table)
    assert hops(names) == [f"192.0.2.{n}" for n in range(5)]
    assert len(names.asked) == 11


def test_a_smart_host_may_be_anywhere() -> None:
    names = Names({"host.example": {"a": ["127.0.0.1"]}})
    assert hops(names, route=Route(RouteKind.HOST, "host.example")) == ["127.0.0.1"]
    assert hops(names, route=Route(RouteKind.HOST, "127.0.0.1", 10025)) == ["127.0.0.1"]
    assert hops(names, route=Route(RouteKind.HOST, "/run/lmtp", lmtp=True)) == ["/run/lmtp"]
    assert names.asked == ["aaaa host.example", "a host.example"]


def test_address_literals_are_sent_to_directly() -> None:
    assert hops(Names(), "[192.0.2.7]") == ["192.0.2.7"]
    assert hops(Names(), "[ipv6:2001:db8::7]") == ["2001:db8::7"]
    assert reply(Names(), "[nonsense]") == (550, "5.1.2")


def test_credentials_are_read_and_must_be_private(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "credentials"
    file.write_text("# provider\nme ann@provider.example:pass:word\nbob secret\n")
    file.chmod(0o600)
    logins = read_logins(str(file))
    assert (logins["me"].user, logins["me"].password) == ("ann@provider.example", "pass:word")
    assert (logins["bob"].user, logins["bob"].password) == ("bob", "secret")
    file.chmod(0o644)
    with pytest.raises(BadSetting, match="chmod 600"):
        read_logins(str(file))
