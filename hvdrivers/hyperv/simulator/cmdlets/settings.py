"""Processors and memory, COM ports, console and video."""

from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.views import NO_ID, on_off, thing
from hvdrivers.hyperv.simulator.errors import failed, invalid_parameter, invalid_state
from hvdrivers.hyperv.simulator.state import devices as dev
from hvdrivers.hyperv.simulator.state.machine import Checkpoint, Machine
from hvdrivers.hyperv.simulator.wire import Int64, Thing, Value

STEP = 2 << 20
"""Memory sizes are whole numbers of 2 MiB."""


def targets(
    call: Call, thing_name: str = ""
) -> list[tuple[Machine, dev.Config, Checkpoint | None]]:
    """What a Get or Set of a machine's part means: machines, or one checkpoint, or part objects."""
    found = call.snapshot()
    if found is not None:
        return [(found[0], found[1].config, found[1])]
    if thing_name and call.has(thing_name):
        return [
            (m, m.config, None)
            for t in call.things(thing_name)
            for m in call.with_id(t.get("VMId"))
        ]
    return [(m, m.config, None) for m in call.machines("VMName")]


def common(machine: Machine, point: Checkpoint | None) -> dict[str, Value]:
    """What every part of a machine has."""
    return {
        "VMId": machine.id,
        "VMName": machine.name,
        "VMCheckpointId": point.id if point else NO_ID,
        "VMSnapshotId": point.id if point else NO_ID,
        "ComputerName": machine.host.name,
        "IsDeleted": False,
    }


def change_processors(machine: Machine, count: int) -> None:
    """Refuse what the host has not."""
    if machine.on:
        raise invalid_state(machine.name)
    if not 1 <= count <= machine.host.hardware.processors:
        raise invalid_parameter("Count", "The number of processors is out of range.")
    machine.config.processor.count = count


@cmdlet("Get-VMProcessor")
def get_processor(call: Call) -> None:
    for machine, config, point in targets(call):
        call.write(_processor(machine, config, point))


def _processor(machine: Machine, config: dev.Config, point: Checkpoint | None) -> Thing:
    cpu = config.processor
    return thing(
        "VMProcessor",
        {
            "Count": Int64(cpu.count),
            "Reserve": Int64(cpu.reserve),
            "Maximum": Int64(cpu.maximum),
            "RelativeWeight": cpu.weight,
            "ExposeVirtualizationExtensions": cpu.nested,
            "CompatibilityForMigrationEnabled": cpu.migration_compatible,
            "CompatibilityForOlderOperatingSystemsEnabled": cpu.older_compatible,
            "MaximumCountPerNumaNode": cpu.numa_count or machine.host.hardware.processors,
            "MaximumCountPerNumaSocket": cpu.numa_sockets or 1,
            "HwThreadCountPerCore": Int64(cpu.threads_per_core),
            "EnableHostResourceProtection": cpu.host_protection,
            "ResourcePoolName": "Primordial",
            "OperationalStatus": [],
            **common(machine, point),
        },
    )


@cmdlet("Set-VMProcessor")
def set_processor(call: Call) -> None:
    for machine, config, _ in targets(call, "VMProcessor"):
        cpu = config.processor
        live = {
            "Maximum",
            "Reserve",
            "RelativeWeight",
            "Passthru",
            "VMName",
            "VM",
            "Confirm",
            "ErrorAction",
        }
        if machine.on and set(call.bound) - live:
            raise invalid_state(machine.name)
        if call.has("Count"):
            change_processors(machine, call.integer("Count"))
        cpu.reserve = call.integer("Reserve", cpu.reserve)
        cpu.maximum = call.integer("Maximum", cpu.maximum)
        cpu.weight = call.integer("RelativeWeight", cpu.weight)
        cpu.nested = call.flag("ExposeVirtualizationExtensions", cpu.nested)
        cpu.migration_compatible = call.flag(
            "CompatibilityForMigrationEnabled", cpu.migration_compatible
        )
        cpu.older_compatible = call.flag(
            "CompatibilityForOlderOperatingSystemsEnabled", cpu.older_compatible
        )
        cpu.numa_count = call.integer("MaximumCountPerNumaNode", cpu.numa_count)
        cpu.numa_sockets = call.integer("MaximumCountPerNumaSocket", cpu.numa_sockets)
        cpu.threads_per_core = call.integer("HwThreadCountPerCore", cpu.threads_per_core)
        cpu.host_protection = call.flag("EnableHostResourceProtection", cpu.host_protection)
        if call.flag("Passthru"):
            call.write(_processor(machine, config, None))


