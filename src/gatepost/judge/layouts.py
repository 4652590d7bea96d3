"""Keys as other signers keep them: dkimproxy, OpenDKIM and rspamd.

dkimproxy   dkimproxy_out.conf: domain, selector, keyfile, signature lines
OpenDKIM    opendkim.conf: Domain, Selector, KeyFile, or KeyTable; the table; a folder of DOMAIN/SELECTOR.private
rspamd      a folder of DOMAIN.SELECTOR.key
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gatepost.base.address import fold_domain
from gatepost.judge.proxyconf import BadProxyConf, read_proxy_conf

_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")


class BadLayout(ValueError):
    """What was given holds no keys that are understood; the text says why, with file and line."""


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A private key in a file, and where its public half is published."""

    domain: str
    selector: str
    file: Path


def find_keys(source: Path) -> list[FoundKey]:
    """Return the keys that a configuration file, key table or folder speaks of; BadLayout, OSError."""
    found = list(_of_folder(source) if source.is_dir() else _of_file(source))
    if not found:
        raise BadLayout(f"{source}: there are no keys that dkimproxy, OpenDKIM or rspamd would find here")
    return list(dict.fromkeys(found))


def _of_folder(folder: Path) -> Iterator[FoundKey]:
    for file in sorted(folder.rglob("*")):
        domain, _, selector = file.stem.rpartition(".")
        if file.suffix == ".key" and domain and _named(domain, selector):
            yield FoundKey(fold_domain(domain), selector, file)
        elif file.suffix == ".private" and _named(file.parent.name, file.stem):
            yield FoundKey(fold_domain(file.parent.name), file.stem, file)


def _of_file(file: Path) -> Iterator[FoundKey]:
    text = file.read_text(encoding="utf-8", errors="replace")
    lines = [line.split("#", 1)[0].strip() for line in text.splitlines()]
    if any(line.count(":") >= 2 for line in lines):
        return _of_key_table(file, lines)
    words = {key.lower(): value for key, value in (_pair(line) for line in lines if line)}
    if "keyfile" in words and re.search(r"^\s*(Domain|Selector|KeyFile)\s", text, re.MULTILINE):
        return _of_opendkim(file, words)
    if "keytable" in words:
        table = Path(words["keytable"].rpartition(":")[2])
        return _of_file(table if table.is_absolute() else file.parent / table)
    return _of_dkimproxy(file, text)


def _of_opendkim(file: Path, words: dict[str, str]) -> Iterator[FoundKey]:
    for needed in ("domain", "selector"):
        if needed not in words:
            raise BadLayout(f"{file}: it has a KeyFile and no {needed.capitalize()}")
    for domain in words["domain"].split(","):
        yield FoundKey(fold_domain(domain.strip()), words["selector"], Path(words["keyfile"]))


def _of_key_table(file: Path, lines: list[str]) -> Iterator[FoundKey]:
    """Read lines of NAME DOMAIN:SELECTOR:FILE."""
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        domain, _, rest = _pair(line)[1].partition(":")
        selector, _, path = rest.partition(":")
        if not _named(domain, selector) or not path:
            raise BadLayout(f"{file}:{number}: not NAME DOMAIN:SELECTOR:FILE with a domain of its own: {line}")
        yield FoundKey(fold_domain(domain), selector, Path(path.strip()))


def _of_dkimproxy(file: Path, text: str) -> Iterator[FoundKey]:
    try:
        conf = read_proxy_conf(text)
    except BadProxyConf as wrong:
        raise BadLayout(f"{file}: {wrong}") from wrong
    for each in conf.signatures:
        for domain in (each.domain,) if each.domain else conf.domains:
            yield FoundKey(fold_domain(domain), each.selector, Path(each.keyfile))


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.replace("\t", " ").partition(" ")
    return key, value.strip()


def _named(domain: str, selector: str) -> bool:
    return _NAME.fullmatch(domain) is not None and _NAME.fullmatch(selector) is not None
