"""SASL mechanisms that carry a password: PLAIN (RFC 4616) and LOGIN (draft-murchison-sasl-login), both sides.

Server: `mechanism.step(response)` takes what the client said and returns a Challenge or the Credentials; the
protocol around it does the base64 and the framing. Client: `plain_response`, `login_responses`.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

RESPONSE_MAX: Final = 12_288  # RFC 4954 §4, base64 with CRLF
CANCEL: Final = b"*"  # RFC 4954 §4


class Malformed(ValueError):
    """The client's response is not what the mechanism prescribes."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the server says next, before base64."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the client says it is. `authorize_as` is empty unless it wants to act as somebody else."""

    user: str
    password: bytes
    authorize_as: str = ""

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, authorize_as={self.authorize_as!r})"


Step = Challenge | Credentials


class Mechanism(Protocol):
    """The server's side of one exchange."""

    def step(self, response: bytes | None) -> Step:
        """Take the next response (None: the exchange begins without one); raises Malformed."""
        ...


class Plain:
    """PLAIN: `authzid NUL authcid NUL password` in one response (RFC 4616 §2)."""

    __slots__ = ()

    def step(self, response: bytes | None) -> Step:
        """Return the Credentials, or the empty challenge when there was no initial response."""
        if response is None:
            return Challenge(b"")
        parts = response.split(b"\0", 2)
        if len(parts) != 3:
            raise Malformed("PLAIN needs two NULs")
        return Credentials(user=_text(parts[1]), password=parts[2], authorize_as=_text(parts[0]))


class Login:
    """LOGIN: user and password, each asked for; an initial response is the user."""

    __slots__ = ("_user",)

    USER: Final = b"Username:"
    PASSWORD: Final = b"Password:"

    def __init__(self) -> None:
        self._user: str | None = None

    def step(self, response: bytes | None) -> Step:
        """Return the next prompt, at last the Credentials."""
        if response is None:
            return Challenge(self.USER)
        if self._user is None:
            self._user = _text(response)
            return Challenge(self.PASSWORD)
        return Credentials(user=self._user, password=response)


MECHANISMS: Final[Mapping[str, type[Plain] | type[Login]]] = {"PLAIN": Plain, "LOGIN": Login}


def decode_response(line: bytes) -> bytes:
    """Decode one base64 response; `=` alone is the empty one (RFC 4954 §4). Raises Malformed."""
    if line == b"=":
        return b""
    try:
        return b64decode(line, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("that is not base64") from error


def encode(octets: bytes) -> bytes:
    """Return base64 without line ends."""
    return binascii.b2a_base64(octets, newline=False)


def plain_response(user: str, password: str, authorize_as: str = "") -> bytes:
    """Return the client's only response of PLAIN, before base64; ValueError when a part has a NUL."""
    parts = (authorize_as, user, password)
    if any("\0" in part for part in parts):
        raise ValueError("no NUL in a name or a password (RFC 4616 §2)")
    return b"\0".join(part.encode() for part in parts)


def login_responses(user: str, password: str) -> tuple[bytes, bytes]:
    """Return the client's two responses of LOGIN, before base64."""
    return user.encode(), password.encode()


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        raise Malformed("names are UTF-8") from error
