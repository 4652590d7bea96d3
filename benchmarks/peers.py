"""Set up and run the peers on loopback high ports: Postfix (unpacked beside the system) and Dovecot, from Debian.

    python benchmarks/peers.py setup            needs root on Debian 12; writes to /var/tmp/gatepost-peers
    python benchmarks/peers.py start | stop     Postfix on 12526 -> Dovecot LMTP, IMAP on 12143

Postfix syncs its queue file before its 250 and Dovecot syncs at delivery: the fair peer for a durable accept.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

BASE: Final = Path(os.environ.get("GATEPOST_PEERS_DIR", "/var/tmp/gatepost-peers"))
SMTP, IMAP, LMTP = 12526, 12143, 12424
USERS: Final = 20
ROOT: Final = BASE / "root"
CONF: Final = BASE / "postfix"

MAIN_CF: Final = """\
compatibility_level = 3.6
maillog_file = {base}/postfix.log
maillog_file_prefixes = {base}
queue_directory = {base}/queue
data_directory = {base}/data
command_directory = {root}/usr/sbin
daemon_directory = {root}/usr/lib/postfix/sbin
shlib_directory = {root}/usr/lib/postfix
sendmail_path = {root}/usr/sbin/sendmail
meta_directory = {base}/postfix
mail_owner = postfix
setgid_group = postdrop
import_environment = MAIL_CONFIG TZ LANG=C LD_LIBRARY_PATH={root}/usr/lib/postfix
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.example.test
mydestination =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtp_host_lookup = native
lmtp_host_lookup = native
disable_dns_lookups = yes
virtual_mailbox_domains = example.test
virtual_transport = lmtp:unix:{base}/dovecot/lmtp
"""
SERVICES: Final = """\
127.0.0.1:12526 inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
DOVECOT: Final = """\
base_dir = {base}/dovecot
state_dir = {base}/dovecot-state
instance_name = gatepost-peer
log_path = {base}/dovecot.log
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_username_format = %Ln
mail_location = maildir:~/Maildir
first_valid_uid = 8
first_valid_gid = 8
mail_max_userip_connections = 1000
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%Ln {base}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%Ln {base}/users
  default_fields = uid=mail gid=mail home={base}/mail/%Ln
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = 12424
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = 12143
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
namespace inbox {{
  inbox = yes
}}
"""


def setup() -> None:
    """Install Dovecot, unpack Postfix, write both configurations."""
    quiet = {"stdout": subprocess.DEVNULL, "check": True}
    packages = ["dovecot-imapd", "dovecot-lmtpd"]
    if shutil.which("dovecot") is None:
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], **quiet)  # type: ignore[call-overload]  # **quiet
    for folder in ("debs", "queue/pid", "data", "mail", "dovecot", "postfix"):
        (BASE / folder).mkdir(parents=True, exist_ok=True)
    if not (ROOT / "usr/sbin/postfix").exists():
        debs = ["postfix", "libicu72", "libnsl2", "libtirpc3"]
        subprocess.run(["apt-get", "download", "-qq", *debs], cwd=BASE / "debs", **quiet)  # type: ignore[call-overload]  # **quiet
        for deb in (BASE / "debs").glob("*.deb"):
            subprocess.run(["dpkg", "-x", deb, ROOT], check=True)
    for words in (["groupadd", "-f", "postdrop"], ["useradd", "-r", "-M", "-s", "/usr/sbin/nologin", "postfix"]):
        subprocess.run(words, check=False, stderr=subprocess.DEVNULL)
    names = {"base": BASE, "root": ROOT}
    for path in (ROOT / "etc/postfix").glob("postfix-files*"):
        if path.is_file():
            shutil.copy(path, CONF)
    (CONF / "main.cf").write_text(MAIN_CF.format(**names))
    (CONF / "master.cf").write_text(SERVICES)
    (BASE / "dovecot.conf").write_text(DOVECOT.format(**names))
    users = [f"u{number}" for number in range(USERS)] + ["big"]
    (BASE / "users").write_text("".join(f"{user}:{{PLAIN}}secret::::::\n" for user in users))
    shutil.chown(BASE / "mail", "mail", "mail")
    shutil.chown(BASE / "data", "postfix")
    BASE.chmod(0o755)


def start() -> None:
    """Start both; their pids are in BASE/*.pid."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(ROOT / "usr/lib/postfix"), "MAIL_CONFIG": str(CONF)}
    _spawn("dovecot", ["dovecot", "-F", "-c", str(BASE / "dovecot.conf")], dict(os.environ))
    _wait(IMAP)
    subprocess.run(
        [ROOT / "usr/sbin/postfix", "-c", CONF, "check"], env=environment, check=False, capture_output=True
    )
    _spawn("postfix", [str(ROOT / "usr/lib/postfix/sbin/master"), "-c", str(CONF), "-d"], environment)
    _wait(SMTP)


def start_relay(sink: int) -> None:
    """Start Postfix alone, with a queue of its own, all of whose mail goes to a sink's port."""
    home = BASE / "relaying"
    conf = home / "conf"
    for folder in (conf, home / "queue/pid", home / "data"):
        folder.mkdir(parents=True, exist_ok=True)
    for path in CONF.glob("postfix-files*"):
        shutil.copy(path, conf)
    settings = MAIN_CF.partition("virtual_mailbox_domains")[0].format(base=home, root=ROOT)
    settings = settings.replace(f"meta_directory = {home}/postfix", f"meta_directory = {conf}")
    (conf / "main.cf").write_text(f"{settings}relayhost = [127.0.0.1]:{sink}\n")
    (conf / "master.cf").write_text(SERVICES)
    shutil.chown(home / "data", "postfix")
    home.chmod(0o755)
    environment = os.environ | {"LD_LIBRARY_PATH": str(ROOT / "usr/lib/postfix"), "MAIL_CONFIG": str(conf)}
    check = [ROOT / "usr/sbin/postfix", "-c", conf, "check"]
    subprocess.run(check, env=environment, check=False, capture_output=True)
    _spawn("postfix", [str(ROOT / "usr/lib/postfix/sbin/master"), "-c", str(conf), "-d"], environment)
    _wait(SMTP)


def stop() -> None:
    """End what `start` started."""
    for name in ("postfix", "dovecot"):
        path = BASE / f"{name}.pid"
        if path.exists():
            try:
                os.kill(int(path.read_text()), signal.SIGTERM)
            except ProcessLookupError:
                pass
            path.unlink()


def _spawn(name: str, command: list[str], environment: dict[str, str]) -> None:
    with (BASE / f"{name}.out").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    (BASE / f"{name}.pid").write_text(str(process.pid))


def _wait(port: int) -> None:
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit(f"nothing answers on port {port}; see {BASE}/*.out and *.log")


def main() -> None:
    """Run one verb."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=["setup", "start", "stop"])
    {"setup": setup, "start": start, "stop": stop}[parser.parse_args().verb]()


if __name__ == "__main__":
    main()
