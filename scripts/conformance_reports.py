"""Make the committed reports: ``python scripts/conformance_reports.py [--jobs N] [NAME ...]``.

``fake``, ``mutants``, and each on a host of its own ``libvirt`` (half an hour), ``vmware`` (a
simulated vCenter), ``esxi`` (the same driver on a simulated ESXi host) and ``hyperv`` (its
simulator); without arguments all of them. ``badges`` makes no report, only what comes from the JSON
that is there: the badges and the marks of docs/hypervisors.md.

Where the host is a simulator, ``--jobs N`` checks are run at once, each on a host of its own; by
itself one more than there are cores. The times of the report that is there say which take longest.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hvdrivers.conformance.engine.jobs import Jobs
from hvdrivers.conformance.engine.report import GOOD, CheckResult
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.conformance.engine.target import Target
from hvdrivers.conformance.engine.verifying import read_report
from hvdrivers.conformance.engine.writers import to_svg, write
from hvdrivers.conformance.engine.writers.badge import badge
from hvdrivers.conformance.mutants import run_mutants
from hvdrivers.fake.conformance import FakeTarget, mutant_target

FOLDER = Path(__file__).parent.parent / "docs" / "reports"


def report_on(engine: Session | Jobs, name: str) -> None:
    """A driver's report; what is found on the way stands in a line of its own."""

    def told(result: CheckResult) -> None:
        if result.status not in GOOD:
            print(f"{result.status}: {result.check}: {result.message}", flush=True)

    with engine:
        engine.run(selected(), on_result=told)
        report = engine.report(complete=True)
    write(report, FOLDER / f"{name}.json")


def simulated(make: Callable[[], Target], name: str, jobs: int) -> None:
    """The report of a driver on hosts that its target makes."""
    path = FOLDER / f"{name}.json"
    last = {each.check: each.seconds for each in read_report(path).results} if path.exists() else {}
    report_on(Jobs(make, jobs, seed=1, seconds=last, on_trouble=print), name)


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
        report_on(Session(target, seed=1), "libvirt")


def vmware(mode: str, name: str, jobs: int) -> None:
    """The report of the vSphere driver on the simulator that ``tests/integration`` has."""
    sys.path.insert(0, str(FOLDER.parent.parent))
    from tests.integration.vmware.conformance_run import SimulatedTarget

    simulated(partial(SimulatedTarget, mode), name, jobs)


def hyperv(jobs: int) -> None:
    """The report of the Hyper-V driver on its simulator."""
    from hvdrivers.hyperv.conformance.target import HypervTarget

    simulated(HypervTarget, "hyperv", jobs)


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


MAKERS: dict[str, Callable[[int], None]] = {
    "fake": lambda jobs: simulated(FakeTarget, "fake", jobs),
    "mutants": lambda _: mutants(),
    "libvirt": lambda _: libvirt(),
    "vmware": lambda jobs: vmware("vpx", "vmware", jobs),
    "esxi": lambda jobs: vmware("esx", "vmware-esxi", jobs),
    "hyperv": hyperv,
}


def main() -> None:
    """Make what the command line asks for."""
    parser = ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1, metavar="N")
    given = parser.parse_args()
    wanted = given.names or MAKERS
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        if name != "badges":
            MAKERS[name](given.jobs)
    for name, svg in badges().items():
        FOLDER.joinpath(f"{name}.svg").write_text(svg, encoding="utf-8")
    runpy.run_path(str(Path(__file__).with_name("hypervisor_marks.py")), run_name="__main__")


if __name__ == "__main__":
    main()
