"""Settings of the SMTP servers: `[intake]`."""

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_network
from typing import Final

from gatepost.base.units import Octets, Seconds
from gatepost.codec.smtp.data import BareLines
from gatepost.codec.smtp.server import FOREIGN, Reaction

OUR_COMMANDS: Final = frozenset(
    ("AUTH", "BDAT", "DATA", "EHLO", "ETRN", "HELO", "LHLO", "MAIL", "NOOP", "QUIT", "RCPT", "RSET", "STARTTLS")
)
_WORD: Final = re.compile(r"[!-~]{1,32}")
_ONE_LINE: Final = re.compile(r"[ -~]{0,200}")


class SenderCheck(Enum):
    """Where a user's address is checked."""

    BOTH = "both"
    ENVELOPE = "envelope"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """What is taken, from whom, and how patiently."""

    sender_check: SenderCheck = SenderCheck.BOTH
    """Users may write only from their own addresses, aliases that lead to them and what `policy.senders` lists:
    `both` in the envelope and in From, `envelope` there alone, `off` from any."""

    max_size: Octets = Octets(50 << 20)
    """The largest mail, header included."""

    max_recipients: int = 1_000
    """Recipients of one mail from strangers; more are told to come in another mail. Never below 100 (RFC 5321)."""

    max_recipients_submitted: int = 100
    """Recipients of one mail of a user."""

    max_priority: int = 9
    """How urgent a user or a program of this machine may say a mail is (MT-PRIORITY, RFC 6710), 0 to 9: what asks
    for more is taken with this priority, and its client is told. 0: nobody's mail goes before that of others."""

    future_release: Seconds = Seconds(30 * 86_400)
    """How long at most a user or a program of this machine may have a mail held back (FUTURERELEASE, RFC 4865); 0
    does not offer it."""

    null_sender_recipients: int = 1
    """Recipients of one mail without a sender: reports have one. Further ones are told to come in another mail."""

    max_mails: int = 100
    """Mails of one session."""

    mails_per_minute: int = 100
    """Mails of one unauthenticated address (IPv6: its /64) in a minute."""

    max_hops: int = 50
    """Received fields a mail may carry: with more it goes in circles."""

    bare_lines: BareLines = BareLines.REJECT
    """A mail from strangers with a CR or LF that stands alone: `reject` it or `normalize` it to CRLF."""

    bare_lines_submitted: BareLines = BareLines.NORMALIZE
    """The same for mails of users."""

    mx_auth: bool = False
    """Offer AUTH on port 25 too (over TLS): only for programs that cannot use 587 or 465."""

    local_dir: str = ""
    """The folder by which `sendmail` of this machine reaches the server: its socket, and mail that waits for the
    server to come back. Empty is `local` in the data_dir, which only root and the server's user reach; for all
    users name one that the server's user may make or owns, such as `/var/spool/gatepost`."""

    etrn: tuple[str, ...] = ()
    """Networks whose servers may ask with ETRN that the mail for a domain be tried now: `192.0.2.0/24`. Only they
    are told of it; nobody is without this."""

    xforward: tuple[str, ...] = ()
    """Networks of filters that may say with XFORWARD who gave them a mail: `127.0.0.1/32`. The judge, the Received
    field and the story then see that client; rules, gate and rates still see the filter. See docs/filters.md."""

    xclient: tuple[str, ...] = ()
    """Networks of proxies that may say with XCLIENT for whom they speak; they are believed, with a user's name
    too. Rules see that client, but on a listener with a tag the proxy itself. See docs/filters.md."""

    greet_wait: Seconds = Seconds(0)
    """How long strangers wait for the greeting, so that who speaks first shows itself: `6s`. While more than four
    fifths of the sessions are taken, a third of it."""

    greet_teaser: str = ""
    """What is said at once while they wait, as `220-` before the name: who takes it for the whole greeting speaks
    too early."""

    pregreet: Reaction = Reaction.DROP
    """What follows when a stranger speaks before the greeting: `ignore`, `enforce` (every recipient is refused, and
    the log knows who they were) or `drop`."""

    non_smtp: Reaction = Reaction.DROP
    """The same for words of another protocol and for lines of a mail's header where a command should stand."""

    forbidden_commands: tuple[str, ...] = tuple(sorted(word.decode() for word in FOREIGN))
    """The words of other protocols."""

    bare_newline: Reaction = Reaction.IGNORE
    """The same for commands that end in LF alone; with `ignore` they are errors, and wait for a CRLF."""

    unannounced_pipelining: Reaction = Reaction.IGNORE
    """The same for commands sent together by who did not say EHLO. Where an answer must be awaited, sending on is
    always the end."""

    command_time: Seconds = Seconds(300)
    """How long a client may take for one whole command."""

    stress_time: Seconds = Seconds(10)
    """The same while more than four fifths of the sessions are taken."""

    session_time: Seconds = Seconds(1200)
    """How long a session that does not authenticate may last; a mail under way is let finish."""

    spool_memory: Octets = Octets(256 << 20)
    """What mails that are arriving may take of memory, together, in one worker."""

    spool_disk: Octets = Octets(2 << 30)
    """What they may take on disk: a mail above 1 MB goes there."""

    auth_failures: int = 3
    """Wrong passwords in one session."""

    auth_failures_per_minute: int = 10
    """Wrong passwords of one address (IPv6: its /64) in a minute."""

    auth_failures_per_day: int = 50
    """Wrong passwords of one address in a day."""

    auth_failures_net_per_minute: int = 30
    """Wrong passwords of a whole /24 (IPv6: /48) in a minute."""

    auth_failures_account_per_hour: int = 20
    """Wrong passwords for one account in an hour; after that each attempt is slowed down, never locked out."""

    def __post_init__(self) -> None:
        if self.max_recipients < 100:
            raise ValueError("max_recipients must not be below 100 (RFC 5321 §4.5.3.1.8)")
        for network in (*self.etrn, *self.xforward, *self.xclient):
            ip_network(network)  # ValueError says what it is not
        if not 0 <= self.max_priority <= 9:
            raise ValueError("max_priority must be between 0 and 9")
        if self.null_sender_recipients < 1:
            raise ValueError("null_sender_recipients must not be below 1")
        if not 0 <= self.greet_wait <= 60:
            raise ValueError("greet_wait must be between 0 and 60 s: clients wait for a greeting 5 minutes at most")
        if not _ONE_LINE.fullmatch(self.greet_teaser):
            raise ValueError("greet_teaser is one line of at most 200 plain ASCII letters")
        for word in self.forbidden_commands:
            if not _WORD.fullmatch(word):
                raise ValueError(f"{word!r} is no word that a command line could begin with")
            if word.upper() in OUR_COMMANDS:
                raise ValueError(f"{word!r} is a command of SMTP: it cannot be forbidden")
