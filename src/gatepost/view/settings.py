"""The readers' settings."""

from dataclasses import dataclass

from gatepost.base.units import Octets, Seconds


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """How mail is read: `[view]`."""

    plain_passwords: bool = False
    """Take passwords without TLS from everywhere; without it only from this machine itself."""

    sessions_per_user: int = 30
    """Connections of one user from one address at the same time, in one worker."""

    login_time: Seconds = Seconds(180)
    """How long a client may take to log in."""

    login_line_time: Seconds = Seconds(30)
    """How long it may take for each line until then; twice that for the first one behind STARTTLS."""

    idle_time: Seconds = Seconds(30 * 60)
    """How long a client may be silent (RFC 9051 §5.4 asks for at least 30 min)."""

    pop3_idle_time: Seconds = Seconds(10 * 60)
    """The same for POP3 (RFC 1939 §3)."""

    write_time: Seconds = Seconds(300)
    """How long a client may take to read an answer."""

    append_max: Octets = Octets(50 * 1024 * 1024)
    """The largest message that a client may store."""

    def __post_init__(self) -> None:
        if self.idle_time < 1800:
            raise ValueError("idle_time must be at least 30m: clients rely on it (RFC 9051 §5.4)")
