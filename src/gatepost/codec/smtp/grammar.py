"""The grammar of SMTP commands: octets of one line in, a value out, or a Refusal with the right code.

    parse_command(line, utf8) -> Command      one of the classes below
    parse_mailbox(octets) -> Address          local@domain, the local part unquoted
    parse_path(octets) -> Address | None      <...>; None is the null reverse-path
    xtext_decode, xtext_encode                RFC 3461 §4

Deviations from RFC 5321 §4.1: blanks after `MAIL FROM:` are taken (many clients send them); `_` is taken in
domains; a local part with a back-tick or a control character is refused, although the former is atext: no mailbox
has one, and what comes after us may hand the address to a shell.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gatepost.base.address import Address, ReversePath, quote_local
from gatepost.base.envelope import Notify
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.codec.smtp.wishes import PARAMETERS as WISHES
from gatepost.codec.smtp.wishes import Asked, parse_asked, unsupported

COMMAND_LINE_MAX: Final = 512  # RFC 5321 §4.5.3.1.4, CRLF included
PARAMETER_LINE_MAX: Final = 2_048  # MAIL and RCPT: RFC 5321 §4.1.1.11 lets each extension add to the 512
LOCAL_PART_MAX: Final = 64  # RFC 5321 §4.5.3.1.1
DOMAIN_MAX: Final = 255  # RFC 5321 §4.5.3.1.2
LABEL_MAX: Final = 63  # RFC 1035 §2.3.4
_REWRITTEN: Final = frozenset(f"SRS{kind}{mark}" for kind in "01" for mark in "=+-")
"""How an address begins that a forwarder made (codec/srs): it holds two, and may be as long as a path."""
PATH_MAX: Final = 256  # RFC 5321 §4.5.3.1.3, with the angle brackets
ENVID_MAX: Final = 100  # RFC 3461 §4.4
ORCPT_MAX: Final = 500  # RFC 3461 §4.2
AUTH_LINE_MAX: Final = 12_288  # RFC 4954 §4, CRLF included

LINE_TOO_LONG: Final = Reply(Code.SYNTAX, "5.5.2", "Line too long")


@dataclass(frozen=True, slots=True)
class Hello:
    """EHLO, HELO or LHLO (`verb`) with the name the client gave, printable ASCII."""

    verb: str
    name: str


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL FROM. `size` is 0 when not declared; `envid` is decoded."""

    sender: ReversePath
    size: int = 0
    eight_bit: bool = False
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    asked: Asked | None = None
    """How it wants its mail handled, where it said so."""


@dataclass(frozen=True, slots=True)
class Rcpt:
    """RCPT TO. The domain is empty for the bare `<postmaster>`; `orcpt` is kept as it was written."""

    address: Address
    notify: frozenset[Notify] | None = None
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class Data:
    """DATA."""


@dataclass(frozen=True, slots=True)
class Bdat:
    """BDAT: `size` octets follow (RFC 3030 §2)."""

    size: int
    last: bool


@dataclass(frozen=True, slots=True)
class Auth:
    """AUTH with the mechanism in capitals and the initial response, still base64 (None: none was given)."""

    mechanism: str
    initial: bytes | None


@dataclass(frozen=True, slots=True)
class StartTls:
    """STARTTLS."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A command that changes nothing: RSET, NOOP, QUIT, HELP, VRFY, EXPN, and those we know to refuse."""

    verb: str


@dataclass(frozen=True, slots=True)
class Introduce:
    """XFORWARD or XCLIENT (`verb`) with what follows: xforward.py reads it, only for whom it is allowed."""

    verb: str
    rest: bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """ETRN with what follows: etrn.py reads it, where it is offered."""

    rest: bytes


Command = Hello | Mail | Rcpt | Data | Bdat | Auth | StartTls | Introduce | Turn | Plain


class BadAddress(ValueError):
    """What was given is not a mailbox; `needs_utf8` tells that SMTPUTF8 would have allowed it."""

    def __init__(self, problem: str, *, needs_utf8: bool = False) -> None:
        super().__init__(problem)
        self.needs_utf8 = needs_utf8


