"""Tables in MariaDB and in an LDAP directory, asked over their own libraries from real servers."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from gatepost.base.reply import Refusal
from gatepost.base.settings import BadSetting
from gatepost.policy.table import TableSettings
from gatepost.policy.tables.kind import Kind
from gatepost.policy.tables.queried import open_table
from tests.process.served import free_ports
from tests.support.loop import run
from tests.support.peers import program

pytestmark = [pytest.mark.process]


def ask(settings: dict[str, Any], *questions: tuple[Kind, str]) -> list[tuple[str, ...] | None]:
    """Ask a table; None where it knows nothing."""

    async def play() -> list[tuple[str, ...] | None]:
        table = open_table(TableSettings(**settings), "people", lambda *_, **__: None)
        try:
            return [await table.values(kind, (key,)) for kind, key in questions]
        finally:
            table.close()

    return run(play())


def started(
    command: list[str], folder: Path, user: str | None, ready: Callable[[], object]
) -> subprocess.Popen[bytes]:
    """Start a server and wait until `ready` raises nothing."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, user=user, cwd=folder, stdout=log, stderr=log)
    ends = time.monotonic() + 30
    while True:
        try:
            ready()
        except Exception:
            if time.monotonic() > ends or process.poll() is not None:
                raise RuntimeError((folder / "log").read_text()) from None
            time.sleep(0.05)
        else:
            return process


