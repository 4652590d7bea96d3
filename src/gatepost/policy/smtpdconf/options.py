"""Everything but listeners and rules: tables, certificates, the queue, limits."""

import re
from pathlib import Path
from typing import Final

from gatepost.policy.smtpdconf.backend import BACKENDS, database
from gatepost.policy.smtpdconf.cursor import Cursor
from gatepost.policy.smtpdconf.words import Certificate, Heed, Remark, Value

RECIPIENTS_MIN: Final = 100  # RFC 5321 §4.5.3.1.8, and what intake.max_recipients asks for
_SIZE: Final = re.compile(r"([0-9]{1,15})([bkmgtBKMGT]?)")
_TIME: Final = re.compile(r"([0-9]{1,9})([smhdw]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LIFETIME_MIN: Final = 3600  # s; what queue.lifetime asks for


def table(words: Cursor) -> None:
    """Read `table NAME [BACKEND:]PATH`, `table NAME { ... }`."""
    words.value("table")
    name = words.value("the table's name")
    if name in words.found.tables:
        words.wrong(f"table {name} is there already", "give it another name")
    if words.mark("{"):
        words.found.tables[name] = _static(words)
        _declare(name, words)
        return
    source = words.value("the table's source")
    backend, colon, path = source.partition(":")
    if not colon:
        backend, path = "file", source
    if backend in BACKENDS and path.startswith("/"):
        words.found.tables[name] = database(words, backend, path)
        if words.found.tables[name]:
            _declare(name, words)
        words.tell("")
        return
    if backend == "db":
        text = path.removesuffix(".db")
        if not Path(text).exists() and Path(path).exists():
            words.found.tables[name] = {"db": path}
            _declare(name, words)
            return
        path = text
        words.note(Heed.CHANGED, f"db: the text is read, {path}; makemap and newaliases are not needed")
    elif backend != "file":
        why = f"tables are not read from {backend} here: export it to a file, then add policy.tables.{name}"
        words.note(Heed.UNSUPPORTED, why)
        words.found.tables[name] = {}
        words.tell("")
        return
    if not path.startswith("/"):
        words.wrong(f"'{path}' is no absolute path", "write table name file:/path")
    words.found.tables[name] = {"file": path}
    _declare(name, words)
    words.tell("")


def _declare(name: str, words: Cursor) -> None:
    words.found.declared[name] = Remark(words.file, words.line, Heed.MAPPED, words.text(), f"policy.tables.{name}")


def _static(words: Cursor) -> dict[str, object]:
    entries: dict[str, str] = {}
    values: list[str] = []
    while not words.mark("}"):
        key = ("!" if words.mark("!") else "") + words.value("an entry")
        if words.mark("="):
            entries[key] = words.value("the value")
        else:
            values.append(key)
        words.mark(",")
    if not entries and not values:
        words.wrong("the table is empty", "write an entry, or use a file, which may be empty")
    if entries and values:
        words.wrong("lists and mappings are mixed", "give every entry a value, or none")
    return {"entries": entries} if entries else {"values": values}


def pki(words: Cursor) -> None:
    """Read one of the files of a certificate."""
    words.value("pki")
    name = words.value("the pki's name")
    entry = words.found.certificates.setdefault(name, Certificate(words.line))
    option = words.value("certificate or key")
    match option:
        case "cert" | "certificate":
            entry.certificate = words.value("the file")
            words.tell("tls.certificates: clients are served by the names in the certificate")
        case "key":
            entry.key = words.value("the file")
            words.tell("tls.certificates")
        case "dhe" | "dhparams" | "dhparam":
            words.value("the parameters")
            words.note(Heed.IGNORED, "TLS 1.3 and ECDHE need no parameters")
            words.tell("")
        case "ca":
            words.value("the file")
            words.note(Heed.UNSUPPORTED, "ca: clients are not asked for certificates")
            words.tell("")
        case _:
            words.wrong(
                f"'{option}' has no meaning in pki", "known there: cert, certificate, key, dhe, dhparams, ca"
            )


def queue(words: Cursor) -> None:
    """Read `queue compression`, `queue encryption`, `queue ttl`."""
    words.value("queue")
    if words.skip("compression"):
        words.tell("bodies are always kept compressed")
    elif words.skip("encryption"):
        words.rest()
        words.note(
            Heed.UNSUPPORTED, "bodies are not kept encrypted: encrypt the file system; the key is not copied"
        )
        words.tell("")
    elif words.skip("ttl"):
        lifetime(words)
    else:
        words.unknown("queue", "compression, encryption, ttl")


def lifetime(words: Cursor) -> None:
    """Read how long mail is tried."""
    seconds = _seconds(words)
    if seconds < LIFETIME_MIN:
        words.note(Heed.CHANGED, "queue.lifetime is 1h at least")
    _set(words, "queue", "lifetime", f"{max(seconds, LIFETIME_MIN)}s")


def action_lifetime(words: Cursor, action: dict[str, Value]) -> None:
    """Read how long mail of one rule is tried."""
    given = _seconds(words)
    if given < LIFETIME_MIN:
        words.note(Heed.CHANGED, "the lifetime of an action is 1h at least")
    action["lifetime"] = f"{max(given, LIFETIME_MIN)}s"


def without_idle_lifetime(words: Cursor, action: dict[str, Value]) -> None:
    """Drop the lifetime of an action that never lets mail wait."""
    if "lifetime" in action and action.get("do") != "relay" and not (action.keys() & {"lmtp", "program"}):
        del action["lifetime"]
        words.note(Heed.IGNORED, "a mailbox takes mail at once; a forward waits as long as its own action says")


def warnings(words: Cursor) -> None:
    """Read at which ages of a mail its sender is warned."""
    first = _seconds(words)
    further = 0
    while words.mark(",") or not words.done():
        _seconds(words)
        further += 1
    if further:
        words.note(Heed.UNSUPPORTED, "a sender is warned once; the later times are left out")
    _set(words, "queue", "warn_after", f"{first}s")


def size(words: Cursor) -> None:
    """Read the largest mail."""
    text = words.value("a size")
    found = _SIZE.fullmatch(text)
    if found is None:
        words.wrong(f"'{text}' is no size", "write 50M")
    _set(words, "intake", "max_size", f"{found[1]}{found[2].upper().removesuffix('B')}")


def limit(words: Cursor) -> None:
    """Read a limit; those of the session have settings."""
    whose = words.value("whose limit") if not words.at("max-mails", "max-rcpt") else "smtp"
    if whose not in ("session", "smtp"):
        words.rest()
        words.note(Heed.UNSUPPORTED, f"limits of {whose} are not taken over: see relay.sessions and relay.mails")
        words.tell("")
        return
    while not words.done():
        key = words.value("a limit")
        number = words.number("the limit")
        if key == "max-mails":
            _set(words, "intake", "max_mails", number)
        elif key == "max-rcpt":
            if number < RECIPIENTS_MIN:
                words.note(
                    Heed.CHANGED, f"intake.max_recipients is {RECIPIENTS_MIN} at least (RFC 5321 §4.5.3.1.8)"
                )
            _set(words, "intake", "max_recipients", max(number, RECIPIENTS_MIN))
        else:
            words.wrong(f"'{key}' has no meaning in limit", "known there: max-mails, max-rcpt")


def smtp(words: Cursor) -> None:
    """Read `smtp max-message-size`, `smtp sub-addr-delim`, `smtp limit`, `smtp ciphers`."""
    words.value("smtp")
    if words.skip("max-message-size"):
        size(words)
    elif words.skip("sub-addr-delim"):
        delimiter(words)
    elif words.skip("limit"):
        limit(words)
    else:
        rest(words, Heed.UNSUPPORTED, "no setting says this")


def delimiter(words: Cursor) -> None:
    """Read what parts a user from a detail."""
    text = words.value("the delimiter")
    if len(text) != 1 or text in ("@", '"'):
        words.wrong(f"'{text}' is no delimiter", 'write one character, such as "+"')
    words.found.settings.setdefault("accounts", {})["detail_separator"] = text
    _set(words, "policy", "subaddress", text)


def rest(words: Cursor, heed: Heed, why: str) -> None:
    """Pass a whole statement and say why."""
    words.rest()
    words.note(heed, why)
    words.tell("")


def _seconds(words: Cursor) -> int:
    text = words.value("a time")
    found = _TIME.fullmatch(text)
    if found is None:
        words.wrong(f"'{text}' is no time", "write 4h or 4d")
    return int(found[1]) * _UNITS[found[2]]


def _set(words: Cursor, section: str, key: str, value: Value) -> None:
    words.found.settings.setdefault(section, {})[key] = value
    words.tell(f"{section}.{key} = {value}")
    words.notes.clear()
