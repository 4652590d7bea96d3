"""Who an address belongs to, and who may write from it."""

from dataclasses import replace

import pytest

from gatepost.accounts import verbs
from gatepost.accounts.model import Forward, Mailbox, NotOurs, Quota, Unknown
from gatepost.base.address import Address
from gatepost.db.unit import Unit
from tests.accounts.world import CHEAP, NOW, at, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run


@each_engine
def test_an_account_is_found_in_any_ascii_case_and_by_either_form_of_its_domain(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db, domains=("example.org", "bücher.example")) as here:
            ann = await here.add("Ann@Example.ORG", quota=Quota(10, 20))
            joe = await here.add("joe@BÜCHER.example")
            assert await here.directory.lookup(at("aNN@example.org")) == Mailbox(
                ann, "ann@example.org", "", Quota(10, 20)
            )
            for form in ("joe@bücher.example", "JOE@xn--bcher-kva.example", "joe@xn--bcher-kva.example."):
                found = await here.directory.lookup(at(form))
                assert isinstance(found, Mailbox)
                assert found.account == joe
            assert await here.directory.lookup(at("\u212aen@example.org")) == Unknown()  # a Kelvin sign is no k
            assert await here.directory.lookup(at("ann@elsewhere.example")) == NotOurs()
            assert await here.directory.is_local("EXAMPLE.org")
            assert not await here.directory.is_local("sub.example.org")

    run(play())


@each_engine
def test_the_order_is_alias_account_without_detail_catch_all(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            ann = await here.add("ann@example.org")
            assert await here.directory.lookup(at("nobody@example.org")) == Unknown()
            found = await here.directory.lookup(at("ann+Lists+x@example.org"))
            assert found == Mailbox(ann, "ann@example.org", "Lists+x")
            tagged = await here.add("ann+work@example.org")
            assert await here.directory.lookup(at("ann+work@example.org")) == Mailbox(
                tagged, "ann+work@example.org"
            )
            await here.alias("sales@example.org", "ann@example.org", "Boss@Elsewhere.example")
            both = Forward((at("ann@example.org"), at("Boss@Elsewhere.example")))
            assert await here.directory.lookup(at("SALES@example.org")) == both
            assert await here.directory.lookup(at("sales+eu@example.org")) == both
            await here.alias("ann@example.org", "other@elsewhere.example")
            assert await here.directory.lookup(at("ann@example.org")) == Forward((at("other@elsewhere.example"),))
            assert isinstance(await here.directory.lookup(at("ann@example.org"), aliases=False), Mailbox)
            await here.alias("@example.org", "ann@example.org")
            assert await here.directory.lookup(at("nobody@example.org")) == Forward((at("ann@example.org"),))
            assert await here.directory.lookup(at("nobody@example.org"), aliases=False) == Unknown()
            assert isinstance(await here.directory.lookup(at("+x@example.org")), Forward)

    run(play())


@each_engine
def test_postmaster_and_abuse_reach_somebody(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db, domains=("a.example", "b.example")) as here:
            assert await here.directory.lookup(at("postmaster@a.example")) == Unknown()
            first = await here.add("first@a.example")
            admin = await here.add("boss@b.example", admin=True)

            async def who(address: Address) -> int:
                found = await here.directory.lookup(address)
                assert isinstance(found, Mailbox), found
                return found.account

            assert await who(at("POSTMASTER@a.example")) == admin
            assert await who(at("abuse@b.example")) == admin
            assert await who(Address("Postmaster", "")) == admin
            await here.alias("abuse@a.example", "first@a.example")
            assert await here.directory.lookup(at("abuse@a.example")) == Forward((at("first@a.example"),))
            async with here.told():
                await verbs.set_admin(here.database, "boss@b.example", False, NOW)
            assert await who(at("postmaster@a.example")) == first
            assert await here.directory.lookup(at("webmaster@a.example")) == Unknown()

    run(play())


@each_engine
def test_the_configured_postmaster_may_be_anybody(open_db: OpenDatabase) -> None:
    async def play() -> None:
        ours = replace(CHEAP, postmaster="Care@example.org")
        async with world(open_db, ours) as here:
            care = await here.add("care@example.org")
            await here.add("boss@example.org", admin=True)
            assert await here.directory.lookup(at("abuse@example.org")) == Mailbox(care, "care@example.org")
        theirs = replace(CHEAP, postmaster="care@elsewhere.example")
        async with world(open_db, theirs) as here:
            found = await here.directory.lookup(at("abuse@example.org"))
            assert found == Forward((at("care@elsewhere.example"),))

    run(play())


@each_engine
def test_answers_are_kept_until_a_notice_and_never_long(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            assert await here.directory.lookup(at("ann@example.org")) == Unknown()
            await here.add("ann@example.org")  # its notice empties the memory
            assert isinstance(await here.directory.lookup(at("ann@example.org")), Mailbox)
            made = await verbs.del_user(here.database, "ann@example.org", NOW)
            await here.database.commit(replace_notices(made))
            assert isinstance(await here.directory.lookup(at("ann@example.org")), Mailbox)
            here.clock.seconds += 6
            assert await here.directory.lookup(at("ann@example.org")) == Unknown()

    run(play())


@each_engine
def test_one_may_write_from_every_address_whose_mail_one_gets(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            ann, bob = await here.add("ann@example.org"), await here.add("bob@example.org")
            await here.alias("sales@example.org", "team@example.org")
            await here.alias("team@example.org", "ann@example.org", "out@elsewhere.example")
            await here.alias("round@example.org", "robin@example.org")
            await here.alias("robin@example.org", "round@example.org")
            await here.alias("bob@example.org", "bob@example.org", "out@elsewhere.example")
            may = here.directory.may_send_as
            for address in ("ANN@example.org", "ann+x@example.org", "sales@example.org", "team@example.org"):
                assert await may(ann, at(address)), address
                assert not await may(bob, at(address)), address
            assert await may(bob, at("bob@example.org"))
            for address in (
                "round@example.org",
                "ann@elsewhere.example",
                "nobody@example.org",
                "out@elsewhere.example",
            ):
                assert not await may(ann, at(address)), address
            await here.alias("@example.org", "ann@example.org")
            assert await may(ann, at("anything@example.org"))
            assert not await may(ann, at("bob@example.org"))

    run(play())


@each_engine
@pytest.mark.row("STO-01")
def test_odd_octets_in_addresses_reach_no_database(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await here.add("ann@example.org")
            await here.add("o'brien@example.org")
            await here.add('"a b\\\\%_"@example.org')
            for address in (
                "ann\0@example.org",
                "ann\n@example.org",
                "'; DROP TABLE account; --@example.org",
                "%@example.org",
            ):
                assert await here.directory.lookup(at(address)) == Unknown(), address
            assert await here.directory.lookup(Address("ann", "exa\0mple.org")) == NotOurs()
            assert isinstance(await here.directory.lookup(at("o'brien@example.org")), Mailbox)
            assert isinstance(await here.directory.lookup(Address("a b\\%_", "example.org")), Mailbox)

    run(play())


def replace_notices(made: verbs.NewAccount) -> Unit:
    """Return a deletion that tells nobody, as when a notice is lost."""
    return Unit(made.steps)
