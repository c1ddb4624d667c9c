"""Numbers that grow with the suite stand in no page that a person writes.

The reports have them, and the badges and the matrix that are made of these. The README's counts of
capabilities are set by ``scripts/hypervisor_marks.py``, and compared in ``test_hypervisors.py``.
"""

from __future__ import annotations

import re

from tests.unit.docs.page import DOCS, ROOT

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_OF_THE_SUITE = re.compile(
    r"\b(\d{1,3}(?:,\d{3})+|\d{3,})\s+(?:\w+\s+)?(?:checks|clauses|mutants|passed|refused)\b"
)


def test_no_page_counts_what_grows_with_the_suite() -> None:
    found = [
        f"{page.relative_to(ROOT)}: {match[0]!r}: the report has it, and this becomes stale"
        for page in PAGES
        for match in _OF_THE_SUITE.finditer(page.read_text("utf-8"))
    ]
    assert found == []


def test_a_count_is_seen() -> None:
    for text in ("of 1,466 checks", "873 broken mutants", "1,129 passed", "412\nclauses"):
        assert _OF_THE_SUITE.search(text), text
    for text in ("28 checks fail", "two checks", "`--jobs 4` checks", "5,000 machines"):
        assert not _OF_THE_SUITE.search(text), text
