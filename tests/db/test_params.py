"""What one engine would refuse is refused for both, before it leaves the caller."""

from enum import IntEnum, StrEnum

import pytest

from gatepost.db.params import checked
from gatepost.db.unit import Clash, Rows, Unit
from tests.db.world import ALL, SCHEMA, add, adds
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run


class Kind(IntEnum):
    TWO = 2


class Word(StrEnum):
    HAM = "ham"


@pytest.mark.row("STO-01")
@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 70 + "\0"])
@each_engine
def test_text_that_one_engine_cannot_hold_is_a_clash_on_both(open_db: OpenDatabase, text: str) -> None:
    async def scene() -> None:
        async with open_db((SCHEMA,)) as database:
            with pytest.raises(Clash):
                await database.commit(adds_named(text))
            with pytest.raises(Clash):
                await database.read(ALL, {"name": text})

    run(scene())


@pytest.mark.row("STO-01")
@each_engine
def test_quotes_wildcards_and_backslashes_are_kept_as_they_are(open_db: OpenDatabase) -> None:
    names = ["'; DROP TABLE thing; --", "100%_\\", '"', "%(id)s", ":name", "$1", "ÿ€😀\u2028\r\n"]

    async def scene() -> Rows:
        async with open_db((SCHEMA,)) as database:
            for at, name in enumerate(names):
                await database.commit(adds_named(name, at))
            return await database.read(ALL, {})

    assert [row[1] for row in run(scene())] == names


@each_engine
def test_the_ends_of_63_bits_are_stored_and_one_more_is_a_clash(open_db: OpenDatabase) -> None:
    async def scene() -> Rows:
        async with open_db((SCHEMA,)) as database:
            await database.commit(adds(-(1 << 63)))
            await database.commit(adds((1 << 63) - 1))
            with pytest.raises(Clash):
                await database.commit(adds(1 << 63))
            return await database.read(ALL, {})

    assert [row[0] for row in run(scene())] == [-(1 << 63), (1 << 63) - 1]


def test_enums_become_what_they_stand_for() -> None:
    plain = checked({"a": Kind.TWO, "b": Word.HAM, "c": None, "d": 1.5, "e": b""})
    assert plain == {"a": 2, "b": "ham", "c": None, "d": 1.5, "e": b""}
    assert [type(value) for value in plain.values()] == [int, str, type(None), float, bytes]


@pytest.mark.parametrize("value", [True, bytearray(b"x"), [1], memoryview(b"x")])
def test_what_is_no_value_is_the_callers_bug(value: object) -> None:
    with pytest.raises(TypeError):
        checked({"a": value})  # type: ignore[dict-item]  # the point of the test


def adds_named(name: str, key: int = 1) -> Unit:
    return Unit((add(key, name),))
