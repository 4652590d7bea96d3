"""Find the real programs that tests talk to; say in one way why a test was left out.

Mail servers cannot be installed side by side: each Debian package conflicts with all others. Theirs are unpacked
into a folder of the user's cache instead (`python -m tests.support.peers` does it ahead of the tests), and run in a
mount namespace of their own, where they look installed and nobody else sees them.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

MACHINE_CANNOT: Final = "this machine cannot: "
"""The one kind of skip that CI allows: what no set-up could bring here (a kernel without a feature)."""

UNPACKED: Final = {  # a mail server -> its Debian packages, and those of libraries that may be missing here
    "postfix": ("postfix", "libdb5.3", "libicu72", "libnsl2", "libsasl2-2"),
    "opensmtpd": ("opensmtpd", "libdb5.3", "libevent-2.1-7"),
    "exim": (
        "exim4-daemon-light", "libdb5.3", "libgnutls-dane0", "libgnutls30", "libidn12", "libidn2-0", "libnsl2",
        "libpcre2-8-0", "libunbound8",
    ),
}  # fmt: skip
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gatepost-peers"


def program(name: str, *places: str) -> str:
    """Return the path of a real program; skip the test where it is missing, fail it where set-up brought it."""
    found = shutil.which(name) or next((place for place in places if Path(place).exists()), None)
    if found is not None:
        return found
    if os.environ.get("GATEPOST_PEERS") == "required":
        pytest.fail(f"{name} should be installed here and is not")
    pytest.skip(f"{name} is not installed (dev.py test installs it where root and apt are there)")


def cannot(reason: str) -> None:
    """Leave the test out because no set-up could make this machine run it."""
    pytest.skip(MACHINE_CANNOT + reason)


def unpacked(server: str) -> Path:
    """Return the folder with a mail server's files; unpack them where that was not done, else skip or fail."""
    folder = CACHE / server
    if folder.exists():
        return folder
    why = _unpack(UNPACKED[server], folder)
    if not why:
        return folder
    if os.environ.get("GATEPOST_PEERS") == "required":
        pytest.fail(f"{server} cannot be unpacked: {why}")
    pytest.skip(f"{server} cannot be unpacked: {why}")


def _unpack(packages: tuple[str, ...], folder: Path) -> str:
    """Download Debian packages and unpack them into a folder, whole or not at all; return why that cannot be."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "this is no Debian"
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        download = ["apt-get", "download", "-qq", *packages]
        done = subprocess.run(download, cwd=work, capture_output=True, text=True)
        if done.returncode and os.geteuid() == 0:  # nobody has asked for the lists of packages yet
            subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
            done = subprocess.run(download, cwd=work, capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip()[-500:]
        for package in work.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, work / "files"], check=True)
        (work / "files").chmod(0o755)
        (work / "files").rename(folder)
    return ""


def as_installed(root: Path, own: Path, *command: str) -> list[str]:
    """Return the command line that runs `command` where the files under `root` and `own` are part of the system.

    They lie over /usr, /etc and /var (of these only `own` has any); what is written there is gone afterwards. All
    of its processes end with it. Only root may do so.
    """
    layers = {
        "/usr": f"{root}/usr:/usr",
        "/etc": f"{own}/etc:{root}/etc:/etc" if (root / "etc").exists() else f"{own}/etc:/etc",
        "/var": f"{own}/var:/var",
    }
    mounts = [f"mount -t overlay -o lowerdir={lower} none {where}" for where, lower in layers.items()]
    mounts += ["mount -t tmpfs none /run", "mount -t tmpfs -o mode=755 none /var/spool"]
    script = " && ".join([*mounts, 'exec "$@"'])
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", *command]


def can_mount() -> str:
    """Return why `as_installed` does not work on this machine; empty when it does."""
    if os.geteuid() != 0:
        return "only root may mount"
    with tempfile.TemporaryDirectory() as name:
        root, own = Path(name, "root"), Path(name, "own")
        for folder in (root / "usr", own / "etc", own / "var"):
            folder.mkdir(parents=True)
        done = subprocess.run(as_installed(root, own, "true"), capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip()


def accounts(own: Path, users: Mapping[str, int]) -> None:
    """Write passwd and group of the machine with more users, each with a group of the same name and number."""
    (own / "etc").mkdir(parents=True, exist_ok=True)
    for name, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")):
        more = "".join(line.format(user, number) for user, number in users.items())
        theirs = Path("/etc", name).read_text().splitlines(keepends=True)
        (own / "etc" / name).write_text("".join(row for row in theirs if row.split(":")[0] not in users) + more)


if __name__ == "__main__":
    for each in UNPACKED:
        reason = "" if (CACHE / each).exists() else _unpack(UNPACKED[each], CACHE / each)
        print(f"{each}: {reason or CACHE / each}")
