#!/usr/bin/env python3
"""The developer's door: `python3 dev.py try` shows gatepost, `python3 dev.py test` proves it.

Needs python3 >= 3.11 with venv and a package index that pip reaches; everything else is set up here, in
`.venv` beside this file. Where root and apt are there, `test` also installs the real programs that the tests
talk to; where not, it says at the end which tests were left out and why.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

HERE: Final = Path(__file__).resolve().parent
VENV: Final = HERE / ".venv"
RUNTIME_LOCK: Final = HERE / "requirements.lock"
DEV_LOCK: Final = HERE / "requirements-dev.lock"
PEERS: Final = {  # Debian package -> a program it brings, which is how we know that it is there
    "bind9": "/usr/sbin/named",
    "bind9-dnsutils": "nsupdate",
    "bind9-utils": "named-checkzone",
    "bird2": "/usr/sbin/bird",
    "clamav-daemon": "/usr/sbin/clamd",
    "clamsmtp": "/usr/sbin/clamsmtpd",
    "curl": "curl",
    "dovecot-imapd": "/usr/lib/dovecot/imap",
    "dovecot-lmtpd": "/usr/lib/dovecot/lmtp",
    "gcc": "gcc",
    "gobgpd": "gobgpd",
    "haproxy": "/usr/sbin/haproxy",
    "isync": "mbsync",
    "msmtp": "msmtp",
    "neomutt": "neomutt",
    "mariadb-server": "/usr/sbin/mariadbd",
    "openbgpd": "/usr/sbin/bgpd",
    "openssl": "openssl",
    "ldap-utils": "ldapadd",
    "libmail-dkim-perl": "/usr/share/perl5/Mail/DKIM/Signer.pm",
    "libmail-srs-perl": "/usr/share/perl5/Mail/SRS.pm",
    "postgresql": "/usr/lib/postgresql/15/bin/postgres",
    "slapd": "/usr/sbin/slapd",
    "spamassassin": "/usr/share/perl5/Mail/SpamAssassin.pm",
    "spampd": "/usr/sbin/spampd",
    "strace": "strace",
    "swaks": "swaks",
    "e2fsprogs": "/usr/sbin/mkfs.ext4",
    "xfsprogs": "/usr/sbin/mkfs.xfs",
    "libio-socket-ssl-perl": "/usr/share/perl5/IO/Socket/SSL.pm",
    "util-linux": "setpriv",
    "iproute2": "/usr/sbin/ip",
    "nftables": "/usr/sbin/nft",
}
OTHER_PYTHONS: Final = ("3.11", "3.12", "3.13")
NICE: Final = ("nice", "-n", "5") if shutil.which("nice") else ()
if TYPE_CHECKING:
    Check = tuple[str, Sequence[str | Path]]  # a name, and the command that checks it


def main() -> int:
    """Parse the command line and run one command; return its exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036  (this file may be started by any python3)
        print(f"gatepost needs Python 3.11 or later; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("try", help="install, then play the three mail flows; takes the options of `gatepost try`")
    test = commands.add_parser("test", help="install, then run every check and test")
    test.add_argument("--deep", action="store_true", help="run the long sweeps whole")
    test.add_argument("--fast", action="store_true", help="this Python only, no real processes or programs")
    commands.add_parser("docs", help="write the generated pages of docs/ anew")
    commands.add_parser("lock", help="resolve the dependencies anew (needs uv)")
    options, others = parser.parse_known_args()
    if others and options.command != "try":
        parser.error(f"unknown: {' '.join(others)}")
    match options.command:
        case "try":
            install(VENV, sys.executable, RUNTIME_LOCK)
            return subprocess.call([VENV / "bin" / "gatepost", "try", *others])
        case "test":
            return test_everything(deep=options.deep, fast=options.fast)
        case "docs":
            install(VENV, sys.executable, DEV_LOCK)
            return subprocess.call([VENV / "bin" / "python", "-m", "tests.pages"], cwd=HERE)
        case _:
            return lock()


def install(venv: Path, python: str, requirements: Path) -> None:
    """Make `venv` hold exactly what `requirements` names; does nothing when it already does."""
    wanted = _fingerprint(requirements)
    stamp = venv / ".gatepost-lock"
    installed = stamp.read_text().split() if stamp.exists() else []
    if wanted in installed:
        return
    print(f"Installing into {venv.relative_to(HERE)} from {requirements.name} ...", flush=True)
    if not (venv / "bin" / "python").exists():
        subprocess.run([python, "-m", "venv", venv], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    wheels = ["--only-binary", ":all:"] if requirements == RUNTIME_LOCK else []  # two test oracles are source only
    subprocess.run([*pip, "--require-hashes", *wheels, "-r", requirements], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-e", HERE], check=True)
    also = [_fingerprint(RUNTIME_LOCK)] if requirements == DEV_LOCK else []
    stamp.write_text("\n".join([wanted, *also]))


def _fingerprint(requirements: Path) -> str:
    return hashlib.sha256(requirements.read_bytes() + (HERE / "pyproject.toml").read_bytes()).hexdigest()


def test_everything(*, deep: bool, fast: bool) -> int:
    """Run format, lint, types, layers and tests; return 0 when all of them pass."""
    began = time.monotonic()
    install(VENV, sys.executable, DEV_LOCK)
    required = False if fast else install_peers()
    if required:  # mail servers: their packages exclude each other, so they are unpacked, not installed
        subprocess.run([VENV / "bin" / "python", "-m", "tests.support.peers"], cwd=HERE, check=False)
    environment = os.environ | {"GATEPOST_PEERS": "required" if required else "optional"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of real processes are started: compile them once
    here, beside = _checks(deep=deep, fast=fast)
    failed = []
    with ThreadPoolExecutor(1) as lane:  # the tests of real processes mostly wait: the others run meanwhile
        running = [(name, lane.submit(_quietly, command, environment)) for name, command in beside]
        for name, command in here:
            print(f"\n== {name}", flush=True)
            if subprocess.call(command, cwd=HERE, env=environment) != 0:
                failed.append(name)
        for name, run in running:
            code, output = run.result()
            print(f"\n== {name}\n{output}", flush=True)
            if code != 0:
                failed.append(name)
    count = len(here) + len(beside)
    print(f"\n{count - len(failed)} of {count} checks passed in {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        print("failed: " + ", ".join(failed))
    return 1 if failed else 0


def _checks(*, deep: bool, fast: bool) -> tuple[list[Check], list[Check]]:
    """Return what is run one after the other, and what beside it; each half takes about as long as the other."""
    bin_ = VENV / "bin"
    checks: list[Check] = [
        ("format", [bin_ / "ruff", "format", "--check", "."]),
        ("lint", [bin_ / "ruff", "check", "."]),
        ("types", [bin_ / "mypy"]),
        ("layers", [bin_ / "lint-imports", "--no-cache"]),
    ]
    tests: list[str | Path] = [bin_ / "python", "-m", "pytest", "-rs", *(("--deep",) if deep else ()), "-m"]
    if fast:
        return [*checks, ("tests", [*tests, "not process and not peer and not deep"])], []
    but = "" if deep else " and not deep"
    here = [*checks, ("tests", [*tests, f"not process{but}"]), *_other_pythons()]
    return here, [("tests of real processes", [*tests, f"process{but}"])]


def _quietly(command: Sequence[str | Path], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command with what others leave of the machine; return its status and all that it said."""
    done = subprocess.run(
        [*NICE, *command], cwd=HERE, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout


def install_peers() -> bool:
    """Install the real programs where root and apt are; return whether the tests may insist on them."""
    missing = [
        package
        for package, program in PEERS.items()
        if shutil.which(program) is None and not Path(program).exists()
    ]
    if not missing:
        return True
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"Not installed (needs root and apt): {', '.join(missing)}; their tests are left out below.")
        return False
    print(f"Installing real programs to test with: {', '.join(missing)} ...", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    quiet = ["-qq", "-o", "Dpkg::Use-Pty=0"]
    subprocess.run(["apt-get", "update", *quiet], env=environment, check=False, stdout=subprocess.DEVNULL)
    with _services_stay_off():
        done = subprocess.run(
            ["apt-get", "install", "-y", *quiet, "--no-install-recommends", *missing],
            env=environment,
            check=False,
            stdout=subprocess.DEVNULL,
        )
    if done.returncode != 0:
        print(f"apt-get could not install {', '.join(missing)}; their tests are left out below.")
    return done.returncode == 0


@contextlib.contextmanager
def _services_stay_off() -> Iterator[None]:
    """Keep apt from starting the servers that it installs, freshclam among them, as Debian lets one say it."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():  # the machine has its own
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def _other_pythons() -> list[Check]:
    """Prepare a virtual environment for each other supported Python; return its unit tests."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    found: list[Check] = []
    for version in OTHER_PYTHONS:
        python = _find_python(version)
        if version == own:
            continue
        if python is None:
            print(f"Python {version} is not on this machine: its unit tests are left out.")
            continue
        venv = HERE / ".venvs" / version
        install(venv, python, DEV_LOCK)
        marks = "not process and not peer and not deep"
        command: list[str | Path] = [venv / "bin" / "python", "-m", "pytest", "-m", marks]
        found.append((f"unit tests on {version}", command))
    return found


def _find_python(version: str) -> str | None:
    """Return a working interpreter of `version`: on the path, or among pyenv's."""
    candidates = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python3"))]
    for candidate in candidates:
        if candidate and subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode == 0:
            return candidate
    return None


def lock() -> int:
    """Write both lock files with hashes for every supported Python."""
    shared = ["uv", "pip", "compile", "-q", "--universal", "--python-version", "3.11", "--generate-hashes"]
    shared += ["--no-header", "--no-emit-index-url", "--no-annotate", "pyproject.toml", "--extra", "postgres"]
    for target, more in ((RUNTIME_LOCK, ["--group", "build"]), (DEV_LOCK, ["--group", "build", "--group", "dev"])):
        code = subprocess.call([*shared, *more, "-o", target], cwd=HERE)
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
