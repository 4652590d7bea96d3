"""The generated pages are those of today's code, and no row is forgotten."""

import re
from pathlib import Path

import pytest

from tests import pages

ROOT = pages.ROOT


@pytest.mark.parametrize("name", sorted(pages.PAGES))
def test_a_generated_page_is_up_to_date(name: str) -> None:
    written = (ROOT / "docs" / name).read_text()
    assert written == pages.PAGES[name](), "run `python3 dev.py docs`"


def test_every_mark_names_a_row_that_exists() -> None:
    known = {row for found in pages.rows().values() for row in found}
    assert set(pages.marks()) <= known


def test_every_row_is_proven_or_says_why_not() -> None:
    proven = pages.marks()
    silent = [
        row
        for found in pages.rows().values()
        for row, facts in found.items()
        if row not in proven and not facts.get("pending") and not facts.get("different")
    ]
    assert silent == []


def test_no_row_is_both_proven_and_pending() -> None:
    proven = pages.marks()
    rows = {row: facts for found in pages.rows().values() for row, facts in found.items()}
    assert [row for row in proven if "pending" in rows[row]] == []


@pytest.mark.parametrize("area", ["SMTP end-of-data", "SMTP protocol", "TLS", "AUTH"])
def test_the_first_areas_have_nothing_pending(area: str) -> None:
    found = {row: facts for row, facts in pages.rows()["hardening"].items() if facts["area"].startswith(area)}
    assert found, "the area's name has changed"
    assert [row for row, facts in found.items() if "pending" in facts and "later" not in facts["pending"]] == []


def test_links_between_the_pages_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
            if not (page.parent / Path(target)).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
