"""A password in a file of its own: its first line."""

from pathlib import Path


def read_password(path: str) -> str:
    """Return the password; raises ValueError."""
    try:
        return Path(path).read_text("utf-8").split("\n", 1)[0]
    except (OSError, UnicodeDecodeError) as wrong:
        raise ValueError(f"sql: passfile {path} cannot be read: {wrong}") from wrong
