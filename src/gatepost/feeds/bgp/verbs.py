"""What operators ask and tell a running BGP feed; `gatepost bgp` is a skin on these. All raise Refused."""

from collections.abc import AsyncIterator
from dataclasses import asdict, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from gatepost.feeds.bgp.door import Refused, ask, door_path
from gatepost.feeds.bgp.query import RibQuery
from gatepost.feeds.bgp.show import Messages, NeighborStatus, RibRow

R = TypeVar("R", NeighborStatus, RibRow)


class Order(Enum):
    """What a neighbour can be told to do."""

    UP = "up"
    DOWN = "down"
    CLEAR = "clear"
    REFRESH = "refresh"


async def list_neighbors(data_dir: Path) -> list[NeighborStatus]:
    """Return all neighbours of a running server as they are now."""
    return [_status(row) async for row in ask(door_path(data_dir), {"verb": "show"})]


async def show_neighbor(data_dir: Path, neighbor: str) -> NeighborStatus:
    """Return one neighbour, by address or description."""
    async for row in ask(door_path(data_dir), {"verb": "neighbor", "neighbor": neighbor}):
        return _status(row)
    raise Refused("the server gave no answer")


async def order_neighbor(data_dir: Path, neighbor: str, order: Order) -> str:
    """Tell a neighbour to go up or down, to begin anew, or to announce all again."""
    async for row in ask(door_path(data_dir), {"verb": order.value, "neighbor": neighbor}):
        return str(row["text"])
    raise Refused("the server gave no answer")


async def list_routes(data_dir: Path, query: RibQuery) -> AsyncIterator[RibRow]:
    """Return routes, in the order of their prefixes."""
    async for row in ask(door_path(data_dir), {"verb": "rib", **asdict(query)}):
        yield _known(RibRow, row)


def _status(row: dict[str, Any]) -> NeighborStatus:  # Any: JSON
    messages = {name: Messages(**row[name]) for name in ("sent", "received")}
    return _known(NeighborStatus, {**row, **messages})


def _known(kind: type[R], row: dict[str, Any]) -> R:  # Any: JSON
    """Make a row; a server of a later version may say more."""
    names = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in row.items() if name in names})