def change_memory(
    machine: Machine,
    dynamic: bool | None,
    startup: int | None,
    minimum: int | None,
    maximum: int | None,
) -> None:
    """Change memory as Hyper-V checks it: steps of 2 MiB, an order of sizes, limits while on."""
    memory = machine.config.memory
    for name, value in (
        ("StartupBytes", startup),
        ("MinimumBytes", minimum),
        ("MaximumBytes", maximum),
    ):
        if value is not None and (value < 8 << 20 or value > 12 << 40 or value % STEP):
            raise invalid_parameter(name, "The value is out of range or not aligned to 2 MB.")
    will = memory.dynamic if dynamic is None else dynamic
    new_startup = memory.startup if startup is None else startup
    new_minimum = memory.minimum if minimum is None else minimum
    new_maximum = memory.maximum if maximum is None else maximum
    if machine.on:
        if dynamic is not None and dynamic != memory.dynamic:
            raise invalid_state(machine.name)
        if will and startup is not None and startup != memory.startup:
            raise invalid_state(machine.name)
        if will and (new_minimum > memory.minimum or new_maximum < memory.maximum):
            raise invalid_state(machine.name)
        growth = new_startup - memory.startup
        if growth > machine.host.free_memory():
            raise failed("There is not enough memory.", hresult=0x8007000E, target=machine.name)
    if will and not new_minimum <= new_startup <= new_maximum:
        raise invalid_parameter("StartupBytes", "It must lie between the minimum and the maximum.")
    memory.dynamic = will
    memory.startup, memory.minimum, memory.maximum = new_startup, new_minimum, new_maximum
    if machine.guest is not None:
        machine.guest.changed()


@cmdlet("Get-VMMemory")
def get_memory(call: Call) -> None:
    for machine, config, point in targets(call):
        call.write(_memory(machine, config, point))


def _memory(machine: Machine, config: dev.Config, point: Checkpoint | None) -> Thing:
    memory = config.memory
    return thing(
        "VMMemory",
        {
            "DynamicMemoryEnabled": memory.dynamic,
            "Startup": Int64(memory.startup),
            "Minimum": Int64(memory.minimum),
            "Maximum": Int64(memory.maximum),
            "Buffer": memory.buffer,
            "Priority": memory.priority,
            "MaximumPerNumaNode": Int64((memory.numa_bytes or machine.host.hardware.memory) >> 20),
            "ResourcePoolName": "Primordial",
            **common(machine, point),
        },
    )


@cmdlet("Set-VMMemory")
def set_memory(call: Call) -> None:
    for machine, config, _ in targets(call, "VMMemory"):
        memory = config.memory
        dynamic = call.flag("DynamicMemoryEnabled") if call.has("DynamicMemoryEnabled") else None
        startup, minimum, maximum = (
            call.integer(name) if call.has(name) else None
            for name in ("StartupBytes", "MinimumBytes", "MaximumBytes")
        )
        change_memory(machine, dynamic, startup, minimum, maximum)
        if call.has("Buffer") and not 5 <= call.integer("Buffer") <= 2000:
            raise invalid_parameter("Buffer")
        memory.buffer = call.integer("Buffer", memory.buffer)
        memory.priority = call.integer("Priority", memory.priority)
        if call.has("MaximumAmountPerNumaNodeBytes"):
            if machine.on:
                raise invalid_state(machine.name)
            memory.numa_bytes = call.integer("MaximumAmountPerNumaNodeBytes")
        if call.flag("Passthru"):
            call.write(_memory(machine, config, None))


@cmdlet("Get-VMComPort")
def get_com(call: Call) -> None:
    for machine, config, point in targets(call):
        for number, port in enumerate(config.com, 1):
            if not call.has("Number") or call.integer("Number") == number:
                call.write(
                    thing(
                        "VMComPort",
                        {
                            "Name": f"COM {number}",
                            "Id": f"Microsoft:{str(machine.id).upper()}\\COM{number}",
                            "Path": port.path,
                            "DebuggerMode": on_off(port.debugger),
                            **common(machine, point),
                        },
                    )
                )


@cmdlet("Set-VMComPort")
def set_com(call: Call) -> None:
    if call.has("VMComPort"):
        chosen = [
            (machine, int(item["Name"][-1]))
            for item in call.things("VMComPort")
            for machine in call.with_id(item.get("VMId"))
        ]
    else:
        chosen = [(machine, call.integer("Number")) for machine in call.machines("VMName")]
    for machine, number in chosen:
        if number not in (1, 2):
            raise invalid_parameter("Number")
        port = machine.config.com[number - 1]
        if call.has("Path"):
            path = call.text("Path")
            if path and not path.lower().startswith("\\\\.\\pipe\\"):
                raise invalid_parameter("Path", "It is not a named pipe.")
            port.path = path
        port.debugger = call.on_off("DebuggerMode", port.debugger)
        if machine.guest is not None:
            machine.guest.changed()
        if call.flag("Passthru"):
            call.write(machine.name)


@cmdlet("Enable-VMConsoleSupport", "Disable-VMConsoleSupport")
def console_support(call: Call) -> None:
    for machine in call.machines("VMName"):
        if machine.config.generation != 2:
            raise failed(
                "Only machines of generation 2 can be without a console.", target=machine.name
            )
        if machine.on:
            raise invalid_state(machine.name)
        machine.config.console_support = call.cmdlet.startswith("Enable")


@cmdlet("Get-VMVideo")
def get_video(call: Call) -> None:
    for machine, config, point in targets(call):
        kind, width, height = config.video
        call.write(
            thing(
                "VMVideo",
                {
                    "ResolutionType": kind,
                    "HorizontalResolution": width,
                    "VerticalResolution": height,
                    **common(machine, point),
                },
            )
        )


@cmdlet("Set-VMVideo")
def set_video(call: Call) -> None:
    for machine, config, _ in targets(call, "VMVideo"):
        kind, width, height = config.video
        if machine.on:
            raise invalid_state(machine.name)
        config.video = (
            call.text("ResolutionType", kind),
            call.integer("HorizontalResolution", width),
            call.integer("VerticalResolution", height),
        )
