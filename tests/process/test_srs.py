"""Rewritten senders against Mail::SRS, whose format they have."""

import subprocess
import time

import pytest

from gatepost.base.address import Address
from gatepost.codec.srs import Secrets, forward, reverse

pytestmark = [pytest.mark.process, pytest.mark.peer("libmail-srs-perl")]

KEY = "a key that nobody guesses"
PERL = r"""
use Mail::SRS; $| = 1;
my $srs = new Mail::SRS(Secret => [$ARGV[0]], MaxAge => 21, HashLength => 4, HashMin => 4);
while (<STDIN>) {
    chomp; my ($way, $address, $domain) = split /\t/;
    my $made = eval { $way eq 'forward' ? $srs->forward($address, $domain) : $srs->reverse($address) };
    print defined $made ? "$made\n" : "refused\n";
}
"""
SENDERS = [
    "joe@far.example",
    "Joe.Q+list=x@Far.Example",
    "a-b_c@sub.far.example",
    "bounce-1234=ann=y.example@list.example",
    "SRS0=abcd=AB=far.example=joe@b.example",
    "SRS0+abcd=AB=far.example=joe@b.example",
    "SRS0-abcd=AB=far.example=joe@b.example",
    "srs0=abcd=ab=far.example=joe@b.example",
    "SRS1=zzzz=b.example==abcd=AB=far.example=joe@c.example",
    *(f"user{n}@host{n % 7}.example" for n in range(100)),
]


def perl(lines: list[str]) -> list[str]:
    """Ask Mail::SRS."""
    asked = subprocess.run(
        ["perl", "-e", PERL, KEY], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True
    )
    return asked.stdout.splitlines()


def at(text: str) -> Address:
    """Read local@domain."""
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


def test_both_make_the_same_addresses_and_read_each_others() -> None:
    secrets, day = Secrets((KEY.encode(),)), int(time.time()) // 86_400
    theirs = perl([f"forward\t{sender}\tus.example" for sender in SENDERS])
    if int(time.time()) // 86_400 != day:  # midnight came between: once more, on one day
        day += 1
        theirs = perl([f"forward\t{sender}\tus.example" for sender in SENDERS])
    ours = [str(forward(at(sender), "us.example", secrets, day)) for sender in SENDERS]
    assert ours == theirs
    back = perl([f"reverse\t{made}" for made in ours])
    assert [str(reverse(at(made), secrets, day, 21)) for made in theirs] == back
