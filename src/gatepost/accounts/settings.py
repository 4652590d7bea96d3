"""The accounts' settings."""

from dataclasses import dataclass

from gatepost.base.units import Octets, Seconds


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """How people are known and how their passwords are kept: `[accounts]`."""

    postmaster: str = ""
    """Who gets mail for postmaster@ and abuse@ of our domains where no alias says so; without it an admin does."""

    login_domain: str = ""
    """What is added to a user name that has no @; empty: such a name is nobody."""

    detail_separator: str = "+"
    """What parts `ann+lists@` into `ann` and `lists`; empty for nothing."""

    password_rounds: int = 2
    """Passes of argon2id over its memory."""

    password_memory: Octets = Octets(19 * 1024 * 1024)
    """Memory of one password check (OWASP: 19 MiB with 2 rounds)."""

    password_threads: int = 2
    """Passwords that are checked at the same time."""

    password_queue: int = 32
    """Passwords that may wait for a check; more are told to try again later."""

    remember_logins: Seconds = Seconds(300)
    """How long a checked password is known again without argon2id, in this process's memory; 0 for never."""

    def __post_init__(self) -> None:
        if len(self.detail_separator) > 1 or self.detail_separator in ("@", '"'):
            raise ValueError("detail_separator is one character, such as + or -, or empty")
        if not 1 <= self.password_rounds <= 100:
            raise ValueError("password_rounds must be between 1 and 100")
        if not 8 << 10 <= self.password_memory <= 4 << 30:
            raise ValueError("password_memory must be between 8K and 4G")
        if not 1 <= self.password_threads <= 64:
            raise ValueError("password_threads must be between 1 and 64")
