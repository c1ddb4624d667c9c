"""A definition could not be written, and the connection breaks while the driver takes back what the
machine has got: what the caller is told is true, and the same call brings it to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt import snapshots
from hvdrivers.libvirt.deletions import Deletions
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.snapshot_tree import note_deletion
from hvdrivers.models.instance import Flavor
from hvdrivers.models.vif import Bandwidth, BridgeVif, OvsVif, VifQos
from hvdrivers.models.volume import DiskQos, Volume, VolumeAttachment
from tests.integration.libvirt.faults import Fault, Send, before, in_flight
from tests.integration.libvirt.machines import Host, Machine, local
from tests.integration.libvirt.test_half_written import (
    fill,
    full,
    has_nic,
    room_afterwards,
    whole,
    with_little_room,
)
from tests.peers.bridge import LinuxBridge
from tests.peers.openvswitch import OvsBridge

_MOST = 40
"""Calls that take something back."""
Call = Callable[[], object]
Room = AbstractContextManager[None]


@pytest.fixture(scope="module")
def host(guest_image: Path) -> Iterator[Host]:
    with with_little_room(guest_image) as made:
        yield made


@pytest.fixture(scope="module")
def booted(host: Host) -> Iterator[Machine]:
    """A guest that lets go of what it is asked for."""
    flavor = Flavor(vcpus=1, memory_mib=192, max_memory_mib=512)
    with host.machine(flavor=flavor) as made:
        yield made.booted()


class AfterFailure:
    """A seam that disturbs one of the calls after the first that the daemon has refused."""

    def __init__(self, number: int, fault: Fault) -> None:
        self.reached = ""
        self._number = number
        self._fault = fault
        self._later: list[str] | None = None

    def __call__(self, name: str, send: Send) -> Any:
        if self._later is None:
            try:
                return send()
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR:
                    self._later = []
                raise
        self._later.append(name)
        if len(self._later) == self._number + 1:
            self.reached = name
            return self._fault(name, send)
        return send()


def disturb(
    host: Host, machine: Machine, call: Call, back: Call, spoilt: Callable[[Host], Room] = full
) -> None:
    def seen() -> list[Any]:
        return [*whole(machine), len(host.driver.list_snapshots(machine.uuid))]

    call()
    wished = seen()
    back()
    was = seen()
    assert was != wished
    faults = {
        "before": before(host.raw, host.peer),
        "lost": in_flight(host.raw, host.peer, made=False),
        "after": in_flight(host.raw, host.peer, made=True),
    }
    for how, fault in faults.items():
        for number in range(_MOST):
            seam = AfterFailure(number, fault)
            told: errors.HypervisorError | None = None
            host.raw.connection.seam = seam
            try:
                with spoilt(host):
                    try:
                        call()
                    except errors.HypervisorError as error:
                        told = error
            finally:
                host.raw.connection.seam = None
            at = (how, number, seam.reached, told)
            assert told is not None
            notes = getattr(told, "__notes__", ())
            stays = any("could not be removed" in each for each in notes)
            if not (stays or isinstance(told, errors.OutcomeUnknown)):
                assert seen() == was, at
            call()
            assert seen() == wished, at
            back()
            assert seen() == was, at
            if not seam.reached:
                break
        else:
            pytest.fail("it takes back for ever")


@pytest.mark.parametrize("what", ["volume", "nic"])
def test_a_guest_that_heeds_it_in_the_next_call(
    host: Host, booted: Machine, linux_bridge: LinuxBridge, what: str
) -> None:
    """The connection breaks when the guest has been asked for what is taken back, and the guest
    lets go when the next call has written it down: that call gives it to the guest again."""
    driver, uuid, raw = host.driver, booted.uuid, host.raw
    vif = BridgeVif(id=str(uuid4()), address="52:54:00:00:05:23", bridge=linux_bridge.name)
    lost = in_flight(raw, host.peer, made=True)
    plugged: list[str] = []

    def asked(name: str, send: Send) -> Any:
        if name != "Domain.detachDeviceAlias":
            return send()
        host.peer.virsh("suspend", str(uuid))
        return lost(name, send)

    def written(name: str, send: Send) -> Any:
        result = send()
        if name == "Domain.attachDeviceFlags":
            plugged.append(name)
            if len(plugged) == 1:
                host.peer.virsh("resume", str(uuid))
        return result

    with host.volume() as volume:

        def plug() -> None:
            if what == "nic":
                driver.plug_vif(uuid, vif)
            else:
                booted.attach(volume)

        try:
            raw.connection.seam = asked
            with full(host), pytest.raises(errors.OutcomeUnknown):
                plug()
            raw.connection.seam = written
            plug()
        finally:
            raw.connection.seam = None
        assert len(plugged) == 2
        if what == "nic":
            assert has_nic(booted) == (True, True)
            driver.unplug_vif(uuid, vif.id)
        else:
            assert booted.has(volume.volume_id) == (True, True)
            driver.detach_volume(uuid, volume.volume_id)


# ---- cases ---------------------------------------------------------------------------------------


def volume(host: Host, machine: Machine, stack: ExitStack) -> tuple[Call, Call]:
    made = stack.enter_context(host.volume())
    driver, uuid = host.driver, machine.uuid
    return (
        lambda: driver.attach_volume(uuid, VolumeAttachment(volume=made)),
        lambda: driver.detach_volume(uuid, made.volume_id),
    )


def test_a_volume(host: Host, booted: Machine) -> None:
    with ExitStack() as stack:
        disturb(host, booted, *volume(host, booted, stack))


def test_a_volume_of_a_stopped_machine(host: Host) -> None:
    with ExitStack() as stack:
        machine = stack.enter_context(host.made_empty())
        disturb(host, machine, *volume(host, machine, stack))


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_a_nic(host: Host, booted: Machine, linux_bridge: LinuxBridge, start: bool) -> None:
    driver = host.driver
    vif = BridgeVif(id=str(uuid4()), address="52:54:00:00:05:21", bridge=linux_bridge.name)
    with ExitStack() as stack:
        machine = booted if start else stack.enter_context(host.made_empty())
        disturb(
            host,
            machine,
            lambda: driver.plug_vif(machine.uuid, vif),
            lambda: driver.unplug_vif(machine.uuid, vif.id),
        )


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_limits_of_a_disk(host: Host, start: bool) -> None:
    driver = host.driver
    few, many = DiskQos(total_iops_sec=100), DiskQos(total_bytes_sec=1 << 20)
    with host.volume() as made, host.empty_machine(start=start) as machine:
        machine.attach(made, qos=few)
        limit = partial(driver.set_disk_qos, machine.uuid, made.volume_id)
        disturb(host, machine, partial(limit, many), partial(limit, few))


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_limits_of_a_nic(host: Host, ovs_bridge: OvsBridge, start: bool) -> None:
    nic = OvsVif(id=str(uuid4()), address="52:54:00:00:05:22", bridge=ovs_bridge.name)
    with host.empty_machine(start=start, vifs=(nic,)) as machine:
        limit = partial(host.driver.set_vif_qos, machine.uuid, nic.id)
        less = VifQos(inbound=Bandwidth(average=1000))
        disturb(host, machine, partial(limit, less), partial(limit, None))


def test_a_size(host: Host) -> None:
    small, large = (Flavor(vcpus=n, memory_mib=64 * n) for n in (1, 2))
    with host.made_empty(flavor=small) as machine:
        resize = partial(host.driver.resize, machine.uuid)
        disturb(host, machine, partial(resize, large), partial(resize, small))


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_a_snapshot_that_is_deleted(
    host: Host, start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = host.driver

    @contextmanager
    def spoilt(host: Host) -> Iterator[None]:
        def noted(domain: Remote, names: Iterable[str], flags: int) -> None:
            if names:  # what comes before it finds room
                fill(host)
            note_deletion(domain, names, flags)

        with room_afterwards(host), monkeypatch.context() as patched:
            patched.setattr(snapshots, "note_deletion", noted)
            yield

    with host.empty_machine(start=start) as machine:
        uuid = machine.uuid
        ids = [driver.create_snapshot(uuid, "one").id]

        def again() -> None:
            ids[0] = driver.create_snapshot(uuid, "one").id

        disturb(host, machine, lambda: driver.delete_snapshot(uuid, ids[0]), again, spoilt)


# ---- a volume that the machine was not to keep ---------------------------------------------------


def stays(host: Host, machine: Machine, volume: Volume, match: str) -> None:
    """The folder fills up before the definition loses the volume again: the call says that it has
    it."""
    with room_afterwards(host), pytest.raises(errors.OutcomeUnknown, match=match) as told:
        machine.attach(volume)
    assert "detach_volume()" in (told.value.hint or "")
    assert machine.has(volume.volume_id) == (True, True)
    host.driver.detach_volume(machine.uuid, volume.volume_id)
    assert machine.has(volume.volume_id) == (False, False)


def test_a_file_that_the_host_cannot_open(host: Host) -> None:
    def filling(name: str, send: Send) -> Any:
        if name == "Domain.blockInfo":
            fill(host)
        return send()

    with host.file(size=(8 << 20) + 1) as path, host.made_empty() as machine:
        host.raw.connection.seam = filling
        try:
            stays(host, machine, local(path, "odd"), "512")
        finally:
            host.raw.connection.seam = None


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_a_volume_that_is_deleted_meanwhile(
    host: Host, booted: Machine, start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deleted(*_: object) -> None:
        fill(host)
        raise errors.VolumeNotFound("another client has deleted it")

    with ExitStack() as stack:
        volume = stack.enter_context(host.volume())
        machine = booted if start else stack.enter_context(host.made_empty())
        with monkeypatch.context() as patched:
            patched.setattr(Deletions, "require_kept", deleted)
            stays(host, machine, volume, "deleted it")
