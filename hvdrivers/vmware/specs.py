"""What is asked of the server: specs for machines and devices. No call is made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec
from hvdrivers.models.vif import DvsVif, NetworkVif, NicModel, VifQos
from hvdrivers.models.vif.common import VifBase
from hvdrivers.models.volume import DiskBus, DiskQos, VmdkVolume, VolumeAttachment
from hvdrivers.vmware.devices import Slots, adding, bus_in, bus_of, file_of, lun_of
from hvdrivers.vmware.moved import Devices, VifRecord, VolumeRecord
from hvdrivers.vmware.virtual_numa import check_nodes

_dev = vim.vm.device
_NICS: Mapping[NicModel, type] = {
    NicModel.VMXNET3: _dev.VirtualVmxnet3,
    NicModel.E1000: _dev.VirtualE1000,
    NicModel.E1000E: _dev.VirtualE1000e,
}

UNLIMITED = -1
"""vSphere's word for "no limit"."""


@dataclass
class Plan:
    """Device changes of one request, and which device is what afterwards."""

    slots: Slots
    changes: list[Any] = field(default_factory=list)
    own: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, VolumeRecord] = field(default_factory=dict)
    vifs: dict[str, VifRecord] = field(default_factory=dict)
    boot: tuple[int, int] | None = None
    """Controller key and unit of the disk that boots."""

    def devices(self) -> Devices:
        """For the machine's record."""
        return Devices(own=self.own, volumes=self.volumes, vifs=self.vifs)

    def device_changes(self) -> list[Any]:
        """All of them, controllers first."""
        return [*self.slots.added, *self.changes]


def own_disk(
    plan: Plan,
    role: str,
    path: str,
    size: int,
    *,
    create: bool = True,
    bus: DiskBus = DiskBus.SCSI,
) -> None:
    """A disk of the machine's own; without ``create`` its file is there."""
    controller, unit, address = plan.slots.disk(bus)
    disk = _disk(plan, path, controller, unit, size, mode="persistent")
    plan.changes.append(adding(disk, create=create))
    plan.own[address] = role
    if role == "root":
        plan.boot = controller, unit


def cdrom(plan: Plan, role: str, path: str) -> None:
    """A CD drive with an image."""
    controller, unit, address = plan.slots.disk(DiskBus.IDE)
    drive = _dev.VirtualCdrom(
        key=plan.slots.key(),
        controllerKey=controller,
        unitNumber=unit,
        backing=_dev.VirtualCdrom.IsoBackingInfo(fileName=path),
        connectable=_connected(),
    )
    plan.changes.append(adding(drive))
    plan.own[address] = role


def serial_port(plan: Plan, path: str) -> None:
    """A serial port that the host writes into a file."""
    port = _dev.VirtualSerialPort(
        key=plan.slots.key(),
        yieldOnPoll=True,
        backing=_dev.VirtualSerialPort.FileBackingInfo(fileName=path),
        connectable=_connected(),
    )
    plan.changes.append(adding(port))


@dataclass(frozen=True)
class Lun:
    """A LUN, as all hosts see it."""

    uuid: str
    device: str
    """``/vmfs/devices/disks/naa.…``."""
    size: int
    """Bytes."""
    targets: tuple[str, ...] = ()
    """Names of the iSCSI targets that it is behind."""


@dataclass(frozen=True)
class Source:
    """The file of a volume."""

    path: str
    """Of a mapping of a LUN: the file that is made for it."""
    size: int
    """Bytes."""
    native_id: str | None = None
    """The server's own id of the volume: of one of list_volumes(), and of a first class disk."""
    named: bool = False
    """Whether its file is named after that id."""
    lun: Lun | None = None
    """What the file maps, if it is a mapping."""

    @property
    def shown(self) -> int | None:
        """The size that the server shows; None where only the array knows it."""
        return self.size if self.lun is None else None


def is_on(disk: Any, source: Source) -> bool:
    """Whether a disk is the volume already."""
    if source.lun is not None:
        return lun_of(disk) == source.lun.uuid
    return file_of(disk) == source.path


def volume_disk(
    plan: Plan, attachment: VolumeAttachment, source: Source, *, hot: bool = False
) -> str:
    """An attached volume; returns its address.

    The disk is independent, so that snapshots leave it out.
    """
    bus = bus_of(attachment.bus)
    controller, unit, address = plan.slots.disk(bus, hot=hot)
    _volume(plan, attachment, source, bus, (controller, unit, address))
    return address


