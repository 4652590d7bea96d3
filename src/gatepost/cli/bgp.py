"""`gatepost bgp`: bgpctl's questions and orders, for the feed of a running server."""

import asyncio
import sys
from collections import Counter
from collections.abc import Coroutine, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from gatepost.cli.common import ConfigOption, Failed, JsonOption, configuration, print_json, say
from gatepost.feeds.bgp import show as bgpctl
from gatepost.feeds.bgp import verbs
from gatepost.feeds.bgp.door import Refused
from gatepost.feeds.bgp.query import RibQuery

T = TypeVar("T")

bgp = typer.Typer(help="The BGP feed: its neighbours and what they announced.", no_args_is_help=True)
_SHOWN: Final = ("", "summary")

CommunityOption = Annotated[
    str, typer.Option("--community", help="Only routes with this community: 65066:42; * in either half is any.")
]
LargeOption = Annotated[str, typer.Option("--large-community", help="Only routes with this one: 65066:1:42.")]
NeighborOption = Annotated[
    str, typer.Option("--neighbor", help="Only this neighbour's routes, also those that filters did not take.")
]
TableOption = Annotated[str, typer.Option("--table", help="Only routes that fill this table.")]


@bgp.command("show")
def bgp_show(
    what: Annotated[str, typer.Argument(help="summary (which is all there is)")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all neighbours, as bgpctl show does."""
    if what not in _SHOWN:
        raise Failed(f"there is no show {what}: try `gatepost bgp show`, `bgp rib` and `bgp neighbor`")
    found = _run(verbs.list_neighbors(configuration(config).data_dir))
    if as_json:
        print_json([asdict(each) for each in found])
        return
    _print(bgpctl.summary(found))


@bgp.command("rib")
def bgp_rib(
    community: CommunityOption = "",
    large_community: LargeOption = "",
    neighbor: NeighborOption = "",
    table: TableOption = "",
    received: Annotated[bool, typer.Option("--in", help="Also routes that filters did not take.")] = False,
    addresses_only: Annotated[
        bool, typer.Option("--addresses-only", help="Only prefixes with their length, each once.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print routes as bgpctl of OpenBSD 5.7 does: four lines, then one for each path of each prefix."""
    query = RibQuery(community, large_community, neighbor, table, received or bool(neighbor))
    data_dir = configuration(config).data_dir
    if as_json:
        _run(_rib_as_json(data_dir, query))
    elif addresses_only:
        _run(_addresses(data_dir, query))
    else:
        _run(_rib(data_dir, query))


@bgp.command("export")
def bgp_export(
    community: Annotated[str, typer.Argument(help="65066:42, or 65066:1:42 for a large one.")] = "",
    table: TableOption = "",
    config: ConfigOption = None,
) -> None:
    """Print the prefixes with a community, or of a table, each once with its length: a list for other programs."""
    if not community and not table:
        raise Failed("give a community or --table")
    large = community.count(":") == 2
    query = RibQuery("" if large else community, community if large else "", table=table)
    _run(_addresses(configuration(config).data_dir, query))


@bgp.command("neighbor")
def bgp_neighbor(
    neighbor: Annotated[str, typer.Argument(help="Its address or description; without it, all.")] = "",
    order: Annotated[verbs.Order | None, typer.Argument(help="Tell it to go up or down, or else.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a neighbour: state, timers, capabilities, counters, last error; or give it an order.

    clear ends the session, and it begins anew; refresh asks for all routes again.
    """
    data_dir = configuration(config).data_dir
    if order is not None:
        say(_run(verbs.order_neighbor(data_dir, neighbor, order)))
        return
    if neighbor:
        found = [_run(verbs.show_neighbor(data_dir, neighbor))]
    else:
        found = _run(verbs.list_neighbors(data_dir))
    if as_json:
        print_json([asdict(each) for each in found])
        return
    for at, each in enumerate(found):
        _print(("",) if at else ())
        _print(bgpctl.neighbor(each))


async def _rib(data_dir: Path, query: RibQuery) -> None:
    refused: Counter[str] = Counter()
    begun = False
    async for row in verbs.list_routes(data_dir, query):
        if not begun:
            _print(bgpctl.RIB_HEAD)
            begun = True
        say(bgpctl.rib_row(row))
        if row.refused:
            refused[row.refused] += 1
    if not begun:
        _print(bgpctl.RIB_HEAD)
    for line in bgpctl.refusals(refused):
        sys.stderr.write(line + "\n")


async def _addresses(data_dir: Path, query: RibQuery) -> None:
    last = ""
    async for row in verbs.list_routes(data_dir, query):
        if row.prefix != last:
            say(row.prefix)
        last = row.prefix


async def _rib_as_json(data_dir: Path, query: RibQuery) -> None:
    print_json([asdict(row) async for row in verbs.list_routes(data_dir, query)])


def _run(work: Coroutine[Any, Any, T]) -> T:  # Any: what a coroutine sends and takes is nobody's
    try:
        return asyncio.run(work)
    except Refused as refused:
        raise Failed(str(refused)) from refused


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)
