"""The settings of send limits: `[allowance]`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AllowanceSettings:
    """How many recipients elsewhere an account may write to: `[allowance]`. What is more is held, never lost.

    Mail between mailboxes here is not counted, nor is mail of programs and machines that send without a password.
    `gatepost user limits` shows who is near, sets limits for one account, and lets go what is held.
    """

    per_hour: int = 300
    """Recipients in any hour; 0 is no limit."""

    per_day: int = 2_000
    """Recipients in any 24 hours; 0 is no limit."""

    new_days: int = 7
    """How long an account counts as new; 0 never."""

    new_per_hour: int = 50
    """Recipients of a new account in any hour; 0 is no limit."""

    new_per_day: int = 200
    """Recipients of a new account in any 24 hours; 0 is no limit."""

    held: int = 100
    """Mails of one account that are held at most; further ones are put off with 452."""

    def __post_init__(self) -> None:
        numbers = (self.per_hour, self.per_day, self.new_days, self.new_per_hour, self.new_per_day, self.held)
        if min(numbers) < 0:
            raise ValueError("none of them may be below 0")