def ended(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Stop a server that we started, and remove its files."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def somebody(*names: str) -> str | None:
    """Return the user to run as: the first that is there, when we are root."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in (*names, "nobody") if name in known) if os.geteuid() == 0 else None


@pytest.fixture(scope="module")
def mariadb() -> Iterator[Path]:
    """Start MariaDB; yield its socket."""
    folder = Path(tempfile.mkdtemp(prefix="gatepost-my-", dir="/tmp"))
    user = somebody("mysql")
    if user is not None:
        shutil.chown(folder, user)
    data, sock = folder / "data", folder / "sock"
    plain = ["--no-defaults", f"--datadir={data}"]
    install = [
        program("mariadb-install-db", "/usr/bin/mariadb-install-db"),
        *plain,
        "--auth-root-authentication-method=normal",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*install, "--skip-test-db"], user=user, cwd=folder, check=True, **quiet)  # type: ignore[call-overload]  # **quiet
    command = [program("mariadbd", "/usr/sbin/mariadbd"), *plain, f"--socket={sock}", "--skip-networking"]
    command += [f"--pid-file={folder}/pid", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=8M"]

    def ready() -> None:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(sock))

    process = started(command, folder, user, ready)
    with pymysql.connect(user="root", unix_socket=str(sock), autocommit=True) as root, root.cursor() as cursor:
        cursor.execute("CREATE DATABASE mail CHARACTER SET utf8mb4")
        cursor.execute("CREATE TABLE mail.alias (address VARCHAR(255) PRIMARY KEY, target TEXT)")
        rows = [
            ("joe@here.example", "joe, x@far.example"),
            ("o'neil@here.example", "oneil"),
            ("größe@here.example", "g"),
        ]
        cursor.executemany("INSERT INTO mail.alias VALUES (%s, %s)", rows)
        cursor.execute("CREATE USER gatepost@localhost IDENTIFIED BY 's:e@c/ret'")
        cursor.execute("GRANT SELECT, INSERT ON mail.* TO gatepost@localhost")
    yield sock
    ended(process, folder)


def mysql(sock: Path, password: str = "s%3Ae%40c%2Fret", **more: Any) -> dict[str, Any]:
    """Return the settings of a table in MariaDB."""
    query = "SELECT target FROM alias WHERE address = :key"
    dsn = f"mysql://gatepost:{password}@localhost/mail?unix_socket={sock}"
    return {"sql": dsn, "query": query, "cache": 0, **more}


@pytest.mark.peer("mariadb-server")
@pytest.mark.row("MT-30")
def test_mariadb_is_asked(mariadb: Path) -> None:
    found = ask(
        mysql(mariadb),
        (Kind.VIRTUAL, "joe@here.example"),
        (Kind.VIRTUAL, "nobody@here.example"),
        (Kind.VIRTUAL, "o'neil@here.example"),
        (Kind.VIRTUAL, "größe@here.example"),
        (Kind.VIRTUAL, "' OR '1'='1"),
        (Kind.VIRTUAL, "\\' OR 1=1 -- "),
    )
    assert found == [("joe, x@far.example",), None, ("oneil",), ("g",), None, None]


@pytest.mark.peer("mariadb-server")
def test_mariadb_is_never_written(mariadb: Path) -> None:
    with pytest.raises(Refusal) as refused:
        ask(mysql(mariadb, query="INSERT INTO alias VALUES (:key, 'x')"), (Kind.VIRTUAL, "new@here.example"))
    assert refused.value.reply.code == 451
    assert "READ ONLY" in refused.value.detail


@pytest.mark.peer("mariadb-server")
def test_a_wrong_password_and_a_query_that_is_none_put_the_mail_off(mariadb: Path, tmp_path: Path) -> None:
    for settings, text in (
        (mysql(mariadb, "wrong"), "Access denied"),
        (mysql(mariadb, query="SELEKT :key"), "syntax"),
    ):
        with pytest.raises(Refusal) as refused:
            ask(settings, (Kind.VIRTUAL, "joe@here.example"))
        assert (refused.value.reply.code, refused.value.reply.enhanced) == (451, "4.3.0")
        assert text in refused.value.detail
    (tmp_path / "password").write_text("s:e@c/ret\n")
    dsn = f"mysql://gatepost@localhost/mail?unix_socket={mariadb}&passfile={tmp_path}/password"
    assert ask(mysql(mariadb, sql=dsn), (Kind.VIRTUAL, "joe@here.example")) == [("joe, x@far.example",)]


@pytest.mark.peer("mariadb-server")
def test_a_connection_that_the_server_has_closed_is_made_anew(mariadb: Path) -> None:
    async def play() -> tuple[str, ...] | None:
        table = open_table(TableSettings(**mysql(mariadb)), "people", lambda *_, **__: None)
        await table.values(Kind.VIRTUAL, ("joe@here.example",))
        with pymysql.connect(user="root", unix_socket=str(mariadb)) as root, root.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'gatepost'")
            for (number,) in cursor.fetchall():
                cursor.execute(f"KILL {number}")
        try:
            return await table.values(Kind.VIRTUAL, ("joe@here.example",))
        finally:
            table.close()

    assert run(play()) == ("joe, x@far.example",)


SUFFIX = "dc=here,dc=example"
ENTRIES = f"""\
dn: {SUFFIX}
objectClass: dcObject
objectClass: organization
dc: here
o: here

dn: uid=joe,{SUFFIX}
objectClass: inetOrgPerson
objectClass: posixAccount
uid: joe
cn: Joe
sn: Joe
mail: joe@here.example
mail: jo@here.example
uidNumber: 1000
gidNumber: 100
homeDirectory: /home/joe

dn: uid=star,{SUFFIX}
objectClass: inetOrgPerson
uid: star
cn: Star
sn: Star
mail: s*r@here.example
"""


@pytest.fixture(scope="module")
def slapd() -> Iterator[int]:
    """Start OpenLDAP on loopback; yield its port."""
    folder = Path(tempfile.mkdtemp(prefix="gatepost-ldap-", dir="/tmp"))
    user = somebody("openldap")
    (folder / "data").mkdir()
    schemas = "".join(
        f"include /etc/ldap/schema/{name}.schema\n" for name in ("core", "cosine", "nis", "inetorgperson")
    )
    (folder / "slapd.conf").write_text(
        f"{schemas}modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {folder}/pid\ndatabase mdb\n"
        f'suffix "{SUFFIX}"\nrootdn "cn=root,{SUFFIX}"\nrootpw secret\ndirectory {folder}/data\n'
        "access to attrs=userPassword by anonymous auth\naccess to * by users read by anonymous auth\n"
    )
    if user is not None:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, user)
    (port,) = free_ports(1)
    url = f"ldap://127.0.0.1:{port}"
    command = [program("slapd", "/usr/sbin/slapd"), "-f", str(folder / "slapd.conf"), "-h", url, "-d", "0"]

    def ready() -> None:
        socket.create_connection(("127.0.0.1", port)).close()

    process = started(command, folder, user, ready)
    words = [program("ldapadd", "/usr/bin/ldapadd"), "-x", "-H", url, "-D", f"cn=root,{SUFFIX}", "-w", "secret"]
    subprocess.run(words, input=ENTRIES.encode(), check=True, capture_output=True)
    yield port
    ended(process, folder)


def directory(port: int, tmp_path: Path, attributes: str = "uid", **more: Any) -> dict[str, Any]:
    """Return the settings of a table in the directory."""
    (tmp_path / "password").write_text("secret\n")
    bind = f"bind=cn=root%2C{SUFFIX.replace(',', '%2C')},passfile={tmp_path}/password"
    dsn = f"ldap://127.0.0.1:{port}/{SUFFIX}?{attributes}?sub?{bind}"
    return {"sql": dsn, "query": "(mail=:key)", "cache": 0, **more}


ldap = pytest.mark.peer("slapd", "ldap-utils")


@ldap
@pytest.mark.row("MT-30")
def test_a_directory_is_asked(slapd: int, tmp_path: Path) -> None:
    found = ask(
        directory(slapd, tmp_path),
        (Kind.VIRTUAL, "joe@here.example"),
        (Kind.VIRTUAL, "jo@here.example"),
        (Kind.VIRTUAL, "nobody@here.example"),
    )
    assert found == [("joe",), ("joe",), None]
    assert ask(directory(slapd, tmp_path, "mail", query="(uid=:key)"), (Kind.VIRTUAL, "joe")) == [
        ("joe@here.example", "jo@here.example")
    ]
    homes = directory(slapd, tmp_path, "uidNumber,gidNumber,homeDirectory", query="(uid=:key)")
    assert ask(homes, (Kind.USERINFO, "joe"), (Kind.USERINFO, "star")) == [("1000:100:/home/joe",), None]


@ldap
@pytest.mark.parametrize("key", ["*", "s*", "joe*", "*)(uid=joe", "joe@here.example)(|(uid=*", "\\2a", "j\0e"])
def test_what_is_asked_for_is_never_part_of_the_filter(slapd: int, tmp_path: Path, key: str) -> None:
    assert ask(directory(slapd, tmp_path), (Kind.VIRTUAL, key)) == [None]


@ldap
def test_an_address_with_a_star_is_found_as_it_is(slapd: int, tmp_path: Path) -> None:
    assert ask(directory(slapd, tmp_path), (Kind.VIRTUAL, "s*r@here.example")) == [("star",)]


@ldap
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda given: given | {"query": "(mail=:key"}, "filter"),
        (lambda given: given | {"sql": given["sql"].replace("cn=root", "cn=nobody")}, "nvalidCredentials"),
        (lambda given: given | {"sql": given["sql"].replace("127.0.0.1:", "127.0.0.66:")}, ""),
    ],
)
def test_a_directory_that_does_not_say_puts_the_mail_off(
    slapd: int, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], text: str
) -> None:
    with pytest.raises(Refusal) as refused:
        ask(change(directory(slapd, tmp_path)), (Kind.VIRTUAL, "joe@here.example"))
    assert (refused.value.reply.code, refused.value.reply.enhanced) == (451, "4.3.0")
    assert text in refused.value.detail


@pytest.mark.parametrize(
    "sql",
    [
        "mysql://host",
        "mysql://host/mail?frog=1",
        "mysql://host/mail?passfile=/nowhere",
        "ldap://host/dc=x",
        "ldap://host/?mail",
        "ldaps://host/dc=x?mail?all",
        "ldaps://host/dc=x?mail?sub?frog=1",
        "ldaps://host/dc=x?ma%20il",
        "oracle://host/mail",
    ],
)
def test_a_place_that_makes_no_sense_is_named_at_the_start(sql: str) -> None:
    with pytest.raises(BadSetting, match="sql: "):
        open_table(TableSettings(sql=sql, query="(mail=:key)"), "people", lambda *_, **__: None)
