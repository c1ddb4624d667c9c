"""Make the committed reports: ``python scripts/conformance_reports.py [fake] [mutants] [badges]``.

Without arguments all of them. A report of a driver that needs a host is made by the command, and
only its badge here: ``hvdrivers conformance run libvirt … --report docs/reports/libvirt.json``.
``badges`` makes the badges alone, from the JSON that is there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hvdrivers.conformance.engine import Session, selected
from hvdrivers.conformance.mutants import run_mutants
from hvdrivers.conformance.verifying import read_report
from hvdrivers.conformance.writers import to_svg, write
from hvdrivers.conformance.writers.badge import badge
from hvdrivers.fake.conformance import FakeTarget

FOLDER = Path(__file__).parent.parent / "docs" / "reports"


def fake() -> None:
    """The fake's report."""
    with Session(FakeTarget(), seed=1) as session:
        session.run(selected())
        report = session.report(complete=True)
    write(report, FOLDER / "fake.json")


def mutants() -> None:
    """The score of the suite, a line for each mutant."""
    score = run_mutants(lambda mutant: FakeTarget(mutant.driver)).model_dump(mode="json")
    rows = ",\n".join(
        f"    {json.dumps({key: each[key] for key in _KEYS})}" for each in score["results"]
    )
    head = "".join(f'  "{key}": {score[key]},\n' for key in _SCORES)
    FOLDER.joinpath("mutants.json").write_text(f'{{\n{head}  "results": [\n{rows}\n  ]\n}}\n')


_SCORES = ("total", "killed", "killed_as_intended")
_KEYS = ("name", "topic", "fault", "intended", "killed", "killed_as_intended")


def badges() -> dict[str, str]:
    """The badges of everything that is there."""
    made = {}
    for path in sorted(FOLDER.glob("*.json")):
        if path.stem == "mutants":
            score = json.loads(path.read_text(encoding="utf-8"))
            found, total = score["killed_as_intended"], score["total"]
            text = f"{found}/{total} mutants killed by their clause"
            shade = "green" if found == total == score["killed"] else "red"
            made[path.stem] = badge("suite", text, shade)
        else:
            made[path.stem] = to_svg(read_report(path))
    return made


def main() -> None:
    """Make what the command line asks for."""
    wanted = set(sys.argv[1:]) or {"fake", "mutants", "badges"}
    FOLDER.mkdir(parents=True, exist_ok=True)
    if "fake" in wanted:
        fake()
    if "mutants" in wanted:
        mutants()
    for name, svg in badges().items():
        FOLDER.joinpath(f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
