"""The settings of the rules: `[policy]`.

[policy.tables.blocked]
file = "/etc/gatepost/blocked-recipients"

[policy.actions.provider]
do = "relay"
host = "smtp.provider.example"
port = 587
tls = "verify"
auth = "me"

[[policy.rules]]
match = { from = "any", for = "own", recipient = "!<blocked>" }
action = "deliver"

[[policy.rules]]
match = { from = "local", for = "any" }
action = "provider"
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import Final

from gatepost.base.units import Seconds
from gatepost.policy.action import RelayTls
from gatepost.policy.srs import SrsSettings
from gatepost.policy.table import TableSettings
from gatepost.policy.tables.target import read_target

LIFETIME_LEAST: Final = 3600  # s
_NAME: Final = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


class Do(Enum):
    """What an action does."""

    DELIVER = "deliver"
    RELAY = "relay"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class ActionSettings:
    """One action: `[policy.actions.NAME]`. `deliver`, `relay` and `reject` need no entry of their own."""

    do: Do
    """`deliver` to a mailbox or LMTP server, `relay` to another mail server, or `reject`."""

    mailbox: str = "INBOX"
    """deliver: the mailbox it goes to when no script of the user says otherwise."""

    virtual: str = ""
    """deliver: the table that maps addresses to users or other addresses; what it does not know is refused."""

    alias: str = ""
    """deliver: the table of aliases; what it does not know is a user."""

    lmtp: str = ""
    """deliver: an LMTP server instead of our mailboxes: `/run/dovecot/lmtp` or `127.0.0.1:24`."""

    rcpt_to: bool = True
    """deliver by LMTP: say the whole address; false says the user's name alone, as OpenSMTPD 5 did."""

    program: str = ""
    """deliver: a program instead of our mailboxes, `/usr/bin/maildrop -d info`; the mail is its standard input."""

    program_user: str = "nobody"
    """deliver: the user that the program runs as; never root. A server that is not root itself can be its own user
    only, and must be told so here."""

    program_shell: bool = False
    """deliver: give the program's line to /bin/sh; else it is a program and its arguments."""

    forward_files: bool = False
    """deliver: heed the .forward in the home of a user who has one."""

    forward_programs: bool = False
    """deliver: a .forward may start programs and write files, as its user."""

    userbase: str = ""
    """deliver: the table of kind userinfo that knows the users' homes; empty asks the system (passwd)."""

    host: str = ""
    """relay: this server instead of the recipient's MX; a name or an address."""

    port: int = 0
    """relay: its port; 0 is 25, or 465 with implicit_tls."""

    tls: RelayTls = RelayTls.MAY
    """relay: `may` (opportunistic), `require`, `verify` (with a certificate that holds) or `none`."""

    implicit_tls: bool = False
    """relay: TLS from the first octet, as port 465 has it."""

    auth: str = ""
    """relay: the label in the table `relay.credentials` to log in with; never without TLS, and only to a server
    whose certificate holds, unless `tls = "require"` says that any will do."""

    helo: str = ""
    """relay: the name to greet with; empty is the server's own."""

    source: str | tuple[str, ...] = ()
    """relay: the address of this machine to send from, or several: the one of the next hop's family is taken, of
    several of a family always the same for a destination. `relay.source` else."""

    lifetime: Seconds = Seconds(0)
    """relay, and deliver to an LMTP server or a program: how long mail is tried before it is returned; 0 as
    `queue.lifetime` says."""

    xforward: bool = False
    """relay: tell this server, where it offers XFORWARD, who gave us the mail. For filters of ours alone: it tells
    the addresses of our users."""

    def __post_init__(self) -> None:
        if self.xforward and not self.host:
            raise ValueError("xforward needs host: only a filter of ours is told of our clients")
        if self.lifetime and self.lifetime < LIFETIME_LEAST:
            raise ValueError("lifetime must be at least 1h, or 0 for that of the queue")
        if self.lifetime and self.do is Do.DELIVER and not (self.lmtp or self.program):
            raise ValueError("lifetime needs lmtp or program: a mailbox takes mail at once")
        if self.virtual and self.alias:
            raise ValueError("give virtual or alias, not both")
        if self.program and self.lmtp:
            raise ValueError("give lmtp or program, not both")
        if self.program:
            read_target(f"|{self.program}")  # ValueError says what is wrong with it
        if self.program_user in ("root", "0", ""):
            raise ValueError("program_user: programs never run as root")
        if (self.forward_programs or self.userbase) and not self.forward_files:
            raise ValueError("forward_programs and userbase need forward_files = true")
        if self.port and not self.host:
            raise ValueError("port needs host: without a host the recipient's MX is asked, on port 25")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"there is no port {self.port}")
        if self.auth and (not self.host or self.tls is RelayTls.NONE):
            raise ValueError("auth needs a host, and TLS: a password never goes out in the clear")
        if self.helo and _NAME.fullmatch(self.helo) is None:
            raise ValueError(f"{self.helo!r} is no name to greet with")
        for source in self.sources:
            ip_address(source)  # ValueError says what it is not

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the addresses to send from."""
        return tuple(filter(None, (self.source,))) if isinstance(self.source, str) else self.source


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """One rule: `[[policy.rules]]`. The first whose conditions all hold decides; without one the answer is 550."""

    match: Mapping[str, str | bool | tuple[str, ...]] = field(default_factory=dict)
    """The conditions: `from` (any, local, `<table>`, networks), `for` (any, local, own, `<table>`, domains), `auth`
    (true, false, a user, `<table>`), `tag`, `sender`, `recipient`, `helo`, `rdns`, `tls`. A leading `!` negates.
    Without `from` it matches local sources only; without `for`, mail to this machine's own names only."""

    action: str = "reject"
    """`deliver`, `relay`, `reject`, or the name of one of `policy.actions`."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Who may send where, and what becomes of it: `[policy]`."""

    tables: Mapping[str, TableSettings] = field(default_factory=dict)
    """Named lists and mappings."""

    actions: Mapping[str, ActionSettings] = field(default_factory=dict)
    """Named actions."""

    rules: tuple[RuleSettings, ...] = ()
    """The rules in order. None at all means: deliver to our own domains, relay for local and logged-in senders."""

    smarthosts: Mapping[str, str] = field(default_factory=dict)
    """By which server a sender's mail leaves where a rule says `relay` and no more: sender = relay action. A sender
    is `user@domain`, `domain`, `.domain` (all below it), `"<>"` (bounces) or `"*"`; the closest one counts."""

    senders: str = ""
    """The table (kind senders) of further addresses that users may write from: `joe@example.org: info@example.org,
    @club.example`. Their own, and aliases that lead to them, need no entry. `[intake] sender_check` says where."""

    srs: SrsSettings = field(default_factory=SrsSettings)
    """Senders of forwarded mail."""

    authenticated_is_local: bool = True
    """A logged-in sender matches `from = "local"`, as in OpenSMTPD 5; false asks for `auth` as OpenSMTPD 6 does."""

    own_addresses: tuple[str, ...] = ()
    """More addresses of this machine that count as local; loopback always does."""

    watch: Seconds = Seconds(5)
    """How often the files of tables are looked at; a changed one is read, all or nothing. 0: only when asked."""

    subaddress: str = "+"
    """What parts a user from a detail: `joe+lists`. Empty turns it off."""
