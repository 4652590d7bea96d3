"""What operators do with domains, accounts and aliases."""

import pytest

from gatepost.accounts import verbs
from gatepost.accounts.model import AccountRefusal, Alias, Quota
from gatepost.accounts.settings import AccountSettings
from gatepost.base.settings import BadSetting, fill
from gatepost.db.unit import Clash, Unit, Unmet
from tests.accounts.world import NOW, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run


@each_engine
def test_domains_come_and_go_with_their_aliases_but_not_with_their_people(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await verbs.add_domain(here.database, "Bücher.Example", NOW)
            assert [each.name for each in await verbs.list_domains(here.database)] == [
                "example.org",
                "xn--bcher-kva.example",
            ]
            with pytest.raises(AccountRefusal, match="already"):
                await verbs.add_domain(here.database, "EXAMPLE.org.", NOW)
            for bad in ("", "a b", "-x.example", "[192.0.2.1]", "x" * 64 + ".example", "a..b", "a\0b", "@a", "a/b"):
                with pytest.raises(AccountRefusal):
                    await verbs.add_domain(here.database, bad, NOW)
            await here.add("ann@example.org")
            await here.alias("x@example.org", "ann@example.org")
            with pytest.raises(AccountRefusal):
                await verbs.del_domain(here.database, "example.org", NOW)
            assert len(await verbs.list_aliases(here.database)) == 1
            gone = await verbs.del_user(here.database, "ann@example.org", NOW)
            await here.database.commit(Unit(gone.steps))
            await verbs.del_domain(here.database, "example.org", NOW)
            assert await verbs.list_aliases(here.database) == ()
            with pytest.raises(AccountRefusal):
                await verbs.del_domain(here.database, "example.org", NOW)

    run(play())


@each_engine
def test_accounts_are_made_once_and_in_our_domains(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            ann = await here.add("Ann@example.org", quota=Quota(octets=1 << 30))
            found = await verbs.find_user(here.database, "ann@EXAMPLE.org")
            assert (found.id, found.admin, found.enabled, found.quota) == (ann, False, True, Quota(1 << 30, 0))
            for bad in (
                "ann@example.org",
                "ann@elsewhere.example",
                "ann",
                "@example.org",
                "a@b@example.org",
                "a\0@example.org",
            ):
                with pytest.raises(AccountRefusal):
                    await here.add(bad)
            twice = [
                await verbs.add_user(here.database, here.hasher, here.minter, "bob@example.org", b"x", NOW)
                for _ in range(2)
            ]
            await here.database.commit(Unit(twice[0].steps))
            with pytest.raises(Clash):
                await here.database.commit(Unit(twice[1].steps))
            gone = await verbs.del_user(here.database, "bob@example.org", NOW)
            await here.database.commit(Unit(gone.steps))
            with pytest.raises(Unmet):
                await here.database.commit(Unit(gone.steps))
            assert [each.address for each in await verbs.list_users(here.database)] == ["ann@example.org"]

    run(play())


@each_engine
def test_accounts_change(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await here.add("ann@example.org")
            await verbs.set_quota(here.database, "ann@example.org", Quota(5, 6), NOW)
            await verbs.set_admin(here.database, "ann@example.org", True, NOW)
            await verbs.set_password(here.database, here.hasher, "ann@example.org", b"new", NOW)
            found = await here.directory.authenticate("ann@example.org", b"new")
            assert found is not None
            assert (found.quota, found.admin) == (Quota(5, 6), True)
            assert await here.directory.account(found.id) == found
            for change in (
                verbs.set_quota(here.database, "bob@example.org", Quota(), NOW),
                verbs.set_admin(here.database, "bob@example.org", True, NOW),
                verbs.set_enabled(here.database, "bob@example.org", True, NOW),
                verbs.set_password(here.database, here.hasher, "bob@example.org", b"x", NOW),
            ):
                with pytest.raises(AccountRefusal, match="no account"):
                    await change

    run(play())


@each_engine
def test_aliases_have_targets_one_by_one(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await here.alias("Team@example.org", "ann@example.org", "Bob@Elsewhere.example")
            await here.alias("team@example.org", "bob@elsewhere.example", "eve@elsewhere.example")
            await here.alias("@example.org", "ann@example.org")
            assert await verbs.list_aliases(here.database) == (
                Alias("@example.org", ("ann@example.org",)),
                Alias("team@example.org", ("ann@example.org", "bob@elsewhere.example", "eve@elsewhere.example")),
            )
            await verbs.del_alias(here.database, "team@example.org", NOW, "EVE@elsewhere.example")
            await verbs.del_alias(here.database, "@example.org", NOW)
            assert [len(each.targets) for each in await verbs.list_aliases(here.database)] == [2]
            refused = (
                ("x@elsewhere.example", ("a@b.example",)),
                ("x", ("a@b.example",)),
                ("x@example.org", ("@b",)),
                ("x@example.org", ()),
                ("@", ("a@b.example",)),
            )
            for bad in refused:
                with pytest.raises(AccountRefusal):
                    await here.alias(bad[0], *bad[1])
            with pytest.raises(AccountRefusal):
                await verbs.del_alias(here.database, "team@example.org", NOW, "nobody@elsewhere.example")

    run(play())


def test_settings_that_cannot_stand_are_named() -> None:
    assert fill(AccountSettings, {"detail_separator": "-", "remember_logins": "1m"}).detail_separator == "-"
    for key, value in (
        ("detail_separator", "++"),
        ("password_rounds", 0),
        ("password_memory", "1K"),
        ("password_threads", 0),
    ):
        with pytest.raises(BadSetting, match=key):
            fill(AccountSettings, {key: value})


@pytest.mark.row("MT-34", "MT-36")
@each_engine
def test_the_mail_of_an_account_goes_elsewhere_with_or_without_a_copy(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await here.add("ann@example.org")

            async def forward(*to: str, keep: bool = False) -> tuple[str, ...]:
                return await verbs.forward_user(here.database, "Ann@Example.org", to, NOW, keep=keep)

            assert await forward("ann@mail.example", "ann@work.example") == ("ann@mail.example", "ann@work.example")
            assert await forward("ann@mail.example", keep=True) == ("ann@mail.example", "Ann@Example.org")
            (alias,) = await verbs.list_aliases(here.database)
            assert (alias.address, set(alias.targets)) == (
                "ann@example.org",
                {"ann@mail.example", "Ann@Example.org"},
            )
            assert await forward("ann@example.org") == ("Ann@Example.org",)
            for _ in range(2):
                assert await forward() == ("Ann@Example.org",)
                assert await verbs.list_aliases(here.database) == ()
            for bad in (("nobody",), tuple(f"x{n}@far.example" for n in range(verbs.TARGETS_MAX))):
                with pytest.raises(AccountRefusal):
                    await forward(*bad)
            with pytest.raises(AccountRefusal, match="alias add"):
                await verbs.forward_user(here.database, "bob@example.org", ("x@far.example",), NOW)

    run(play())
