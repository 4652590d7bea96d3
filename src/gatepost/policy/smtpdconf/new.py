"""`action` and `match`, the rules of OpenSMTPD since 6.4: who is logged in is no longer local."""

from typing import Final

from gatepost.policy.smtpdconf.cursor import Cursor
from gatepost.policy.smtpdconf.old import OWN_MAILBOX, lookups, mda, source, userbase
from gatepost.policy.smtpdconf.options import action_lifetime, without_idle_lifetime
from gatepost.policy.smtpdconf.route import credentials, lmtp, relay_to
from gatepost.policy.smtpdconf.words import ActionWords, Heed, RuleWords, Undecided, Value

_TAKEN: Final = ("deliver", "relay", "reject")
_MATCH: Final = "for, from, auth, helo, mail-from, rcpt-to, tag, tls, action, reject"


def action(words: Cursor) -> None:
    """Read an action into what was found."""
    words.value("action")
    words.found.new = True
    given = words.value("the action's name")
    name = name_of(given)
    if name in words.found.actions:
        words.wrong(f"action {given} is there already", "give it another name")
    settings: dict[str, Value] = {}
    undecided = ""
    try:
        _method(words, settings)
    except Undecided as why:
        undecided = str(why)
        words.rest()
        words.note(Heed.UNSUPPORTED, undecided)
    words.found.actions[name] = ActionWords(settings, undecided)
    words.tell("" if undecided else f"policy.actions.{name}")


def name_of(given: str) -> str:
    """Return what an action is called here: three names are taken."""
    return f"{given}-action" if given in _TAKEN else given


def _method(words: Cursor, settings: dict[str, Value]) -> None:
    method = words.value("what the action does")
    settings["do"] = "relay" if method == "relay" else "deliver"
    match method:
        case "relay":
            _relay(words, settings)
            return
        case "lmtp":
            server = words.value("the LMTP server")
            settings |= lmtp(server, words, whole=words.skip("rcpt-to"))
        case "mbox":
            words.note(Heed.CHANGED, OWN_MAILBOX)
        case "maildir":
            if not words.done() and not words.at("junk", *_LOCAL):
                words.value("the maildir")
            words.note(Heed.CHANGED, OWN_MAILBOX)
            if words.skip("junk"):
                words.note(Heed.UNSUPPORTED, "junk: the judge says what is junk (judge.*), not a header")
        case "expand-only" | "forward-only":
            words.note(Heed.CHANGED, f"{method}: what nothing forwards keeps the mail in the own mailbox")
        case "mda":
            mda(words, settings)
        case _:
            words.wrong(f"'{method}' is no action", "lmtp, maildir, mbox, mda, relay, expand-only, forward-only")
    while not words.done():
        _local_option(words, settings)
    without_idle_lifetime(words, settings)


_LOCAL: Final = ("alias", "virtual", "userbase", "user", "wrapper", "ttl")


def _local_option(words: Cursor, settings: dict[str, Value]) -> None:
    if words.at("alias", "virtual"):
        key = words.value("a table's kind")
        settings[key] = words.mapping(key)
        lookups(words, key)
    elif words.skip("userbase"):
        userbase(words, settings)
    elif words.skip("user"):
        user = words.value("a user")
        if "program" not in settings:
            words.note(Heed.IGNORED, f"user {user}: nothing runs as another user here")
        elif user == "root":
            raise Undecided("user root: programs never run as root; name another user")
        else:
            settings["program_user"] = user
    elif words.skip("wrapper"):
        raise Undecided(f"wrapper {words.value('a wrapper')}: programs are not run")
    elif words.skip("ttl"):
        action_lifetime(words, settings)
    else:
        words.unknown("a delivery", ", ".join(_LOCAL))


def _relay(words: Cursor, settings: dict[str, Value]) -> None:
    table, tls = "", ""
    while not words.done():
        if words.skip("host"):
            settings |= relay_to(words.value("a relay"), words, old=False)
        elif words.skip("tls"):
            tls = "require" if words.skip("no-verify") else "verify"
        elif words.skip("auth"):
            table = words.secret_table("auth")
        elif words.skip("helo"):
            settings["helo"] = words.value("the name to greet with")
        elif words.skip("src"):
            source(words, settings)
        elif words.skip("backup"):
            _backup(words)
        elif words.skip("ttl"):
            action_lifetime(words, settings)
        else:
            _rare_option(words)
    if tls:
        settings["tls"] = tls
    if table:
        credentials(table, settings, words)
    elif "auth" in settings:
        raise Undecided(f"which table has the password of {settings['auth']}: write auth <table>")


def _backup(words: Cursor) -> None:
    name = words.value("our MX name") if words.skip("mx") else ""
    other = f": smtpd was told {name}; see that server.hostname is that" if name else ""
    words.note(Heed.CHANGED, f"our place among the MXs is found by server.hostname{other}")


