"""`accept` and `reject`, the rules of OpenSMTPD up to 6.3: condition and action in one statement.

The words before the action may stand in any order, as its parser allowed. Without `from` a rule is for local
sources; who is logged in is one.
"""

from typing import Final

from gatepost.policy.smtpdconf.cursor import Cursor
from gatepost.policy.smtpdconf.options import action_lifetime, without_idle_lifetime
from gatepost.policy.smtpdconf.route import credentials, lmtp, relay_to
from gatepost.policy.smtpdconf.words import ActionWords, Heed, RuleWords, Undecided, Value

CONDITIONS: Final = (
    "tagged, from, sender, recipient, for, alias, virtual, userbase, deliver, relay, forward-only, expire"
)
OWN_MAILBOX: Final = (
    "into the account's own mailbox here (an account: gatepost user add); no mailbox file is written"
)


def rule(words: Cursor) -> None:
    """Read a rule into what was found."""
    accepts = words.value("accept or reject") == "accept"
    words.found.old = True
    match: dict[str, Value] = {}
    action: dict[str, Value] = {"do": "deliver"} if accepts else {"do": "reject"}
    undecided = ""
    while not words.done():
        try:
            if not _condition(words, match) and not (accepts and _action(words, action)):
                words.unknown("a rule", CONDITIONS)
        except Undecided as why:
            undecided = undecided or str(why)
    if "for" not in match:
        words.wrong("the rule has no for", "write for any, for local or for domain <table>")
    without_idle_lifetime(words, action)
    if action == {"do": "deliver"} and not undecided:
        words.note(Heed.CHANGED, OWN_MAILBOX)
    name = add_action(words, ActionWords(action))
    words.found.rules.append(RuleWords(words.file, words.line, match, name, undecided))
    if undecided:
        words.note(Heed.UNSUPPORTED, undecided)
    words.tell("" if undecided else f"rule {len(words.found.rules)}, action {name}")


def add_action(words: Cursor, action: ActionWords) -> str:
    """Return the name of an action, a new one unless an equal one is known."""
    settings = action.settings
    if len(settings) == 1:
        return str(settings["do"])
    base = _base(settings)
    name, count = base, 1
    while name in words.found.actions and words.found.actions[name].settings != settings:
        count += 1
        name = f"{base}-{count}"
    words.found.actions[name] = action
    return name


def _base(settings: dict[str, Value] | object) -> str:
    assert isinstance(settings, dict)
    for key in ("virtual", "alias"):
        if settings.get(key):
            return f"{key}-{settings[key]}"
    if settings.get("lmtp"):
        return "lmtp"
    host = settings.get("host")
    if not host:
        return "out"
    port = settings.get("port")
    return f"via-{host}".replace(".", "-").replace(":", "-") + (f"-{port}" if port else "")


def _condition(words: Cursor, match: dict[str, Value]) -> bool:
    """Read one condition; False where none stands."""
    if words.skip("tagged"):
        sign = "!" if words.mark("!") else ""
        _set(words, match, "tag", (sign + words.value("a tag"),))
    elif words.skip("from"):
        _set(words, match, "from", _source(words))
    elif words.skip("for"):
        _set(words, match, "for", _destination(words))
    elif words.at("sender", "recipient"):
        key = words.value("a condition")
        sign = "!" if words.mark("!") else ""
        _set(words, match, key, _signed(sign, words.table(f"the {key}")))
    else:
        return False
    return True


def _source(words: Cursor) -> tuple[str, ...]:
    sign = "!" if words.mark("!") else ""
    if words.skip("any"):
        if sign:
            raise Undecided("from ! any matches nobody: delete the rule")
        return ("any",)
    if words.skip("local"):
        return (f"{sign}local",)
    if not words.skip("source"):
        words.unknown("from", "any, local, source <table>")
    words.note(Heed.CHANGED, "who is logged in counts by address too; smtpd asked only whether they are local")
    return _signed(sign, words.table("the source"))


def _destination(words: Cursor) -> tuple[str, ...]:
    sign = "!" if words.mark("!") else ""
    if words.skip("any"):
        if sign:
            raise Undecided("for ! any matches nothing: delete the rule")
        return ("any",)
    if words.skip("local"):
        return (f"{sign}local",)
    if not words.skip("domain"):
        words.unknown("for", "any, local, domain <table>")
    sign = "!" if words.mark("!") else sign
    return _signed(sign, words.table("the domain"))