def volume_disk_at(
    plan: Plan, attachment: VolumeAttachment, source: Source, *, address: str, like: Any
) -> str:
    """The same in the place of a disk, ``like``, whose limits it keeps if it brings none."""
    place = like.controllerKey, like.unitNumber, address
    disk = _volume(plan, attachment, source, bus_in(address), place)
    if attachment.qos is None and source.lun is None:
        disk.storageIOAllocation = like.storageIOAllocation
    return address


def _volume(
    plan: Plan,
    attachment: VolumeAttachment,
    source: Source,
    bus: DiskBus,
    place: tuple[int, int, str],
) -> Any:
    controller, unit, address = place
    mode = "independent_nonpersistent" if attachment.read_only else "independent_persistent"
    disk = _disk(plan, source.path, controller, unit, source.size, mode=mode)
    if source.lun is not None:
        disk.backing = _dev.VirtualDisk.RawDiskMappingVer1BackingInfo(
            fileName=source.path,
            lunUuid=source.lun.uuid,
            deviceName=source.lun.device,
            compatibilityMode="physicalMode",
            diskMode=mode,
        )
    if attachment.qos is not None:
        disk.storageIOAllocation = disk_limits(attachment.qos)
    if attachment.volume.multiattach:
        disk.backing.sharing = "sharingMultiWriter"
    change = adding(disk, create=source.lun is not None)
    if isinstance(attachment.volume, VmdkVolume) and attachment.volume.data.profile_id is not None:
        # the policy that its machine in Cinder has, and this one would not
        change.profile = [vim.vm.DefinedProfileSpec(profileId=attachment.volume.data.profile_id)]
    plan.changes.append(change)
    plan.volumes[address] = VolumeRecord(
        id=attachment.volume_id,
        bus=bus,
        read_only=attachment.read_only,
        boot_index=attachment.boot_index,
        multiattach=attachment.volume.multiattach,
        native_id=source.native_id if source.native_id != attachment.volume_id else None,
        file=None if source.named else source.path,
        targets=source.lun.targets if source.lun is not None else (),
    )
    if attachment.boot_index == 0:
        plan.boot = controller, unit
    return disk


def _disk(plan: Plan, path: str, controller: int, unit: int, size: int, *, mode: str) -> Any:
    return disk_at(path, controller, unit, size, mode=mode, key=plan.slots.key())


def disk_at(
    path: str, controller: int, unit: int, size: int, *, mode: str = "persistent", key: int = -1
) -> Any:
    """A disk whose file is there, or is made with it."""
    return _dev.VirtualDisk(
        key=key,
        controllerKey=controller,
        unitNumber=unit,
        capacityInBytes=size,
        capacityInKB=size // 1024,
        backing=_dev.VirtualDisk.FlatVer2BackingInfo(
            fileName=path, diskMode=mode, thinProvisioned=True
        ),
    )


def disk_limits(qos: DiskQos | None) -> Any:
    """vSphere's limit of a disk: operations per second."""
    limit = UNLIMITED if qos is None else qos.total_iops_sec
    return vim.StorageResourceManager.IOAllocationInfo(limit=limit)


def nic_limits(qos: VifQos | None) -> Any:
    """vSphere's limit of a NIC: Mbit/s from the guest (Network I/O Control).

    Raises:
        NotSupported: not in whole Mbit/s.
    """
    limit = UNLIMITED
    if qos is not None and qos.outbound is not None:
        if qos.outbound.average % 1000:
            raise errors.NotSupported(
                "vSphere limits a NIC in whole Mbit/s", hint="give a multiple of 1000 (kbit/s)"
            )
        limit = qos.outbound.average // 1000
    return _dev.VirtualEthernetCard.ResourceAllocation(
        limit=limit, reservation=0, share=vim.SharesInfo(level="normal", shares=50)
    )


def model_of(vif: VifBase) -> NicModel:
    """The model of a NIC; None is vmxnet3.

    Raises:
        NotSupported: vSphere has no such NIC.
    """
    if vif.model is None:
        return NicModel.VMXNET3
    if vif.model not in _NICS:
        known = ", ".join(each.value for each in _NICS)
        raise errors.NotSupported(f"vSphere has no {vif.model.value} NIC", hint=f"it has {known}")
    return vif.model


def check_mac(mac: str) -> None:
    """Refuse an address that no NIC can be given: a machine that has one so does not start.

    VMware's own prefixes are for addresses that ESXi and vCenter generate, except
    00:50:56:00:00:00 to 00:50:56:3f:ff:ff ("VMware OUI in Static MAC Addresses").

    Raises:
        InvalidRequest: it is one of those.
    """
    mac = mac.lower()
    if mac.startswith("00:0c:29:") or (mac.startswith("00:50:56:") and mac[9:11] > "3f"):
        raise errors.InvalidRequest(
            f"vSphere keeps the MAC address {mac} for those that it generates",
            hint="take one from 00:50:56:00:00:00 to 00:50:56:3f:ff:ff, or of another prefix",
        )


