"""The remote MX of the demonstration: takes every mail and puts it into a Maildir. It stands for the world."""

import asyncio
import itertools
import os
import ssl
import time
from pathlib import Path
from typing import Final

GREETING: Final = b"220 mx.friends.example ESMTP sink\r\n"
LINE_MAX: Final = 1 << 16


class Sink:
    """An SMTP server that says yes; STARTTLS with the demonstration's certificate."""

    def __init__(self, folder: Path, context: ssl.SSLContext) -> None:
        self._folder = folder
        self._context = context
        self._numbers = itertools.count()
        self._server: asyncio.Server | None = None
        for name in ("tmp", "new", "cur"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    async def start(self, host: str) -> int:
        """Listen on a port that the kernel chooses; return it."""
        self._server = await asyncio.start_server(self._converse, host, 0, limit=1 << 22)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close."""
        if self._server is not None:
            self._server.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(GREETING)
            while line := await reader.readline():
                verb = line[:4].upper()
                match verb:
                    case b"EHLO":
                        extra = b"" if writer.get_extra_info("ssl_object") else b"250-STARTTLS\r\n"
                        writer.write(b"250-mx.friends.example\r\n250-PIPELINING\r\n" + extra)
                        writer.write(b"250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 52428800\r\n")
                    case b"STAR":
                        writer.write(b"220 2.0.0 go ahead\r\n")
                        await writer.drain()
                        await writer.start_tls(self._context)
                    case b"DATA":
                        writer.write(b"354 end with a dot\r\n")
                        await writer.drain()
                        await self._take(reader)
                        writer.write(b"250 2.0.0 taken\r\n")
                    case b"QUIT":
                        writer.write(b"221 2.0.0 bye\r\n")
                        break
                    case b"HELO" | b"MAIL" | b"RCPT" | b"RSET" | b"NOOP":
                        writer.write(b"250 2.0.0 ok\r\n")
                    case _:
                        writer.write(b"502 5.5.1 not here\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            writer.close()

    async def _take(self, reader: asyncio.StreamReader) -> None:
        """Read a mail up to its dot and deliver it: tmp, then new."""
        lines: list[bytes] = []
        while True:
            line = await reader.readline()
            if not line:
                raise ConnectionError
            if line == b".\r\n":
                break
            lines.append(line[1:] if line.startswith(b".") else line)
        name = f"{time.time_ns()}.{os.getpid()}_{next(self._numbers)}.sink"
        path = self._folder / "tmp" / name
        path.write_bytes(b"".join(lines))
        path.rename(self._folder / "new" / name)
