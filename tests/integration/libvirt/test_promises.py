"""What an error promises: ConnectionFailed and OperationTimeout say that nothing has changed. Each
operation of several calls is disturbed at each of them, and virsh looks past the driver. Where
libvirt refuses a call, most errors promise the same, and no machine is off that was on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor
from tests.integration.libvirt.faults import (
    Fault,
    Send,
    answered,
    before,
    script,
    vendor_error,
)
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.part_of_suite import WHOLE
from tests.peers.libvirtd import LibvirtPeer
from tests.soak.model import UNCHANGED

MOST_CALLS = 80
"""Of an operation: more than any makes."""
TIMEOUT = 600.0
"""Seconds: nobody waits for them, the fault lets them pass."""


def late(driver: LibvirtDriver, _peer: LibvirtPeer) -> Fault:
    """The operation's deadline passes."""

    def fault(_name: str, send: Send) -> Any:
        driver.connection.deadline.pass_now()
        return send()

    return fault


@dataclass(frozen=True)
class Plan:
    """An operation, and what it finds."""

    operation: str
    arguments: Callable[[Machine], tuple[Any, ...]] = lambda _: ()
    prepare: Callable[[Machine], Any] = lambda _: None
    start: bool = True


def image(machine: Machine) -> tuple[FileImage]:
    path = machine.host.peer.root / "promises.raw"
    if not path.exists():
        path.write_bytes(b"p" * (1 << 20))
    return (FileImage(path=path, format=ImageFormat.RAW),)


def larger(_: Machine) -> tuple[Flavor]:
    return (Flavor(vcpus=2, memory_mib=96, disk_gib=1),)


def named(_: Machine) -> tuple[str]:
    return ("one",)


def first(machine: Machine) -> tuple[str]:
    (one,) = machine.host.driver.list_snapshots(machine.uuid)
    return (one.id,)


def pause(machine: Machine) -> None:
    machine.host.driver.pause(machine.uuid)


def suspend(machine: Machine) -> None:
    machine.host.driver.suspend(machine.uuid)


def rescue(machine: Machine) -> None:
    machine.host.driver.rescue(machine.uuid, *image(machine))


def rescue_and_stop(machine: Machine) -> None:
    rescue(machine)
    machine.host.driver.power_off(machine.uuid)


def keep(machine: Machine) -> None:
    machine.host.driver.create_snapshot(machine.uuid, "one")


def keep_memory(machine: Machine) -> None:
    machine.host.driver.create_snapshot(machine.uuid, "one", memory=True)


def keep_memory_and_stop(machine: Machine) -> None:
    keep_memory(machine)
    machine.host.driver.power_off(machine.uuid)


PLANS = {
    "rescue": Plan("rescue", image),
    "rescue, off": Plan("rescue", image, start=False),
    "unrescue": Plan("unrescue", prepare=rescue),
    "unrescue, off": Plan("unrescue", prepare=rescue_and_stop),
    "rebuild": Plan("rebuild", image),
    "rebuild, off": Plan("rebuild", image, start=False),
    "resize": Plan("resize", larger, start=False),
    "reboot": Plan("reboot"),
    "reboot, paused": Plan("reboot", prepare=pause),
    "power_off": Plan("power_off"),
    "power_off, suspended": Plan("power_off", prepare=suspend),
    "power_on": Plan("power_on", start=False),
    "power_on, after a rescue": Plan("power_on", prepare=rescue_and_stop),
    "suspend": Plan("suspend"),
    "resume": Plan("resume", prepare=suspend),
    "create_snapshot": Plan("create_snapshot", named),
    "create_snapshot, off": Plan("create_snapshot", named, start=False),
    "revert_snapshot": Plan("revert_snapshot", first, keep),
    "revert_snapshot, memory": Plan("revert_snapshot", first, keep_memory),
    "revert_snapshot, memory, off": Plan("revert_snapshot", first, keep_memory_and_stop),
    "delete_snapshot": Plan("delete_snapshot", first, keep),
    "destroy": Plan("destroy"),
}


