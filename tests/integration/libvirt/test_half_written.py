"""The folder in which libvirt keeps the definitions is full: what a running machine got then, and
its definition did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor
from hvdrivers.models.vif import BridgeVif
from hvdrivers.models.volume import VolumeAttachment
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_budgets import calls, numbers
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import LibvirtPeer

FOLDER = "/etc/libvirt/qemu"


@pytest.fixture(scope="module")
def host(guest_image: Path) -> Iterator[Host]:
    """A host whose daemon has that folder on a small file system."""
    with LibvirtPeer() as peer:
        peer.inside("mkdir", "-p", FOLDER)
        with peer.small(FOLDER, 128 << 10):
            made = Host(peer, guest_image)
            yield made
            made.close()


@pytest.fixture(scope="module")
def booted(host: Host) -> Iterator[Machine]:
    """A guest that lets go of what it is asked for."""
    flavor = Flavor(vcpus=1, memory_mib=192, max_vcpus=2, max_memory_mib=512)
    with host.machine(flavor=flavor) as made:
        yield made.booted()


@pytest.fixture(scope="module")
def deaf(host: Host) -> Iterator[Machine]:
    """A machine that lets go of nothing."""
    flavor = Flavor(vcpus=1, memory_mib=64, max_vcpus=2, max_memory_mib=512)
    with host.empty_machine(flavor=flavor) as made:
        yield made


@contextmanager
def full(host: Host) -> Iterator[None]:
    host.peer.inside("sh", "-c", f"cat /dev/zero >{FOLDER}/fill", check=False)
    try:
        yield
    finally:
        host.peer.inside("rm", f"{FOLDER}/fill")


def refused(host: Host, machine: Machine, call: Callable[[], object]) -> None:
    """The call finds no room, says so, and leaves the machine as it was, and its definition."""
    before = whole(machine)
    with full(host), pytest.raises(errors.InsufficientResources, match="taken back") as caught:
        call()
    assert FOLDER in (caught.value.hint or "")
    assert whole(machine) == before


def half(host: Host, call: Callable[[], object]) -> None:
    """The machine keeps what it got; the call says so, also when it is repeated in vain."""
    with full(host):
        for _ in range(2):
            with pytest.raises(errors.OutcomeUnknown, match="until its power goes") as caught:
                call()
            assert FOLDER in (caught.value.hint or "")


def whole(machine: Machine) -> tuple[Any, ...]:
    """What the machine has, and what it will have after a restart of the daemon."""
    found = []
    for inactive in (False, True):
        xml = machine.xml(inactive=inactive)
        found.append(
            (
                sorted(
                    alias
                    for each in xml.iter("alias")
                    if (alias := each.get("name", ""))[:3] == "ua-"
                ),
                xml.findtext("memory"),
                xml.find("vcpu").attrib,  # type: ignore[union-attr]
            )
        )
    return tuple(found)


def budget(host: Host, name: str, expected: int, call: Callable[[], object]) -> None:
    assert calls(host.raw, call) == expected
    assert expected in numbers(name)


def test_a_volume(host: Host, booted: Machine, deaf: Machine) -> None:
    driver = host.driver
    with host.volume() as volume:
        attachment, volume_id = VolumeAttachment(volume=volume), volume.volume_id
        refused(host, booted, lambda: driver.attach_volume(booted.uuid, attachment))
        booted.attach(volume)
        host.peer.restart()
        assert booted.has(volume_id) == (True, True)
        driver.detach_volume(booted.uuid, volume_id)

        half(host, lambda: driver.attach_volume(deaf.uuid, attachment))
        assert deaf.has(volume_id) == (True, False)
        for expected in (6, 5):
            budget(
                host,
                "attach_volume",
                expected,
                lambda: host.raw.attach_volume(deaf.uuid, attachment),
            )
        host.peer.restart()
        driver.power_off(deaf.uuid)
        driver.power_on(deaf.uuid)
        assert deaf.has(volume_id) == (True, True)
        driver.power_off(deaf.uuid)
        driver.detach_volume(deaf.uuid, volume_id)
        driver.power_on(deaf.uuid)


def test_a_vif(host: Host, booted: Machine, deaf: Machine, linux_bridge: LinuxBridge) -> None:
    driver = host.driver
    vif = BridgeVif(id=str(uuid4()), address="52:54:00:00:05:01", bridge=linux_bridge.name)
    refused(host, booted, lambda: driver.plug_vif(booted.uuid, vif))
    driver.plug_vif(booted.uuid, vif)
    host.peer.restart()
    assert has_nic(booted) == (True, True)
    driver.unplug_vif(booted.uuid, vif.id)

    half(host, lambda: driver.plug_vif(deaf.uuid, vif))
    assert has_nic(deaf) == (True, False)
    for expected in (5, 4):
        budget(host, "plug_vif", expected, lambda: host.raw.plug_vif(deaf.uuid, vif))
    host.peer.restart()
    driver.power_off(deaf.uuid)
    driver.power_on(deaf.uuid)
    assert has_nic(deaf) == (True, True)
    driver.power_off(deaf.uuid)
    driver.unplug_vif(deaf.uuid, vif.id)
    driver.power_on(deaf.uuid)


def has_nic(machine: Machine) -> tuple[bool, bool]:
    """Whether virsh shows a NIC in the running machine, and in the definition."""
    live, stored = (machine.xml(inactive=each) for each in (False, True))
    return live.find("devices/interface") is not None, stored.find("devices/interface") is not None
