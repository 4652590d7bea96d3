"""Transcripts of spamd's dialogue: what a client says, what it is told, and what is learnt of it.

`c:` a line of the client (CRLF), `s:` a line of ours, `offer:` `header:` `body:` an event, `tls` the handshake,
`end` the end; before them `client: black IP` and the `message:` of each of its lists, `offers: tls`, `mode: sinks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatepost.codec.spamd.dialogue import Body, Dialogue, Event, Flooded, Header, Offer, Say, StartTls, TooEarly

FOLDER = Path(__file__).parents[2] / "transcripts" / "spamd"
DATE = "Wed Jun  3 21:49:08 2015"
HOST = "mx.example.org"


@dataclass(frozen=True)
class Transcript:
    """One file."""

    name: str
    ip: str
    black: bool
    messages: tuple[str, ...]
    starttls: bool
    sinks: bool
    said: tuple[bytes, ...]
    """Before and after the handshake."""
    heard: tuple[str, ...]

    def dialogue(self) -> Dialogue:
        """Return the dialogue with this client."""
        return Dialogue(
            HOST, ip=self.ip, messages=self.messages, black=self.black, starttls=self.starttls, sinks=self.sinks
        )


def load(path: Path) -> Transcript:
    """Read a transcript."""
    ip, black, messages, said, heard = "192.0.2.1", False, [], [b""], []
    starttls = sinks = False
    for line in path.read_text().split("\n"):
        word, _, rest = line.partition(":")
        rest = rest.removeprefix(" ")
        match word:
            case "c":
                said[-1] += rest.encode() + b"\r\n"
            case "client":
                ip, black = rest.split()[1], True
            case "message":
                messages.append(rest)
            case "s" | "offer" | "header" | "body":
                heard.append(f"{word}: {rest}")
            case "offers":
                starttls = True
            case "mode":
                sinks = True
            case "tls":
                heard.append(word)
                said.append(b"")
            case "end":
                heard.append(word)
    return Transcript(path.stem, ip, black, tuple(messages), starttls, sinks, tuple(said), tuple(heard))


def transcripts() -> list[Transcript]:
    """Return all of them."""
    return [load(path) for path in sorted(FOLDER.glob("*.txt"))]


def converse(dialogue: Dialogue, said: Sequence[bytes], size: int | None = None) -> list[str]:
    """Let a client speak in pieces of `size`, each answer being said at once; return what was heard."""
    heard = [f"s: {line}" for line in dialogue.greet(DATE).decode().split("\r\n")[:-1]]
    heard += follow(dialogue, dialogue.said())
    for octets in said:
        step = size or max(1, len(octets))
        for at in range(0, len(octets), step):
            heard += follow(dialogue, dialogue.receive(octets[at : at + step]))
    return heard


def follow(dialogue: Dialogue, events: list[Event]) -> list[str]:
    """Say what is to be said, and go on; return what was heard."""
    heard: list[str] = []
    while events:
        owed = False
        for event in events:
            match event:
                case Say(octets=octets, close=close):
                    heard += [f"s: {line}" for line in octets.decode().split("\r\n")[:-1]]
                    heard += ["end"] if close else []
                    owed = not close
                case Offer(helo=helo, sender=sender, recipient=recipient):
                    heard.append(f"offer: {b' '.join((helo, sender, recipient)).decode()}")
                case Header(line=line):
                    heard.append(f"header: {line.decode()}")
                case Body(line=line):
                    heard.append(f"body: {line.decode()}")
                case StartTls():
                    heard.append("tls")
                case TooEarly() | Flooded():
                    heard.append(type(event).__name__)
        events = dialogue.said() if owed else []
    return heard


def without_body(heard: list[str]) -> tuple[str, ...]:
    """Return what was heard but for body lines, which are for debugging."""
    return tuple(line for line in heard if not line.startswith("body:"))
