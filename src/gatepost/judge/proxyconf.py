"""dkimproxy_out.conf (dkimproxy 1.4.1): `key value` or `key = value` a line, `#` begins a comment.

    listen 127.0.0.1:10027                relay 127.0.0.1:10028
    domain example.com,example.org        selector default          keyfile /var/dkimproxy/default.private
    signature dkim(c=relaxed)             signature domainkeys(c=nofws)

What it says of its processes (min_servers and the like) is read and has no meaning here: one process serves all.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

PROCESS_KEYS: Final = frozenset(
    (
        "daemonize",
        "pidfile",
        "user",
        "group",
        "hostname",
        "debug",
        "debug_trace",
        "min_servers",
        "min_spare_servers",
        "max_servers",
        "max_spare_servers",
        "max_requests",
        "max_connections",
    )
)
DKIM_METHODS: Final = frozenset(
    ("simple", "relaxed", "simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed")
)
DOMAINKEYS_METHODS: Final = frozenset(("simple", "nofws"))
_OPTIONS: Final = {
    "key": "keyfile",
    "s": "selector",
    "d": "domain",
    "c": "method",
    "a": "algorithm",
    "i": "identity",
}
_LINE: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_-]*)(?:\s*=\s*|\s+|\s*$)(.*?)\s*")
_SIGNATURE: Final = re.compile(r"([A-Za-z]+)\s*(?:\(([^()]*)\))?")
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\s\[\]]+)(?::([0-9]{1,5}))?")


class BadProxyConf(ValueError):
    """A file that dkimproxy would not take either; the text has the line and a remedy."""


class Kind(Enum):
    """What `signature` lines name."""

    DKIM = "dkim"
    DOMAINKEYS = "domainkeys"


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One signature to put on each mail. `domain` is empty where the author's decides; `method` is c=."""

    kind: Kind
    keyfile: str
    selector: str
    method: str
    domain: str = ""
    algorithm: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class ProxyConf:
    """A whole file. Addresses are (host, port); `reject_error`: a mail that cannot be signed is not passed on."""

    listen: tuple[str, int] | None
    relay: tuple[str, int] | None
    domains: tuple[str, ...]
    signatures: tuple[SignatureLine, ...]
    reject_error: bool = False
    ignored: tuple[str, ...] = ()


def read_proxy_conf(text: str) -> ProxyConf:
    """Read a file's text; raises BadProxyConf."""
    words: dict[str, str] = {}
    lines: list[tuple[int, str]] = []
    ignored: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise BadProxyConf(f"line {number}: not `key value`: {line.strip()}")
        key, value = found[1].lower().replace("-", "_"), found[2]
        if key == "signature":
            lines.append((number, value))
        elif key in PROCESS_KEYS:
            ignored.append(key)
        elif key in ("sender_map", "listid_map"):
            raise BadProxyConf(
                f"line {number}: {key} is not understood: import the keys with `gatepost dkim adopt`"
            )
        elif key in _KNOWN:
            words[key] = value
        else:
            raise BadProxyConf(f"line {number}: {key} is no setting of dkimproxy.out")
    domains = tuple(each.strip().lower() for each in words.get("domain", "").split(",") if each.strip())
    signatures = [_signature(value, number, words) for number, value in lines or [(0, "dkim")]]
    if not domains and not all(each.domain for each in signatures):
        raise BadProxyConf("there is no domain: write `domain example.com`")
    return ProxyConf(
        _address(words.get("listen"), "listen"),
        _address(words.get("relay"), "relay"),
        domains,
        tuple(signatures),
        words.get("reject_error", "0").lower() in ("1", "yes", "true", ""),
        tuple(ignored),
    )


_KNOWN: Final = frozenset(
    (
        "listen",
        "relay",
        "domain",
        "selector",
        "keyfile",
        "method",
        "dkim_method",
        "domainkeys_method",
        "identity",
        "algorithm",
        "reject_error",
    )
)


def _signature(value: str, number: int, words: dict[str, str]) -> SignatureLine:
    where = f"line {number}: " if number else ""
    found = _SIGNATURE.fullmatch(value)
    if found is None or found[1].lower() not in ("dkim", "domainkeys"):
        raise BadProxyConf(f"{where}signature {value}: write dkim(c=relaxed) or domainkeys(c=nofws)")
    kind = Kind(found[1].lower())
    own: dict[str, str] = {}
    for option in filter(None, (each.strip() for each in (found[2] or "").split(","))):
        key, equals, text = (each.strip() for each in option.partition("="))
        if not equals or (name := _OPTIONS.get(key, key)) not in (*_OPTIONS.values(), "headers", "h"):
            raise BadProxyConf(f"{where}signature option {option}: known are key, s, d, c, a, i")
        own[name] = text
    default, methods = ("relaxed", DKIM_METHODS) if kind is Kind.DKIM else ("nofws", DOMAINKEYS_METHODS)
    method = own.get("method") or words.get(f"{kind.value}_method") or words.get("method") or default
    if method not in methods:
        raise BadProxyConf(f"{where}method {method}: known are {', '.join(sorted(methods))}")
    keyfile, selector = own.get("keyfile", words.get("keyfile", "")), own.get("selector", words.get("selector", ""))
    for name, given in (("keyfile", keyfile), ("selector", selector)):
        if not given:
            raise BadProxyConf(f"{where}there is no {name} for signature {kind.value}")
    algorithm = own.get("algorithm", words.get("algorithm", ""))
    identity = own.get("identity", words.get("identity", ""))
    return SignatureLine(kind, keyfile, selector, method, own.get("domain", ""), algorithm, identity)


def _address(text: str | None, name: str) -> tuple[str, int] | None:
    if text is None:
        return None
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found[2] or "25") < 65_536:
        raise BadProxyConf(f"{name} {text}: write 127.0.0.1:10027")
    return found[1].strip("[]"), int(found[2] or "25")
