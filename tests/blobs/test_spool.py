"""Messages while they arrive: bounded over all sessions, whatever becomes of each."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.blobs.spool import IN_MEMORY_MAX, Spool, SpoolBudget
from gatepost.db.unit import NoRoom


def test_a_message_moves_to_a_nameless_file_when_it_grows(tmp_path: Path) -> None:
    budget = SpoolBudget(2 << 20, 8 << 20)
    spool = Spool(tmp_path / "spool", budget)
    spool.write(b"a" * IN_MEMORY_MAX)
    assert (budget.memory, budget.disk) == ((2 << 20) - IN_MEMORY_MAX, 8 << 20)
    spool.write(b"b")
    assert (budget.memory, budget.disk) == (2 << 20, (8 << 20) - IN_MEMORY_MAX - 1)
    assert os.listdir(tmp_path / "spool") == []
    assert bytes(spool.view()) == b"a" * IN_MEMORY_MAX + b"b"
    spool.close()
    assert (budget.memory, budget.disk) == (2 << 20, 8 << 20)


def test_all_sessions_share_one_budget(tmp_path: Path) -> None:
    budget = SpoolBudget(1000, 0)
    one, two = Spool(tmp_path, budget), Spool(tmp_path, budget)
    one.write(b"x" * 600)
    with pytest.raises(NoRoom):
        two.write(b"x" * 401)
    two.write(b"x" * 400)
    one.close()
    two.write(b"x" * 600)
    assert two.view() == b"x" * 1000
    two.close()
    assert budget.memory == 1000


def test_beyond_the_disks_share_it_is_no_room_and_all_is_given_back(tmp_path: Path) -> None:
    budget = SpoolBudget(2 << 20, 2 << 20)
    spool = Spool(tmp_path, budget)
    spool.write(b"x" * IN_MEMORY_MAX)
    with pytest.raises(NoRoom):
        spool.write(b"x" * (IN_MEMORY_MAX + 1))
    spool.close()
    assert (budget.memory, budget.disk) == (2 << 20, 2 << 20)


def test_a_disk_that_refuses_is_no_room(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"no folder")
    budget = SpoolBudget(2 << 20, 2 << 20)
    spool = Spool(tmp_path / "spool", budget)
    with pytest.raises(NoRoom):
        spool.write(b"x" * (IN_MEMORY_MAX + 1))
    spool.close()
    full = Spool(Path("/dev/full"), budget)
    with pytest.raises(NoRoom):
        full.write(b"x" * (IN_MEMORY_MAX + 1))
    full.close()
    assert (budget.memory, budget.disk) == (2 << 20, 2 << 20)


def test_closed_twice_gives_back_once(tmp_path: Path) -> None:
    budget = SpoolBudget(100, 0)
    spool = Spool(tmp_path, budget)
    spool.write(b"x" * 50)
    spool.close()
    spool.close()
    assert budget.memory == 100


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 700_000), st.booleans()), max_size=30))
def test_the_budget_is_whole_when_all_are_gone(writes: list[tuple[int, int, bool]]) -> None:
    budget = SpoolBudget(2 << 20, 3 << 20)
    spools = [Spool(Path("/tmp"), budget) for _ in range(4)]
    for which, size, closes in writes:
        try:
            spools[which].write(bytes(size))
        except NoRoom:
            closes = True
        assert budget.memory >= 0
        assert budget.disk >= 0
        if closes:
            spools[which].close()
    for spool in spools:
        spool.close()
    assert (budget.memory, budget.disk) == (2 << 20, 3 << 20)
