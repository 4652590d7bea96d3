"""Protocols of calls that go up the layers; app binds them."""

from typing import Protocol

from gatepost.base.clock import Instant


class Log(Protocol):
    """A structured log: an event word, then fields; never passwords or bodies."""

    def debug(self, event: str, **fields: object) -> object: ...
    def info(self, event: str, **fields: object) -> object: ...
    def warning(self, event: str, **fields: object) -> object: ...
    def error(self, event: str, **fields: object) -> object: ...
    def exception(self, event: str, **fields: object) -> object: ...


class News(Protocol):
    """What the gate learnt itself, for the other mail servers; never what they told it."""

    def grey(self, ip: str, helo: bytes, sender: bytes, recipient: bytes) -> None: ...
    def white(self, ip: str, expires: Instant) -> None: ...
    def trapped(self, ip: str, expires: Instant) -> None: ...
    def changed(self, digest: bytes) -> None: ...


class Nobody:
    """Nobody to tell."""

    def grey(self, ip: str, helo: bytes, sender: bytes, recipient: bytes) -> None:
        """Do nothing."""

    def white(self, ip: str, expires: Instant) -> None:
        """Do nothing."""

    def trapped(self, ip: str, expires: Instant) -> None:
        """Do nothing."""

    def changed(self, digest: bytes) -> None:
        """Do nothing."""
