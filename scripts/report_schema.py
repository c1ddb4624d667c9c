"""Write docs/conformance-report.schema.json from the model: ``python scripts/report_schema.py``.

With ``--check`` it only says whether the file is in step, and exits 1 if not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hvdrivers.conformance.engine.writers.json import schema

TARGET = Path(__file__).parent.parent / "docs" / "conformance-report.schema.json"


def main() -> int:
    """Write the file, or check it."""
    wanted = json.dumps(schema(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != wanted:
            print(f"{TARGET.name} is not in step: python scripts/{Path(__file__).name}")
            return 1
        return 0
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
