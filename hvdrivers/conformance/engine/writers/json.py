"""JSON: the report itself, a line per result, so that two of them can be compared by eye."""

from __future__ import annotations

import json
from typing import Any

from hvdrivers.conformance.engine.report import Report

_ROWS = ("results", "profiles", "latencies")


def to_json(report: Report) -> str:
    """The whole report; what has its default value is left out of the rows."""
    data = report.model_dump(mode="json")
    brief = report.model_dump(mode="json", exclude_defaults=True)
    parts = []
    for key, value in data.items():
        if key in _ROWS:
            rows = ",\n".join(f"    {_compact(row)}" for row in brief.get(key, ()))
            text = f"[\n{rows}\n  ]" if rows else "[]"
        else:
            text = _compact(value)
        parts.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=True)


def schema() -> dict[str, Any]:
    """The JSON schema of a report, as docs/conformance-report.schema.json has it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Report.model_json_schema(mode="validation"),
    }
