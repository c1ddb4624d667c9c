"""Firmware: UEFI, secure boot, TPM; each leaves nothing behind."""

from __future__ import annotations

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.naming import NVRAM, disk_name
from hvdrivers.models.instance import Firmware
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment
from tests.integration.libvirt.machines import Host, Machine, local


def needs(host: Host, *capabilities: Capability) -> None:
    for capability in capabilities:
        reason = host.driver.why_not(capability)
        if reason is not None:
            pytest.skip(f"precondition missing: {reason}")


def nvram(machine: Machine) -> str:
    """Path of the variable store of a machine that runs."""
    found = machine.xml().findtext("os/nvram")
    assert found
    return found


def test_a_guest_boots_with_uefi_and_a_tpm(host: Host) -> None:
    """And a rename, which libvirt does not tell the variable store, does not lose it."""
    needs(host, Capability.UEFI, Capability.VTPM)
    with host.unchanged():
        with host.machine(name="uefi / <1>", firmware=Firmware.UEFI, vtpm=True) as machine:
            assert machine.info.firmware is Firmware.UEFI
            machine.console.expect("booted .* firmware=uefi ", timeout=150)
            machine.console.expect("tpm 2")
            store = host.peer.path(nvram(machine))
            assert store.exists()
            assert list((host.peer.folder("lib") / "swtpm").glob(f"*{machine.uuid}*"))
            assert any("swtpm" in command[0] for command in host.peer.processes().values())
            host.driver.power_off(machine.uuid)
            host.driver.rename(machine.uuid, "other")
            host.driver.power_on(machine.uuid)
            assert machine.state is InstanceState.RUNNING
            host.driver.suspend(machine.uuid)
            host.driver.power_off(machine.uuid)
            assert store.exists()
        assert not store.exists()
        assert not list((host.peer.folder("lib") / "swtpm").glob(f"*{machine.uuid}*"))


def test_secure_boot(host: Host) -> None:
    """Firmware with enrolled keys, in system management mode; it starts, and leaves nothing."""
    needs(host, Capability.SECURE_BOOT)
    with (
        host.unchanged(),
        host.machine(firmware=Firmware.UEFI, secure_boot=True) as machine,
    ):
        xml = machine.xml()
        loader = xml.find("os/loader")
        smm = xml.find("features/smm")
        assert loader is not None
        assert smm is not None
        assert (loader.get("secure"), smm.get("state")) == ("yes", "on")
        assert "OVMF_VARS" in (xml.find("os/nvram").get("template") or "")  # type: ignore[union-attr]
        assert host.peer.path(nvram(machine)).exists()
        assert machine.state is InstanceState.RUNNING


def test_uefi_without_secure_boot_takes_any_boot_loader(host: Host) -> None:
    needs(host, Capability.UEFI)
    with host.unchanged(), host.made_empty(firmware=Firmware.UEFI) as machine:
        loader = machine.xml(inactive=True).find("os/loader")
        assert loader is None or loader.get("secure") != "yes"


def test_a_tpm_without_uefi(host: Host) -> None:
    needs(host, Capability.VTPM)
    with host.unchanged(), host.empty_machine(vtpm=True) as machine:
        assert machine.xml().find("devices/tpm") is not None


def test_what_this_driver_does_not_have(host: Host) -> None:
    with host.unchanged(), pytest.raises(errors.NotSupported):
        host.spawn(sev=True)


@pytest.mark.parametrize("vtpm", [False, True])
def test_a_start_that_fails_leaves_no_variables(host: Host, vtpm: bool) -> None:
    """libvirt makes the file before QEMU says that it cannot open a disk. spawn() removes it, and
    destroy() that of a machine which has never run."""
    needs(host, Capability.UEFI, *([Capability.VTPM] if vtpm else []))
    with host.unchanged(), host.file(b"no qcow2") as path:
        volume = VolumeAttachment(volume=local(path, "broken", format="qcow2"))
        wishes = {"firmware": Firmware.UEFI, "vtpm": vtpm, "volumes": (volume,)}
        spec = host.empty(**wishes)
        store = host.peer.path(host.raw.pools.disk_path(disk_name(spec.uuid, NVRAM)))
        with pytest.raises(errors.HypervisorError):
            host.driver.spawn(spec)
        assert not store.exists()
        with host.made_empty(**wishes) as machine:
            store = host.peer.path(host.raw.pools.disk_path(disk_name(machine.uuid, NVRAM)))
            with pytest.raises(errors.HypervisorError):
                host.driver.power_on(machine.uuid)
            assert store.exists()
            host.driver.detach_volume(machine.uuid, "broken")
            host.driver.power_on(machine.uuid)
        assert not store.exists()
