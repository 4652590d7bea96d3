"""The feed's door: `gatepost bgp` asks a running server by a unix socket, one question a connection.

A question is one line of JSON with a `verb`; the answer is a line of JSON for each row, the last of them
`{"done": ...}` or `{"error": ...}`. Only the server's user and root are heard.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

from gatepost.db.keeper import listen_at, peer_allowed

QUESTION_MAX: Final = 4096
VISITORS_MAX: Final = 16
PATIENCE_S: Final = 60.0  # for a visitor to ask, or to read on

Question = Mapping[str, object]
Answer = Callable[[Question], AsyncIterator[Mapping[str, object] | bytes]]
"""Answers a question row by row, or with rows that are lines already; raises Refused."""


class Refused(Exception):
    """A question that cannot be answered; the text is for the operator."""


def door_path(data_dir: Path) -> Path:
    """Return where the feed of a server listens."""
    return data_dir / "run" / "bgp.sock"


class Door:
    """Answers questions while the feed runs."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path = path
        self._answer = answer
        self._visitors = 0

    async def serve(self) -> None:
        """Listen until cancelled."""
        server = await asyncio.start_unix_server(self._visit, sock=listen_at(self._path), limit=QUESTION_MAX)
        try:
            await server.serve_forever()
        finally:
            server.close()

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        if self._visitors >= VISITORS_MAX or not peer_allowed(sock):
            writer.transport.abort()
            return
        self._visitors += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = await reader.readline()
            await self._reply(line, writer)
        except (TimeoutError, OSError, ValueError):  # ValueError: a line that is too long
            writer.transport.abort()
        finally:
            self._visitors -= 1
            writer.close()

    async def _reply(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            question = json.loads(line)
            if not isinstance(question, dict):
                raise Refused("the question is no JSON object")
            async for row in self._answer(question):
                writer.write(row if isinstance(row, bytes) else json_line(row))
                async with asyncio.timeout(PATIENCE_S):
                    await writer.drain()
            writer.write(json_line({"done": True}))
        except Refused as refused:
            writer.write(json_line({"error": str(refused)}))
        async with asyncio.timeout(PATIENCE_S):
            await writer.drain()


async def ask(path: Path, question: Question) -> AsyncIterator[dict[str, object]]:
    """Ask a running server; raises Refused, also where there is none."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 20)
    except OSError:
        raise Refused("no BGP feed is running here: is the server up, and [feeds.bgp] set?") from None
    try:
        writer.write(json_line(question))
        while line := await reader.readline():
            row = json.loads(line)
            if "error" in row:
                raise Refused(str(row["error"]))
            if "done" in row:
                return
            yield row
        raise Refused("the server closed the connection before it had answered all")
    finally:
        writer.close()


def json_line(value: Mapping[str, object]) -> bytes:
    """Return a row as it goes through the door."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
