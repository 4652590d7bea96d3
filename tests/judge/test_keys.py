"""The key file: made once, whatever starts at the same moment, and what it closes up only it opens."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gatepost.judge.keys import KeyFile, KeyFileWrong


def test_all_who_start_at_once_have_one_key(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda _: KeyFile.open(path), range(64)))
    closed = [key.close_up(b"private", "a.example s1") for key in keys]
    assert {keys[0].open_up(each, "a.example s1") for each in closed} == {b"private"}
    assert [each.name for each in tmp_path.iterdir()] == ["secret.key"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_another_file_another_place_or_a_changed_octet_opens_nothing(tmp_path: Path) -> None:
    key, other = KeyFile.open(tmp_path / "one"), KeyFile.open(tmp_path / "two")
    closed = key.close_up(b"private", "a.example s1")
    for who, context, text in (
        (other, "a.example s1", closed),
        (key, "b.example s1", closed),
        (key, "a.example s1", closed[:-1] + bytes([closed[-1] ^ 1])),
        (key, "a.example s1", b"\x09" + closed[1:]),
    ):
        with pytest.raises(KeyFileWrong):
            who.open_up(text, context)
