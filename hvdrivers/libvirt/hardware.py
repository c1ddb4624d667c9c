"""What a machine is made of, where the caller says so: the hardware wishes of the contract.

https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from collections.abc import Iterator

from hvdrivers.contract import errors
from hvdrivers.libvirt.devices import TARGET_PREFIX
from hvdrivers.libvirt.host_nics import wants_function
from hvdrivers.libvirt.xml import Element, el
from hvdrivers.models.hardware import Hardware, TpmModel, VideoModel
from hvdrivers.models.instance import Firmware, InstanceSpec
from hvdrivers.models.resources import MachineChoices
from hvdrivers.models.vif import HostdevVif, NicModel, Vif
from hvdrivers.models.volume import DeviceType, DiskBus, VolumeAttachment


def wished(spec: InstanceSpec) -> InstanceSpec:
    """The spec, with its general wishes for buses and NICs at each device that has none."""
    hardware = spec.hardware
    volumes = tuple(with_bus(each, hardware) for each in spec.volumes)
    vifs = tuple(with_model(each, hardware) for each in spec.vifs)
    return spec.model_copy(update={"volumes": volumes, "vifs": vifs})


def with_bus(attachment: VolumeAttachment, hardware: Hardware) -> VolumeAttachment:
    """The attachment, on the machine's bus if it names none. A CD drive, or a disk that takes SCSI
    commands, has its own."""
    own = attachment.device_type in {DeviceType.CDROM, DeviceType.LUN}
    if attachment.bus is not None or hardware.disk_bus is None or own:
        return attachment
    return attachment.model_copy(update={"bus": hardware.disk_bus})


def with_model(vif: Vif, hardware: Hardware) -> Vif:
    """The VIF, as a NIC of the machine's model if it names none."""
    of_host = isinstance(vif, HostdevVif) or wants_function(vif)
    if vif.model is not None or hardware.nic_model is None or of_host:
        return vif  # a device of the host is a model of its own
    return vif.model_copy(update={"model": hardware.nic_model})


def refuse_hardware(spec: InstanceSpec, capabilities: Element) -> None:
    """Raise NotSupported for a value that this host's QEMU has not.

    Args:
        capabilities: libvirt's domain capabilities.
    """
    hardware = spec.hardware
    if hardware.nic_model is NicModel.NETVSC:
        raise errors.NotSupported("QEMU has no netvsc adapter", hint="use virtio or e1000e")
    if hardware.disk_bus is not None:
        bus_of_own(None, hardware)
    for what, value, path in (
        ("graphics adapter", hardware.video, "devices/video/enum[@name='modelType']/value"),
        (
            "TPM",
            f"tpm-{hardware.tpm_model}" if hardware.tpm_model else None,
            "devices/tpm/enum[@name='model']/value",
        ),
    ):
        there = {each.text for each in capabilities.iterfind(path)}
        if value is not None and str(value) not in there:
            raise errors.NotSupported(
                f"the host's QEMU has no {what} {value}",
                hint=f"it has {', '.join(sorted(filter(None, there))) or 'none'}",
            )


def bus_of_own(bus: DiskBus | None, hardware: Hardware) -> DiskBus:
    """The bus of one of the instance's own disks.

    Raises:
        NotSupported: libvirt makes no such disk here.
    """
    found = bus or hardware.disk_bus or DiskBus.VIRTIO
    if found not in TARGET_PREFIX:
        raise errors.NotSupported(
            f"disks on {found} are not supported here", hint="use virtio, scsi, sata or usb"
        )
    return found


def choices(capabilities: Element) -> MachineChoices:
    """What machines here may be made of. Libvirt does not tell which NICs this QEMU has.

    Args:
        capabilities: libvirt's domain capabilities.
    """

    def there(path: str) -> set[str]:
        return {each.text for each in capabilities.iterfind(f"{path}/value") if each.text}

    buses = there("devices/disk/enum[@name='bus']")
    videos = there("devices/video/enum[@name='modelType']")
    tpms = there("devices/tpm/enum[@name='model']")
    uefi = "efi" in there("os/enum[@name='firmware']")
    return MachineChoices(
        firmwares=frozenset(Firmware) if uefi else frozenset({Firmware.BIOS}),
        disk_buses=frozenset(each for each in TARGET_PREFIX if each.value in buses),
        nic_models=frozenset(NicModel) - {NicModel.NETVSC},
        videos=frozenset(each for each in VideoModel if each.value in videos),
        tpm_models=frozenset(each for each in TpmModel if f"tpm-{each.value}" in tpms),
    )


def fittings(hardware: Hardware) -> Iterator[Element]:
    """The source of random numbers, and a watchdog."""
    if hardware.rng is not False:
        yield el("rng", el("backend", "/dev/urandom", model="random"), model="virtio")
    if hardware.watchdog is not None:
        yield el("watchdog", model="i6300esb", action=hardware.watchdog.value)


def video(hardware: Hardware, architecture: str) -> Element:
    """The graphics adapter: a VGA card where the firmware has a picture before the guest has."""
    usual = "vga" if architecture == "x86_64" else "virtio"
    return el("video", el("model", type=hardware.video.value if hardware.video else usual))


def tpm(hardware: Hardware) -> Element:
    """The TPM."""
    model = hardware.tpm_model or TpmModel.CRB
    return el("tpm", el("backend", type="emulator", version="2.0"), model=f"tpm-{model.value}")


def topology_element(hardware: Hardware) -> Element | None:
    """How the guest sees its CPUs."""
    shape = hardware.cpu_topology
    if shape is None:
        return None
    return el("topology", sockets=shape.sockets, cores=shape.cores, threads=shape.threads)
