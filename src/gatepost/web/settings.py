"""Settings of the web listener."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What strangers may ask of the web listener: `[web]`."""

    request_time: float = 30.0
    """Seconds for a whole request to come in, and as many to take its answer."""

    idle_time: float = 60.0
    """Seconds for which an open connection may be silent between two requests."""

    body_size: int = 1 << 20
    """Octets of a request's body at most."""

    requests: int = 100
    """Requests on one connection."""

    def __post_init__(self) -> None:
        if min(self.request_time, self.idle_time) < 1:
            raise ValueError("request_time and idle_time must be at least 1s")
        if not 0 <= self.body_size <= 64 << 20:
            raise ValueError("body_size must be between 0 and 64M")
        if self.requests < 1:
            raise ValueError("requests must be at least 1")
