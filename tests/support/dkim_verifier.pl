#!/usr/bin/perl
# dkim_verifier.pl RECORD < mail: what Mail::DKIM says of each signature, with RECORD as every key; "KIND RESULT" a line.
use strict;
use warnings;
use Mail::DKIM::Verifier;
use Mail::DKIM::DNS;

package Record;
sub new { my ($class, $text) = @_; return bless { text => $text }, $class }
sub type { return 'TXT' }
sub txtdata { my ($self) = @_; return $self->{text} }
sub char_str_list { my ($self) = @_; return ($self->{text}) }

package main;
my ($record) = @ARGV;
{
    no warnings 'redefine';
    *Mail::DKIM::DNS::query_async = sub {
        my ($domain, $type, %given) = @_;
        my @answer = $given{Callbacks}{Success}->(Record->new($record));
        return sub { return wantarray ? @answer : $answer[0] };
    };
}
my $verifier = Mail::DKIM::Verifier->new;
binmode STDIN;
$verifier->PRINT($_) while <STDIN>;
$verifier->CLOSE;
print ref($_) =~ /DkSignature/ ? 'domainkeys' : 'dkim', ' ', $_->result, "\n" for $verifier->signatures;
