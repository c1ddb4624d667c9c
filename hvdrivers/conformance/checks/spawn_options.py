"""Clauses of ``contract/lifecycle.py``: what spawn() makes of a spec beyond what get_instance()
shows, what it refuses for lack of room, and what destroy() keeps. The rest is in ``lifecycle.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

from hvdrivers.cloudinit import default_hostname
from hvdrivers.conformance.checks.lifecycle import LIFE_008, LIFE_018
from hvdrivers.conformance.engine.assertions import larger
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.instance import CpuPolicy, Firmware, Keep, PciRequest, VgpuRequest
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import PciDevice
from hvdrivers.models.volume import VolumeAttachment

LIFE_019 = clause(
    "LIFE-019",
    "the machine has the firmware, secure boot, TPM and encrypted memory that the spec asks for,"
    " and none that it does not ask for, when it is spawned and at later starts",
    operation="spawn",
)
LIFE_020 = clause(
    "LIFE-020",
    "spawn() with a device that is not there or that another machine has, or with more slices, huge"
    " pages or dedicated CPUs than are left, raises InsufficientResources and leaves nothing",
    operation="spawn",
)
LIFE_021 = clause(
    "LIFE-021",
    "spawn() takes as many volumes and NICs as a machine has slots; with one more it raises"
    " InsufficientResources and leaves nothing",
    operation="spawn",
    level=Level.SHOULD,
)
LIFE_022 = clause(
    "LIFE-022",
    "spawn() gives no machine the whole of a device of which another has a function or a slice, nor"
    " a part of what another has whole",
    operation="spawn",
    level=Level.SHOULD,
    needs=[Capability.PCI_PASSTHROUGH],
)
LIFE_024 = clause(
    "LIFE-024",
    "cloud-init finds the host name that the spec has, or else one made from the instance's name,"
    " and the user data as they are; from either datasource",
    operation="spawn",
    level=Level.SHOULD,
    needs=[Capability.CONFIG_DRIVE],
)

_MOST_SLOTS = 26
_GRAIN = 16 << 20
_MOST_SLICES = 64
_MOST_CPUS = 1024

_SEEDS: dict[str, tuple[str, str, str]] = {
    "nocloud": ("meta-data", "local-hostname", "user-data"),
    "configdrive": (
        "openstack/latest/meta_data.json",
        "hostname",
        "openstack/latest/user_data",
    ),
}
"""Of each datasource: the file of the metadata, the name of the host name in it, the user data."""

_FAR_AWAY = [PciAddress.of(0xFFFF, 0xFF, slot, 7) for slot in (31, 30, 29)]

UEFI, SECURE_BOOT = Capability.UEFI, Capability.SECURE_BOOT
VTPM, SEV = Capability.VTPM, Capability.SEV


@check(
    LIFE_019,
    cases=[
        Case("uefi", ({UEFI},), needs=frozenset({UEFI})),
        Case("secure-boot", ({UEFI, SECURE_BOOT},), needs=frozenset({UEFI, SECURE_BOOT})),
        Case("vtpm", ({VTPM},), needs=frozenset({VTPM})),
        Case("sev", ({SEV},), needs=frozenset({SEV})),
    ],
)
def is_fitted(trial: Trial, asked: set[Capability]) -> None:
    if trial.observer is None:
        raise PreconditionMissing("there is no observer, and get_instance() shows no fittings")
    if trial.has(UEFI):
        asked = asked | {UEFI}  # many hypervisors have the others with it alone
    uuid = trial.spawn(
        firmware=Firmware.UEFI if UEFI in asked else None,
        secure_boot=SECURE_BOOT in asked,
        vtpm=VTPM in asked,
        sev=SEV in asked,
    ).uuid
    trial.equal(set(trial.observer.fittings(uuid)), asked, "what the machine has, which runs")
    trial.driver.power_off(uuid)
    trial.equal(set(trial.observer.fittings(uuid)), asked, "what the next start will give it")


@check(
    LIFE_018,
    cases=[
        Case("ephemeral", ({"ephemeral_gib": 2},), needs=frozenset({Capability.EPHEMERAL_DISK})),
        Case("swap", ({"swap_mib": 48},), needs=frozenset({Capability.SWAP_DISK})),
    ],
)
def disks_have_their_sizes(trial: Trial, update: dict[str, int]) -> None:
    if trial.observer is None:
        raise PreconditionMissing("no observer")
    flavor = larger(trial.target.flavor, disk_gib=3, **update)
    uuid = trial.spawn(start=False, flavor=flavor).uuid
    wanted = sorted([3 << 30, (flavor.ephemeral_gib << 30) + (flavor.swap_mib << 20)])
    found = sorted(trial.observer.own_disks(uuid))
    # a host may round up
    sound = [size <= each < size + _GRAIN for size, each in zip(wanted, found, strict=False)]
    trial.check(len(found) == 2 and all(sound), f"disks of {wanted} bytes are {found} bytes")


@check(LIFE_020, needs=[Capability.PCI_PASSTHROUGH])
def device_is_taken(trial: Trial) -> None:
    devices = trial.driver.get_available_resource().devices
    addresses = [each.address for each in devices if each.is_aside]
    # what is not set aside may be what the host itself lives on
    for address in addresses:
        wanted = (PciRequest(address=address),)
        try:
            uuid = trial.spawn(pci_devices=wanted).uuid
        except errors.InsufficientResources:
            continue  # somebody has it
        with trial.unchanged(), trial.raises(errors.InsufficientResources):
            trial.spawn(pci_devices=wanted)
        trial.driver.destroy(uuid)
        trial.spawn(pci_devices=wanted)
        return
    raise PreconditionMissing("the host has no free device that is set aside for guests (vfio-pci)")


@check(LIFE_020, needs=[Capability.PCI_PASSTHROUGH])
def device_is_not_there(trial: Trial) -> None:
    there = {each.address for each in trial.driver.get_available_resource().devices}
    wanted = next(each for each in _FAR_AWAY if each not in there)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.spawn(pci_devices=(PciRequest(address=wanted),))


@check(LIFE_020, needs=[Capability.VGPU])
def slices_are_taken(trial: Trial) -> None:
    left: dict[str, int] = {}
    for device in trial.driver.get_available_resource().devices:
        for kind in device.mediated_types:
            left[kind.name] = left.get(kind.name, 0) + kind.available
    name = min((name for name in left if left[name] > 0), key=left.__getitem__, default=None)
    if name is None or left[name] > _MOST_SLICES:
        raise PreconditionMissing("the host has no GPU with a slice left, or too many of them")
    wanted = (VgpuRequest(type=name),)
    made = [trial.spawn(start=False, vgpus=wanted).uuid for _ in range(left[name])]
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.spawn(start=False, vgpus=wanted)
    trial.driver.destroy(made[0])
    # one is left for the first of two; not every GPU gives a machine two
    with trial.unchanged(), trial.raises(errors.InsufficientResources, errors.NotSupported):
        trial.spawn(start=False, vgpus=wanted * 2)
    trial.spawn(start=False, vgpus=wanted)


@check(LIFE_020, needs=[Capability.VGPU])
def slice_is_of_that_device(trial: Trial) -> None:
    devices = trial.driver.get_available_resource().devices
    for device in devices:
        names = {kind.name for kind in device.mediated_types if kind.available > 0}
        for other in devices:
            lacking = names - {kind.name for kind in other.mediated_types}
            if lacking:
                wanted = VgpuRequest(type=min(lacking), parent=other.address)
                with trial.unchanged(), trial.raises(errors.InsufficientResources):
                    trial.spawn(start=False, vgpus=(wanted,))
                wanted = VgpuRequest(type=min(lacking), parent=device.address)
                trial.spawn(start=False, vgpus=(wanted,))
                return
    raise PreconditionMissing("the host has not a GPU with a slice left beside another device")


def _functions(device: PciDevice) -> dict[str, Any] | None:
    if not device.virtual_functions:
        return None
    return {"pci_devices": (PciRequest(address=device.virtual_functions[0]),)}


def _slices(device: PciDevice) -> dict[str, Any] | None:
    kind = next((each for each in device.mediated_types if each.available > 0), None)
    if kind is None:
        return None
    return {"vgpus": (VgpuRequest(type=kind.name, parent=device.address),)}


@check(
    LIFE_022,
    cases=[
        # who passes no function to a guest as its NIC lists none
        Case("functions", (_functions,), needs=frozenset({Capability.VIF_HOSTDEV})),
        Case("slices", (_slices,), needs=frozenset({Capability.VGPU})),
    ],
)
def whole_or_in_parts(trial: Trial, part_of: Callable[[PciDevice], dict[str, Any] | None]) -> None:
    for device in trial.driver.get_available_resource().devices:
        part = part_of(device)
        if part is None or not (device.is_aside or not trial.target.guests_run):
            continue
        whole = {"pci_devices": (PciRequest(address=device.address),)}
        try:
            trial.driver.destroy(trial.spawn(None, **whole).uuid)
        except errors.InsufficientResources:
            continue  # the administrator has set it aside for parts alone
        for first, second in ((part, whole), (whole, part)):
            uuid = trial.spawn(None, **first).uuid
            with trial.unchanged(), trial.raises(errors.InsufficientResources):
                trial.spawn(None, **second)
            trial.driver.destroy(uuid)
        return
    raise PreconditionMissing("the host has no device in parts that is set aside for guests")


@check(LIFE_020, needs=[Capability.HUGEPAGES])
def pages_are_taken(trial: Trial) -> None:
    pages = trial.driver.get_available_resource().memory.hugepages
    if not pages:
        raise PreconditionMissing("the host has no huge pages")
    known = [(each.free * each.size_kib, each) for each in pages if each.free is not None]
    if not known:
        raise PreconditionMissing("the host does not tell how many huge pages are free")
    free_kib, fewest = min(known, key=lambda pair: pair[0])
    beyond = (free_kib + fewest.size_kib) // 1024
    update = {"page_size_kib": fewest.size_kib, "memory_mib": max(beyond, 16)}
    flavor = trial.target.flavor.model_copy(update=update)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.spawn(flavor=flavor)


@check(LIFE_020, needs=[Capability.CPU_PINNING])
def cpus_are_taken(trial: Trial) -> None:
    cpu = trial.driver.get_available_resource().cpu
    beyond = (cpu.dedicated or cpu.total) + 1
    if beyond > _MOST_CPUS:
        raise PreconditionMissing("the host has more CPUs than a machine may ask for")
    update = {"vcpus": beyond, "cpu_policy": CpuPolicy.DEDICATED}
    flavor = trial.target.flavor.model_copy(update=update)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.spawn(flavor=flavor)


def _volume(trial: Trial, _number: int) -> VolumeAttachment:
    return VolumeAttachment(volume=trial.volume(1 << 20))


def _nic(trial: Trial, number: int) -> Any:
    return trial.target.vif(f"hvct-nic-{number}")


def _attach(trial: Trial, uuid: UUID, device: Any) -> None:
    trial.driver.attach_volume(uuid, device)


def _plug(trial: Trial, uuid: UUID, device: Any) -> None:
    trial.driver.plug_vif(uuid, device)


@check(
    LIFE_021,
    cases=[
        Case("volumes", ("volumes", _volume, _attach), needs=frozenset({Capability.HOST_VOLUMES})),
        Case("vifs", ("vifs", _nic, _plug)),
    ],
)
def more_than_there_are_slots(
    trial: Trial,
    field: str,
    make: Callable[[Trial, int], Any],
    add: Callable[[Trial, UUID, Any], None],
) -> None:
    uuid = trial.spawn(start=False).uuid
    made: list[Any] = []
    full = False
    while not full and len(made) < _MOST_SLOTS:
        made.append(make(trial, len(made)))
        try:
            add(trial, uuid, made[-1])
        except errors.InsufficientResources:
            full = True
    if not full:
        raise PreconditionMissing(f"a machine that is off takes {_MOST_SLOTS} {field} and more")
    trial.driver.destroy(uuid)
    changes: dict[str, Any] = {field: tuple(made)}
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.spawn(start=False, **changes)
    changes[field] = tuple(made[:-1])
    info = trial.spawn(start=False, **changes)
    trial.equal(len(getattr(info, field)), len(made) - 1, f"{field} of a machine that is full")


@check(LIFE_008, needs=[Capability.BOOT_FROM_VOLUME])
def keeps_what_is_on_it(trial: Trial) -> None:
    driver, target = trial.driver, trial.target
    uuid = trial.spawn().uuid
    target.wait_booted(driver, uuid)
    target.write_disk(driver, uuid, "hvct kept")
    before = {each.volume_id for each in driver.list_volumes()}
    trial.will_keep(uuid)
    driver.destroy(uuid, keep=frozenset({Keep.ROOT_DISK}))
    kept = [each for each in driver.list_volumes() if each.volume_id not in before]
    trial.equal(len(kept), 1, "how many volumes were kept")
    boots = VolumeAttachment(volume=kept[0].to_volume(), boot_index=0)
    other = trial.spawn(volumes=(boots,), start=False).uuid
    found = target.on_disk(driver, other, "hvct kept")
    trial.check(found, "what the guest wrote is not on the disk that was kept")


@check(LIFE_024, cases=[Case("given", ("hvct-host.example",)), Case("made", (None,))])
def guest_learns_its_name(trial: Trial, hostname: str | None) -> None:
    if trial.observer is None:
        raise PreconditionMissing("no observer")
    for source, (path, key, user_path) in _SEEDS.items():
        data = (
            f"#!/bin/sh\n# {source} \u00e4\n".encode() if trial.has(Capability.USER_DATA) else None
        )
        seed = CloudInit.model_validate(
            {"datasource": source, "hostname": hostname, "user_data": data}
        )
        spec = trial.spec(start=False, cloud_init=seed)
        trial.spawn(spec)
        files = trial.observer.seed(spec.uuid)
        trial.check(path in files, f"no {path} in the seed of {source}: {sorted(files)}")
        wanted = hostname or default_hostname(spec.name, spec.uuid)
        trial.equal(json.loads(files[path]).get(key), wanted, f"host name from {source}")
        if data is not None:
            trial.equal(files.get(user_path), data, f"user data from {source}")
