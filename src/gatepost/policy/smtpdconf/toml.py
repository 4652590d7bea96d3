"""What was found in a smtpd.conf, as our settings and as a report."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from gatepost.policy.smtpdconf.words import Certificate, Found, Heed, ListenerWords, Remark, RuleWords, Settings

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_WILD: Final = {"0.0.0.0": 4, "::": 6}  # noqa: S104 (compared, not bound)
_SECTIONS: Final = ("server", "accounts", "intake", "queue", "relay")


def as_toml(found: Found) -> str:
    """Return the settings that say what a smtpd.conf says.

    Where something is undecided the settings name an action or an address that does not exist: they are not taken
    before the operator has decided, since a guess would send mail somewhere.
    """
    blocks = [list(_section(name, found.settings.get(name, {}))) for name in _SECTIONS]
    blocks += [_certificate(each) for each in _certificates(found)]
    blocks += [list(each) for each in _listeners(found)]
    blocks += [list(_policy(found)), *_tables(found), *_actions(found)]
    blocks += [list(_rule(each)) for each in found.rules]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def report(found: Found) -> tuple[Remark, ...]:
    """Return what becomes of every statement, in their order, then what holds for the whole file."""
    files = list(dict.fromkeys((found.file, *(each.file for each in found.remarks))))
    extra = [*_unreachable(found), *_covered(found)]
    ordered = sorted((*found.remarks, *extra), key=lambda each: (files.index(each.file), each.line))
    return (*ordered, *_whole(found))


def remark_text(remark: Remark) -> str:
    """Write a remark in one line: `/etc/mail/smtpd.conf:12: changed      listen ...: why`."""
    return _comment(f"{remark.file}:{remark.line}: {remark.heed.value:<11} {remark.statement}: {remark.why}")


# --- settings -------------------------------------------------------------------------------------------------


def _section(name: str, settings: Settings) -> Iterator[str]:
    if settings:
        yield f"[{name}]"
        yield from (f"{key} = {_value(value)}" for key, value in settings.items())


def _certificates(found: Found) -> list[Certificate]:
    """Return the certificates, first the one for clients that ask for no name."""
    first = found.certificates.get(found.first_certificate)
    return sorted(found.certificates.values(), key=lambda each: each is not first)


def _certificate(entry: Certificate) -> list[str]:
    return ["[[tls.certificates]]", f"certificate = {_value(entry.certificate)}", f"key = {_value(entry.key)}"]


def _listeners(found: Found) -> Iterator[Iterator[str]]:
    taken: set[str] = set()
    for listener in _joined(found):
        base = _listener_name(listener)
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}-{count}"
        taken.add(name)
        yield _listener(name, listener)
    for line, interface in found.undecided_listeners:
        yield iter(
            (
                f"[listen.undecided-line-{line}]",
                _comment(f"# line {line}: write the kind, and the addresses of {interface}"),
                'kind = "mx"',
                f"address = [{_value(interface)}]",
            )
        )


def _listener_name(listener: ListenerWords) -> str:
    if listener.tag:
        return re.sub(r"[^A-Za-z0-9_-]", "_", listener.tag.lower())
    return listener.kind


def _listener(name: str, listener: ListenerWords) -> Iterator[str]:
    yield f"[listen.{_key(name)}]"
    yield f"kind = {_value(listener.kind)}"
    where = (f"[{each}]" if ":" in each else each for each in listener.address)
    yield f"address = {_value(tuple(f'{each}:{listener.port}' for each in where))}"
    if listener.tag:
        yield f"tag = {_value(listener.tag)}"


def _joined(found: Found) -> list[ListenerWords]:
    """Return the listeners, those of one kind, port and tag as one; what a wildcard covers is left out."""
    joined: dict[tuple[str, int, str], tuple[str, ...]] = {}
    for each in found.listeners:
        key = (each.kind, each.port, each.tag)
        joined[key] = tuple(dict.fromkeys((*joined.get(key, ()), *each.address)))
    return [
        ListenerWords(kind, _without_covered(address), port, tag) for (kind, port, tag), address in joined.items()
    ]


def _without_covered(address: tuple[str, ...]) -> tuple[str, ...]:
    families = {_WILD[each] for each in address if each in _WILD}
    return tuple(each for each in address if each in _WILD or (6 if ":" in each else 4) not in families)


def _policy(found: Found) -> Iterator[str]:
    settings = dict(found.settings.get("policy", {}))
    if found.new:
        settings["authenticated_is_local"] = False
    yield from _section("policy", settings)


def _tables(found: Found) -> Iterator[list[str]]:
    for name, table in found.tables.items():
        if not table or not found.copied(name):
            continue
        lines = [f"[policy.tables.{_key(name)}]"]
        for key, value in table.items():
            lines.append(f"{key} = {_inline(value)}")
        yield lines


def _actions(found: Found) -> Iterator[list[str]]:
    for name, action in found.actions.items():
        if not action.undecided:
            yield [
                f"[policy.actions.{_key(name)}]",
                *(f"{key} = {_value(value)}" for key, value in action.settings.items()),
            ]


def _rule(rule: RuleWords) -> Iterator[str]:
    yield "[[policy.rules]]"
    if rule.undecided:
        yield f"# line {rule.line}: {_comment(rule.undecided)}"
    conditions = ", ".join(f"{key} = {_value(value)}" for key, value in rule.match.items())
    yield f"match = {{ {conditions} }}" if conditions else "match = {}"
    yield f"action = {_value(f'undecided-line-{rule.line}' if rule.undecided else rule.action)}"


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_text(str(each))}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return _value(tuple(value))
    return _text(str(value))


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case tuple():
            return f"[{', '.join(_text(str(each)) for each in value)}]"
        case _:
            return _text(str(value))


def _text(text: str) -> str:
    """Write a TOML basic string; it knows JSON's escapes, but takes no DEL as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- what the statements do not say one by one -----------------------------------------------------------------


