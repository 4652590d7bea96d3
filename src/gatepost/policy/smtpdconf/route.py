"""Where an action sends mail: relay URLs of both grammars, LMTP servers, and what comes with them.

The words mean different things: `smtp://` was plain up to 6.3 and is opportunistic TLS since; `smtp+tls://` was
opportunistic and is mandatory since, and certificates must hold unless `no-verify` stands there.
"""

import re
from typing import Final

from gatepost.policy.smtpdconf.cursor import Cursor
from gatepost.policy.smtpdconf.words import Heed, Undecided, Value

_URL: Final = re.compile(
    r"(?:([a-z+]+)://)?(?:([^@/\s]+)@)?(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(?::([A-Za-z0-9]+))?/?"
)
_OLD: Final = {
    "": "may",
    "smtp": "none",
    "smtp+tls": "may",
    "tls": "require",
    "smtps": "implicit",
    "ssl": "implicit",
    "secure": "secure",
}
_NEW: Final = {"": "may", "smtp": "may", "smtp+tls": "verify", "smtp+notls": "none", "smtps": "implicit-verify"}
PORTS: Final = {"smtp": 25, "smtps": 465, "submissions": 465, "submission": 587}


def port_of(text: str, words: Cursor) -> int:
    """Read a port's number or name."""
    if text in PORTS:
        return PORTS[text]
    if re.fullmatch(r"[0-9]{1,5}", text) and 0 < int(text) < 65_536:
        return int(text)
    return words.wrong(f"unknown port {text}", "a number up to 65535, smtp, smtps or submission")


def relay_to(url: str, words: Cursor, *, old: bool) -> dict[str, Value]:
    """Return the settings of an action that relays to a URL; raises Undecided."""
    found = _URL.fullmatch(url)
    if found is None:
        words.wrong(f"'{url}' is no relay", "write smtp://192.0.2.1:25 or smtps://mx.example.org")
    schema, label, host, port = found[1] or "", found[2] or "", found[3].strip("[]"), found[4]
    if schema == "backup":
        words.note(
            Heed.CHANGED, f"the MX is asked, as always; whose place among them is ours goes by hostname, not {host}"
        )
        return {"do": "relay"}
    if schema == "lmtp":
        return _lmtp_relay(host, port, words)
    plain = schema.removesuffix("+auth")
    meanings = _OLD if old else _NEW
    if plain not in meanings or (schema != plain and not old):
        words.wrong(f"'{schema}://' is no schema", "known: " + ", ".join(f"{each}://" for each in meanings if each))
    settings: dict[str, Value] = {"do": "relay", "host": host}
    if port:
        settings["port"] = port_of(port, words)
    settings |= _tls(meanings[plain], words)
    if label:
        settings["auth"] = label
    return settings


def _tls(meaning: str, words: Cursor) -> dict[str, Value]:
    if meaning == "secure":
        words.note(
            Heed.CHANGED, "TLS from the first octet, on 465; smtpd tries STARTTLS when that fails, we do not"
        )
    if meaning == "implicit-verify":
        return {"tls": "verify", "implicit_tls": True}
    if meaning in ("implicit", "secure"):
        return {"tls": "require", "implicit_tls": True}
    return {} if meaning == "may" else {"tls": meaning}


def _lmtp_relay(host: str, port: str | None, words: Cursor) -> dict[str, Value]:
    if port is None:
        words.wrong("lmtp:// needs a port", "write lmtp://127.0.0.1:24")
    words.note(
        Heed.CHANGED, "whole addresses are handed to the LMTP server; those of our own domains must be accounts"
    )
    where = f"[{host}]" if ":" in host else host
    return {"do": "deliver", "lmtp": f"{where}:{port_of(port, words)}", "rcpt_to": True}


def lmtp(destination: str, words: Cursor, *, whole: bool) -> dict[str, Value]:
    """Return the settings of a delivery by LMTP: to a user's name alone, or to the `whole` address."""
    host, colon, port = destination.rpartition(":")
    if not destination.startswith("/") and not (colon and host and port.isdigit()):
        words.wrong(f"'{destination}' is no LMTP server", "write /var/dovecot/lmtp or 127.0.0.1:24")
    words.note(
        Heed.CHANGED,
        "a 5xx of the LMTP server is final and the sender hears of it at once; smtpd 5 tried again for days",
    )
    return {"do": "deliver", "lmtp": destination, "rcpt_to": whole}


def credentials(table: str, settings: dict[str, Value], words: Cursor) -> None:
    """Note the table of passwords that a relay logs in with; raises Undecided."""
    relay = words.found.settings.setdefault("relay", {})
    declared = words.found.tables.get(table, {})
    if "file" not in declared:
        raise Undecided(
            f"passwords are read from a file: write the lines of <{table}> (label user:password) to one "
            "and name it in relay.credentials"
        )
    if relay.setdefault("credentials", str(declared["file"])) != declared["file"]:
        raise Undecided(f"there is one file of passwords, {relay['credentials']}: add the lines of <{table}> to it")
    if "auth" not in settings:
        raise Undecided(f"which line of <{table}>: the URL has no label@")
    if settings.get("tls") == "none" or "tls" not in settings:
        settings["tls"] = "require"
        words.note(Heed.CHANGED, "a password never goes out in the clear: TLS is required")
