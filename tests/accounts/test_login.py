"""Logging in: passwords, their cost, and who does not exist."""

import asyncio
import statistics
import time
from dataclasses import replace

import pytest

from gatepost.accounts import sql, verbs
from gatepost.accounts.model import AccountRefusal, Overloaded
from gatepost.accounts.password import Hasher, prepare
from gatepost.accounts.settings import AccountSettings
from gatepost.base.units import Octets
from gatepost.db.unit import Step, Unit
from tests.accounts.world import CHEAP, NOW, World, world
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run


@each_engine
@pytest.mark.row("AUTH-08")
def test_only_the_name_and_the_password_log_in(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            ann = await here.add("ann@example.org", "naïve".encode(), admin=True)
            for user in ("ann@example.org", "ANN@Example.org"):
                account = await here.directory.authenticate(user, "naïve".encode())
                assert account is not None
                assert (account.id, account.admin) == (ann, True)
            assert await here.directory.authenticate("ann@example.org", "nai\u0308ve".encode()) is not None
            for user in (
                "ann@example.org\n", "ann@example.org\0x", "../ann@example.org", "ann%u{x}@example.org",
                "ann*@example.org",
                "ann' OR 1=1--@example.org", "*)(uid=*", "ann", "", "@example.org", "ann@", "ann@@example.org",
                "ann+x@example.org", "x" * 400 + "@example.org", "\ud800@example.org",
            ):  # fmt: skip
                assert await here.directory.authenticate(user, "naïve".encode()) is None, user
            for password in (b"", b"naive", b"na\xefve", "naïve ".encode(), b"x" * 1024):
                assert await here.directory.authenticate("ann@example.org", password) is None

    run(play())


@each_engine
def test_a_changed_password_counts_at_once_though_logins_are_remembered(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await here.add("ann@example.org", b"old")
            assert await here.directory.authenticate("ann@example.org", b"old")
            hashed = here.hasher.matches
            calls: list[bytes] = []

            async def counted(kept: str | None, password: bytes) -> bool:
                calls.append(password)
                return await hashed(kept, password)

            here.hasher.matches = counted  # type: ignore[method-assign]  # counts what is really hashed
            assert await here.directory.authenticate("ann@example.org", b"old")
            assert calls == []
            assert await here.directory.authenticate("ann@example.org", b"new") is None
            await here.database.commit(
                Unit(
                    (
                        Step(
                            sql.SET_PASSWORD,
                            {"address": "ann@example.org", "password": await here.hasher.hash(b"new")},
                        ),
                    )
                )
            )  # without a notice
            assert await here.directory.authenticate("ann@example.org", b"old") is None
            assert await here.directory.authenticate("ann@example.org", b"new")
            await verbs.set_enabled(here.database, "ann@example.org", False, NOW)
            assert await here.directory.authenticate("ann@example.org", b"new") is None
            calls.clear()
            async with here.told():
                await verbs.set_enabled(here.database, "ann@example.org", True, NOW)
            assert await here.directory.authenticate("ann@example.org", b"new")
            here.clock.seconds += 301
            assert await here.directory.authenticate("ann@example.org", b"new")
            assert len(calls) == 2

    run(play())


@each_engine
@pytest.mark.row("AUTH-04")
def test_a_long_password_is_wrong_without_hashing(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await here.add("ann@example.org", b"x" * 1024)
            assert await here.directory.authenticate("ann@example.org", b"x" * 1024)
            begun = time.process_time()
            for user in ("ann@example.org", "nobody@example.org"):
                assert await here.directory.authenticate(user, b"p" * 1_000_000) is None
            assert time.process_time() - begun < 0.05
            with pytest.raises(AccountRefusal):
                await here.add("bob@example.org", b"x" * 1025)
            with pytest.raises(AccountRefusal):
                await here.add("bob@example.org", b"")

    run(play())


@pytest.mark.row("AUTH-03")
def test_a_missing_user_costs_what_a_wrong_password_costs() -> None:
    async def play() -> None:
        settings = AccountSettings(password_memory=Octets(4 << 20))
        async with world(open_sqlite, settings) as here:
            await here.add("ann@example.org")
            taken: dict[str, list[float]] = {"ann@example.org": [], "nobody@example.org": []}
            for _ in range(60):
                for user, times in taken.items():
                    begun = time.thread_time_ns() + time.perf_counter_ns()
                    assert await here.directory.authenticate(user, b"wrong") is None
                    times.append(time.thread_time_ns() + time.perf_counter_ns() - begun)
            ann, nobody = (statistics.median(times) for times in taken.values())
            assert abs(ann - nobody) / max(ann, nobody) < 0.15

    run(play())


@pytest.mark.row("AUTH-05")
def test_more_logins_than_the_queue_holds_are_told_to_come_back_and_the_loop_goes_on() -> None:
    async def play() -> None:
        settings = AccountSettings(password_memory=Octets(8 << 20))
        async with world(open_sqlite, settings) as here:
            await here.add("ann@example.org")
            lags: list[float] = []

            async def watch() -> None:
                while True:
                    begun = time.perf_counter()
                    await asyncio.sleep(0.001)
                    lags.append(time.perf_counter() - begun)

            watcher = asyncio.ensure_future(watch())
            done = await asyncio.gather(
                *(here.directory.authenticate("ann@example.org", b"wrong") for _ in range(64)),
                return_exceptions=True,
            )
            watcher.cancel()
            assert sum(isinstance(each, Overloaded) for each in done) == 64 - 34
            assert sum(each is None for each in done) == 34
            assert statistics.quantiles(lags, n=20)[-1] < 0.05

    run(play())


@each_engine
@pytest.mark.row("STO-10")
def test_passwords_are_kept_as_argon2id_alone(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await here.add("ann@example.org", b"correct horse")
            assert await here.directory.authenticate("ann@example.org", b"correct horse")
            rows = await here.database.read(sql.ACCOUNTS, {})
            assert str(rows[0][7]).startswith("$argon2id$v=19$m=64,t=1,p=1$")
            assert "correct horse" not in repr(rows)
            assert "correct horse" not in repr(vars(here.directory))

    run(play())


def test_the_parameters_are_those_of_owasp() -> None:
    async def play() -> None:
        hasher = Hasher()
        try:
            assert (await hasher.hash(b"x")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        finally:
            hasher.close()

    run(play())


@each_engine
def test_a_password_of_older_parameters_is_hashed_again(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            old = Hasher(replace(CHEAP, password_rounds=2))
            params = {"address": "ann@example.org", "password": await old.hash(b"secret")}
            old.close()
            await here.add("ann@example.org")
            await here.database.commit(Unit((Step(sql.SET_PASSWORD, params),)))
            assert await here.directory.authenticate("ann@example.org", b"secret")
            assert "t=1," in await kept(here)
            assert await here.directory.authenticate("ann@example.org", b"secret")

    run(play())


@each_engine
def test_a_name_without_a_domain_is_nobody_unless_one_is_configured(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db, replace(CHEAP, login_domain="example.org")) as here:
            await here.add("ann@example.org")
            assert await here.directory.authenticate("Ann", b"secret")
            assert await here.directory.authenticate("bob", b"secret") is None

    run(play())


def test_prepared_passwords_differ_no_more_than_clients_do() -> None:
    assert prepare("e\u0301".encode()) == "é".encode()
    assert prepare("a\u3000b".encode()) == b"a b"
    assert prepare(b"\xff\0") == b"\xff\0"
    assert prepare(b"Plain") == b"Plain"


async def kept(here: World) -> str:
    """Return what is stored as ann's password."""
    return str((await here.database.read(sql.ACCOUNT, {"address": "ann@example.org"}))[0][7])
