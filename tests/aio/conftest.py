"""Everything that drives sockets is tested on both loops: uvloop, which serves, and asyncio's own."""

import asyncio
from collections.abc import Iterator

import pytest
import uvloop


@pytest.fixture(autouse=True, params=["uvloop", "asyncio"])
def each_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make `run` use the loop of the parameter."""
    if request.param == "uvloop":
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    yield
    asyncio.set_event_loop_policy(None)
