"""An operation that has changed nothing when its deadline passes changes nothing any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.libvirt.remote import changes_nothing
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import TapVif
from hvdrivers.models.volume import VolumeSpec
from tests.integration.libvirt.machines import Host, Machine


@contextmanager
def late(own: Host, begun: int = 0) -> Iterator[list[str]]:
    """Let the deadline pass just before the change after so many; the changes that were sent."""
    sent: list[str] = []
    ended: list[str] = []

    def seam(name: str, send: Callable[[], Any]) -> Any:
        if changes_nothing(name.partition(".")[2]):
            return send()
        deadline = current_deadline()
        if len(sent) == begun and not ended and deadline.bounded:
            ended.append(name)
            deadline.at = time.monotonic()
        result = send()
        sent.append(name)
        return result

    own.raw.connection.seam = seam
    try:
        yield sent
    finally:
        own.raw.connection.seam = None
    assert ended, "the operation came to no change"


CHANGES: dict[str, Callable[[Host, Machine], object]] = {
    "rename": lambda own, made: own.driver.rename(made.uuid, "new", timeout=60),
    "set_metadata": lambda own, made: own.driver.set_metadata(made.uuid, {"a": "b"}, timeout=60),
    "power_on": lambda own, made: own.driver.power_on(made.uuid, timeout=60),
    "start_paused": lambda own, made: own.driver.start_paused(made.uuid, timeout=60),
    "reboot": lambda own, made: own.driver.reboot(made.uuid, RebootKind.HARD, timeout=60),
    "pause": lambda own, made: own.driver.pause(made.uuid, timeout=60),
    "power_off": lambda own, made: own.driver.power_off(made.uuid, timeout=60),
    "suspend": lambda own, made: own.driver.suspend(made.uuid, timeout=60),
    "create_snapshot": lambda own, made: own.driver.create_snapshot(made.uuid, "one", timeout=60),
    "resize": lambda own, made: own.driver.resize(
        made.uuid, Flavor(vcpus=2, memory_mib=64), timeout=60
    ),
    "plug_vif": lambda own, made: own.driver.plug_vif(
        made.uuid, TapVif(id="port", device="tap-late"), timeout=60
    ),
    "rescue": lambda own, made: own.driver.rescue(made.uuid, empty(own), timeout=60),
    "rebuild": lambda own, made: own.driver.rebuild(made.uuid, empty(own), timeout=60),
    "spawn": lambda own, made: own.driver.spawn(own.empty(), timeout=60),
    "create_volume": lambda own, made: own.driver.create_volume(
        VolumeSpec(name="late", size_bytes=1 << 20), timeout=60
    ),
    "destroy": lambda own, made: own.driver.destroy(made.uuid, timeout=60),
}
ON = {"reboot", "pause", "power_off", "suspend"}
"""Those that need a machine that runs."""


def empty(own: Host) -> FileImage:
    return FileImage(path=own.peer.root / "empty.raw", format=ImageFormat.RAW)


@pytest.fixture(scope="module")
def machine(own: Host) -> Iterator[Machine]:
    with own.made_empty() as made:
        yield made


def brought(own: Host, machine: Machine, *, on: bool) -> None:
    if on:
        own.driver.power_on(machine.uuid)
    else:
        own.driver.power_off(machine.uuid)


@pytest.mark.parametrize("operation", sorted(CHANGES))
def test_no_change_begins_after_the_deadline(own: Host, machine: Machine, operation: str) -> None:
    brought(own, machine, on=operation in ON)
    with own.unchanged():
        before = machine.info
        with late(own) as sent, pytest.raises(errors.OperationTimeout, match="was sent"):
            CHANGES[operation](own, machine)
        assert sent == []
        assert machine.info == before


def test_a_turn_is_given_back_after_the_deadline(own: Host, machine: Machine) -> None:
    """What was begun for the operation itself is taken away."""
    brought(own, machine, on=False)
    with own.unchanged(), late(own, 1) as sent, pytest.raises(errors.OperationTimeout):
        CHANGES["create_snapshot"](own, machine)
    assert sent == ["Connect.defineXMLFlags", "Domain.undefineFlags"]


def test_what_was_begun_is_finished(own: Host, machine: Machine) -> None:
    """The power button was pressed in time, and the guest does not heed it."""
    brought(own, machine, on=True)
    with late(own, 1) as sent:
        own.driver.power_off(machine.uuid, graceful=0.1, timeout=60)
    assert sent == ["Domain.shutdownFlags", "Domain.destroyFlags"]
    assert machine.state is InstanceState.STOPPED
