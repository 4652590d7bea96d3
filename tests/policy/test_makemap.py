"""Tables that OpenSMTPD's own makemap made, Hash and Btree, small and large."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepost.base.settings import BadSetting
from gatepost.codec.berkeleydb import BadDatabase, pairs
from gatepost.policy.table import TableSettings, load_table
from tests.policy.world import policy, route
from tests.support.peers import accounts, as_installed, can_mount, cannot, unpacked

pytestmark = pytest.mark.peer("opensmtpd")

GROUP = 9_104
MEMBERS = [f"member{n}@far.example" for n in range(1_500)]
ALIASES = "postmaster: root\nRoot: joe, x@far.example\n" + "".join(f"user{n}: joe{n}\n" for n in range(2_000))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with aliases.db, btree.db and domains.db."""
    why = can_mount()
    if why:
        cannot(why)
    folder = tmp_path_factory.mktemp("makemap")
    own = folder / "own"
    (own / "var").mkdir(parents=True)
    accounts(own, {"opensmtpd": GROUP - 1, "opensmtpq": GROUP})
    (folder / "aliases").write_text(f"{ALIASES}all: {', '.join(MEMBERS)}\n")
    (folder / "domains").write_text("here.example\n*.there.example\n")
    for words in (("-t", "aliases"), ("-t", "aliases", "-d", "btree"), ("-t", "set")):
        name = {"btree": "btree", "set": "domains"}.get(words[-1], "aliases")
        source = folder / ("domains" if name == "domains" else "aliases")
        makemap = ("/usr/sbin/makemap", *words, "-o", f"{folder}/{name}.db", str(source))
        setgid = ("setpriv", f"--regid={GROUP}", "--clear-groups")  # as it is installed
        command = as_installed(unpacked("opensmtpd"), own, *setgid, *makemap)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.row("MT-05")
@pytest.mark.parametrize("name", ["aliases", "btree"])
def test_every_alias_is_there_as_it_was_written(made: Path, name: str) -> None:
    found = load_table("aliases", TableSettings(db=f"{made}/{name}.db")).mapping()
    text = load_table("aliases", TableSettings(file=f"{made}/aliases")).mapping()
    assert found == text
    assert found["all"] == tuple(MEMBERS)


@pytest.mark.row("MT-05", "MT-06")
def test_rules_use_them(made: Path) -> None:
    rules = policy(
        {
            "tables": {"aliases": {"db": f"{made}/aliases.db"}, "domains": {"db": f"{made}/domains.db"}},
            "actions": {"local": {"do": "deliver", "alias": "aliases"}},
            "rules": [
                {"match": {"from": "any", "for": "<domains>"}, "action": "local"},
                {"match": {"from": "local", "for": "any"}, "action": "relay"},
            ],
        }
    )
    assert route(rules, "postmaster@here.example") == ["INBOX joe", "relay x@far.example"]


def test_a_damaged_file_is_refused_by_name(made: Path, tmp_path: Path) -> None:
    whole = (made / "aliases.db").read_bytes()
    for damaged in (b"", b"aliases: joe\n", whole[:-100], whole[:4096] + b"\xff" * 4096 + whole[8192:]):
        (tmp_path / "a.db").write_bytes(damaged)
        with pytest.raises(BadSetting, match=rf"t: {tmp_path}/a\.db: .*file = "):
            load_table("t", TableSettings(db=str(tmp_path / "a.db")))
    with pytest.raises(BadSetting, match="makemap"):
        load_table("t", TableSettings(db=str(tmp_path / "nowhere.db")))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_no_octet_makes_the_reader_raise_anything_else(made: Path, data: st.DataObject) -> None:
    octets = bytearray((made / "domains.db").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        page = data.draw(st.sampled_from((0, 4096, 8192)))
        octets[page + data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    try:
        list(pairs(bytes(octets)))
    except BadDatabase:
        pass
