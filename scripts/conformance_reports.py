"""Make the committed reports: ``python scripts/conformance_reports.py [NAME ...]``.

``fake``, ``libvirt`` (on a host of its own, for some minutes), ``mutants``; without arguments all
of them. ``badges`` makes the badges alone, from the JSON that is there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hvdrivers.conformance.engine import Session, selected
from hvdrivers.conformance.mutants import run_mutants
from hvdrivers.conformance.target import Target
from hvdrivers.conformance.verifying import read_report
from hvdrivers.conformance.writers import to_svg, write
from hvdrivers.conformance.writers.badge import badge
from hvdrivers.fake.conformance import FakeTarget

FOLDER = Path(__file__).parent.parent / "docs" / "reports"


def report_on(target: Target) -> None:
    """A driver's report."""
    with Session(target, seed=1) as session:
        session.run(selected())
        report = session.report(complete=True)
    write(report, FOLDER / f"{target.name}.json")


def libvirt() -> None:
    """The report of the libvirt driver, as ``tests/integration`` comes to it."""
    sys.path.insert(0, str(FOLDER.parent.parent))
    from hvdrivers.libvirt.conformance import LibvirtTarget
    from tests.peers.libvirtd import LibvirtPeer
    from tests.peers.openvswitch import OvsBridge

    with LibvirtPeer() as peer, OvsBridge() as bridge:
        report_on(LibvirtTarget(uri=peer.uri, virt_type="qemu", ovs_bridge=bridge.name))


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
    wanted = set(sys.argv[1:]) or {"fake", "libvirt", "mutants", "badges"}
    FOLDER.mkdir(parents=True, exist_ok=True)
    if "fake" in wanted:
        report_on(FakeTarget())
    if "libvirt" in wanted:
        libvirt()
    if "mutants" in wanted:
        mutants()
    for name, svg in badges().items():
        FOLDER.joinpath(f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
