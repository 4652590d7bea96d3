"""Run a coroutine to its end in a fresh event loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what `coroutine` returns; debug mode off, as in the server."""
    return asyncio.run(coroutine)
