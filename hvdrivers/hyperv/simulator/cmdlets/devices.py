"""Devices of the host that machines can have: PCI devices and parts of GPUs."""

from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.views import thing
from hvdrivers.hyperv.simulator.errors import failed, invalid_state, missing
from hvdrivers.hyperv.simulator.state.devices import AssignedDevice, GpuPartition
from hvdrivers.hyperv.simulator.state.host import HostDevice, PartitionableGpu
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.hyperv.simulator.wire import Thing, UInt64, Value


def _device_view(device: HostDevice) -> Thing:
    return thing(
        "VMHostAssignableDevice",
        {
            "Name": device.name,
            "InstanceID": device.shown_id,
            "LocationPath": device.location_path,
            "FriendlyName": device.name,
            "ResourcePoolName": "Primordial",
        },
    )


def _find(call: Call) -> list[HostDevice]:
    """Devices by location or instance path; all of them without either."""
    devices = call.host.hardware.devices
    for item in call.things("HostAssignableDevice"):
        return [d for d in devices if d.location_path == item.get("LocationPath")]
    path, instance = call.text("LocationPath").lower(), call.text("InstancePath").lower()
    found = [
        device
        for device in devices
        if (not path or device.location_path.lower() == path)
        and (not instance or device.instance_id.lower() == instance)
    ]
    if not found and (path or instance):
        raise missing(path or instance)
    return found


@cmdlet("Get-VMHostAssignableDevice")
def get_host_devices(call: Call) -> None:
    for device in _find(call):
        if device.dismounted and device.owner is None:
            call.write(_device_view(device))


@cmdlet("Dismount-VMHostAssignableDevice")
def dismount(call: Call) -> None:
    for device in _find(call):
        if device.dismounted:
            raise failed("The device is dismounted already.", target=device.location_path)
        if device.enabled:
            raise failed("The host uses the device: disable it.", target=device.location_path)
        if not call.flag("Force"):
            raise failed("The device has no mitigation driver.", target=device.location_path)
        device.dismounted = True
        if call.flag("Passthru"):
            call.write(_device_view(device))


@cmdlet("Mount-VMHostAssignableDevice")
def mount(call: Call) -> None:
    for device in _find(call):
        if device.owner is not None or not device.dismounted:
            raise failed("The device is in use.", target=device.location_path)
        device.dismounted = False
        if call.flag("Passthru"):
            call.write(_device_view(device))


def _assigned_view(machine: Machine, assigned: AssignedDevice) -> Thing:
    return thing(
        "VMAssignedDevice",
        {
            "Name": "PCI Express Port",
            "Id": f"Microsoft:{str(machine.id).upper()}\\{str(assigned.id).upper()}",
            "InstanceID": assigned.instance_id,
            "LocationPath": assigned.location_path,
            "VirtualFunction": 0,
            "VMId": machine.id,
            "VMName": machine.name,
        },
    )


@cmdlet("Get-VMAssignableDevice")
def get_assigned(call: Call) -> None:
    for machine in call.machines("VMName"):
        for assigned in machine.config.assigned:
            if not call.has("LocationPath") or assigned.location_path == call.text("LocationPath"):
                call.write(_assigned_view(machine, assigned))


@cmdlet("Add-VMAssignableDevice")
def assign(call: Call) -> None:
    found = _find(call)
    if not found:
        raise missing("assignable device")
    device = found[0]
    for machine in call.machines("VMName"):
        if machine.on or machine.busy:
            raise invalid_state(machine.name)
        if not device.dismounted or device.owner is not None:
            raise failed("The device is not available.", target=device.location_path)
        if machine.config.stop_action != "TurnOff":
            raise failed("The automatic stop action must be TurnOff.", target=machine.name)
        assigned = AssignedDevice(device.location_path, device.instance_id)
        machine.config.assigned.append(assigned)
        device.owner = machine.id
        if call.flag("Passthru"):
            call.write(_assigned_view(machine, assigned))


@cmdlet("Remove-VMAssignableDevice")
def unassign(call: Call) -> None:
    if call.has("VMAssignableDevice"):
        chosen = [
            (machine, item["LocationPath"])
            for item in call.things("VMAssignableDevice")
            for machine in call.with_id(item.get("VMId"))
        ]
    else:
        chosen = [
            (machine, assigned.location_path)
            for machine in call.machines("VMName")
            for assigned in machine.config.assigned
            if call.text("LocationPath", assigned.location_path) == assigned.location_path
        ]
    for machine, path in chosen:
        if machine.on:
            raise invalid_state(machine.name)
        machine.config.assigned = [a for a in machine.config.assigned if a.location_path != path]
        for device in call.host.hardware.devices:
            if device.location_path == path:
                device.owner = None


_AMOUNTS = [
    f"{limit}Partition{what}"
    for what in ("VRAM", "Encode", "Decode", "Compute")
    for limit in ("Min", "Max", "Optimal")
]