def _unreachable(found: Found) -> Iterator[Remark]:
    """Say which rules never decide, because one before takes all that they could."""
    for at, rule in enumerate(found.rules):
        if rule.undecided:
            continue
        above = next((each for each in found.rules[:at] if not each.undecided and _takes_all(each, rule)), None)
        if above is not None:
            why = (
                f"never reached: the rule of line {above.line} stands before it and takes all it could take, as in "
                f"smtpd itself; to repair it, move it above line {above.line}"
            )
            text = " ".join(f"{key} {value}" for key, value in rule.match.items())
            yield Remark(rule.file, rule.line, Heed.MAPPED, f"rule {at + 1} ({_comment(text)})", why)


def _takes_all(above: RuleWords, rule: RuleWords) -> bool:
    """Tell whether a rule matches wherever another does: each of its conditions is also the other's, or none."""
    usual: Settings = {"from": "local", "for": "local"}
    mine, others = {**usual, **above.match}, {**usual, **rule.match}
    return all(
        (key in ("from", "for") and value == "any") or others.get(key) == value for key, value in mine.items()
    )


def _covered(found: Found) -> Iterator[Remark]:
    """Say where one listener would be in the way of another: 0.0.0.0 takes the port on every address."""
    joined = _joined(found)
    wild = {(each.port, _WILD[where]): each for each in joined for where in each.address if where in _WILD}
    for each in joined:
        for where in each.address:
            other = wild.get((each.port, 6 if ":" in where else 4))
            if other is not None and other is not each and where not in _WILD:
                why = f"port {each.port} is taken there by another listener on every address: name its addresses"
                yield Remark(found.file, 0, Heed.UNSUPPORTED, f"listener on {where}, tag {each.tag or '-'}", why)


def _whole(found: Found) -> Iterator[Remark]:
    """Say what holds for the whole file."""
    last = max((each.line for each in found.remarks if each.file == found.file), default=1)
    if found.listeners:
        why = "only these listeners open: for IMAP add [listen.imaps] with kind imaps"
        yield Remark(found.file, last, Heed.CHANGED, "listeners", why)
    if found.rules:
        why = "what no rule takes is refused with 550, as in smtpd"
        yield Remark(found.file, last, Heed.MAPPED, "rules", why)
        why = (
            "logins count as local (policy.authenticated_is_local)"
            if found.old
            else ("logins are not local: rules ask for auth (policy.authenticated_is_local = false)")
        )
        yield Remark(found.file, last, Heed.MAPPED, "logins", why)
    else:
        why = (
            "there is none, and smtpd refuses all mail then; this server has rules of its own where none is written"
        )
        yield Remark(found.file, last, Heed.CHANGED, "rules", why)
    undecided = [each.line for each in found.rules if each.undecided] + [at for at, _ in found.undecided_listeners]
    if undecided:
        why = "the settings are not taken before you decide about line " + ", ".join(map(str, sorted(undecided)))
        yield Remark(found.file, last, Heed.UNSUPPORTED, "the whole file", why)
