#!/usr/bin/perl
# dkim_signer.pl LISTEN RELAY DOMAIN SELECTOR KEYFILE: a transparent SMTP proxy that signs, as dkimproxy_out does.
#
# dkimproxy is not in Debian; this is its way of working on the library under it, Mail::DKIM: each command goes to the
# next hop and each answer back; the mail between DATA and the dot is kept, signed (c=relaxed, rsa-sha256), and sent.
use strict;
use warnings;
use IO::Socket::INET;
use Mail::DKIM::Signer;
use Mail::DKIM::PrivateKey;

my ($listen, $relay, $domain, $selector, $keyfile) = @ARGV;
my $key = Mail::DKIM::PrivateKey->load(File => $keyfile);
my $server = IO::Socket::INET->new(LocalAddr => $listen, Listen => 64, ReuseAddr => 1) or die "listen: $!";
$SIG{CHLD} = 'IGNORE';
$SIG{TERM} = sub { exit 0 };
while (1) {
    my $client = $server->accept or next;
    next if fork;
    eval { serve($client) };
    print STDERR $@ if $@;
    exit 0;
}

sub serve {
    my ($client) = @_;
    my $next = IO::Socket::INET->new(PeerAddr => $relay) or return;    # as dkimproxy: the client sees the line drop
    answer($next, $client);
    while (defined(my $command = <$client>)) {
        if ($command =~ /^DATA\s/i) {
            print $next $command;
            if (answer($next, $client) == 354) {
                my $mail = '';
                while (1) {
                    my $line = <$client>;
                    return unless defined $line;
                    last if $line eq ".\r\n";
                    $line =~ s/^\.//;
                    $mail .= $line;
                }
                my $dkim = Mail::DKIM::Signer->new(
                    Algorithm => 'rsa-sha256', Method => 'relaxed', Domain => $domain, Selector => $selector, Key => $key
                );
                $dkim->PRINT($mail);
                $dkim->CLOSE;
                $mail = $dkim->signature->as_string . "\r\n" . $mail;
                $mail =~ s/(?<!\r)\n/\r\n/g;
                $mail =~ s/^\./../mg;
                print $next $mail, ".\r\n";
                answer($next, $client);
            }
            next;
        }
        print $next $command;
        answer($next, $client);
        last if $command =~ /^QUIT\s/i;
    }
}

# Copy one reply; what a proxy cannot do is not offered. Returns its code.
sub answer {
    my ($next, $client) = @_;
    my @lines;
    while (defined(my $line = <$next>)) {
        push @lines, $line;
        last unless $line =~ /^\d{3}-/;
    }
    exit 0 unless @lines;
    @lines = grep { !/^250[- ](STARTTLS|CHUNKING|PIPELINING)\b/i } @lines;
    $lines[$_] =~ s/^(\d{3})./$1 . ($_ == $#lines ? ' ' : '-')/e for 0 .. $#lines;
    print $client join('', @lines);
    return substr($lines[0], 0, 3);
}
