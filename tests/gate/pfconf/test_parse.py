"""pf.conf read: macros, lists, joined lines, tables, and mistakes with their line and remedy."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.gate.pfconf.lex import EXPANDED_MAX, MACRO_MAX, TEXT_MAX, WORDS_MAX, Lexer, PfConfError
from gatepost.gate.pfconf.parse import RULES_MAX, parse
from gatepost.gate.pfconf.rules import PfRules
from gatepost.gate.pfconf.words import Conf, InTable, Within
from gatepost.gate.prefix import Prefix
from tests.gate.pfconf.article import ARTICLE, BANNING, BANNING_PRINTED, CAPPED

FILE = Path("pf.conf")


def _conf(text: str) -> Conf:
    return parse(text, FILE)


def _words(text: str, **macros: str) -> list[tuple[str, int]]:
    return [(word.text, word.line) for word in Lexer(text, FILE, macros).statement()]


# --- words ----------------------------------------------------------------------------------------------------


@pytest.mark.row("PF-01")
def test_lines_are_joined_by_a_backslash_also_within_comments() -> None:
    assert _words("pass \\\n in # x \\\n y\nz") == [("pass", 1), ("in", 2)]
    assert _words("pa\\\nss \\ in") == [("pass", 1), ("in", 2)]
    assert _words("\n\n# a\n  block\r\n") == [("block", 4)]


@pytest.mark.row("PF-01")
def test_braces_go_over_lines() -> None:
    assert _words("a {\n b # c\n }\nd") == [("a", 1), ("{", 1), ("b", 2), ("}", 3)]


def test_quotes_join_lines_and_keep_everything_else() -> None:
    assert _words('x \'a # { $b "\' "c\\"d\ne"') == [("x", 1), ('a # { $b "', 1), ('c"de', 1)]


@pytest.mark.row("PF-01")
def test_macros_are_put_in_as_text_and_may_hold_lists_and_other_macros() -> None:
    conf = _conf(
        'mail = "{ smtp, 587 }"\nweb = "80 443"\nall = "{" $web 25 "}"\nhosts = "{ 192.0.2.1, <a> }"\n'
        "pass in proto tcp from $hosts to any port $all\npass in proto tcp to port $mail\n"
    )
    assert conf.rules[0].ports == ((80, 80), (443, 443), (25, 25))
    assert conf.rules[0].sources == (Within((_network("192.0.2.1"),)), InTable("a"))
    assert conf.rules[1].ports == ((25, 25), (587, 587))


def _network(text: str) -> Prefix:
    (host,) = _conf(f"pass from {text}").rules[0].sources
    assert isinstance(host, Within)
    return host.networks[0]


# --- tables ---------------------------------------------------------------------------------------------------


@pytest.mark.row("PF-03", "PF-04")
def test_tables_have_files_addresses_and_holes() -> None:
    table = _conf(
        "table <rfc1918> const { 10/8, 172.16.0.0/12 !10.1.2.3\n 2001:db8::/32 }"
        ' persist file "/a" file "/b" counters'
    ).tables["rfc1918"]
    assert [("!" if each.negated else "") + each.text for each in table.entries] == [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "!10.1.2.3",
        "2001:db8::/32",
    ]
    assert (table.persist, table.const, table.files) == (True, True, ("/a", "/b"))


def test_a_range_is_the_fewest_networks() -> None:
    entries = _conf("table <t> { 192.0.2.1 - 192.0.2.6 }").tables["t"].entries
    assert [each.text for each in entries] == ["192.0.2.1", "192.0.2.2/31", "192.0.2.4/31", "192.0.2.6"]
    whole = _conf("table <t> { 0.0.0.0 - 255.255.255.255 }").tables["t"].entries
    assert [each.text for each in whole] == ["0.0.0.0/0"]


@pytest.mark.row("PF-05")
@pytest.mark.parametrize("text", ["set limit table-entries 9", "set limit { states 5, table-entries 9 }"])
def test_the_limit_of_entries(text: str) -> None:
    assert _conf(text).table_entries == 9


# --- mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.row("PF-01")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n\npas in all", "pf.conf:3: syntax error at 'pas' (a statement begins with"),
        ("pass in quick lgo all", "pf.conf:1: syntax error at 'lgo'"),
        ("pass in proto tcp to any port {", "pf.conf:1: this { is never closed (add the })"),
        ("\npass from 192.0.2.300", "pf.conf:2: '192.0.2.300' is no address"),
        ("pass from 192.0.2.0/33", "pf.conf:1: '192.0.2.0/33' is no address"),
        ("pass proto tcp to port smpt", "pf.conf:1: unknown port smpt"),
        ("pass proto tcp to port 65536", "pf.conf:1: unknown port 65536"),
        ("pass to any port smtp", "pf.conf:1: port only applies to tcp/udp (write proto tcp)"),
        ("pass in on", "pf.conf:1: an interface is missing at the end of the line"),
        ("pass from $nobody", "pf.conf:1: macro 'nobody' not defined"),
        ('a = "($b)"\npass from $a', "pf.conf:2: macros are not put in within quotes"),
        ('a = "\npass', "pf.conf:1: a quoted string is never closed"),
        ("table bruteforce persist", "pf.conf:1: a table's name stands between < and >"),
        ("table <t persist", "pf.conf:1: <t is never closed"),
        (f"table <{'t' * 32}>", "pf.conf:1: table name"),
        ("table <t> persistent", "pf.conf:1: syntax error at 'persistent' in table <t>"),
        (BANNING_PRINTED, "pf.conf:1: syntax error at 'block' in table <bruteforce> (persist, const"),
        ("set limit table-entries many", "pf.conf:1: the limit of table-entries is 'many'"),
        ("set block-policy refuse", "pf.conf:1: block-policy is 'refuse'"),
        ("set skip lo", "pf.conf:1: 'on' is missing before 'lo'"),
        ("set nothing", "pf.conf:1: there is no option 'nothing'"),
        ("pass keep state (max-src-conn-rate 50)", "pf.conf:1: max-src-conn-rate is a number and seconds"),
        ("pass keep state (max-src-conn-rate 5/0)", "pf.conf:1: max-src-conn-rate in no time"),
        ("pass keep state (overload <b> flush)", "pf.conf:1: overload without a limit of a source"),
        ("pass keep state (max 5", "pf.conf:1: an option of the state is missing"),
        ("pass flags S", "pf.conf:1: flags without /"),
        ("pass rdr-to { 127.0.0.1 ::1 }", "pf.conf:1: rdr-to needs one address"),
        ("pass from any (max 5)", "pf.conf:1: syntax error at '('"),
        ("pass all\x00", "pf.conf:1: '\\x00' has no meaning here"),
        ("a/b = 5", "pf.conf:1: syntax error at 'a'"),
        ("ünï = 5", "pf.conf:1: 'ünï' is no name for a macro"),
        ("x =", "pf.conf:1: macro x has no text"),
        ('include "/x"', "pf.conf:1: files are not included here"),
        ("pass from " + "{" * 20 + "any" + "}" * 20, "pf.conf:1: lists in lists 8 deep"),
    ],
)
def test_mistakes_name_line_and_remedy(text: str, problem: str) -> None:
    with pytest.raises(PfConfError) as wrong:
        _conf(text)
    assert str(wrong.value).startswith(problem)
    assert str(wrong.value).endswith(")")
    assert wrong.value.line


def test_what_would_grow_without_end_is_refused() -> None:
    with pytest.raises(PfConfError, match="the file has more than"):
        _conf(" " * (TEXT_MAX + 1))
    doubling = 'a = "0123456789"\n' + "a = $a $a\n" * 30
    with pytest.raises(PfConfError, match=f"more than {MACRO_MAX} letters"):
        _conf(doubling)
    long = 'a = "' + "x" * 10_000 + '"\n' + "antispoof $a\n" * (EXPANDED_MAX // 10_001)
    assert len(_conf(long).remarks) == EXPANDED_MAX // 10_001
    with pytest.raises(PfConfError, match=f"{EXPANDED_MAX // 10_001 + 2}: macros make more than {EXPANDED_MAX}"):
        _conf(long + "antispoof $a\n")
    with pytest.raises(PfConfError, match=f"more than {WORDS_MAX} words"):
        _conf("{" * (WORDS_MAX + 1))
    with pytest.raises(PfConfError, match=f"pf.conf:{RULES_MAX + 1}: more than {RULES_MAX} rules"):
        _conf("pass all\n" * (RULES_MAX + 1))
    with pytest.raises(PfConfError, match="is 254 networks"):
        _conf("table <t> { ::1 - ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe }")
    with pytest.raises(PfConfError, match="more than 32 files are included"):
        parse('include "a"\n' * 33, FILE, lambda _: "pass all")


# --- any text -------------------------------------------------------------------------------------------------

WORDS = """
    pass block match in out log quick on egress lo0 inet inet6 proto tcp udp from to any port all table set smtp 587
    1:100 <a> < > ! = != >= >< <> { } ( ) / , $a \\ ' " # 192.0.2.0/24 2001:db8::1 - self limit table-entries skip
    block-policy return drop keep state max max-src-conn-rate 5/3 overload flush rdr-to 127.0.0.1 spamd persist
    const file label user os flags S/SA no-route anchor nat include 99999999999
