"""`gatepost tls read`: what others report of the TLS to our mail servers (RFC 8460)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from gatepost.cli.common import Failed, JsonOption, show
from gatepost.codec.tlsrpt import Report
from gatepost.codec.tlsrptread import PACKED_MAX, BadReport, read_report

COLUMNS: Final = ("Begin", "Domain", "Policy", "Sessions", "Result", "Host", "IP", "Sender", "Reason")


def register(tls: typer.Typer) -> None:
    """Add the commands to `gatepost tls`."""
    tls.command("read")(tls_read)


def tls_read(
    files: Annotated[
        list[Path],
        typer.Argument(help="Reports: .json, .json.gz, or whole mails that bring one.", show_default=False),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show the TLS reports that others sent: how many sessions went well, and which failed and why."""
    rows: list[Sequence[object]] = []
    problems: list[str] = []
    for file in files:
        try:
            report = read_report(_octets(file))
        except (OSError, BadReport) as wrong:
            problems.append(f"{file}: {getattr(wrong, 'strerror', None) or wrong}")
        else:
            rows += [(report.organization, *row) for row in rows_of(report)]
    if rows or not problems:
        show(rows, ("Reporter", *COLUMNS), as_json=as_json, nothing="no sessions are reported")
    if problems:
        raise Failed("; ".join(problems))


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


def _octets(file: Path) -> bytes:
    """Read a file, and no more than a report may have; raises OSError."""
    with file.open("rb") as source:
        return source.read(PACKED_MAX + 1)
