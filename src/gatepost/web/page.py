"""What a page is asked, and what it answers; and which page answers what."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `host` is lower-case and without its port, "" where none was said; header names are lower-case.

    `path` is as it was sent, up to the `?`; `query` is what stands behind it.
    """

    method: str
    host: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    peer_ip: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; `type` is its Content-Type, not said where there is no body."""

    status: int
    body: bytes = b""
    type: str = PLAIN
    headers: tuple[tuple[str, str], ...] = ()


Page = Callable[[Asked], Awaitable[Answer]]
"""Answers one request; what it raises is logged, and the client told 500."""


def refusal(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    """Return an answer that says in one line why not."""
    return Answer(status, f"{text}\n".encode(), headers=headers)


@dataclass(frozen=True, slots=True)
class Site:
    """Pages by their exact path, each with its methods, e.g. `{("GET", "/.well-known/mta-sts.txt"): page}`.

    HEAD is answered by the page of GET, without its body.
    """

    pages: Mapping[tuple[str, str], Page]

    async def answer(self, asked: Asked) -> Answer:
        """Find the page and ask it; 404 where there is none, 405 where it takes other methods."""
        method = "GET" if asked.method == "HEAD" else asked.method
        page = self.pages.get((method, asked.path))
        if page is not None:
            return await page(asked)
        methods = sorted(each for each, path in self.pages if path == asked.path)
        if methods:
            return refusal(405, "Another method, please.", ("Allow", ", ".join(methods)))
        return refusal(404, "Nothing is here.")
