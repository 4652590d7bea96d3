"""`gatepost dmarc`: aggregate reports (RFC 9990), those that others send of mail in our name, and those of ours."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, NamedTuple

import typer

from gatepost.base.address import fold_domain
from gatepost.base.clock import DAY, MICROSECONDS
from gatepost.cli import reports
from gatepost.cli.common import ConfigOption, JsonOption, moment, say, show, with_databases
from gatepost.cli.reports import DayOption, DaysOption, FilesArgument, MailboxOption
from gatepost.codec.dmarcreport import Report, Row, read_report
from gatepost.codec.dmarcwrite import document
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.dmarcrpt import results
from gatepost.queue.reporting import Identity

COLUMNS: Final = (
    "Reporter", "Begin", "Domain", "IP", "Mails", "DMARC", "DKIM", "SPF", "Done", "From", "Proofs", "Why",
)  # fmt: skip
SUMS: Final = ("Domain", "IP", "Mails", "Passed", "Failed", "Not delivered", "Proofs", "Reporters")

dmarc = typer.Typer(help="What others report of mail in our name, and we of theirs.", no_args_is_help=True)


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


@dmarc.command("report")
def dmarc_report(
    domain: str,
    day: DayOption = "",
    xml: Annotated[bool, typer.Option("--xml", help="The document itself, as it is sent.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how mail in the name of DOMAIN fared here on a day: what its owner is told, if it asks and we send."""
    number = reports.day_of(day)

    async def work(databases: Databases, settings: Config) -> Sequence[Report]:
        who = Identity.of(settings.judge.reports, settings.hostname, settings.accounts.postmaster)
        found = await results.reports(
            databases.gate, fold_domain(domain), number, organization=who.organization, contact=who.contact
        )
        return list(found.values())

    found = with_databases(config, work)
    if xml:
        for each in found:
            sys.stdout.write(document(each).decode() + "\n")
        return
    nothing = f"no mail of {domain} to tell about on that day"
    show(reports.lines(found, rows_of), COLUMNS, as_json=as_json, nothing=nothing)


@dmarc.command("reports")
def dmarc_reports(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the days and domains of which mail was counted, the latest first: those that ask for reports."""

    async def work(databases: Databases, _: Config) -> Sequence[results.Day]:
        return await results.days(databases.gate)

    rows = ((moment(each.day * DAY)[:10], each.domain, each.mails) for each in with_databases(config, work))
    show(rows, ("Day", "Domain", "Mails"), as_json=as_json, nothing="no mail of a domain that asks for reports yet")


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
