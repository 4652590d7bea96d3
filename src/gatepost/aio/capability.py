"""Become a user that may change the network's rules and nothing else (capabilities(7)).

Standard library only.
"""

import ctypes
import grp
import os
import pwd
from typing import Final

_CAP_NET_ADMIN: Final = 12
_LAST_CAPABILITY: Final = 63
_VERSION_3: Final = 0x20080522
_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 8, 24, 38
_PR_CAP_AMBIENT, _AMBIENT_RAISE, _AMBIENT_CLEAR = 47, 2, 4


class NoNetAdmin(Exception):
    """CAP_NET_ADMIN is not there to keep."""


def keep_net_admin(user: str, group: str = "") -> None:
    """Become `user` for good and keep CAP_NET_ADMIN alone, also over an `exec`; raises KeyError, OSError.

    Without a `user`, or when not root, only the other capabilities go. Raises NoNetAdmin too.
    """
    if not _holds(_CAP_NET_ADMIN):
        raise NoNetAdmin("the gate in the kernel needs CAP_NET_ADMIN: start gatepost as root")
    os.umask(0o077)
    if os.geteuid() == 0:
        for capability in range(_LAST_CAPABILITY + 1):
            if capability != _CAP_NET_ADMIN:
                _libc().prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # EINVAL behind the kernel's last one
    if user and os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
        os.initgroups(user, gid)
        os.setresgid(gid, gid, gid)
        _call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    bit = 1 << _CAP_NET_ADMIN
    _set(bit, bit, bit)
    _call("prctl", _PR_CAP_AMBIENT, _AMBIENT_CLEAR, 0, 0, 0)
    _call("prctl", _PR_CAP_AMBIENT, _AMBIENT_RAISE, _CAP_NET_ADMIN, 0, 0)


def _holds(capability: int) -> bool:
    header, data = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _call("capget", header, data)
    return bool(data[1] >> capability & 1)  # permitted, of the first 32


def _set(effective: int, permitted: int, inheritable: int) -> None:
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)(effective, permitted, inheritable, 0, 0, 0))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
