"""`gatepost bgp` beside a running feed."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gatepost.cli.bgp import bgp
from gatepost.feeds.bgp.door import door_path
from gatepost.feeds.bgp.show import RIB_HEAD
from tests.feeds.bgp.fed import fed
from tests.feeds.bgp.world import BAD, GOOD
from tests.support.loop import run


def beside(folder: Path, work: Callable[[Callable[..., Result]], None]) -> None:
    """Run `work` in a thread beside a feed with some routes; it is given a way to run commands."""
    (folder / "gatepost.toml").write_text(f'[server]\ndata_dir = "{folder}"\n')

    def command(*words: str) -> Result:
        return CliRunner().invoke(bgp, [*words, "-c", str(folder / "gatepost.toml")])

    async def main() -> None:
        async with fed(door=door_path(folder)) as running:
            one, two = await running.link("rs1"), await running.link("rs2")
            for each in (one, two):
                each.establish()
                each.announce(BAD, "5.6.7.8", "5.6.8.0/24")
            two.announce(GOOD, "6.6.6.6")
            two.announce(1, "7.7.7.7")
            await asyncio.to_thread(work, command)

    run(main())


@pytest.mark.row("BG-07", "BG-08", "BG-09")
def test_what_the_commands_print(tmp_path: Path) -> None:
    def work(command: Callable[..., Result]) -> None:
        shown = command("show").output.splitlines()
        assert shown[1].startswith("rs1                     65066 ")
        rib = command("rib", "--community", "65066:666").output.splitlines()
        assert tuple(rib[:4]) == RIB_HEAD
        assert rib[4:] == [
            "*>    5.6.7.8/32           192.0.2.7          100     0 65066 65043 i",
            "*     5.6.7.8/32           192.0.2.7          100     0 65066 65043 i",
            "*>    5.6.8.0/24           192.0.2.7          100     0 65066 65043 i",
            "*     5.6.8.0/24           192.0.2.7          100     0 65066 65043 i",
        ]
        assert command("rib", "--addresses-only").output.splitlines() == ["5.6.7.8/32", "5.6.8.0/24", "6.6.6.6/32"]
        assert command("export", "65066:666").output.splitlines() == ["5.6.7.8/32", "5.6.8.0/24"]
        assert command("export", "--table", "bgp_spamd_bypass").output == "6.6.6.6/32\n"
        assert command("export", "65066:1:42").output == ""
        sent = command("rib", "--neighbor", "rs2").output
        assert "\n      7.7.7.7/32           192.0.2.7" in sent
        assert "1 prefix in no table: no rule accepts it" in sent
        assert command("neighbor").output.count("BGP neighbor is ") == 2
        assert command("neighbor", "rs1", "clear").output == "rs1: clear\n"
        assert json.loads(command("show", "--json").output)[1]["prefixes"] == 4
        assert json.loads(command("rib", "--json", "--table", "bgp_spamd_bypass").output)[0] == {
            "prefix": "6.6.6.6/32",
            "gateway": "192.0.2.7",
            "neighbor": "192.0.2.8",
            "as_path": "65066 65043",
            "origin": 0,
            "local_pref": 100,
            "med": 0,
            "valid": True,
            "selected": True,
            "internal": False,
            "stale": False,
            "communities": ["65066:42"],
            "table": "bgp_spamd_bypass",
            "refused": "",
        }

    beside(tmp_path, work)


def test_mistakes_are_told(tmp_path: Path) -> None:
    def work(command: Callable[..., Result]) -> None:
        assert "there is no neighbour 'rs3'" in str(command("neighbor", "rs3").exception)
        assert "is no community" in str(command("rib", "--community", "65066").exception)
        assert "give a community or --table" in str(command("export").exception)
        assert "there is no show nexthop" in str(command("show", "nexthop").exception)

    beside(tmp_path, work)
