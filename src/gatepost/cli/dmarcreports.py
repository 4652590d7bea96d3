"""`gatepost dmarc read`, `arrived`: what others report of mail that names our domains as author (RFC 9990)."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import typer

from gatepost.base.clock import MICROSECONDS
from gatepost.cli import reports
from gatepost.cli.common import ConfigOption, JsonOption, moment, say, show
from gatepost.cli.reports import DaysOption, FilesArgument, MailboxOption
from gatepost.codec.dmarcreport import Report, Row, read_report

COLUMNS: Final = (
    "Reporter", "Begin", "Domain", "IP", "Mails", "DMARC", "DKIM", "SPF", "Done", "From", "Proofs", "Why",
)  # fmt: skip
SUMS: Final = ("Domain", "IP", "Mails", "Passed", "Failed", "Not delivered", "Proofs", "Reporters")

dmarc = typer.Typer(help="What others report of mail in our name.", no_args_is_help=True)


@dmarc.command("read")
def dmarc_read(files: FilesArgument, as_json: JsonOption = False) -> None:
    """Show the aggregate reports of files line by line: who sent in a domain's name, and how it fared."""
    found, problems = reports.of_files(files, read_report)
    if found or not problems:
        show(reports.lines(found, rows_of), COLUMNS, as_json=as_json, nothing="no mails are reported")
    reports.told(problems)


@dmarc.command("arrived")
def dmarc_arrived(
    address: str,
    days: DaysOption = 30,
    mailbox: MailboxOption = "INBOX",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sum up the aggregate reports that came to ADDRESS: each source of mail in our name, failures first."""
    found, others = reports.of_mailbox(config, address, mailbox, days, read_report)
    show(summed(found), SUMS, as_json=as_json, nothing=f"no report came to {address} in {days} days")
    if not as_json:
        say(f"{len(found)} reports; {others} other mails")


class _Source(NamedTuple):
    domain: str
    ip: str


def summed(found: Sequence[Report]) -> list[Sequence[object]]:
    """Return a row for each source of each domain, those with most failures first."""
    counts: dict[_Source, Counter[str]] = defaultdict(Counter)
    proofs: dict[_Source, Counter[str]] = defaultdict(Counter)
    reporters: dict[_Source, set[str]] = defaultdict(set)
    for report in found:
        for row in report.rows:
            source = _Source(row.author or report.domain, row.ip)
            counts[source]["passed" if row.passed else "failed"] += row.count
            if row.disposition in ("quarantine", "reject"):
                counts[source]["stopped"] += row.count
            proofs[source].update(_proofs(row))
            reporters[source].add(report.organization)
    worst = sorted(counts, key=lambda source: (-counts[source]["failed"], -counts[source]["passed"], source))
    return [
        (
            *source,
            counts[source]["passed"] + counts[source]["failed"],
            counts[source]["passed"],
            counts[source]["failed"],
            counts[source]["stopped"],
            [text for text, _ in proofs[source].most_common(4)],
            sorted(reporters[source]),
        )
        for source in worst
    ]


def rows_of(report: Report) -> Iterator[Sequence[object]]:
    """Yield a line for the mails that fared alike."""
    begin = moment(report.begin * MICROSECONDS)[:10]
    for row in report.rows:
        passed = "pass" if row.passed else "fail"
        yield (
            begin, report.domain, row.ip, row.count, passed, row.dkim, row.spf, row.disposition, row.author,
            _proofs(row), list(row.reasons),
        )  # fmt: skip


def _proofs(row: Row) -> list[str]:
    return [f"{each.method}={each.result} {each.domain}" for each in row.proofs]
