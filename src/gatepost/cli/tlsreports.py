"""`gatepost tls report`, `reports`, `read`, `arrived`: how TLS to others went, and what they report of ours.

RFC 8460.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Final

import typer

from gatepost.cli import reports
from gatepost.cli.common import ConfigOption, JsonOption, print_json, say, show, with_databases
from gatepost.cli.reports import DayOption, DaysOption, FilesArgument, MailboxOption
from gatepost.codec.tlsrpt import Report
from gatepost.codec.tlsrptread import read_report
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.queue.reporting import Identity
from gatepost.tlsrpt import results

COLUMNS: Final = ("Begin", "Domain", "Policy", "Sessions", "Result", "Host", "IP", "Sender", "Reason")


def register(tls: typer.Typer) -> None:
    """Add the commands to `gatepost tls`."""
    tls.command("report")(tls_report)
    tls.command("reports")(tls_reports)
    tls.command("read")(tls_read)
    tls.command("arrived")(tls_arrived)


def tls_report(
    domain: str,
    day: DayOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how TLS to DOMAIN's mail servers went on a day; --json is the document of RFC 8460."""
    number = reports.day_of(day)

    async def work(databases: Databases, settings: Config) -> Report:
        identity = Identity.of(settings.tls.reports, settings.hostname, settings.accounts.postmaster)
        return await results.report(
            databases.gate, domain, number, organization=identity.organization, contact=identity.contact
        )

    report = with_databases(config, work)
    if as_json:
        print_json(json.loads(report.document()))
        return
    nothing = f"no session with {domain} on {results.date_of(number)}"
    show(rows_of(report), COLUMNS, as_json=False, nothing=nothing)


def tls_reports(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the days and domains of which it is known how TLS went, the latest first."""

    async def work(databases: Databases, _: Config) -> Sequence[results.Day]:
        return await results.days(databases.gate)

    found = with_databases(config, work)
    rows = ((results.date_of(each.day), each.domain, each.successes, each.failures) for each in found)
    show(rows, ("Day", "Domain", "Successes", "Failures"), as_json=as_json, nothing="no sessions yet")


def tls_read(files: FilesArgument, as_json: JsonOption = False) -> None:
    """Show the TLS reports that others sent: how many sessions went well, and which failed and why."""
    found, problems = reports.of_files(files, read_report)
    if found or not problems:
        _show(found, as_json=as_json, nothing="no sessions are reported")
    reports.told(problems)


def tls_arrived(
    address: str,
    days: DaysOption = 30,
    mailbox: MailboxOption = "INBOX",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the TLS reports that came to ADDRESS, each once."""
    found, others = reports.of_mailbox(config, address, mailbox, days, read_report)
    _show(found, as_json=as_json, nothing=f"no report came to {address} in {days} days")
    if not as_json:
        say(f"{len(found)} reports; {others} other mails")


def _show(found: Sequence[Report], *, as_json: bool, nothing: str) -> None:
    show(reports.lines(found, rows_of), ("Reporter", *COLUMNS), as_json=as_json, nothing=nothing)


def rows_of(report: Report) -> Iterator[Sequence[object]]:
    """Yield a line for what went well under each policy, and one for each failure."""
    for each in report.results:
        head = report.start[:10], each.domain, each.type.value
        if each.successes or not each.failures:
            yield *head, each.successes, "success", "", "", "", ""
        for failed in each.failed:
            told = failed.failure.value, failed.host, failed.ip, failed.ours, failed.reason
            yield *head, failed.sessions, *told
        untold = each.failures - sum(failed.sessions for failed in each.failed)
        if untold > 0:
            yield *head, untold, "failures without a line", "", "", "", ""