def _signed(sign: str, entries: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{sign}{each}" for each in entries)


def _set(words: Cursor, match: dict[str, Value], key: str, value: tuple[str, ...]) -> None:
    if key in match:
        words.wrong(f"{key} stands twice", "a rule has each condition once")
    match[key] = value[0] if len(value) == 1 else value


def _action(words: Cursor, action: dict[str, Value]) -> bool:
    """Read one part of the action; False where none stands. Raises Undecided."""
    if words.at("alias", "virtual"):
        key = words.value("a table's kind")
        action[key] = words.mapping(key)
        lookups(words, key)
    elif words.skip("userbase"):
        userbase(words, action)
    elif words.skip("deliver"):
        _deliver(words, action)
    elif words.skip("relay"):
        _relay(words, action)
    elif words.skip("forward-only"):
        words.note(Heed.CHANGED, "forward-only: a user whom nothing forwards keeps the mail in the own mailbox")
    elif words.skip("expire"):
        action_lifetime(words, action)
    else:
        return False
    return True


def mda(words: Cursor, action: dict[str, Value]) -> None:
    """Read the command of a delivery agent; raises Undecided where it asks for what only smtpd fills in."""
    command = words.value("the command")
    if "%{" in command:
        raise Undecided(
            f"mda {command}: write $USER, $LOCAL, $DOMAIN, $RECIPIENT, $SENDER or $EXTENSION for %{{...}}"
        )
    action |= {"program": command, "program_shell": True}
    words.note(
        Heed.CHANGED,
        "mda: the program runs as program_user, nobody if not told, and not as each of the users; exit status 71 "
        "or 75 is tried again, all others but 0 are final",
    )


def userbase(words: Cursor, action: dict[str, Value]) -> None:
    """Read the table of users: their homes have .forward files; their mailboxes are the accounts'."""
    action |= {"forward_files": True, "userbase": words.mapping("userbase")}
    words.note(
        Heed.CHANGED,
        "userbase: .forward is read in its homes, and runs programs only with forward_programs = true; who has a "
        "mailbox say the accounts (gatepost user add)",
    )


def lookups(words: Cursor, key: str) -> None:
    """Say what is different in tables of aliases and virtual users."""
    if key == "virtual":
        words.note(
            Heed.CHANGED,
            "a bare user is an account of the recipient's domain, unless an LMTP server takes it by name",
        )
    words.note(
        Heed.CHANGED,
        f"a value of the {key} table that runs a program or writes a file is refused at the start unless the table "
        "says programs = true",
    )


def _deliver(words: Cursor, action: dict[str, Value]) -> None:
    if not words.skip("to"):
        words.unknown("deliver", "to")
    if words.skip("mbox"):
        words.note(Heed.CHANGED, OWN_MAILBOX)
    elif words.skip("maildir"):
        if not words.done() and not words.at("expire", "alias", "virtual", "userbase"):
            words.value("the maildir")
        words.note(Heed.CHANGED, OWN_MAILBOX)
    elif words.skip("lmtp"):
        server = words.value("the LMTP server")
        action |= lmtp(server, words, whole=words.skip("rcpt-to"))
    elif words.skip("mda"):
        mda(words, action)
    else:
        words.unknown("deliver to", "mbox, maildir, lmtp, mda")


def _relay(words: Cursor, action: dict[str, Value]) -> None:
    """Read `relay`, `relay via URL`, `relay backup` and what follows them."""
    action["do"] = "relay"
    table = ""
    if words.skip("via"):
        action |= relay_to(words.value("a relay"), words, old=True)
    elif words.skip("backup"):
        name = "" if words.done() or words.at("expire", *_RELAY_OPTIONS) else words.value("our MX name")
        other = f": smtpd was told {name}; see that server.hostname is that" if name else ""
        words.note(Heed.CHANGED, f"our place among the MXs is found by server.hostname{other}")
    while words.at(*_RELAY_OPTIONS):
        option = words.value("an option")
        if option == "auth":
            table = words.secret_table("auth")
        else:
            _relay_option(words, action, option)
    if table:
        credentials(table, action, words)
    elif "auth" in action:
        raise Undecided(f"which table has the password of {action['auth']}: write auth <table>")


_RELAY_OPTIONS: Final = ("auth", "tls", "verify", "pki", "ca", "as", "source", "hostname", "hostnames")


def _relay_option(words: Cursor, action: dict[str, Value], option: str) -> None:
    match option:
        case "tls":
            action["tls"] = "verify" if words.skip("verify") else "require"
        case "verify":
            action["tls"] = "verify"
        case "hostname":
            action["helo"] = words.value("the name to greet with")
        case "source":
            source(words, action)
        case "pki" | "ca":
            words.note(
                Heed.UNSUPPORTED, f"{option} {words.value(option)}: no client certificate is shown when relaying"
            )
        case "as":
            words.note(Heed.UNSUPPORTED, f"as {words.value('an address')}: the sender goes out as it came")
        case _:
            words.table("the names")
            words.note(Heed.CHANGED, "hostnames: write its lines, address = name, into [relay.helos]")


def source(words: Cursor, action: dict[str, Value]) -> None:
    """Read the addresses to send from; those of a table are copied where it is written in the file."""
    entries = words.table("the source")
    if len(entries) == 1 and entries[0].startswith("<"):
        values = words.found.tables.get(entries[0][1:-1], {}).get("values")
        if not isinstance(values, list | tuple):
            words.note(Heed.UNSUPPORTED, f"source: the action needs the addresses themselves, not {entries[0]}")
            return
        words.note(Heed.CHANGED, "source: of several addresses it is always the same for a destination")
        entries = tuple(values)
    action["source"] = entries[0] if len(entries) == 1 else entries
