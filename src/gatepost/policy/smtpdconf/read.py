"""A whole smtpd.conf, statement by statement."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from gatepost.policy.smtpdconf import new, old, options
from gatepost.policy.smtpdconf.cursor import Cursor
from gatepost.policy.smtpdconf.lex import Lexer
from gatepost.policy.smtpdconf.listen import listen
from gatepost.policy.smtpdconf.words import Found, Heed, Remark, SmtpdConfError

STATEMENTS_MAX: Final = 5_000


def read(file: Path) -> Found:
    """Read a smtpd.conf of either grammar; raises SmtpdConfError, and OSError where the file itself is missing."""
    found = Found(file)
    for count, words in enumerate(Lexer().statements(file)):
        if count >= STATEMENTS_MAX:
            raise SmtpdConfError(
                words[0].file, words[0].line, f"more than {STATEMENTS_MAX} statements", "use table files"
            )
        if words:
            _statement(Cursor(words, found))
    for name, entry in found.certificates.items():
        if not (entry.certificate and entry.key):
            missing = "key" if entry.certificate else "certificate"
            raise SmtpdConfError(
                file, entry.line, f"pki {name} has no {missing}", f'add pki {name} {missing} "/path"'
            )
    for name in sorted(found.used | found.secrets):
        if name not in found.tables:
            raise SmtpdConfError(
                file, _line_naming(found, name), f"there is no table <{name}>", "declare it: table"
            )
    found.remarks += [_of_table(found, name) for name in found.declared]
    return found


def _of_table(found: Found, name: str) -> Remark:
    """Say what becomes of a table, now that it is known who uses it."""
    declared = found.declared[name]
    if found.copied(name):
        return declared
    if name not in found.secrets:
        return replace(declared, heed=Heed.IGNORED, why="nothing uses it; not copied, for it may hold passwords")
    credentials = found.settings.get("relay", {}).get("credentials")
    if credentials is not None and found.tables[name].get("file") == credentials:
        return replace(declared, why="relay.credentials")
    why = "it holds passwords and is not copied: relays read theirs from relay.credentials, people are accounts"
    return replace(declared, heed=Heed.UNSUPPORTED, why=why)


def _statement(words: Cursor) -> None:
    keyword = words.peek()
    if keyword not in _STATEMENTS:
        words.wrong(f"'{keyword}' begins no statement", "known: " + ", ".join(_STATEMENTS))
    _check_grammar(words, keyword)
    _STATEMENTS[keyword](words)
    if not words.done():
        words.wrong(f"'{words.peek()}' is left over", f"delete it, or see how {keyword} is written")


def _check_grammar(words: Cursor, keyword: str) -> None:
    """See that a file keeps to one grammar: the same words mean different things in them."""
    old_here = keyword in ("accept", "reject")
    new_here = keyword in ("action", "match")
    if (old_here and words.found.new) or (new_here and words.found.old):
        words.wrong("accept and reject stand beside action and match", "write all rules in one grammar")


def _line_naming(found: Found, name: str) -> int:
    return next((each.line for each in found.remarks if f"<{name}>" in each.statement), 0)


def _after(keyword: str, reader: Callable[[Cursor], None]) -> Callable[[Cursor], None]:
    def statement(words: Cursor) -> None:
        words.value(keyword)
        reader(words)

    return statement


def _passed(heed: Heed, why: str) -> Callable[[Cursor], None]:
    return lambda words: options.rest(words, heed, why)


def _bounce(words: Cursor) -> None:
    words.value("bounce")
    if not words.skip("warn-interval", "warn"):
        words.unknown("bounce", "warn-interval")
    options.warnings(words)


_STATEMENTS: Final[Mapping[str, Callable[[Cursor], None]]] = {
    "accept": old.rule,
    "reject": old.rule,
    "action": new.action,
    "match": new.match,
    "listen": listen,
    "table": options.table,
    "pki": options.pki,
    "queue": options.queue,
    "expire": _after("expire", options.lifetime),
    "bounce-warn": _after("bounce-warn", options.warnings),
    "bounce": _bounce,
    "max-message-size": _after("max-message-size", options.size),
    "limit": _after("limit", options.limit),
    "smtp": options.smtp,
    "subaddressing-delimiter": _after("subaddressing-delimiter", options.delimiter),
    "ca": _passed(
        Heed.UNSUPPORTED, "clients are not asked for certificates, and next hops are held to the system's"
    ),
    "ciphers": _passed(Heed.UNSUPPORTED, "no setting chooses ciphers"),
    "curve": _passed(Heed.IGNORED, "the TLS library chooses curves"),
    "filter": _passed(Heed.UNSUPPORTED, "no filter program is started; the gate and the judge look at mail"),
    "srs": _passed(
        Heed.CHANGED,
        "the key is not copied: write it into a file of mode 0600 and name that in [policy.srs] key_file",
    ),
    "admd": _passed(Heed.UNSUPPORTED, "results are signed with server.hostname"),
    "mda": _passed(Heed.UNSUPPORTED, "programs are not run"),
    "mta": _passed(Heed.UNSUPPORTED, "see relay.sessions and relay.mails"),
    "scheduler": _passed(Heed.IGNORED, "the queue keeps its mail in the database, not in memory"),
    "proc": _passed(Heed.UNSUPPORTED, "no filter program is started"),
}
