"""`gatepost import bgpd.conf`: the settings that come out say what went in."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gatepost.cli.imports import imports
from gatepost.config import parse as parse_config
from gatepost.feeds.bgp import conf
from gatepost.feeds.bgp.filter import ONLY_MATCHES
from gatepost.feeds.bgp.toml import as_toml
from tests.feeds.bgp.test_conf import ARTICLE


def test_the_articles_configuration_becomes_toml(tmp_path: Path) -> None:
    (tmp_path / "bgpd.conf").write_text(ARTICLE + "log updates\n")
    made = CliRunner().invoke(imports, ["bgpd.conf", str(tmp_path / "bgpd.conf")])
    assert made.exit_code == 0
    lines = made.stdout.splitlines()
    assert lines[0].startswith(f"# {tmp_path}/bgpd.conf:25: left out: log updates")
    assert lines[1] == f"# {ONLY_MATCHES}"
    bgp = parse_config(made.stdout, Path("gatepost.toml")).feeds.bgp
    assert bgp.asn == 65500
    assert bgp.neighbors == tuple(conf.parse(ARTICLE, Path("bgpd.conf")).neighbors)
    assert [(each.community, each.table, each.neighbor) for each in bgp.tables] == [
        ("65066:42", "bgp_spamd_bypass", "group spam-bgp"),
        ("65066:666", "bgp_spamd", "group spam-bgp"),
    ]


def test_rules_that_are_more_than_a_community_stay_words_of_bgpd() -> None:
    text = ARTICLE + 'allow from any prefix { 5.0.0.0/8 prefixlen >= 24 } set pftable "x\\"y"\n'.replace(
        'x\\"y', "x"
    )
    bgp = parse_config(as_toml(conf.parse(text, Path("bgpd.conf"))), Path("gatepost.toml")).feeds.bgp
    assert not bgp.tables
    assert bgp.filters == (
        'match from group "spam-bgp" community 65066:42 set pftable "bgp_spamd_bypass"',
        'match from group "spam-bgp" community 65066:666 set pftable "bgp_spamd"',
        'allow from any prefix 5.0.0.0/8 prefixlen 24 - 32 set pftable "x"',
    )


def test_everything_of_a_neighbor_survives() -> None:
    text = """
AS 65500
router-id 192.0.2.1
holdtime 30
holdtime min 9
listen on 192.0.2.1 port 1179
neighbor 192.0.2.7 {
    remote-as 1.10
    descr "the \\"first\\""
    max-prefix 1000 restart 5
    enforce neighbor-as no
    passive
    tcp md5sig key 6d656b6d
    ttl-security yes
    announce IPv6 none
    holdtime 12
}
"""
    found = conf.parse(text, Path("bgpd.conf"))
    bgp = parse_config(as_toml(found), Path("gatepost.toml")).feeds.bgp
    assert bgp.neighbors == tuple(found.neighbors)
    assert (bgp.router_id, bgp.holdtime, bgp.holdtime_min, bgp.listen) == (
        "192.0.2.1",
        found.holdtime,
        found.holdtime_min,
        ("192.0.2.1:1179",),
    )


@pytest.mark.parametrize("text", ["AS nothing\n", None])
def test_a_file_that_cannot_be_used_says_so(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "bgpd.conf"
    if text is not None:
        file.write_text(text)
    made = CliRunner().invoke(imports, ["bgpd.conf", str(file)])
    assert made.exit_code == 1
    assert str(file) in str(made.exception)
