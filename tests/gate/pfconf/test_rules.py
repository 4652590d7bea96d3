"""Which rule of a pf.conf decides: quick and last match, lists, tables, ports, families, the article's rules."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.units import Seconds
from gatepost.gate.decide import TABLE_NAMES, Verdict, decide
from gatepost.gate.pfconf.lex import PfConfError
from gatepost.gate.pfconf.rules import PORTS, Asked, PfRules, Ruling
from gatepost.gate.prefix import number_of, parse_prefix
from gatepost.gate.settings import GateSettings, Ipv6, RateSettings
from gatepost.gate.table import Table, Tables, parse_entry
from tests.gate.pfconf.article import ARTICLE, BANNING, CAPPED, CAPPED_LINES

HOST = "192.0.2.1"
HOST6 = "2001:db8::1"
KINDS = {port: kind for kind, port in PORTS.items()}


def ask(
    rules: PfRules | str,
    port: int = 25,
    ip: str = HOST,
    *,
    tables: dict[str, list[str]] | None = None,
    ipv6: Ipv6 = Ipv6.BYPASS,
    lists: tuple[str, ...] = (),
    greylist: bool = True,
) -> Ruling:
    """Decide, and have the plan that is made ready decide the same."""
    made = PfRules.load(rules) if isinstance(rules, str) else rules
    here = Tables(10_000, TABLE_NAMES)
    for name, entries in (tables or {}).items():
        here.replace(Table(name, map(parse_entry, entries)))

    def holds(name: str, version: int, number: int) -> bool:
        return name in here and here[name].holds(version, number)

    version, number = number_of(ip)
    ruling = made.decide(version, number, port, holds, ipv6, lists=lists, greylist=greylist)
    planned = made.plan(port, here, Asked(ipv6, lists, greylist)).decide(version, number)
    assert planned == ruling or (planned.verdict, ruling.rule) == (Verdict.PASS, "set skip on lo")
    last = made.explain(version, number, port, holds, ipv6, lists=lists, greylist=greylist)[-1]
    assert (last.matched, last.rule) == (True, ruling.rule)
    return ruling


def verdict(text: str, port: int = 25, ip: str = HOST, tables: dict[str, list[str]] | None = None) -> str:
    """Return the verdict, and the line that gave it."""
    ruling = ask(text, port, ip, tables=tables)
    return f"{ruling.verdict.value} {ruling.line}"


# --- order ----------------------------------------------------------------------------------------------------


@pytest.mark.row("PF-02")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "pass 0"),
        ("block all", "block 1"),
        ("pass all\nblock all", "block 2"),
        ("block all\npass all", "pass 2"),
        ("block quick all\npass all", "block 1"),
        ("block all\npass quick all\nblock quick all", "pass 2"),
        ("block all\npass in proto tcp to port smtp\nmatch in all scrub (no-df)", "pass 2"),
        ("block all\npass in proto tcp to port imap", "block 1"),
        ("pass all\nblock in from 192.0.2.0/24\npass in from 192.0.2.128/25", "block 2"),
        ("block in proto udp\npass out all", "pass 0"),
        ("block in on lo0 all", "pass 0"),
        ("block in on ! lo0 all", "block 1"),
        ("block in on egress inet6", "pass 0"),
        ("block in on { lo0 egress } inet", "block 1"),
    ],
)
def test_quick_ends_and_otherwise_the_last_match_decides(text: str, expected: str) -> None:
    assert verdict(text) == expected


@pytest.mark.row("PF-02")
def test_which_rule_decides_is_told_with_every_rule_on_the_way() -> None:
    rules = PfRules.load("block all\npass in proto tcp to port smtp\npass out all\nblock in quick from <bad>")
    version, number = number_of(HOST)
    looks = rules.explain(version, number, 25, lambda *_: False, Ipv6.BYPASS)
    assert [(look.rule.split(" (")[1], look.matched, look.why) for look in looks] == [
        ("line 1)", True, "not quick: a later one may decide"),
        ("line 2)", True, "not quick: a later one may decide"),
        ("line 3)", False, "it is for what goes out"),
        ("line 4)", False, "not from <bad>"),
        ("line 2)", True, "decided: pass"),
    ]
    looks = rules.explain(version, number, 143, lambda *_: True, Ipv6.BYPASS)
    assert looks[1].why == "not for port 143"
    assert looks[-1].why == "decided: in bad: block"


# --- conditions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "blocked"),
    [
        ("any", True),
        ("192.0.2.1", True),
        ("192.0.2/24", True),
        ("{ 10/8, 192.0.2.1 }", True),
        ("{ 10/8 198.51.100.1 }", False),
        ("! 10/8", True),
        ("! 192.0.2.0/24", False),
        ("192.0.2.0 - 192.0.2.2", True),
        ("192.0.2.2 - 192.0.2.9", False),
        ("2001:db8::/32", False),
        ("! 2001:db8::/32", False),
        ("<in>", True),
        ("<hole>", False),
        ("<out>", False),
        ("!<out>", True),
        ("!<in>", False),
        ("{ <out>, !<in>, 192.0.2.1 }", True),
        ("{ <out><in> }", True),
        ("urpf-failed", False),
        ("no-route", False),
        ("! no-route", True),
        ("(egress)", False),
        ("self", False),
        ("mail.example.org", False),
    ],
)
def test_sources(source: str, blocked: bool) -> None:
    tables = {"in": ["192.0.2.0/24"], "hole": ["192.0.2.0/24", "!192.0.2.1"], "out": ["10.0.0.0/8"]}
    assert verdict(f"block in from {source}", tables=tables) == ("block 1" if blocked else "pass 0")


@pytest.mark.parametrize(
    ("ports", "blocked"),
    [
        ("25", True),
        ("smtp", True),
        ("{ imap, smtp }", True),
        ("{ imap, pop3 }", False),
        ("20:30", True),
        ("26:30", False),
        ("24 >< 26", True),
        ("25 >< 30", False),
        ("25 <> 30", False),
        ("26 <> 30", True),
        ("= 25", True),
        ("!= 25", False),
        ("< 25", False),
        ("<= 25", True),
        ("> 24", True),
        (">= 26", False),
        ("{ 1:10, >= 25 }", True),
    ],
)
def test_ports(ports: str, blocked: bool) -> None:
    assert verdict(f"block in proto tcp to any port {ports}") == ("block 1" if blocked else "pass 0")


@pytest.mark.row("PF-17")
@pytest.mark.parametrize(
    ("options", "decides"),
    [
        ("flags S/SA modulate state", True),
        ("flags any keep state", True),
        ("flags A/A", False),
        ("flags S/SAFR synproxy state (max-src-states 9, tcp.established 60)", True),
        ("keep state (if-bound, no-sync)", True),
        ("no state", True),
        ("label uRPF queue (a, b) tag X", True),
        ("scrub (no-df random-id max-mss 1440)", True),
        ("set (prio 5, tos lowdelay)", True),
        ("user { root, > 1000 }", False),
        ("probability 20%", False),
        ("tagged GOOD", False),
        ("! tagged GOOD", False),
        ("fragment", False),
    ],
)
def test_options_that_mean_nothing_here_change_nothing_and_conditions_nobody_asks_keep_a_rule_out(
    options: str, decides: bool
) -> None:
    assert verdict(f"block in proto tcp to any port smtp {options}") == ("block 1" if decides else "pass 0")


@pytest.mark.parametrize(
    ("target", "decides"),
    [
        ("any", True),
        ("(egress)", True),
        ("egress", True),
        ("(em0:0)", True),
        ("self", True),
        ("192.0.2.25", True),
        ("2001:db8::25", False),
        ("127.0.0.1", False),
        ("lo0", False),
        ("! lo0", True),
        ("{ 127.0.0.1 192.0.2.25 }", True),
        ("<mine>", True),
        ("! <mine>", False),
        ("em0:network", False),
    ],
)
def test_what_came_to_us_was_for_us(target: str, decides: bool) -> None:
    assert verdict(f"block in proto tcp to {target} port smtp") == ("block 1" if decides else "pass 0")


def test_the_only_interface_of_a_file_is_where_mail_comes_in() -> None:
    assert verdict('ext = "vio0"\nblock in on $ext all') == "block 2"
    assert verdict("block in on egress all\npass in on em1 all") == "block 1"
    two = "block in on em0 all\npass in on em1 all"
    with pytest.raises(PfConfError, match=r"pf.conf:1: on which of em0, em1 .*gate.outside"):
        PfRules.load(two)
    assert ask(PfRules.load(two, outside=["em0"])).line == 1
    assert ask(PfRules.load(two, outside=["em1"])).line == 2
    assert ask(PfRules.load("block in on em all", outside=["em7"])).line == 1


# --- redirection ----------------------------------------------------------------------------------------------

SPAMD8 = """\
table <spamd-white> persist
table <black> persist
pass in on egress inet proto tcp from any to any port smtp divert-to 127.0.0.1 port spamd
pass in on egress proto tcp from <black> to any port smtp rdr-to 127.0.0.1 port 8025
pass in log on egress proto tcp from <spamd-white> to any port smtp
"""


def test_redirection_to_spamd_is_the_tarpit_through_a_table_and_the_greylist_else() -> None:
    everybody = ["0.0.0.0/0", "::/0"]
    assert verdict(SPAMD8) == "grey 3"
    black = ask(SPAMD8, tables={"black": everybody})
    assert (black.verdict, black.lists) == (Verdict.BLACK, ("black",))
    white = ask(SPAMD8, tables={"black": everybody, "spamd-white": everybody})
    assert (white.verdict, white.lists, white.log) == (Verdict.PASS, ("spamd-white",), "pflog0")
    assert verdict("pass in inet proto tcp from !<w> to any port smtp rdr-to 127.0.0.1 port spamd") == "grey 1"


def test_spamds_own_lists_make_grey_senders_black() -> None:
    trapped = ask(ARTICLE, tables={"spamd-greytrap": [HOST]})
    assert (trapped.verdict, trapped.lists) == (Verdict.BLACK, ("spamd-greytrap",))
    both = ask(ARTICLE, tables={"spamd": [HOST], "nixspam": [HOST]}, lists=("nixspam",))
    assert (both.verdict, both.lists) == (Verdict.BLACK, ("spamd", "nixspam"))
    assert ask(ARTICLE, 587, tables={"spamd": [HOST], "spamd-greytrap": [HOST]}).lists == ("spamd",)


def test_redirection_elsewhere_is_not_ours() -> None:
    assert verdict("block all\npass in proto tcp to port smtp rdr-to 192.0.2.9") == "block 1"
    assert verdict("block all\npass in proto tcp to port smtp rdr-to 127.0.0.1 port 10025") == "pass 2"
    with pytest.raises(PfConfError, match=r"pf.conf:2: match with rdr-to"):
        PfRules.load("pass all\nmatch in proto tcp to port smtp rdr-to 127.0.0.1 port spamd")


# --- IPv6 -----------------------------------------------------------------------------------------------------


@pytest.mark.row("PF-19")
@pytest.mark.parametrize("policy", list(Ipv6))
def test_unlisted_ipv6_to_port_25_is_met_by_policy_not_by_the_rule_for_all_that_is_left(policy: Ipv6) -> None:
    expected = {Ipv6.BYPASS: Verdict.PASS, Ipv6.GREYLIST: Verdict.GREY, Ipv6.BLOCK: Verdict.BLOCK}[policy]
    assert ask(ARTICLE, ip=HOST6, ipv6=policy).verdict is expected
    assert ask(ARTICLE, ip=HOST6, ipv6=policy, tables={"bgp_spamd": ["2001:db8::/32"]}).verdict is Verdict.BLACK
    assert ask(ARTICLE, ip=HOST6, ipv6=policy, tables={"nospamd": ["2001:db8::/32"]}).line == 65
    assert ask(ARTICLE, 587, ip=HOST6, ipv6=policy, tables={"spamd": ["2001:db8::/32"]}).line == 78
    assert ask(ARTICLE, 22, ip=HOST6, ipv6=policy).line == 89


def test_a_rule_that_says_inet6_or_the_port_decides_before_policy() -> None:
    rules = "pass in quick proto tcp from any to any port smtp rdr-to 127.0.0.1 port spamd\n"
    assert verdict(rules + "block in quick inet6 all", ip=HOST6) == "block 2"
    assert verdict(rules + "block in quick proto tcp to port { smtp, 587 }", ip=HOST6) == "block 2"
    assert verdict(rules + "block in quick all", ip=HOST6) == "pass 0"
    both = rules + "pass in quick inet6 proto tcp to port smtp rdr-to ::1 port spamd"
    assert verdict(both, ip=HOST6) == "grey 2"


# --- the article ----------------------------------------------------------------------------------------------


@pytest.mark.row("PF-01", "PF-02", "PF-08", "PF-11", "PF-12", "PF-13", "PF-14")
@pytest.mark.parametrize("port", [25, 465, 587, 143, 993, 110, 995])
@pytest.mark.parametrize("ip", [HOST, HOST6])
def test_the_articles_file_decides_as_the_table_made_from_it(port: int, ip: str) -> None:
    rules = PfRules.load(ARTICLE)
    for chosen in product((False, True), repeat=len(TABLE_NAMES)):
        names = [name for name, taken in zip(TABLE_NAMES, chosen, strict=True) if taken]
        if ip == HOST6 and port in (465, 587) and {"spamd", "bgp_spamd"} & set(names):
            continue  # redirected to 127.0.0.1: as in PF not for IPv6
        ruling = ask(rules, port, ip, tables={name: ["0.0.0.0/0", "::/0"] for name in names})
        built_in = decide(ip, KINDS[port], _Members(names), GateSettings(ipv6=Ipv6.BYPASS), ())
        assert (ruling.verdict, ruling.lists) == (built_in.verdict, built_in.lists)


@pytest.mark.row("PF-01")
@pytest.mark.parametrize(
    ("port", "tables", "expected"),
    [
        (25, {}, "grey 74"),
        (25, {"spamd-white": [HOST], "bgp_spamd": [HOST]}, "pass 65"),
        (587, {"spamd-white": [HOST], "bgp_spamd": [HOST]}, "black 70"),
        (993, {"bgp_spamd": [HOST]}, "pass 58"),
        (465, {}, "pass 78"),
        (993, {"bruteforce": [HOST]}, "block 47"),
        (22, {}, "block 89"),
        (8026, {}, "block 89"),
    ],
)
def test_the_articles_lines(port: int, tables: dict[str, list[str]], expected: str) -> None:
    assert verdict(ARTICLE, port, tables=tables) == expected


@pytest.mark.row("PF-06")
def test_lo_is_skipped_and_nobody_outside_reaches_internal_ports() -> None:
    for port in (25, 10025, 8026):
        assert ask(ARTICLE, port, "127.0.0.1", tables={"bruteforce": ["127.0.0.1"]}).verdict is Verdict.PASS
        assert ask(ARTICLE, port, "::1").verdict is Verdict.PASS
    assert ask(ARTICLE, 10025).line == 89
    assert verdict("block all", ip="127.0.0.1") == "block 1"


def test_the_articles_tables_limits_and_logs() -> None:
    rules = PfRules.load(ARTICLE)
    assert set(rules.tables) == set(TABLE_NAMES) - {"spamd-greytrap"}
    assert all(table.persist for table in rules.tables.values())
    assert rules.tables["nospamd"].files == ("/etc/mail/nospamd",)
    assert rules.conf.table_entries == 400_000
    assert rules.contact_log == "pflog1"
    (imap,), (submission,) = (tuple(rules.rates(port).values()) for port in (993, 587))
    assert imap.rate == _rate(50, 50)
    assert submission.rate == _rate(50, 25)
    assert imap.flush
    assert imap.everywhere
    assert not rules.rates(25)
    assert ask(rules, 587).limits == submission
    assert ask(rules, tables={"nospamd": [HOST]}).log == "pflog1"
    assert ask(rules).log == ""


@pytest.mark.row("PF-01")
@pytest.mark.parametrize("text", [CAPPED, CAPPED_LINES])
def test_the_readers_caps_without_a_ban(text: str) -> None:
    (limits,) = PfRules.load(text).rates(25).values()
    assert limits.rate == _rate(10, 10, total=100, overload="")
    assert verdict(text) == "pass 1"


@pytest.mark.row("PF-01")
def test_the_readers_ban() -> None:
    (limits,) = PfRules.load(BANNING).rates(25).values()
    assert limits.rate == _rate(10, 10)
    assert verdict(BANNING, tables={"bruteforce": [HOST]}) == "block 2"
    assert verdict(BANNING) == "pass 3"


# --- files ----------------------------------------------------------------------------------------------------


def test_files_include_files_and_mistakes_name_theirs(tmp_path: Path) -> None:
    main, part = tmp_path / "pf.conf", tmp_path / "part.conf"
    main.write_text(f'block all\ninclude "{part}"\n')
    part.write_text("\npass in proto tcp to port smtp\n")
    ruling = PfRules.load(main).decide(4, 1, 25, lambda *_: False, Ipv6.BYPASS)
    assert (ruling.line, ruling.rule) == (2, f"pass in proto tcp to port smtp (line 2 of {part})")
    part.write_text("\npass in proto tcp to port nowhere\n")
    with pytest.raises(PfConfError, match=r"part.conf:2: unknown port nowhere"):
        PfRules.load(main)
    part.write_text(f'include "{main}"')
    with pytest.raises(PfConfError, match="8 deep"):
        PfRules.load(main)
    part.unlink()
    with pytest.raises(PfConfError, match=r"pf.conf:2: .*part.conf cannot be read"):
        PfRules.load(main)
    with pytest.raises(PfConfError, match=r"none.conf: it cannot be read"):
        PfRules.load(tmp_path / "none.conf")
    main.write_bytes(b"\xff\xfe")
    with pytest.raises(PfConfError, match="cannot be read"):
        PfRules.load(main)


# --- properties -----------------------------------------------------------------------------------------------

RULES = st.lists(
    st.builds(
        "{} in {} {} proto tcp from {} to any port {} {}".format,
        st.sampled_from(("pass", "block", "match")),
        st.sampled_from(("", "quick", "log")),
        st.sampled_from(("", "inet", "inet6", "on egress", "on lo0")),
        st.sampled_from(("any", "<a>", "!<a>", "{ <a> <b> }", "192.0.2.0/25", "! 192.0.2.0/25", "2001:db8::/32")),
        st.sampled_from(("smtp", "{ smtp 587 }", "1:100", "587")),
        st.sampled_from(("", "rdr-to 127.0.0.1 port spamd")),
    ).filter(lambda rule: not (rule.startswith("match") and "rdr-to" in rule)),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(RULES, st.sampled_from((25, 587)), st.sampled_from((HOST, "192.0.2.200")), st.sets(st.sampled_from("ab")))
def test_what_is_made_ready_decides_as_a_walk_through_the_file(
    rules: list[str], port: int, ip: str, members: set[str]
) -> None:
    tables = {name: [ip] for name in members}
    assert ask("\n".join(rules), port, ip, tables=tables).line == _walk(rules, port, ip, members)


def _walk(rules: list[str], port: int, ip: str, members: set[str]) -> int:
    """Return the line that decides, by PF's own words: the last match, or the first quick one."""
    net = parse_prefix("192.0.2.0/25").holds(*number_of(ip))
    sources: dict[str, Callable[[], bool]] = {
        "any": lambda: True,
        "<a>": lambda: "a" in members,
        "!<a>": lambda: "a" not in members,
        "{ <a> <b> }": lambda: bool(members),
        "192.0.2.0/25": lambda: net,
        "! 192.0.2.0/25": lambda: not net,
        "2001:db8::/32": lambda: False,
    }
    ports = {"smtp": (25,), "{ smtp 587 }": (25, 587), "1:100": (25,), "587": (587,)}
    decided = 0
    for line, rule in enumerate(rules, 1):
        head, _, rest = rule.partition(" from ")
        source, _, rest = rest.partition(" to any port ")
        where = rest.replace("rdr-to 127.0.0.1 port spamd", "").strip()
        words = head.split()
        if words[0] == "match" or "inet6" in words or "lo0" in words or port not in ports[where]:
            continue
        if sources[source]():
            decided = line
            if "quick" in words:
                break
    return decided


def _rate(connections: int, count: int, *, total: int = 0, overload: str = "bruteforce") -> RateSettings:
    return RateSettings(connections=connections, count=count, within=Seconds(5), total=total, overload=overload)


class _Members:
    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.lists: tuple[str, ...] = ()

    def holds(self, table: str, version: int, number: int) -> bool:
        return table in self.names
