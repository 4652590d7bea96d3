"""The gate by a pf.conf: its decisions, tables, limits, logs, and a reload that cannot be used."""

from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.gate.decide import TABLE_NAMES
from gatepost.gate.pfconf.lex import PfConfError
from gatepost.gate.settings import GateSettings
from gatepost.gate.table import TableFull
from gatepost.gate.verbs import add_entries
from tests.gate.pfconf.article import ARTICLE, BANNING, CAPPED
from tests.gate.world import QUIET, START, world
from tests.support.loop import run

HOST = "192.0.2.1"


def _settings(folder: Path, text: str) -> GateSettings:
    """Return the settings of a gate that decides by a text, in which nospamd's file has one network."""
    nospamd, file = folder / "nospamd", folder / "pf.conf"
    nospamd.write_text("198.51.100.0/24\n")
    file.write_text(text.replace("/etc/mail/nospamd", str(nospamd)))
    return replace(QUIET, rules=str(file), connection_log=str(folder / "connections"))


@pytest.mark.row("PF-03", "PF-04", "PF-11", "PF-12", "PF-24")
def test_the_articles_file_decides_fills_its_tables_and_logs(tmp_path: Path) -> None:
    async def scene() -> None:
        async with world(_settings(tmp_path, ARTICLE)) as here:
            assert set(TABLE_NAMES) <= set(here.gate.sizes())
            assert here.gate.sizes()["nospamd"] == 1
            friend = here.gate.decide("198.51.100.9", "mx")
            assert (friend.verdict.value, friend.lists) == ("pass", ("nospamd",))
            here.gate.let_in("198.51.100.9", "203.0.113.25", 25, friend)
            stranger = here.gate.decide(HOST, "mx")
            assert stranger.verdict.value == "grey"
            here.gate.let_in(HOST, "203.0.113.25", 25, stranger)
            here.gate.contacted("203.0.113.5")
            await here.gate.flush()
            await add_entries(here.database, "spamd", [HOST], START)
            await here.gate.refresh()
            assert [here.gate.decide(HOST, kind).verdict.value for kind in ("mx", "submission", "imaps")] == [
                "black",
                "black",
                "pass",
            ]

    run(scene())
    first, second = (tmp_path / "connections").read_text().splitlines()
    assert first.endswith(": 198.51.100.9 > 203.0.113.25 port 25")
    assert second.endswith(": self > 203.0.113.5 port 25")


@pytest.mark.row("PF-01")
def test_a_file_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    async def scene() -> None:
        settings = _settings(tmp_path, BANNING)
        async with world(settings) as here:
            assert here.gate.decide(HOST, "mx").verdict.value == "pass"
            Path(settings.rules).write_text("block all\npass in lgo\n")
            with pytest.raises(PfConfError, match=r"pf.conf:2: syntax error at 'lgo'"):
                await here.gate.reload(settings)
            assert here.gate.decide(HOST, "mx").verdict.value == "pass"
            Path(settings.rules).write_text("block all\n")
            await here.gate.reload(settings)
            assert here.gate.decide(HOST, "mx").verdict.value == "block"

    run(scene())


@pytest.mark.row("PF-05")
def test_the_files_limit_of_entries_holds_and_the_old_content_stays(tmp_path: Path) -> None:
    async def scene() -> None:
        settings = _settings(tmp_path, ARTICLE.replace("400000", "3"))
        async with world(settings) as here:
            (tmp_path / "nospamd").write_text("198.51.100.1\n198.51.100.2\n198.51.100.3\n198.51.100.4\n")
            with pytest.raises(TableFull):
                await here.gate.reload(settings)
            assert here.gate.sizes()["nospamd"] == 1

    run(scene())


@pytest.mark.row("PF-20")
def test_the_readers_caps_refuse_and_ban_nobody(tmp_path: Path) -> None:
    async def scene() -> None:
        async with world(_settings(tmp_path, CAPPED)) as here:
            decision = here.gate.decide(HOST, "mx")
            opened = [here.gate.opened(HOST, "mx", decision) for _ in range(11)]
            assert opened == [""] * 10 + ["more than 10 connections"]
            for at in range(89):
                assert here.gate.opened(f"198.51.100.{at}", "mx", decision) == ""
            assert here.gate.opened("203.0.113.1", "mx", decision) == "more than 100 connections in all"
            assert here.gate.counts().banned == 0
            assert here.cut == []

    run(scene())


@pytest.mark.row("PF-20")
def test_the_readers_ban_puts_an_offender_into_the_table(tmp_path: Path) -> None:
    async def scene() -> None:
        async with world(_settings(tmp_path, BANNING)) as here:
            decision = here.gate.decide(HOST, "mx")
            for _ in range(11):
                here.gate.opened(HOST, "mx", decision)
            assert here.gate.decide(HOST, "imap").verdict.value == "block"
            assert len(here.cut) == 1

    run(scene())
