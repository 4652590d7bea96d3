"""A smtpd.conf of either grammar decides here as it did there, and nothing of it is dropped in silence."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepost.base.settings import BadSetting
from gatepost.config import ConfigError
from gatepost.policy.action import RelayTls
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load
from gatepost.policy.smtpdconf.lex import INCLUDE_DEPTH, MACRO_MAX, TEXT_MAX, WORDS_MAX
from gatepost.policy.smtpdconf.read import read
from gatepost.policy.smtpdconf.toml import as_toml, report
from gatepost.policy.smtpdconf.words import Found, Heed, SmtpdConfError
from tests.policy.smtpdconf import ARTICLE, TWIN, config_of, found_in, policy_of, told
from tests.policy.world import ANN, LOCAL, STRANGER, refusal, route

TAGGED_IN = replace(LOCAL, tag="SPAM_IN")
TAGGED_OUT = replace(LOCAL, tag="DKIM_OUT")
SCANNER = "smtp://127.0.0.1:10025"
SIGNER = "smtp://127.0.0.1:10027"
LMTP = "lmtp:///var/dovecot/lmtp"
SECRETS = "table secrets file:/etc/mail/secrets\n"


# --- the article ----------------------------------------------------------------------------------------------


@pytest.mark.row("MT-29")
@pytest.mark.parametrize("text", [ARTICLE, TWIN], ids=["old", "new"])
def test_both_grammars_of_the_article_send_mail_the_same_ways(text: str, tmp_path: Path) -> None:
    policy = policy_of(found_in(text, tmp_path))
    assert route(policy, "joe.bloggs@here.example") == [f"{SCANNER} joe.bloggs@here.example"]
    assert route(policy, "joe.bloggs@here.example", TAGGED_IN) == [f"{LMTP} joe"]
    assert route(policy, "x@far.example", TAGGED_OUT) == ["relay x@far.example"]
    assert route(policy, "x@far.example", LOCAL) == [f"{SIGNER} x@far.example"]
    assert route(policy, "x@far.example", ANN) == [f"{SIGNER} x@far.example"]
    assert refusal(policy, "nobody@here.example", TAGGED_IN)[0] == 550
    assert refusal(policy, "blocked@here.example")[0] == 550
    assert refusal(policy, "x@far.example")[0] == 550


def test_the_old_article_shadows_its_alias_rule_as_smtpd_does_and_the_twin_does_not(tmp_path: Path) -> None:
    old = found_in(ARTICLE, tmp_path)
    assert route(policy_of(old), "root@localhost", TAGGED_IN) == [f"{LMTP} root"]
    assert "never reached: the rule of line 45 stands before it" in told(old)
    new = found_in(TWIN, tmp_path)
    assert route(policy_of(new), "root@localhost", TAGGED_IN) == [f"{LMTP} joe"]
    assert "never reached" not in told(new)


def test_listeners_of_the_article_keep_ports_tags_and_who_must_log_in(tmp_path: Path) -> None:
    config = config_of(found_in(ARTICLE, tmp_path))
    listeners = {name: (each.kind.value, each.address, each.tag) for name, each in config.listen.items()}
    assert listeners == {
        "mx": ("mx", ("0.0.0.0:25", "[::]:25"), ""),
        "submissions": ("submissions", ("0.0.0.0:465", "[::]:465"), ""),
        "submission": ("submission", ("0.0.0.0:587", "[::]:587"), ""),
        "spam_in": ("mx", ("127.0.0.1:10026", "[::1]:10026"), "SPAM_IN"),
        "dkim_out": ("mx", ("127.0.0.1:10028", "[::1]:10028"), "DKIM_OUT"),
    }
    assert config.intake.mx_auth
    assert config.intake.max_size == 50 << 20
    assert [each.certificate for each in config.tls.certificates] == [
        "/etc/ssl/smtp.example.com.crt",
        "/etc/ssl/mail.example.com.crt",
        "/etc/ssl/mx.example.com.crt",
    ]


@pytest.mark.parametrize("text", [ARTICLE, TWIN], ids=["old", "new"])
def test_every_statement_has_its_line_in_the_report_and_the_key_has_none(text: str, tmp_path: Path) -> None:
    found = found_in(text, tmp_path)
    begun, joined = set(), False
    for number, line in enumerate(text.split("\n"), 1):
        if not joined and line.strip() and not line.strip().startswith("#"):
            begun.add(number)
        joined = line.endswith("\\")
    assert {each.line for each in report(found)} == begun
    key = "24443e7a4056df59c76f9235c2360cf3"
    assert key in text
    assert key not in told(found) + as_toml(found)


def test_logins_are_local_in_the_old_grammar_only(tmp_path: Path) -> None:
    assert config_of(found_in(ARTICLE, tmp_path)).policy.authenticated_is_local
    assert not config_of(found_in(TWIN, tmp_path)).policy.authenticated_is_local


# --- where mail goes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "tls", "implicit", "port"),
    [
        ("smtp://h.example", RelayTls.NONE, False, 0),
        ("h.example", RelayTls.MAY, False, 0),
        ("smtp+tls://h.example:2525", RelayTls.MAY, False, 2525),
        ("tls://h.example", RelayTls.REQUIRE, False, 0),
        ("smtps://[2001:db8::1]:4465", RelayTls.REQUIRE, True, 4465),
        ("secure://h.example", RelayTls.REQUIRE, True, 0),
    ],
)
def test_relay_urls_of_the_old_grammar(url: str, tls: RelayTls, implicit: bool, port: int, tmp_path: Path) -> None:
    found = found_in(f'accept for any relay via "{url}"\n', tmp_path)
    (action,) = config_of(found).policy.actions.values()
    assert (action.tls, action.implicit_tls, action.port) == (tls, implicit, port)


@pytest.mark.parametrize(
    ("words", "tls", "implicit"),
    [
        ("host smtp://h.example", RelayTls.MAY, False),
        ("host smtp+notls://h.example", RelayTls.NONE, False),
        ("host smtp+tls://h.example", RelayTls.VERIFY, False),
        ("host smtps://h.example", RelayTls.VERIFY, True),
        ("host smtps://h.example tls no-verify", RelayTls.REQUIRE, True),
        ("host smtp://h.example tls", RelayTls.VERIFY, False),
        ("host smtp://h.example tls no-verify", RelayTls.REQUIRE, False),
    ],
)
def test_relay_urls_of_the_new_grammar(words: str, tls: RelayTls, implicit: bool, tmp_path: Path) -> None:
    found = found_in(f'action "o" relay {words}\nmatch for any action "o"\n', tmp_path)
    action = config_of(found).policy.actions["o"]
    assert (action.tls, action.implicit_tls) == (tls, implicit)


@pytest.mark.parametrize(
    "rules",
    [
        'accept for any relay via "secure+auth://isp@h.example" auth <secrets>\n',
        'action "o" relay host smtps://isp@h.example auth <secrets>\nmatch for any action "o"\n',
    ],
)
def test_a_provider_with_a_password_names_the_file_of_passwords(rules: str, tmp_path: Path) -> None:
    config = config_of(found_in(SECRETS + rules, tmp_path))
    (action,) = config.policy.actions.values()
    assert (action.auth, action.implicit_tls) == ("isp", True)
    assert config.relay.credentials == str(tmp_path / "secrets")
    assert "secrets" not in config.policy.tables


def test_passwords_written_in_the_file_are_shown_nowhere(tmp_path: Path) -> None:
    found = found_in(
        'table s { isp = "user:word" }\naccept for any relay via "tls+auth://isp@h.example" auth <s>\n', tmp_path
    )
    assert "user:word" not in told(found) + as_toml(found)
    assert "passwords are read from a file" in told(found)


def test_what_becomes_of_a_table_of_passwords_is_told(tmp_path: Path) -> None:
    text = (
        'table idle { a = "word" }\ntable people { b = "hash" }\nlisten on lo0 port 587 tls-require auth <people>\n'
    )
    relay = 'accept for any relay via "tls+auth://isp@h.example" auth <secrets>\n'
    found = found_in(text + SECRETS + relay, tmp_path)
    lines = told(found).splitlines()
    assert lines[0].startswith("1: ignored     table idle { a = *** }: nothing uses it")
    assert lines[1].startswith("2: unsupported table people { b = *** }: it holds passwords and is not copied")
    assert any(line.startswith("4: mapped") and line.endswith(": relay.credentials") for line in lines)
    assert config_of(found).policy.tables == {}


def test_limits_times_and_delimiters(tmp_path: Path) -> None:
    text = "expire 2d\nbounce-warn 1h, 6h\nlimit session max-rcpt 20 max-mails 7\nsubaddressing-delimiter -\n"
    found = found_in(text + "accept for local deliver to mbox\n", tmp_path)
    config = config_of(found)
    assert float(config.queue.lifetime) == 2 * 86_400
    assert float(config.queue.warn_after) == 3600.0
    assert (config.intake.max_recipients, config.intake.max_mails) == (100, 7)
    assert (config.policy.subaddress, config.accounts.detail_separator) == ("-", "-")
    assert "a sender is warned once" in told(found)
    assert "100 at least" in told(found)


def test_conditions_of_match(tmp_path: Path) -> None:
    text = (
        'action "o" relay\n'
        'match !from src { 192.0.2.0/24, 2001:db8::/32 } !for domain "*.far.example" action "o"\n'
        'match from rdns "*.x.example" for rcpt-to <users> tls reject\n'
        'match auth "ann@here.example" mail-from "@here.example" helo "h" for any action "o"\n'
    )
    found = found_in("table users file:/etc/mail/users\n" + text, tmp_path)
    policy_of(found)
    assert [dict(each.match) for each in found.rules] == [
        {"from": ("!192.0.2.0/24", "!2001:db8::/32"), "for": "!*.far.example"},
        {"from": "any", "rdns": "*.x.example", "for": "any", "recipient": "<users>", "tls": True},
        {"auth": "ann@here.example", "sender": "@here.example", "helo": "h", "for": "any"},
    ]


# --- what cannot be said --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'accept for local deliver to mda "procmail -a %{rcpt.user}"\n',
        'action "m" mda "procmail" user root\nmatch for local action "m"\n',
        'action "o" relay\nmatch from socket for any action "o"\n',
        'action "o" relay\nmatch mail-from regex "^x" for any reject\n',
        'action "o" relay domain <hosts>\nmatch for any action "o"\n',
        'accept for any relay via "tls+auth://isp@h.example"\n',
    ],
)
def test_a_rule_that_no_setting_says_keeps_the_settings_from_being_taken(text: str, tmp_path: Path) -> None:
    found = found_in("table hosts { a = b }\n" + text, tmp_path)
    assert "the settings are not taken before you decide about line" in told(found)
    with pytest.raises(BadSetting, match=r"policy.rules.0.action: there is no action 'undecided-line-"):
        load(config_of(found).policy)


def test_an_interface_that_only_the_operator_knows_keeps_the_settings_from_being_taken(tmp_path: Path) -> None:
    found = found_in("listen on em1\naccept for local deliver to mbox\n", tmp_path)
    with pytest.raises(ConfigError, match=r"gatepost.toml:[0-9]+: .*'em1' is not an address"):
        config_of(found)


def test_a_table_of_a_program_is_left_out_so_that_its_rule_asks_for_it(tmp_path: Path) -> None:
    found = found_in("table d mysql:/etc/my.conf\naccept for domain <d> deliver to mbox\n", tmp_path)
    assert "not read from mysql" in told(found)
    with pytest.raises(BadSetting, match="there is no table 'd'"):
        load(config_of(found).policy)


def test_a_tagged_listener_beside_one_on_every_address_of_its_port_is_told(tmp_path: Path) -> None:
    found = found_in("listen on egress\nlisten on lo0 tag HERE\naccept for local deliver to mbox\n", tmp_path)
    assert "port 25 is taken there by another listener on every address" in told(found)


def test_a_file_without_rules_says_that_ours_would_hold(tmp_path: Path) -> None:
    assert "this server has rules of its own where none is written" in told(found_in("expire 4d\n", tmp_path))


# --- words ----------------------------------------------------------------------------------------------------


def test_macros_includes_joined_lines_and_comments(tmp_path: Path) -> None:
    part = tmp_path / "part.conf"
    part.write_text(
        "accept from any \\\n  for domain $ours \\\n  deliver to mbox # the \\\n end is still a comment\n"
    )
    found = found_in(f'ours = "here.example"\ninclude "{part}"\naccept for any relay\n', tmp_path)
    assert [(each.file.name, each.line) for each in found.rules] == [("part.conf", 1), ("smtpd.conf", 3)]
    assert found.rules[0].match["for"] == "here.example"
    policy_of(found)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\nacept from any\n", ":2: 'acept' begins no statement (known: accept"),
        ("accept from any relay\n", ":1: the rule has no for (write for any"),
        ("accept from any \\\n for bananas\n", ":2: 'bananas' has no meaning in for (known there: any, local"),
        ("accept for domain <d> relay\n", ":1: there is no table <d> (declare it"),
        ("accept for domain $d relay\n", ":1: macro 'd' not defined (define it above"),
        ('include "/nowhere.conf"\n', ":1: /nowhere.conf: No such file or directory (correct the path"),
        ("table t { a\n", ":1: this { is never closed (add the })"),
        ('table t file:"x\n', ":1: a quoted string is never closed"),
        ("table t { }\n", ":1: the table is empty"),
        ("table t { a, b = c }\n", ":1: lists and mappings are mixed"),
        ("pki a key /k\n", ":1: pki a has no certificate (add pki a certificate"),
        ("listen on lo0 port 70000\n", ":1: unknown port 70000"),
        ("accept for any relay via ftp://x\n", ":1: 'ftp://' is no schema (known: smtp://"),
        ('action "a" relay\naccept for any relay\n', ":2: accept and reject stand beside action and match"),
        ('match for any action "a"\n', ":1: there is no action a (declare it above)"),
        ("max-message-size big\n", ":1: 'big' is no size (write 50M)"),
        ("accept for any relay\n\ttable t { \x00 }\n", ":2: '\\x00' has no meaning here"),
    ],
)
def test_a_mistake_names_file_line_and_remedy(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(SmtpdConfError) as raised:
        found_in(text, tmp_path)
    assert complaint in str(raised.value)


def test_files_macros_words_and_includes_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "smtpd.conf"
    file.write_text("#" * TEXT_MAX)
    assert read(file).rules == []
    for text in (
        "#" * (TEXT_MAX + 1),
        f'm = "{"x" * (MACRO_MAX + 1)}"\n',
        f'm = "{"x " * 1000}"\ntable t {{ ' + "$m " * (WORDS_MAX // 1000 + 1) + "}\n",
        f'include "{file}"\n',
    ):
        file.write_text(text)
        with pytest.raises(SmtpdConfError, match=rf"more than|deeper than {INCLUDE_DEPTH}"):
            read(file)


_WORDS = st.sampled_from(
    [
        *" \n\\\"'{}<>!=,$#",
        "accept ",
        "for any ",
        "from ",
        "relay via ",
        "match ",
        "action ",
        "table t ",
        "listen on ",
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(_WORDS, st.text(max_size=6)), max_size=40).map("".join))
def test_any_text_is_read_or_refused_with_its_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "smtpd.conf"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    complaint = ""
    try:
        found = read(file)
    except SmtpdConfError as wrong:
        complaint = str(wrong)
    if complaint:
        assert complaint.startswith(f"{file}")
        return
    assert told(found).count("\n") == len(report(found))
    tomllib.loads(as_toml(found))


def test_letters_of_any_kind_come_through_as_toml(tmp_path: Path) -> None:
    found = found_in('accept for any sender "\U0001f600\x7f\\\\@x.example" relay\n', tmp_path)
    assert config_of(found).policy.rules[0].match["sender"] == found.rules[0].match["sender"]


def test_heed_counts(tmp_path: Path) -> None:
    heeds = {each.heed for each in report(found_in(ARTICLE, tmp_path))}
    assert heeds == {Heed.MAPPED, Heed.CHANGED, Heed.UNSUPPORTED}


def test_a_policy_can_be_renewed_with_an_imported_one(tmp_path: Path) -> None:
    found: Found = found_in(ARTICLE, tmp_path)
    policy: Policy = policy_of(found_in("reject for any\n", tmp_path))
    fresh = config_of(found).policy
    policy.renew(fresh, load(fresh))
    assert route(policy, "x@far.example", LOCAL) == [f"{SIGNER} x@far.example"]
    assert route(policy, "joe.bloggs@here.example", STRANGER) == [f"{SCANNER} joe.bloggs@here.example"]


@pytest.mark.row("MT-36")
@pytest.mark.parametrize(
    "rules",
    [
        "accept for local userbase <homes> deliver to mbox\n",
        'action "a" mbox userbase <homes>\nmatch for local action "a"\n',
    ],
)
def test_a_userbase_is_where_forward_files_are_read(rules: str, tmp_path: Path) -> None:
    found = found_in(f"table homes {{ joe = 1000:1000:/home/joe }}\n{rules}", tmp_path)
    policy = config_of(found).policy
    (action,) = policy.actions.values()
    assert (action.forward_files, action.userbase, action.forward_programs) == (True, "homes", False)
    assert load(policy).forwards
    assert ".forward" in told(found)


@pytest.mark.row("MT-30")
def test_tables_of_sqlite_and_postgresql_keep_their_queries(tmp_path: Path) -> None:
    (tmp_path / "sqlite.conf").write_text(
        f"# users\ndbpath {tmp_path}/users.db\n"
        "query_alias SELECT target FROM aliases WHERE address=? AND note <> '?';\n"
        "query_domain SELECT name FROM domains WHERE name=?;\nquery_mailaddrmap SELECT 1 WHERE 1=?\n"
    )
    (tmp_path / "pg.conf").write_text(
        "conninfo host='/run/pg' user=mail dbname='mail' password='secret word'\n"
        "query_domain SELECT name FROM domains WHERE name=$1;\n"
    )
    rules = (
        f"table users sqlite:{tmp_path}/sqlite.conf\ntable domains postgres:{tmp_path}/pg.conf\n"
        "accept from any for domain <domains> virtual <users> deliver to mbox\n"
    )
    found = found_in(rules, tmp_path)
    tables = config_of(found).policy.tables
    assert tables["users"].sql == f"sqlite://{tmp_path}/users.db"
    assert tables["users"].queries == {
        "aliases": "SELECT target FROM aliases WHERE address=:key AND note <> '?'",
        "domain": "SELECT name FROM domains WHERE name=:key",
    }
    assert tables["domains"].sql == "postgresql:///?host=%2Frun%2Fpg&user=mail&dbname=mail"
    assert tables["domains"].queries == {"domain": "SELECT name FROM domains WHERE name=:key"}
    assert load(config_of(found).policy).rules
    said = told(found)
    assert "secret" not in said + as_toml(found)
    assert "query_mailaddrmap" in said


def test_a_database_that_cannot_be_known_is_left_out_so_that_its_rule_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "empty.conf").write_text("# nothing\n")
    for source in ("sqlite:/nowhere/x.conf", f"postgres:{tmp_path}/empty.conf"):
        found = found_in(f"table d {source}\naccept for domain <d> deliver to mbox\n", tmp_path)
        assert "unsupported" in told(found)
        with pytest.raises(BadSetting, match="there is no table 'd'"):
            load(config_of(found).policy)


@pytest.mark.row("MT-05")
def test_a_db_without_its_text_is_read_itself(tmp_path: Path) -> None:
    (tmp_path / "only.db").write_bytes(b"")
    found = found_in(f"table a db:{tmp_path}/only.db\naccept for local alias <a> deliver to mbox\n", tmp_path)
    assert config_of(found).policy.tables["a"].db == f"{tmp_path}/only.db"


@pytest.mark.parametrize(
    ("rules", "user"),
    [
        ('accept for local deliver to mda "procmail -f -"\n', "nobody"),
        ('action "m" mda "procmail -f -" user filter\nmatch for local action "m"\n', "filter"),
    ],
)
def test_a_delivery_agent_is_a_program_with_a_user_of_its_own(rules: str, user: str, tmp_path: Path) -> None:
    found = found_in(rules, tmp_path)
    (action,) = config_of(found).policy.actions.values()
    assert (action.program, action.program_shell, action.program_user) == ("procmail -f -", True, user)
    assert route(policy_of(found), "root@localhost", LOCAL) == [f"program://{user} root@localhost"]
    assert "program_user" in told(found)


# --- how long mail is tried -----------------------------------------------------------------------------------


def test_each_rule_keeps_how_long_its_mail_is_tried(tmp_path: Path) -> None:
    old = (
        'accept for domain "backup.example" relay expire 14d\n'
        'accept for domain "lists.example" relay via "smtp://192.0.2.1:25" expire 10m\n'
        'accept for local deliver to lmtp "/run/lmtp" expire 2h\n'
        "accept for any relay\n"
    )
    found = found_in(old, tmp_path)
    policy = config_of(found).policy
    times = {name: float(action.lifetime) for name, action in policy.actions.items()}
    assert times == {"out": 14 * 86_400, "via-192-0-2-1-25": 3600, "lmtp": 7200}
    assert [each.action for each in policy.rules] == ["out", "via-192-0-2-1-25", "lmtp", "relay"]
    assert "the lifetime of an action is 1h at least" in told(found)
    assert "holds for all mail" not in told(found)


def test_ttl_of_the_later_grammar_is_kept_and_idle_where_a_mailbox_takes_the_mail(tmp_path: Path) -> None:
    new = (
        'action "out" relay ttl 3d\naction "box" mbox ttl 1d\naction "lmtp" lmtp "/run/lmtp" rcpt-to ttl 1d\n'
        'match for any action "out"\nmatch for local action "box"\nmatch for local action "lmtp"\n'
    )
    found = found_in(new, tmp_path)
    actions = config_of(found).policy.actions
    assert [float(actions[name].lifetime) for name in ("out", "box", "lmtp")] == [3 * 86_400, 0, 86_400]
    assert "a mailbox takes mail at once" in told(found)