"""
PIECES = st.sampled_from((*WORDS.split(), "\n", "\\\n"))
STATEMENTS = st.lists(PIECES, max_size=30).map(" ".join)
ONE_STEP_AWAY = st.tuples(
    st.sampled_from((ARTICLE, BANNING, CAPPED)), st.integers(0, 4000), st.integers(0, 40), st.text(max_size=5)
).map(lambda it: it[0][: it[1]] + it[3] + it[0][it[1] + it[2] :])
FIXED = (
    "",
    "\\",
    "#\\",
    "$",
    '"',
    "'\\",
    "<",
    "pass from <",
    "pass from <a><",
    "a=$a",
    "pass from {}",
    "pass proto {}",
    "pass on {}",
    "pass proto tcp to port {}",
    "table <a> {}",
    "set limit {}",
    "pass rdr-to {}",
    "pass from any - any",
    "pass from 1 - ::",
    "{" * 5000,
    "}" * 5000,
    "pass from " + "!" * 5000 + "any",
    "(" * 5000,
    "pass queue " + "(" * 5000,
    "pass flags /",
    "pass proto tcp to port 5:",
    "pass proto tcp to port ²",
    "pass keep state (max ²)",
    "pass from fe80::1%lo0",
    "set skip on { }",
    "pass from ::ffff:192.0.2.1/8",
)


def _take(text: str) -> None:
    """Read any text: rules, or an error that names a line of it; both soon."""
    began = time.process_time()
    try:
        rules = PfRules.load(text)
    except PfConfError as wrong:
        line = wrong.line
    else:
        line = 1
        assert all(rules.steps(version, port) for version in (4, 6) for port in (25, 587, 1))
    assert 1 <= line <= text.count("\n") + 1
    assert time.process_time() - began < 2


@pytest.mark.row("PF-01")
@pytest.mark.parametrize("text", FIXED)
def test_odd_texts_are_rules_or_an_error(text: str) -> None:
    _take(text)


@settings(deadline=None)
@given(st.one_of(STATEMENTS, ONE_STEP_AWAY, st.text(max_size=200)))
def test_any_text_is_rules_or_an_error(text: str) -> None:
    _take(text)


@pytest.mark.deep
def test_a_sweep_of_texts_is_rules_or_errors(deep: bool) -> None:
    @settings(max_examples=6_000 if deep else 200, deadline=None)
    @given(st.one_of(STATEMENTS, ONE_STEP_AWAY))
    def sweep(text: str) -> None:
        _take(text)

    sweep()
