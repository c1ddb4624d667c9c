"""Make the committed reports: ``python scripts/conformance_reports.py [NAME ...]``.

``fake``, ``mutants``, and each on a host of its own ``libvirt`` (half an hour), ``vmware`` (a
simulated vCenter), ``esxi`` (the same driver on a simulated ESXi host) and ``hyperv`` (its
simulator); without arguments all of them. ``badges`` makes no report, only what comes from the JSON
that is there: the badges and the marks of docs/hypervisors.md.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from hvdrivers.conformance.engine.report import GOOD, CheckResult
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.conformance.engine.target import Target
from hvdrivers.conformance.engine.verifying import read_report
from hvdrivers.conformance.engine.writers import to_svg, write
from hvdrivers.conformance.engine.writers.badge import badge
from hvdrivers.conformance.mutants import run_mutants
from hvdrivers.fake.conformance import FakeTarget, mutant_target

FOLDER = Path(__file__).parent.parent / "docs" / "reports"


def report_on(target: Target, name: str | None = None) -> None:
    """A driver's report; what is found on the way stands in a line of its own."""

    def told(result: CheckResult) -> None:
        if result.status not in GOOD:
            print(f"{result.status}: {result.check}: {result.message}", flush=True)

    with Session(target, seed=1) as session:
        session.run(selected(), on_result=told)
        report = session.report(complete=True)
    write(report, FOLDER / f"{name or target.name}.json")


def libvirt() -> None:
    """The report of the libvirt driver, as ``tests/integration`` comes to it."""
    sys.path.insert(0, str(FOLDER.parent.parent))
    from hvdrivers.libvirt.conformance.target import LibvirtTarget
    from tests.integration.libvirt.conformance_run import other_hosts
    from tests.integration.libvirt.test_remote_volumes import iscsi
    from tests.peers.bridge import LinuxBridge
    from tests.peers.libvirtd import LibvirtPeer
    from tests.peers.openvswitch import OvsBridge
    from tests.peers.tgt import IscsiServer

    with (
        LibvirtPeer() as peer,
        OvsBridge() as bridge,
        LinuxBridge(dhcp=False) as shared,
        IscsiServer() as san,
        other_hosts(shared.name) as others,
    ):
        options = {"virt_type": "qemu", "ovs_bridge": bridge.name, **others}
        target = LibvirtTarget(
            uri=peer.uri, host_root=peer.host_root, served=[iscsi(san).volume], **options
        )
        report_on(target)


def vmware(mode: str, name: str) -> None:
    """The report of the vSphere driver on the simulator that ``tests/integration`` has."""
    sys.path.insert(0, str(FOLDER.parent.parent))
    from tests.integration.vmware.conformance_run import simulated

    with simulated(mode) as (_, target):
        report_on(target, name)


def hyperv() -> None:
    """The report of the Hyper-V driver on its simulator."""
    from hvdrivers.hyperv.conformance.target import HypervTarget

    report_on(HypervTarget())


def mutants() -> None:
    """The score of the suite, a line for each mutant."""
    score = run_mutants(mutant_target, processes=4).model_dump(mode="json")
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


MAKERS: dict[str, Callable[[], None]] = {
    "fake": lambda: report_on(FakeTarget()),
    "mutants": mutants,
    "libvirt": libvirt,
    "vmware": lambda: vmware("vpx", "vmware"),
    "esxi": lambda: vmware("esx", "vmware-esxi"),
    "hyperv": hyperv,
}


def main() -> None:
    """Make what the command line asks for."""
    wanted = sys.argv[1:] or MAKERS
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        if name != "badges":
            MAKERS[name]()
    for name, svg in badges().items():
        FOLDER.joinpath(f"{name}.svg").write_text(svg, encoding="utf-8")
    runpy.run_path(str(Path(__file__).with_name("hypervisor_marks.py")), run_name="__main__")


if __name__ == "__main__":
    main()