_ATEXT: Final = rb"[A-Za-z0-9!#$%&'*+/=?^_{|}~-]+"
_LABEL: Final = rb"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS: Final = re.compile(rb"(%s(?:\.%s)*)@(%s(?:\.%s)*)" % (_ATEXT, _ATEXT, _LABEL, _LABEL))
_USUAL_MAIL: Final = re.compile(  # RFC 5321 §4.1.1.2 as nearly all clients say it: half the time of the long way
    rb"[Ff][Rr][Oo][Mm]:<(%s(?:\.%s)*)@(%s(?:\.%s)*)>(?: SIZE=([0-9]{1,20}))?( BODY=8BITMIME)?"
    % (_ATEXT, _ATEXT, _LABEL, _LABEL)
)
_UTF8_ADDRESS: Final = re.compile(
    r"([^\x00-\x20\x7f\"(),.:;<>@\[\\\]`]+(?:\.[^\x00-\x20\x7f\"(),.:;<>@\[\\\]`]+)*)@(.+)"
)
_QUOTED: Final = re.compile(r"\"((?:[^\x00-\x1f\x7f\"\\]|\\[\x20-\x7e])*)\"@(.+)")
_PAIR: Final = re.compile(r"\\(.)")
_LABELS: Final = re.compile(
    r"[A-Za-z0-9_\x80-\U0010ffff](?:[A-Za-z0-9_\x80-\U0010ffff-]*[A-Za-z0-9_\x80-\U0010ffff])?"
)
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f`\u2028\u2029\ufeff\ufffd]")
_ROUTE: Final = re.compile(rb"@[A-Za-z0-9._\[\]:-]+(?:,@[A-Za-z0-9._\[\]:-]+)*:")
_NAME: Final = re.compile(rb"[A-Za-z0-9._:\[\]%/+~-]{1,255}")
_SIZE: Final = re.compile(rb"[0-9]{1,20}")
_XTEXT: Final = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_XCHAR: Final = re.compile(rb"\+([0-9A-F]{2})")
_ORCPT: Final = re.compile(rb"([A-Za-z0-9-]{1,32});(.+)")
_MECHANISM: Final = re.compile(rb"[A-Za-z0-9_-]{1,20}")  # RFC 4422 §3.1
_PARAMETER: Final = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\x80-\xff]+))?")  # RFC 5321 §4.1.2


def parse_command(line: bytes, *, utf8: bool = False) -> Command:
    """Read one command line without its CRLF. `utf8`: this transaction's MAIL said SMTPUTF8.

    Raises Refusal: 500 for what is no command, 501/553/555 for what is wrong in its arguments.
    """
    verb, _, rest = line.partition(b" ")
    name = verb.upper()
    if len(line) + 2 > COMMAND_LINE_MAX and len(line) + 2 > _LINE_MAX.get(name, COMMAND_LINE_MAX):
        raise Refusal(LINE_TOO_LONG, close=True)
    parser = _PARSERS.get(name)
    if parser is not None:
        return parser(rest, utf8)
    if name in _PLAIN:
        return Plain(_PLAIN[name])
    raise _refuse(Code.SYNTAX, "5.5.1", "Command unrecognized")


def parse_mailbox(octets: bytes, *, utf8: bool = True) -> Address:
    """Read `local@domain` (RFC 5321 §4.1.2, with UTF-8 by RFC 6531 §3.3); raises BadAddress."""
    simple = _ADDRESS.fullmatch(octets)
    if simple is not None and simple.end(1) <= LOCAL_PART_MAX and simple.end() - simple.start(2) <= DOMAIN_MAX:
        local, domain = simple.groups()
        return Address(local.decode("ascii"), domain.decode("ascii"))
    return _any_mailbox(_decode(octets, utf8))


def parse_path(octets: bytes, *, utf8: bool = True) -> Address | None:
    """Read `<mailbox>`; None for `<>`. A source route is dropped (RFC 5321 appendix C). Raises BadAddress."""
    if len(octets) < 2 or octets[0] != 0x3C or octets[-1] != 0x3E:
        raise BadAddress("a path stands in angle brackets")
    inner = octets[1:-1]
    if not inner:
        return None
    if inner[0] == 0x40:
        route = _ROUTE.match(inner)
        if route is None:
            raise BadAddress("the source route is malformed")
        inner = inner[route.end() :]
    return parse_mailbox(inner, utf8=utf8)


def parse_domain(text: str) -> str:
    """Return a domain or address literal as given when it is well-formed; raises BadAddress."""
    return _domain(text)


def xtext_decode(octets: bytes) -> bytes:
    """Decode xtext (RFC 3461 §4); ValueError when it is none."""
    if _XTEXT.fullmatch(octets) is None:
        raise ValueError("not xtext")
    return _XCHAR.sub(lambda found: bytes((int(found[1], 16),)), octets)


def xtext_encode(octets: bytes) -> bytes:
    """Encode as xtext (RFC 3461 §4)."""
    return b"".join(
        bytes((octet,)) if 0x21 <= octet <= 0x7E and octet not in b"+=" else b"+%02X" % octet for octet in octets
    )


def path_text(address: ReversePath) -> str:
    """Return a path as it stands in a command or a Return-Path: `<local@domain>` or `<>`."""
    if address is None:
        return "<>"
    if not address.domain:
        return f"<{quote_local(address.local)}>"
    return f"<{address}>"


def _refuse(code: Code, enhanced: str, text: str, detail: str = "") -> Refusal:
    return Refusal(Reply(code, enhanced, text), detail=detail)


def _bad(text: str) -> Refusal:
    return _refuse(Code.ARGUMENTS, "5.5.4", text)


def _bare(command: Command) -> Callable[[bytes, bool], Command]:
    def parse(rest: bytes, _utf8: bool) -> Command:
        if rest.strip(b" "):
            raise _bad("No parameters allowed")
        return command

    return parse


def _hello(verb: str) -> Callable[[bytes, bool], Command]:
    def parse(rest: bytes, _utf8: bool) -> Command:
        name = rest.strip(b" ")
        if _NAME.fullmatch(name) is None:
            raise _refuse(Code.ARGUMENTS, "5.5.2", f"{verb} requires a domain name or an address literal")
        return Hello(verb, name.decode("ascii"))

    return parse


def _mail(rest: bytes, _utf8: bool) -> Command:
    usual = _USUAL_MAIL.fullmatch(rest)
    if (
        usual is None
        or usual.end(1) - usual.start(1) > LOCAL_PART_MAX
        or usual.end(2) - usual.start(2) > DOMAIN_MAX
    ):
        return _any_mail(rest)
    local, domain, size, eight_bit = usual.groups()
    sender = Address(local.decode("ascii"), domain.decode("ascii"))
    return Mail(sender, size=int(size) if size else 0, eight_bit=eight_bit is not None)


def _any_mail(rest: bytes) -> Mail:
    path, given = _path_and_parameters(rest, b"FROM:")
    utf8 = b"SMTPUTF8" in given
    try:
        sender = parse_path(path, utf8=utf8)
    except BadAddress as bad:
        raise _bad_path(bad, "5.1.7", "Sender address syntax error") from bad
    if not given:
        return Mail(sender)
    _only(given, _MAIL_PARAMETERS)
    return Mail(
        sender,
        size=_size(given),
        eight_bit=_body(given),
        smtputf8=_flag(given, b"SMTPUTF8"),
        ret=_ret(given),
        envid=_envid(given),
        asked=parse_asked(given),
    )


def _rcpt(rest: bytes, utf8: bool) -> Command:
    path, given = _path_and_parameters(rest, b"TO:")
    if path.lower() == b"<postmaster>":  # RFC 5321 §4.1.1.3
        address: Address | None = Address(path[1:-1].decode("ascii"), "")
    else:
        try:
            address = parse_path(path, utf8=utf8)
        except BadAddress as bad:
            raise _bad_path(bad, "5.1.3", "Recipient address syntax error") from bad
    if address is None:
        raise _refuse(Code.ARGUMENTS, "5.1.3", "Recipient address syntax error")
    if not given:
        return Rcpt(address)
    _only(given, _RCPT_PARAMETERS)
    return Rcpt(address, notify=_notify(given), orcpt=_orcpt(given, utf8))


def _bad_path(bad: BadAddress, enhanced: str, text: str) -> Refusal:
    if bad.needs_utf8:  # RFC 6531 §3.5
        return _refuse(Code.NAME_NOT_ALLOWED, "5.6.7", "SMTPUTF8 is needed for this address", str(bad))
    return _refuse(Code.ARGUMENTS, enhanced, text, str(bad))


def _bdat(rest: bytes, _utf8: bool) -> Command:
    count, _, last = rest.strip(b" ").partition(b" ")
    if _SIZE.fullmatch(count) is None or last.upper() not in (b"", b"LAST"):
        # Where the chunk ends cannot be known, so nothing after it can be read as a command.
        raise Refusal(Reply(Code.ARGUMENTS, "5.5.4", "BDAT needs a size"), close=True)
    return Bdat(int(count), bool(last))


def _auth(rest: bytes, _utf8: bool) -> Command:
    mechanism, blank, initial = rest.partition(b" ")
    if _MECHANISM.fullmatch(mechanism) is None:
        raise _bad("AUTH needs a mechanism")
    return Auth(mechanism.upper().decode("ascii"), initial.strip(b" ") if blank else None)


_PARSERS: Final[Mapping[bytes, Callable[[bytes, bool], Command]]] = {
    b"MAIL": _mail,
    b"RCPT": _rcpt,
    b"DATA": _bare(Data()),
    b"BDAT": _bdat,
    b"EHLO": _hello("EHLO"),
    b"HELO": _hello("HELO"),
    b"LHLO": _hello("LHLO"),
    b"AUTH": _auth,
    b"STARTTLS": _bare(StartTls()),
    b"RSET": _bare(Plain("RSET")),
    b"QUIT": _bare(Plain("QUIT")),
    b"ETRN": lambda rest, _utf8: Turn(rest),
    b"XCLIENT": lambda rest, _utf8: Introduce("XCLIENT", rest),
    b"XFORWARD": lambda rest, _utf8: Introduce("XFORWARD", rest),
}
_LINE_MAX: Final = {b"MAIL": PARAMETER_LINE_MAX, b"RCPT": PARAMETER_LINE_MAX, b"AUTH": AUTH_LINE_MAX}
_PLAIN: Final = {verb.encode(): verb for verb in ("NOOP", "HELP", "VRFY", "EXPN", "TURN")}


def _path_and_parameters(rest: bytes, keyword: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Split `FROM:<path> KEY=value ...`; the path ends at the first `>` outside quotes."""
    if rest[: len(keyword)].upper() != keyword:
        raise _refuse(Code.ARGUMENTS, "5.5.4", f"Syntax: {keyword.decode()}<address>")
    rest = rest[len(keyword) :].strip(b" ")
    end = rest.find(b">")
    if rest.find(b'"', 0, end) >= 0:
        end = _path_end(rest)
    if not rest.startswith(b"<") or end < 0:
        raise _refuse(Code.ARGUMENTS, "5.5.4", f"Syntax: {keyword.decode()}<address>")
    path, after = rest[: end + 1], rest[end + 1 :]
    if not after:
        return path, {}
    if after[0] != 0x20:
        raise _bad("Malformed parameters")
    return path, _parameters(after)


def _path_end(rest: bytes) -> int:
    quoted = escaped = False
    for at, octet in enumerate(rest):
        if escaped:
            escaped = False
        elif quoted and octet == 0x5C:
            escaped = True
        elif octet == 0x22:
            quoted = not quoted
        elif octet == 0x3E and not quoted:
            return at
    return -1


def _parameters(octets: bytes) -> dict[bytes, bytes]:
    given: dict[bytes, bytes] = {}
    for word in octets.split(b" "):
        if not word:
            continue
        found = _PARAMETER.fullmatch(word)
        if found is None:
            raise _bad("Malformed parameters")
        key = found[1].upper()
        if key in given:
            raise _bad(f"{key.decode('ascii')} was given twice")
        given[key] = found[2] or b""
    return given


_MAIL_PARAMETERS: Final = frozenset((b"SIZE", b"BODY", b"SMTPUTF8", b"RET", b"ENVID", b"AUTH")) | WISHES
_RCPT_PARAMETERS: Final = frozenset((b"NOTIFY", b"ORCPT"))


def _only(given: Mapping[bytes, bytes], known: frozenset[bytes]) -> None:
    for key in given:
        if key not in known:  # RFC 5321 §4.1.1.11
            raise Refusal(unsupported(key))
    if b"AUTH" in given and given[b"AUTH"] != b"<>":  # RFC 4954 §5; checked, never believed
        _decoded(given[b"AUTH"], b"AUTH")


def _size(given: Mapping[bytes, bytes]) -> int:
    value = given.get(b"SIZE")
    if value is None:
        return 0
    if _SIZE.fullmatch(value) is None:  # RFC 1870 §6: 1*20DIGIT
        raise _bad("Malformed SIZE")
    return int(value)


def _body(given: Mapping[bytes, bytes]) -> bool:
    value = given.get(b"BODY", b"7BIT").upper()
    if value not in (b"7BIT", b"8BITMIME"):
        raise _bad("Unsupported BODY")
    return value == b"8BITMIME"


def _flag(given: Mapping[bytes, bytes], key: bytes) -> bool:
    if given.get(key):
        raise _bad(f"{key.decode('ascii')} takes no value")
    return key in given


def _ret(given: Mapping[bytes, bytes]) -> str:
    value = given.get(b"RET")
    if value is None:
        return ""
    if value.upper() not in (b"FULL", b"HDRS"):
        raise _bad("RET is FULL or HDRS")
    return value.upper().decode("ascii")


def _envid(given: Mapping[bytes, bytes]) -> str:
    value = given.get(b"ENVID")
    if value is None:
        return ""
    if not value or len(value) > ENVID_MAX:
        raise _bad("Malformed ENVID")
    return _decoded(value, b"ENVID")


def _notify(given: Mapping[bytes, bytes]) -> frozenset[Notify] | None:
    value = given.get(b"NOTIFY")
    if value is None:
        return None
    words = value.upper().split(b",")
    if any(word not in _NOTIFY for word in words):
        raise _bad("Malformed NOTIFY")
    notify = frozenset(_NOTIFY[word] for word in words)
    if Notify.NEVER in notify and len(words) > 1:  # RFC 3461 §4.1
        raise _bad("NOTIFY=NEVER stands alone")
    return notify


_NOTIFY: Final = {each.value.encode(): each for each in Notify}


def _orcpt(given: Mapping[bytes, bytes], utf8: bool) -> str:
    value = given.get(b"ORCPT")
    if value is None:
        return ""
    found = _ORCPT.fullmatch(value)
    if found is None or len(value) > ORCPT_MAX:
        raise _bad("Malformed ORCPT")
    if not value.isascii():  # utf-8-addr-unitext, RFC 6533 §3
        if not utf8 or found[1].lower() != b"utf-8":
            raise _bad("Malformed ORCPT")
        return _printable(value, b"ORCPT")
    _decoded(found[2], b"ORCPT")
    return value.decode("ascii")


def _decoded(value: bytes, key: bytes) -> str:
    try:
        return _printable(xtext_decode(value), key)
    except ValueError as error:
        raise _bad(f"Malformed {key.decode('ascii')}") from error


def _printable(value: bytes, key: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise _bad(f"Malformed {key.decode('ascii')}") from error
    if not text.isprintable():  # a line end here would become one in a queue file or a report (CVE-2020-28021)
        raise _bad(f"Malformed {key.decode('ascii')}")
    return text


def _decode(octets: bytes, utf8: bool) -> str:
    try:
        text = octets.decode()
    except UnicodeDecodeError as error:
        raise BadAddress("it is not UTF-8") from error
    if not utf8 and not text.isascii():
        raise BadAddress("it has other letters than ASCII", needs_utf8=True)
    return text


def _any_mailbox(text: str) -> Address:
    """Read what the fast pattern of parse_mailbox does not take."""
    local, domain = _split(text)
    if len(local.encode()) > LOCAL_PART_MAX and not (local[:5].upper() in _REWRITTEN and len(text) <= PATH_MAX):
        raise BadAddress(f"the local part is longer than {LOCAL_PART_MAX} octets")
    return Address(local, _domain(domain))


def _split(text: str) -> tuple[str, str]:
    if _UNSAFE.search(text) is not None:
        raise BadAddress("it has a character that no mailbox has")
    found = _UTF8_ADDRESS.fullmatch(text)
    if found is not None:
        return found[1], found[2]
    found = _QUOTED.fullmatch(text)
    if found is None:
        raise BadAddress("it is not local@domain")
    return _PAIR.sub(r"\1", found[1]), found[2]


def _domain(domain: str) -> str:
    if not domain or len(domain.encode()) > DOMAIN_MAX:
        raise BadAddress("the domain is missing or too long")
    if domain[0] == "[":
        return _literal(domain)
    for label in domain.split("."):
        if len(label) > LABEL_MAX or _LABELS.fullmatch(label) is None:
            raise BadAddress("the domain is malformed")
    return domain


def _literal(domain: str) -> str:
    """Check `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3)."""
    inner = domain[1:-1]
    try:
        if domain[-1] != "]" or "%" in inner or "/" in inner:
            raise ValueError(domain)
        if inner[:5].upper() == "IPV6:":
            ipaddress.IPv6Address(inner[5:])
        else:
            ipaddress.IPv4Address(inner)
    except ValueError as error:
        raise BadAddress("the address literal is malformed") from error
    return domain