def _rare_option(words: Cursor) -> None:
    if words.skip("domain"):
        words.table("the smarthosts")
        raise Undecided("relay domain <table>: write a rule for each domain, each with its own host")
    if words.skip("srs"):
        words.note(Heed.CHANGED, "srs: with [policy.srs] key_file all forwarded mail has its sender rewritten")
    elif words.skip("helo-src"):
        words.table("the names")
        words.note(Heed.CHANGED, "helo-src: write its lines, address = name, into [relay.helos]")
    elif words.at("mail-from", "pki", "ca", "protocols", "ciphers", "filter"):
        option = words.value("an option")
        words.table(option)
        words.note(Heed.UNSUPPORTED, f"{option}: no setting of an action says this")
    else:
        words.unknown("relay", "host, backup, helo, src, tls, auth, mail-from, pki, ca, srs, domain, ttl")


def match(words: Cursor) -> None:
    """Read a rule into what was found."""
    words.value("match")
    words.found.new = True
    conditions: dict[str, Value] = {}
    undecided, name = "", ""
    while not words.done():
        if words.skip("reject"):
            name = "reject"
            break
        if words.skip("action"):
            given = words.value("the action's name")
            name = name_of(given)
            if name not in words.found.actions:
                words.wrong(f"there is no action {given}", "declare it above")
            break
        try:
            _criterion(words, conditions)
        except Undecided as why:
            undecided = undecided or str(why)
    if not name or not words.done():
        words.wrong("a match ends with its action", 'write action "name" or reject, and nothing after it')
    undecided = undecided or (words.found.actions[name].undecided if name != "reject" else "")
    words.found.rules.append(RuleWords(words.file, words.line, conditions, name, undecided))
    if undecided:
        words.note(Heed.UNSUPPORTED, undecided)
    words.tell("" if undecided else f"rule {len(words.found.rules)}, action {name}")


def _criterion(words: Cursor, found: dict[str, Value]) -> None:
    sign = "!" if words.mark("!") else ""
    if words.skip("from"):
        _from(words, found, sign)
    elif words.skip("for"):
        _for(words, found, sign)
    elif words.skip("tag"):
        _set(words, found, "tag", sign, _entries(words, "a tag"))
    elif words.skip("helo"):
        _set(words, found, "helo", sign, _entries(words, "a name"))
    elif words.skip("mail-from"):
        _set(words, found, "sender", sign, _entries(words, "a sender"))
    elif words.skip("rcpt-to"):
        _set(words, found, "recipient", sign, _entries(words, "a recipient"))
    elif words.skip("tls"):
        _put(words, found, "tls", not sign)
    elif words.skip("auth"):
        _auth(words, found, sign)
    else:
        words.unknown("a match", _MATCH)


def _from(words: Cursor, found: dict[str, Value], sign: str) -> None:
    if words.skip("any"):
        if sign:
            raise Undecided("!from any matches nobody: delete the rule")
        _put(words, found, "from", "any")
    elif words.skip("local"):
        _put(words, found, "from", f"{sign}local")
    elif words.skip("socket"):
        raise Undecided("from socket: nothing sends through a local socket here; programs send to 127.0.0.1")
    elif words.skip("src"):
        _set(words, found, "from", sign, _entries(words, "a source"))
    elif words.skip("auth"):
        _put(words, found, "from", "any")
        _auth(words, found, sign)
    elif words.skip("mail-from"):
        _put(words, found, "from", "any")
        _set(words, found, "sender", sign, _entries(words, "a sender"))
    elif words.skip("rdns"):
        _put(words, found, "from", "any")
        if not _table_follows(words):
            raise Undecided("from rdns without names: a rule cannot ask whether there is a name at all")
        _set(words, found, "rdns", sign, _entries(words, "a name"))
    else:
        words.unknown("from", "any, local, src, auth, mail-from, rdns, socket")


def _for(words: Cursor, found: dict[str, Value], sign: str) -> None:
    if words.skip("any"):
        if sign:
            raise Undecided("!for any matches nothing: delete the rule")
        _put(words, found, "for", "any")
    elif words.skip("local"):
        _put(words, found, "for", f"{sign}local")
    elif words.skip("domain"):
        _set(words, found, "for", sign, _entries(words, "a domain"))
    elif words.skip("rcpt-to"):
        _put(words, found, "for", "any")
        _set(words, found, "recipient", sign, _entries(words, "a recipient"))
    else:
        words.unknown("for", "any, local, domain, rcpt-to")


def _auth(words: Cursor, found: dict[str, Value], sign: str) -> None:
    if _table_follows(words):
        _set(words, found, "auth", sign, _entries(words, "a user"))
    else:
        _put(words, found, "auth", not sign)


def _table_follows(words: Cursor) -> bool:
    keywords = ("from", "for", "auth", "helo", "mail-from", "rcpt-to", "tag", "tls", "action", "reject")
    return not words.done() and words.peek() != "!" and not words.at(*keywords)


def _entries(words: Cursor, what: str) -> tuple[str, ...]:
    regex = words.skip("regex")
    entries = words.table(what)
    if regex:
        raise Undecided("regex: conditions take names, addresses and * only, not regular expressions")
    return entries


def _set(words: Cursor, found: dict[str, Value], key: str, sign: str, entries: tuple[str, ...]) -> None:
    signed = tuple(f"{sign}{each}" for each in entries)
    _put(words, found, key, signed[0] if len(signed) == 1 else signed)


def _put(words: Cursor, found: dict[str, Value], key: str, value: Value) -> None:
    if key in found:
        words.wrong(f"{key} is asked for twice", "a match has each condition once")
    found[key] = value
