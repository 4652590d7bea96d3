"""A bgpd.conf as TOML for `[feeds.bgp]`: what `gatepost import bgpd.conf` prints."""

import json
from collections.abc import Iterator
from dataclasses import fields

from gatepost.feeds.bgp.conf import BgpdConf
from gatepost.feeds.bgp.filter import ONLY_MATCHES, Action, Group, Peers, Rule, only_matches
from gatepost.feeds.bgp.rules import community_text, rule_text
from gatepost.feeds.bgp.settings import NeighborSettings


def as_toml(conf: BgpdConf) -> str:
    """Return the settings that say what a bgpd.conf says."""
    return "\n".join([*_head(conf), *_neighbors(conf), *_tables(conf)]) + "\n"


def report(conf: BgpdConf) -> list[str]:
    """Return what an operator must know of it, a line each."""
    lines = [each.text for each in conf.remarks]
    if only_matches(conf.rules):
        lines.append(ONLY_MATCHES)
    return lines


def _head(conf: BgpdConf) -> Iterator[str]:
    yield "[feeds.bgp]"
    if conf.asn:
        yield f"asn = {conf.asn}"
    if conf.router_id:
        yield f"router_id = {_text(conf.router_id)}"
    if conf.holdtime is not None:
        yield f"holdtime = {conf.holdtime:g}"
    if conf.holdtime_min is not None:
        yield f"holdtime_min = {conf.holdtime_min:g}"
    if conf.listen:
        yield f"listen = [{', '.join(map(_text, conf.listen))}]"
    if conf.rules and not _plain(conf):
        yield "filters = ["
        yield from (f"  {_text(rule_text(rule))}," for rule in conf.rules)
        yield "]"


def _neighbors(conf: BgpdConf) -> Iterator[str]:
    usual = NeighborSettings("192.0.2.1", 1)
    for neighbor in conf.neighbors:
        yield "\n[[feeds.bgp.neighbors]]"
        for each in fields(NeighborSettings):
            value = getattr(neighbor, each.name)
            if each.name in ("address", "remote_as") or value != getattr(usual, each.name):
                yield f"{each.name} = {_value(value)}"


def _tables(conf: BgpdConf) -> Iterator[str]:
    for rule in conf.rules if _plain(conf) else ():
        yield "\n[[feeds.bgp.tables]]"
        if rule.communities:
            yield f"community = {_text(community_text(rule.communities[0]))}"
        else:
            yield f"large_community = {_text(community_text(rule.large[0]))}"
        yield f"table = {_text(rule.table)}"
        match rule.sources[0]:
            case Group(name=name):
                yield f"neighbor = {_text(f'group {name}')}"
            case str(address):
                yield f"neighbor = {_text(address)}"


def _plain(conf: BgpdConf) -> bool:
    """Tell whether all rules only give communities their tables."""
    return all(_is_plain(rule) for rule in conf.rules)


def _is_plain(rule: Rule) -> bool:
    bare = Rule(
        Action.MATCH,
        rule.sources,
        communities=rule.communities,
        large=rule.large,
        table=rule.table,
        where=rule.where,
    )
    return (
        rule == bare
        and bool(rule.table)
        and len(rule.communities) + len(rule.large) == 1
        and len(rule.sources) == 1
        and (rule.sources[0] is Peers.ANY or isinstance(rule.sources[0], Group | str))
    )


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"{value:g}"
        case _:
            return _text(str(value))


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a TOML basic string knows the same escapes
