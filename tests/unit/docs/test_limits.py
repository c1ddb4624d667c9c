"""docs/security.md lists every limit, with its value."""

from __future__ import annotations

import re
from pathlib import Path

from hvdrivers import limits

PAGE = Path(__file__).parents[3] / "docs" / "security.md"


def test_every_limit_is_documented() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d,]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    documented = {name: int(value.replace(",", "")) for name, value in rows}
    assert documented == {name: int(getattr(limits, name)) for name in limits.__all__}