def run_of(machine: Machine) -> tuple[int, str]:
    """Which process QEMU is, and when it began: a guest that was booted anew has another."""
    try:
        pid = machine.host.peer.qemu_pid(str(machine.uuid))
        return pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (AssertionError, OSError):
        return 0, ""


def seen(machine: Machine) -> list[object]:
    """A machine as another client and /proc show it."""
    with closing(libvirt.open(machine.host.peer.uri)) as other:
        listed = [each for each in other.listAllDomains() if each.UUIDString() == str(machine.uuid)]
        if not listed:
            return []
        (domain,) = listed
        (disk,) = ET.fromstring(domain.XMLDesc()).findall("devices/disk/source[@file]")[:1]
        return [
            run_of(machine),
            domain.state()[0],
            domain.hasManagedSaveImage(),
            domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE),
            domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE),
            sorted(each.getXMLDesc() for each in domain.listAllSnapshots()),
            sorted(each.getName() for each in domain.listAllCheckpoints()),
            domain.jobInfo()[0] if domain.isActive() else None,
            other.storageVolLookupByPath(disk.attrib["file"]).info()[1],
        ]


PROMISES = (errors.ConnectionFailed, errors.OperationTimeout)
FAULTS = {"cut": before, "late": late}
CASES = [
    (plan, fault)
    for plan in PLANS
    for fault in FAULTS
    if WHOLE or (fault == "cut" and plan in {"rescue", "rebuild", "revert_snapshot"})
]


@pytest.mark.parametrize(("plan", "fault"), CASES)
def test_an_error_that_says_that_nothing_has_changed_is_right(
    own: Host, plan: str, fault: str
) -> None:
    _disturb(own, PLANS[plan], FAULTS[fault])


ENDING = {
    *("rescue", "unrescue", "rebuild", "reboot", "reboot, paused", "suspend", "power_off"),
    *("create_snapshot", "revert_snapshot", "revert_snapshot, memory"),
}
"""Of a machine that is on, and may be off afterwards."""
REFUSED = vendor_error(libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "unsupported configuration")


@pytest.mark.parametrize("plan", sorted(ENDING) if WHOLE else ["revert_snapshot", "reboot"])
def test_a_machine_that_was_switched_off_is_back_or_the_error_says_so(own: Host, plan: str) -> None:
    def as_before(machine: Machine, was: list[object]) -> bool:
        return seen(machine)[1:2] == was[1:2]

    _disturb(own, PLANS[plan], lambda *_: answered(REFUSED), UNCHANGED, as_before)


def _same(machine: Machine, was: list[object]) -> bool:
    return seen(machine) == was


def _disturb(
    own: Host,
    plan: Plan,
    fault: Callable[[LibvirtDriver, LibvirtPeer], Fault],
    promises: tuple[type[errors.HypervisorError], ...] = PROMISES,
    kept: Callable[[Machine, list[object]], bool] = _same,
) -> None:
    machine: Machine | None = None
    for number in range(-1, MOST_CALLS):  # first undisturbed: the image may come to the host
        if machine is None:
            machine = own.made(own.empty(start=plan.start))
            plan.prepare(machine)
            arguments = plan.arguments(machine)
            was = seen(machine)
        raised: errors.HypervisorError | None = None
        with script(own.raw, number, fault(own.raw, own.peer)) as seam:
            try:
                getattr(own.driver, plan.operation)(machine.uuid, *arguments, timeout=TIMEOUT)
            except errors.HypervisorError as error:
                raised = error
        if isinstance(raised, promises):
            assert kept(machine, was), (seam.calls[: number + 1][-4:], raised)
        if not isinstance(raised, PROMISES):
            own.driver.destroy(machine.uuid)
            machine = None
        if number >= 0 and not seam.reached:
            return
    pytest.fail(f"{plan.operation} makes {MOST_CALLS} calls or more")
