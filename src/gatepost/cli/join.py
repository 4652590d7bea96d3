"""`gatepost join`: make this server a backup MX of another, or invite one."""

import http.client
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from gatepost.aio.tls import client_context
from gatepost.backupmx.join import PATH, Token, Written, checked, compose, invite, read_token
from gatepost.backupmx.joined import all_backups, folder_of, proper
from gatepost.backupmx.pull import pinned
from gatepost.base.clock import MICROSECONDS
from gatepost.cli.common import CLOCK, ConfigOption, Failed, JsonOption, configuration, print_json, say
from gatepost.config import PORTS, Config, Kind, bound

WITHIN_S: Final = 30.0
ANSWER_MAX: Final = 16 << 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(join)


def join(
    primary: Annotated[str, typer.Argument(help="The primary's web listener: https://mx1.example.org")] = "",
    token: Annotated[str, typer.Argument(help="What gatepost join --invite printed there.")] = "",
    guest: Annotated[
        str, typer.Option("--invite", help="On the primary: the name of a server that may join.")
    ] = "",
    address: Annotated[
        list[str] | None, typer.Option(help="With --invite: an address of the guest; else the one it comes from.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="On the primary: who has joined.")] = False,
    output: Annotated[Path, typer.Option(help="Where the configuration goes; the keys go beside it.")] = Path(
        "/etc/gatepost/gatepost.toml"
    ),
    data_dir: Annotated[str, typer.Option(help="server.data_dir of the configuration.")] = "/var/lib/gatepost",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask, and show what would be written; the token stays good.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make this server a backup MX of PRIMARY; or --invite one, and show with --list who has joined.

    Nothing is ever written over.
    """
    if guest:
        _invite(configuration(config), guest, address or [], as_json=as_json)
    elif listing:
        _list(configuration(config), as_json=as_json)
    elif primary and token:
        _join(primary.rstrip("/"), token, output.absolute(), data_dir, dry_run=dry_run, as_json=as_json)
    else:
        raise Failed("give the primary and a token, or --invite NAME, or --list")


# The primary


def _invite(config: Config, name: str, addresses: Sequence[str], *, as_json: bool) -> None:
    name = name.lower().rstrip(".")
    if not proper(name):
        raise Failed(f"{name!r} is not the name of a server")
    for each in addresses:
        try:
            ip_address(each)
        except ValueError:
            raise Failed(f"{each!r} is not an address") from None
    where = _web_address(config)
    token = invite(folder_of(config.data_dir), name, addresses, _fingerprint(config), CLOCK.now() // MICROSECONDS)
    command = f"gatepost join {where} {token}"
    changes = _changes(config, addresses)
    if as_json:
        print_json({"command": command, "valid_seconds": 3600, "changes": changes})
        return
    say(f"Run this on {name} within an hour; it works once:\n\n    {command}\n")
    _say_changes(config, changes, bool(addresses))


def _list(config: Config, *, as_json: bool) -> None:
    found = all_backups(folder_of(config.data_dir))
    changes = _changes(config, [address for each in found for address in each.addresses])
    if as_json:
        joined = [{"name": each.name, "addresses": list(each.addresses)} for each in found]
        print_json({"backups": joined, "changes": changes})
        return
    for each in found:
        say(f"{each.name}  {', '.join(each.addresses)}")
    if not found:
        say("nobody has joined")
    _say_changes(config, changes, bool(found))


def _changes(config: Config, addresses: Sequence[str]) -> Mapping[str, list[str]]:
    """Return what the primary's configuration lacks for backups at these addresses, by setting."""
    changes: dict[str, list[str]] = {}
    if missing := [each for each in addresses if each not in config.gate.backups]:
        changes["gate.backups"] = [*config.gate.backups, *missing]
    sync = config.feeds.sync
    if sync.listen and (missing := [each for each in addresses if each not in sync.peers]):
        changes["feeds.sync.peers"] = [*sync.peers, *missing]
    return changes


def _say_changes(config: Config, changes: Mapping[str, list[str]], known: bool) -> None:
    if not known:
        say("Its address is not known yet: gatepost join --list tells afterwards what to set here.")
    elif changes:
        say("Set this here, else its mail is greylisted and limited like a stranger's (then: gatepost upgrade):\n")
        for name, value in changes.items():
            table, _, key = name.rpartition(".")
            say(f"    [{table}]\n    {key} = {json.dumps(value)}\n")
    if not config.feeds.sync.listen:
        say("The greylist is not shared: [feeds.sync] is not set here (docs/sync.md).")


def _web_address(config: Config) -> str:
    """Return where the web listener is, as others see it."""
    for name, each in config.listeners.items():
        if each.kind is Kind.HTTPS:
            [(_, port), *_] = bound(each.address[0], PORTS[Kind.HTTPS], ("listen", name))
            return f"https://{config.hostname}" + ("" if port == PORTS[Kind.HTTPS] else f":{port}")
    raise Failed('backups join over the web listener, and there is none: add [listen.web] with kind = "https"')


def _fingerprint(config: Config) -> str:
    """Return the fingerprint of a certificate that is signed by itself; "" for one of an authority."""
    own = config.data_dir / "tls" / "self-signed.pem"
    file = Path(config.tls.certificates[0].certificate) if config.tls.certificates else own
    try:
        leaf = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as wrong:
        raise Failed(f"the server's certificate cannot be read: {wrong}; start the server once") from wrong
    return leaf.fingerprint(SHA256()).hex() if leaf.issuer == leaf.subject else ""


# The backup


def _join(primary: str, text: str, output: Path, data_dir: str, *, dry_run: bool, as_json: bool) -> None:
    try:
        token = read_token(text)
    except ValueError as wrong:
        raise Failed(str(wrong)) from wrong
    where = urlsplit(primary)
    if where.scheme != "https" or not where.hostname or where.path:
        raise Failed(f"{primary!r} is not the primary's web listener: write https://mx1.example.org")
    taken = [each for each in _paths(output) if each.exists()]
    if taken and not dry_run:  # before the token is used up
        raise Failed(f"{', '.join(map(str, taken))}: there already, and never written over. Name another --output.")
    certificate, context = "", client_context(verify=True)
    try:
        if token.fingerprint:
            certificate = _believed(where.hostname, where.port or 443, token.fingerprint)
            context = pinned(certificate)
        told = checked(_ask(where.hostname, where.port or 443, token, context, dry_run=dry_run))
        written = compose(
            told, name=token.name, primary=primary, config=output, data_dir=data_dir, certificate=certificate
        )
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as wrong:
        raise Failed(f"{primary}: {wrong}") from wrong
    if not dry_run:
        _write(written)
    _tell(told, written, output, dry_run=dry_run, as_json=as_json)


def _paths(output: Path) -> list[Path]:
    return [output, *(output.parent / name for name in ("backup.key", "sync.key", "primary.pem"))]


def _believed(host: str, port: int, fingerprint: str) -> str:
    """Return the certificate of a server as PEM where it is the expected one; raises OSError or Failed."""
    certificate = ssl.get_server_certificate((host, port), timeout=WITHIN_S)
    found = sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()
    if found != fingerprint:
        raise Failed(f"{host} shows another certificate than the token names ({found}): somebody stands between")
    return certificate


def _ask(host: str, port: int, token: Token, context: ssl.SSLContext, *, dry_run: bool) -> bytes:
    """Redeem the token; raises OSError, HTTPException or Failed."""
    body = json.dumps({"name": token.name, "secret": token.secret, "dry_run": dry_run})
    connection = http.client.HTTPSConnection(host, port, timeout=WITHIN_S, context=context)
    try:
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        octets = answer.read(ANSWER_MAX)
    finally:
        connection.close()
    if answer.status != 200:
        raise Failed(f"{host} says {answer.status}: {octets[:500].decode('utf-8', 'replace').strip()}")
    return octets


def _write(written: Written) -> None:
    """Write all files, none over another; the configuration is the last."""
    for path, (octets, private) in written.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o644
            )
        except OSError as wrong:
            raise Failed(f"{path} cannot be written: {wrong}; make another token when that is mended") from wrong
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)


def _tell(told: Mapping[str, Any], written: Written, output: Path, *, dry_run: bool, as_json: bool) -> None:
    facts = {
        "primary": told["server"],
        "domains": told["domains"],
        "size": told["size"],
        "sync": told["sync"] is not None,
        "files": [str(path) for path in written.files],
        "written": not dry_run,
        "dns": list(written.records),
    }
    if as_json:
        print_json(facts)
        return
    if dry_run:
        say(written.files[output][0].decode())
    say(f"{'Would write' if dry_run else 'Wrote'} {', '.join(map(str, written.files))}.")
    if told["sync"] is None:
        say(f"{told['server']} does not share its greylist: [feeds.sync] is not set there.")
    say("Add to the DNS (the preference must be greater than the primary's):\n")
    for each in written.records:
        say(f"    {each}")
    say(f"\nThen: gatepost check -c {output}; gatepost serve -c {output}; on the primary: gatepost join --list")
