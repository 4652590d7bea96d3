"""Parameters that both engines take: what one would refuse is refused for both, before it leaves the caller."""

from gatepost.db.unit import Clash, Params, Value

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def checked(params: Params) -> Params:
    """Return `params` as plain values.

    Raises Clash for what no column holds: text with NUL (PostgreSQL) or half a surrogate pair, a number of more
    than 64 bits. Raises TypeError for what is no Value: that is a bug of the caller.
    """
    for value in params.values():
        kind = type(value)
        if kind is str:
            assert isinstance(value, str)
            if "\0" in value or not (value.isascii() or _encodable(value)):
                raise Clash("text that cannot be stored")
        elif kind is int:
            assert isinstance(value, int)
            if not _LEAST <= value <= _MOST:
                raise Clash("a number of more than 64 bits")
        elif not (kind is bytes or value is None or kind is float):
            return checked({name: _plain(name, each) for name, each in params.items()})
    return params


def weight(params: Params) -> int:
    """Return about how many octets the parameters add to the database."""
    return sum(len(value) if isinstance(value, bytes | str) else 8 for value in params.values())


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(name: str, value: Value) -> Value:
    """Return an IntEnum as int, a StrEnum as str; drivers would each make something else of them."""
    if isinstance(value, bool) or not isinstance(value, int | str | bytes | float | None):
        raise TypeError(f"parameter {name} is {type(value).__name__}: not a Value (booleans are 0 and 1)")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    return bytes(value) if isinstance(value, bytes) else value