def wants_function(vif: VifBase) -> bool:
    """Whether a NIC is to have a virtual function of the host's adapter."""
    return isinstance(vif, NetworkVif | DvsVif) and vif.sriov


def check_function(vif: VifBase) -> None:
    """Refuse what a NIC with a virtual function does not have.

    Raises:
        NotSupported: a model, or limits: Network I/O Control is not there with SR-IOV.
    """
    if wants_function(vif):
        for wanted, what in ((vif.model, "a model"), (vif.qos, "limits")):
            if wanted is not None:
                raise errors.NotSupported(
                    f"a NIC with a virtual function has not {what}", hint="leave it, or sriov, out"
                )


def nic(
    plan: Plan, vif: VifBase, backing: Any, *, function: Any = None, replaces: bool = False
) -> None:
    """A NIC; it may take the place of another one that goes.

    Args:
        function: the adapter whose virtual function it gets.

    Raises:
        InvalidRequest: another NIC of the request has its address, by which the driver knows it.
    """
    if vif.mac.lower() in plan.vifs:
        raise errors.InvalidRequest(
            f"two NICs of the instance have the MAC address {vif.mac}", hint="give each another mac"
        )
    if not replaces:
        plan.slots.nic()
    model = model_of(vif)
    kind = _NICS[model] if function is None else _dev.VirtualSriovEthernetCard
    card = kind(
        key=plan.slots.key(),
        backing=backing,
        addressType="manual",
        macAddress=vif.mac,
        wakeOnLanEnabled=True,
        connectable=_connected(connect=vif.active),
    )
    if function is not None:
        card.sriovBacking = _dev.VirtualSriovEthernetCard.SriovBackingInfo(
            physicalFunctionBacking=function
        )
    if vif.qos is not None:
        card.resourceAllocation = nic_limits(vif.qos)
    plan.changes.append(adding(card))
    plan.vifs[vif.mac.lower()] = VifRecord(id=vif.id, type=_kind(vif), model=model)


def _kind(vif: VifBase) -> Any:
    return vif.type


def _connected(*, connect: bool = True) -> Any:
    return _dev.VirtualDevice.ConnectInfo(
        startConnected=connect, allowGuestControl=True, connected=connect
    )


def machine(
    spec: InstanceSpec,
    plan: Plan,
    extra: Sequence[Any],
    *,
    guest_id: str,
) -> Any:
    """A new machine, or what one is that is cloned. Its name and place are the caller's affair."""
    config = vim.vm.ConfigSpec(
        instanceUuid=str(spec.uuid),
        uuid=str(spec.uuid),
        guestId=guest_id,
        numCPUs=spec.flavor.vcpus,
        numCoresPerSocket=1,
        memoryMB=spec.flavor.memory_mib,
        deviceChange=plan.device_changes(),
        extraConfig=list(extra),
        firmware="efi" if spec.firmware is Firmware.UEFI else "bios",
        bootOptions=vim.vm.BootOptions(),
    )
    if spec.sev:  # nothing swaps what the host cannot read
        config.sevEnabled = True
    if spec.sev or any(map(wants_function, spec.vifs)):
        reserve_memory(config, spec.flavor)
    if spec.secure_boot:
        config.bootOptions.efiSecureBootEnabled = True
    size(config, spec.flavor)
    if spec.vtpm:
        config.deviceChange.append(adding(_dev.VirtualTPM(key=plan.slots.key())))
    return config


def reserve_memory(config: Any, flavor: Flavor) -> None:
    """All of the machine's memory is reserved for it."""
    config.memoryReservationLockedToMax = True
    config.memoryAllocation = vim.ResourceAllocationInfo(reservation=flavor.memory_mib)


def size(config: Any, flavor: Flavor) -> None:
    """Whether CPUs and memory can be added while the machine runs."""
    config.cpuHotAddEnabled = flavor.max_vcpus is not None
    config.memoryHotAddEnabled = flavor.max_memory_mib is not None


def check_flavor(flavor: Flavor, guest_memory_step: int = 4) -> None:
    """Refuse sizes that vSphere does not take.

    Raises:
        NotSupported: NUMA nodes, and CPUs or memory that are added later.
        InvalidRequest: memory that is no multiple of 4 MiB.
    """
    check_nodes(flavor)
    if flavor.memory_mib % guest_memory_step:
        raise errors.InvalidRequest(
            f"vSphere takes memory in steps of {guest_memory_step} MiB",
            hint="choose another memory_mib",
        )
