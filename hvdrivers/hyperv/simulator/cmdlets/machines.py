"""Get-VM, New-VM, Remove-VM, Rename-VM, Set-VM."""

import ntpath

from hvdrivers.hyperv.simulator.cmdlets import views
from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.drives import add_disk, free_slot
from hvdrivers.hyperv.simulator.cmdlets.machinefiles import remove_files, write_files
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.settings import change_memory, change_processors
from hvdrivers.hyperv.simulator.errors import file_error, invalid_parameter, invalid_state
from hvdrivers.hyperv.simulator.state.devices import (
    ADAPTER_NAMES,
    Config,
    DvdDrive,
    Memory,
    NetworkAdapter,
    Slot,
)
from hvdrivers.hyperv.simulator.state.files import join
from hvdrivers.hyperv.simulator.state.host import HostState
from hvdrivers.hyperv.simulator.state.machine import Machine

_BAD = set('<>:"/\\|?*')


@cmdlet("Get-VM")
def get_vm(call: Call) -> None:
    for machine in call.machines("Name"):
        call.write(views.machine(machine))


@cmdlet("New-VM")
def new_vm(call: Call) -> None:
    host = call.host
    name = call.text("Name", "New Virtual Machine")
    generation = call.integer("Generation", 1)
    startup = call.integer("MemoryStartupBytes", 1 << 30)
    check_startup(startup)
    switch = call.switch("SwitchName")
    base = call.text("Path")
    if base:
        if _BAD & set(name) or name.endswith((" ", ".")):
            raise file_error("invalid-name", join(base, name))
        path = join(base.replace("/", "\\").rstrip("\\") or base, name)
    else:
        path = host.settings.machine_path.rstrip("\\")
    disk = call.text("VHDPath")
    if disk:
        host.disks.look(disk)
    config = Config(name=name, generation=generation, memory=Memory(startup=startup))
    config.version = call.text("Version", "10.0")
    config.adapters.append(
        NetworkAdapter(
            ADAPTER_NAMES[host.language],
            switch=switch.id if switch else None,
            legacy=call.text("BootDevice") == "LegacyNetworkAdapter",
        )
    )
    machine = Machine(host=host, config=config, path=path)
    if generation == 2:
        config.scsi = 1
        config.firmware.startup = []
    else:
        config.dvds.append(DvdDrive(Slot("IDE", 1, 0)))
    fresh = call.text("NewVHDPath")
    if fresh:
        target = fresh if ntpath.dirname(fresh) else join(path, "Virtual Hard Disks", fresh)
        host.disks.create(target, call.integer("NewVHDSizeBytes"), "Dynamic")
        disk = target
    write_files(machine)
    host.machines[machine.id] = machine
    if disk:
        add_disk(machine, Slot("SCSI" if generation == 2 else "IDE", 0, 0), disk)
    if generation == 2:
        config.firmware.order = [d.id for d in config.drives] + [nic.id for nic in config.adapters]
        if call.text("BootDevice") == "CD":
            config.dvds.append(DvdDrive(free_slot(machine, "SCSI", None, None)))
            config.firmware.order.insert(0, config.dvds[0].id)
    host.record("created", machine)
    call.write(views.machine(machine))


def check_startup(size: int) -> None:
    """Memory is at least 32 MiB, and a whole number of 2 MiB."""
    if size < 32 << 20 or size > 12 << 40 or size % (2 << 20):
        raise invalid_parameter(
            "MemoryStartupBytes", "The value is out of range or not aligned to 2 MB."
        )


@cmdlet("Remove-VM")
def remove_vm(call: Call) -> None:
    for machine in list(call.machines("Name")):
        if machine.state not in ("Off", "Saved") or machine.busy:
            call.error(invalid_state(machine.name))
            continue
        query = f'Are you sure you want to remove virtual machine "{machine.name}"?'
        if not call.confirm(query, "Confirm"):
            continue
        drop_machine(call.host, machine)


def drop_machine(host: HostState, machine: Machine) -> None:
    """Take a machine away. Its checkpoints go too, and their disks are merged in the background."""
    from hvdrivers.hyperv.simulator.cmdlets.checkpoints import drop_all_checkpoints

    if host.machines.pop(machine.id, None) is None:
        return
    for device in host.hardware.devices:
        if device.owner == machine.id:
            device.owner = None
    remove_files(machine)
    drop_all_checkpoints(machine)
    saved, machine.saved = machine.saved, None
    machine.forget_memory(saved)
    host.record("deleted", machine)
    host.world.notify()


@cmdlet("Rename-VM")
def rename_vm(call: Call) -> None:
    for machine in call.machines("Name"):
        machine.config.name = call.text("NewName")
        if call.flag("Passthru"):
            call.write(views.machine(machine))


@cmdlet("Set-VM")
def set_vm(call: Call) -> None:
    for machine in call.machines("Name"):
        _change(call, machine)
        if call.flag("Passthru"):
            call.write(views.machine(machine))


_ONLY_OFF = (
    "ProcessorCount",
    "DynamicMemory",
    "StaticMemory",
    "MemoryMaximumBytes",
    "LockOnDisconnect",
    "GuestControlledCacheTypes",
    "LowMemoryMappedIoSpace",
    "HighMemoryMappedIoSpace",
)
"""Settings that Hyper-V changes only while the machine is off."""


def _change(call: Call, machine: Machine) -> None:
    config = machine.config
    if machine.on and any(call.has(name) for name in _ONLY_OFF):
        raise invalid_state(machine.name)
    if call.has("ProcessorCount"):
        change_processors(machine, call.integer("ProcessorCount"))
    if call.flag("DynamicMemory") and call.flag("StaticMemory"):
        raise invalid_parameter("StaticMemory", "It excludes DynamicMemory.")
    dynamic = True if call.flag("DynamicMemory") else False if call.flag("StaticMemory") else None
    memory_names = ("MemoryStartupBytes", "MemoryMinimumBytes", "MemoryMaximumBytes")
    if dynamic is not None or any(call.has(name) for name in memory_names):
        startup, minimum, maximum = (
            call.integer(name) if call.has(name) else None for name in memory_names
        )
        change_memory(machine, dynamic, startup, minimum, maximum)
    config.notes = call.text("Notes", config.notes)
    config.name = call.text("NewVMName", config.name)
    config.start_action = call.text("AutomaticStartAction", config.start_action)
    config.start_delay = call.integer("AutomaticStartDelay", config.start_delay)
    config.stop_action = call.text("AutomaticStopAction", config.stop_action)
    config.critical_action = call.text("AutomaticCriticalErrorAction", config.critical_action)
    config.critical_timeout = call.integer(
        "AutomaticCriticalErrorActionTimeout", config.critical_timeout
    )
    config.checkpoint_type = call.text("CheckpointType", config.checkpoint_type)
    config.automatic_checkpoints = call.flag(
        "AutomaticCheckpointsEnabled", config.automatic_checkpoints
    )
    config.lock_on_disconnect = call.on_off("LockOnDisconnect", config.lock_on_disconnect)
    config.guest_cache_types = call.flag("GuestControlledCacheTypes", config.guest_cache_types)
    config.low_mmio = call.integer("LowMemoryMappedIoSpace", config.low_mmio)
    config.high_mmio = call.integer("HighMemoryMappedIoSpace", config.high_mmio)
    config.smart_paging_path = call.text("SmartPagingFilePath", config.smart_paging_path)
    if call.has("SnapshotFileLocation"):
        if machine.checkpoints:
            raise invalid_state(machine.name)
        config.snapshot_path = call.text("SnapshotFileLocation")