def _gpu_view(gpu: PartitionableGpu, used: int) -> Thing:
    properties: dict[str, Value] = {
        "Name": gpu.name,
        "ValidPartitionCounts": list(gpu.valid_counts),
        "PartitionCount": gpu.count,
    }
    for what in ("VRAM", "Encode", "Decode", "Compute"):
        share = gpu.amount // gpu.count
        properties[f"Total{what}"] = UInt64(gpu.amount)
        properties[f"Available{what}"] = UInt64(gpu.amount - used * share)
        properties[f"MinPartition{what}"] = UInt64(0)
        properties[f"MaxPartition{what}"] = UInt64(gpu.amount)
        properties[f"OptimalPartition{what}"] = UInt64(share)
    return thing("VMHostPartitionableGpu", properties)


def _used(call: Call, gpu: PartitionableGpu) -> int:
    return sum(
        1
        for machine in call.host.machines.values()
        if machine.on
        for part in machine.config.gpus
        if part.instance_path in ("", gpu.name)
    )


def _partitionable(call: Call) -> list[PartitionableGpu]:
    """GPUs that the host itself has: not those that are dismounted, or whose driver is off."""
    hardware = call.host.hardware
    gone = [each.instance_id for each in hardware.devices if each.dismounted or not each.enabled]
    names = ["\\\\?\\" + each.replace("\\", "#") + "#" for each in gone]
    return [gpu for gpu in hardware.gpus if not gpu.name.startswith(tuple(names))]


@cmdlet("Get-VMHostPartitionableGpu")
def get_gpus(call: Call) -> None:
    for gpu in _partitionable(call):
        if not call.has("Name") or call.text("Name") == gpu.name:
            call.write(_gpu_view(gpu, _used(call, gpu)))


@cmdlet("Set-VMHostPartitionableGpu")
def set_gpu(call: Call) -> None:
    names = call.texts("Name") or [i["Name"] for i in call.things("HostPartitionableGpu")]
    for gpu in call.host.hardware.gpus:
        if names and gpu.name not in names:
            continue
        count = call.integer("PartitionCount", gpu.count)
        if count not in gpu.valid_counts:
            raise failed("The partition count is not valid.", target=gpu.name)
        gpu.count = count
        if call.flag("Passthru"):
            call.write(_gpu_view(gpu, _used(call, gpu)))


def _part_view(machine: Machine, part: GpuPartition) -> Thing:
    properties: dict[str, Value] = {
        "Id": f"Microsoft:{str(machine.id).upper()}\\{str(part.id).upper()}",
        "Name": "GPU Partition Settings",
        "InstancePath": part.instance_path,
        "PartitionId": 0,
        "VMId": machine.id,
        "VMName": machine.name,
    }
    for name in _AMOUNTS:
        properties[name] = UInt64(part.amounts[name]) if name in part.amounts else None
    return thing("VMGpuPartitionAdapter", properties)


def _parts(call: Call) -> list[tuple[Machine, GpuPartition]]:
    if call.has("VMGpuPartitionAdapter"):
        wanted = [item["Id"].lower() for item in call.things("VMGpuPartitionAdapter")]
        return [
            (machine, part)
            for machine in call.host.machines.values()
            for part in machine.config.gpus
            if f"microsoft:{machine.id}\\{part.id}" in wanted
        ]
    return [
        (machine, part)
        for machine in call.machines("VMName")
        for part in machine.config.gpus
        if not call.has("AdapterId") or call.text("AdapterId").lower().endswith(str(part.id))
    ]


@cmdlet("Get-VMGpuPartitionAdapter")
def get_parts(call: Call) -> None:
    for machine, part in _parts(call):
        call.write(_part_view(machine, part))


@cmdlet("Add-VMGpuPartitionAdapter")
def add_part(call: Call) -> None:
    gpus = _partitionable(call)
    path = call.text("InstancePath")
    if not gpus or (path and all(gpu.name != path for gpu in gpus)):
        raise failed("There is no partitionable GPU.", target=path)
    for machine in call.machines("VMName"):
        if machine.on or machine.busy:
            raise invalid_state(machine.name)
        part = GpuPartition(path)
        part.amounts = {name: call.integer(name) for name in _AMOUNTS if call.has(name)}
        machine.config.gpus.append(part)
        if call.flag("Passthru"):
            call.write(_part_view(machine, part))


@cmdlet("Set-VMGpuPartitionAdapter")
def set_part(call: Call) -> None:
    for machine, part in _parts(call):
        if machine.on:
            raise invalid_state(machine.name)
        part.amounts |= {name: call.integer(name) for name in _AMOUNTS if call.has(name)}
        if call.flag("Passthru"):
            call.write(_part_view(machine, part))


@cmdlet("Remove-VMGpuPartitionAdapter")
def remove_part(call: Call) -> None:
    for machine, part in _parts(call):
        if machine.on:
            raise invalid_state(machine.name)
        machine.config.gpus.remove(part)
