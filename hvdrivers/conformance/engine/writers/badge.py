"""A badge that says what was shown: level, ratio of clauses, tier. Not that some job was green."""

from __future__ import annotations

from xml.sax.saxutils import escape

from hvdrivers.conformance.engine.report import Report
from hvdrivers.conformance.engine.summary import colour, sentence

_COLOURS = {"green": "#2a7d3f", "amber": "#9a6700", "red": "#b3261e"}
_WIDTHS = {" ": 3.9, "·": 4.0, "/": 4.6, ".": 4.0, "+": 8.0, "i": 3.1, "l": 3.1, "t": 4.3, "r": 4.6,
           "f": 4.1, "m": 10.6, "v": 6.5, "c": 5.7}  # fmt: skip


def to_svg(report: Report) -> str:
    """The badge of a report."""
    return badge("conformance", sentence(report), colour(report))


def badge(label: str, text: str, shade: str) -> str:
    """A badge of two parts.

    Args:
        shade: ``green``, ``amber`` or ``red``.
    """
    left, right = _width(label), _width(text)
    total = left + right
    title = escape(f"{label}: {text}")
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" aria-label="{title}">
<title>{title}</title>
<clipPath id="r"><rect width="{total}" height="20" rx="3"/></clipPath>
<g clip-path="url(#r)">
<rect width="{left}" height="20" fill="#444"/>
<rect x="{left}" width="{right}" height="20" fill="{_COLOURS[shade]}"/>
</g>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="6" y="14" textLength="{left - 12}">{escape(label)}</text>
<text x="{left + 6}" y="14" textLength="{right - 12}">{escape(text)}</text>
</g>
</svg>
"""


def _width(text: str) -> int:
    # textLength makes every font fit: this only has to be near
    return round(12 + sum(_WIDTHS.get(char, 7.0) for char in text))
