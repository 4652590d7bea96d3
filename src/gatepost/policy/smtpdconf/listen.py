"""`listen on`: which of our listeners a smtpd listener becomes."""

from ipaddress import ip_address
from typing import Final

from gatepost.policy.smtpdconf.cursor import Cursor
from gatepost.policy.smtpdconf.route import port_of
from gatepost.policy.smtpdconf.words import Heed, ListenerWords

EVERYWHERE: Final = {"": ("0.0.0.0", "::"), "inet4": ("0.0.0.0",), "inet6": ("::",)}  # noqa: S104 (egress is that)
LOOPBACK: Final = {"": ("127.0.0.1", "::1"), "inet4": ("127.0.0.1",), "inet6": ("::1",)}
_FLAGS: Final = ("tls", "tls-require", "smtps", "secure", "verify", "auth", "auth-optional", "inet4", "inet6")
_KNOWN: Final = "port, tls, tls-require, smtps, secure, auth, auth-optional, tag, pki, hostname, senders, mask-src"


def listen(words: Cursor) -> None:
    """Read a listener into what was found."""
    words.value("listen")
    if words.skip("socket"):
        words.rest()
        words.note(Heed.UNSUPPORTED, "there is no local socket: programs of this machine send to 127.0.0.1")
        words.tell("")
        return
    if not words.skip("on"):
        words.unknown("listen", "on, socket")
    interface = words.value("an interface or an address")
    flags: set[str] = set()
    port, tag = 0, ""
    while not words.done():
        if words.at(*_FLAGS):
            flag = words.value("an option")
            flags.add(flag)
            if flag.startswith("auth") and words.peek() == "<":
                words.secret_table("auth")
                words.note(Heed.CHANGED, "auth <table>: passwords are the accounts' (gatepost user add)")
        elif words.skip("port"):
            port = port_of(words.value("a port"), words)
        elif words.skip("tag"):
            tag = words.value("a tag")
        else:
            _option(words)
    address = _address(interface, flags, words)
    if not address:
        words.tell("")
        return
    made = [_listener(words, flags, address, port, tag)]
    if "secure" in flags and not port:
        made.append(ListenerWords("submissions", address, 465, tag))
    words.found.listeners += made
    words.tell("; ".join(f"listener of kind {each.kind}, port {each.port}" for each in made))


def _option(words: Cursor) -> None:
    """Read an option that is no part of our listeners."""
    if words.skip("pki"):
        name = words.value("a pki name")
        words.found.first_certificate = words.found.first_certificate or name
        words.note(Heed.CHANGED, "pki: every listener serves every certificate by the name asked for")
    elif words.skip("hostname"):
        name = words.value("a name")
        known = words.found.settings.setdefault("server", {}).setdefault("hostname", name)
        words.note(
            Heed.CHANGED if known == name else Heed.UNSUPPORTED,
            f"hostname: the server has one name, server.hostname = {known}",
        )
    elif words.at("hostnames", "ca", "filter", "proxy-v2", "received-auth", "mask-source", "mask-src", "no-dsn"):
        _rare(words)
    elif words.skip("senders"):
        _senders(words)
    else:
        words.unknown("listen", _KNOWN)


def _senders(words: Cursor) -> None:
    (name,) = words.table("the senders")
    if words.skip("masquerade"):
        words.note(Heed.UNSUPPORTED, "masquerade: who writes from a strange address is refused, not renamed")
    if name.startswith("<"):
        words.found.settings.setdefault("policy", {}).setdefault("senders", name[1:-1])
        words.note(Heed.CHANGED, "senders: they hold for every listener with auth; accounts' aliases need no entry")


def _rare(words: Cursor) -> None:
    option = words.value("an option")
    match option:
        case "hostnames":
            words.table("the names")
            words.note(Heed.UNSUPPORTED, "hostnames: the server has one name, server.hostname")
        case "ca":
            words.note(Heed.UNSUPPORTED, f"ca {words.value('a name')}: clients show no certificates")
        case "filter":
            if not words.done() and words.peek() not in (*_FLAGS, "port", "tag", "pki", "hostname"):
                words.table("a filter")
            words.note(
                Heed.UNSUPPORTED, "filter: no filter program is started; the gate and the judge look at mail"
            )
        case "proxy-v2":
            words.note(Heed.UNSUPPORTED, "proxy-v2: name the balancer's network in proxy of the listener")
        case _:
            words.note(Heed.UNSUPPORTED, f"{option}: no setting says this")


def _address(interface: str, flags: set[str], words: Cursor) -> tuple[str, ...]:
    """Return the addresses; where only the operator knows them, none."""
    family = next((each for each in ("inet4", "inet6") if each in flags), "")
    if interface in ("egress", "all", "any", "0.0.0.0", "::"):  # noqa: S104 (what the operator wrote)
        if interface == "egress":
            words.note(Heed.CHANGED, "egress: all addresses of this machine, not those of the default route only")
        if interface in ("0.0.0.0", "::"):  # noqa: S104
            return (interface,)
        return EVERYWHERE[family]
    if interface in ("lo0", "lo", "localhost"):
        return LOOPBACK[family]
    try:
        ip_address(interface)
    except ValueError:
        why = f"listeners have addresses, not interfaces or names: write those of {interface} into address"
        words.note(Heed.UNSUPPORTED, why)
        words.found.undecided_listeners.append((words.line, interface))
        return ()
    return (interface,)


def _listener(words: Cursor, flags: set[str], address: tuple[str, ...], port: int, tag: str) -> ListenerWords:
    """Choose the kind by what clients must do: `auth` makes it one for submission."""
    if "verify" in flags:
        words.note(Heed.UNSUPPORTED, "verify: clients are not asked for certificates")
    if "smtps" in flags:
        if "auth" not in flags:
            words.note(Heed.CHANGED, "TLS from the first octet is for submission here: a login is required")
        return ListenerWords("submissions", address, port or 465, tag)
    if "auth" in flags:
        if not flags & {"tls-require", "secure"}:
            words.note(Heed.CHANGED, "a login needs TLS first")
        return ListenerWords("submission", address, port or 25, tag)
    if "tls-require" in flags:
        words.note(Heed.UNSUPPORTED, "tls-require without auth: mail that comes without TLS is taken too")
    if not flags & {"tls", "tls-require", "secure"}:
        words.note(Heed.CHANGED, "STARTTLS is offered here too")
    if "auth-optional" in flags:
        words.found.settings.setdefault("intake", {})["mx_auth"] = True
        words.note(Heed.CHANGED, "auth-optional: intake.mx_auth offers a login on all listeners of kind mx")
    return ListenerWords("mx", address, port or 25, tag)
