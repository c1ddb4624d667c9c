"""The host itself: Get-VMHost and its neighbours."""

from datetime import timedelta

from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.views import thing
from hvdrivers.hyperv.simulator.errors import file_error, invalid_parameter, invalid_state
from hvdrivers.hyperv.simulator.state.host import HostState
from hvdrivers.hyperv.simulator.wire import Int64, Thing, UInt32, Version


def _view(host: HostState) -> Thing:
    settings, hardware = host.settings, host.hardware
    return thing(
        "VMHost",
        {
            "Name": host.name,
            "ComputerName": host.name,
            "FullyQualifiedDomainName": host.name,
            "LogicalProcessorCount": Int64(hardware.processors),
            "MemoryCapacity": Int64(hardware.memory),
            "VirtualHardDiskPath": settings.vhd_path,
            "VirtualMachinePath": settings.machine_path,
            "MacAddressMinimum": settings.mac_minimum,
            "MacAddressMaximum": settings.mac_maximum,
            "MaximumStorageMigrations": UInt32(settings.maximum_storage_migrations),
            "MaximumVirtualMachineMigrations": UInt32(settings.maximum_migrations),
            "NumaSpanningEnabled": settings.numa_spanning,
            "EnableEnhancedSessionMode": settings.enhanced_session,
            "VirtualMachineMigrationEnabled": settings.migration,
            "VirtualMachineMigrationAuthenticationType": settings.migration_authentication,
            "VirtualMachineMigrationPerformanceOption": settings.migration_performance,
            "UseAnyNetworkForMigration": settings.any_network,
            "ResourceMeteringSaveInterval": settings.metering_interval,
            "FibreChannelWwnn": "C003FF0000FFFF00",
            "FibreChannelWwpnMinimum": "C003FF9AE0700000",
            "FibreChannelWwpnMaximum": "C003FF9AE070FFFF",
            "IovSupport": any(each.functions for each in host.switches.values()),
            "IovSupportReasons": [],
            "SecureBootTemplates": [],
            "SupportedVmVersions": ["8.0", "9.0", "10.0"],
        },
        host.name,
    )


@cmdlet("Get-VMHost")
def get_host(call: Call) -> None:
    call.write(_view(call.host))


@cmdlet("Set-VMHost")
def set_host(call: Call) -> None:
    host = call.host
    settings = host.settings
    for name in ("VirtualHardDiskPath", "VirtualMachinePath"):
        if call.has(name) and not host.files.file(call.text(name)).is_dir():
            raise file_error("path-not-found", call.text(name))
    settings.vhd_path = call.text("VirtualHardDiskPath", settings.vhd_path)
    settings.machine_path = call.text("VirtualMachinePath", settings.machine_path)
    for name in ("MacAddressMinimum", "MacAddressMaximum"):
        if call.has(name) and len(call.text(name).replace("-", "")) != 12:
            raise invalid_parameter(name)
    settings.mac_minimum = call.text("MacAddressMinimum", settings.mac_minimum).replace("-", "")
    settings.mac_maximum = call.text("MacAddressMaximum", settings.mac_maximum).replace("-", "")
    settings.numa_spanning = call.flag("NumaSpanningEnabled", settings.numa_spanning)
    settings.enhanced_session = call.flag("EnableEnhancedSessionMode", settings.enhanced_session)
    settings.migration_authentication = call.text(
        "VirtualMachineMigrationAuthenticationType", settings.migration_authentication
    )
    settings.migration_performance = call.text(
        "VirtualMachineMigrationPerformanceOption", settings.migration_performance
    )
    settings.maximum_migrations = call.integer(
        "MaximumVirtualMachineMigrations", settings.maximum_migrations
    )
    settings.maximum_storage_migrations = call.integer(
        "MaximumStorageMigrations", settings.maximum_storage_migrations
    )
    settings.any_network = call.flag("UseAnyNetworkForMigration", settings.any_network)
    settings.metering_interval = call.duration(
        "ResourceMeteringSaveInterval", settings.metering_interval
    )
    if call.flag("Passthru"):
        call.write(_view(host))


@cmdlet("Enable-VMMigration", "Disable-VMMigration")
def migration(call: Call) -> None:
    call.host.settings.migration = call.cmdlet.startswith("Enable")


@cmdlet("Get-VMHostNumaNode")
def numa_nodes(call: Call) -> None:
    host = call.host
    hardware = host.hardware
    for node in range(hardware.numa_nodes):
        if call.has("Id") and call.integer("Id") != node:
            continue
        share = hardware.processors // hardware.numa_nodes
        call.write(
            thing(
                "VMHostNumaNode",
                {
                    "NodeId": node,
                    "ProcessorsAvailability": [0] * share,
                    "MemoryAvailable": Int64((host.free_memory() >> 20) // hardware.numa_nodes),
                    "MemoryTotal": Int64((hardware.memory >> 20) // hardware.numa_nodes),
                    "ComputerName": host.name,
                },
            )
        )


@cmdlet("Get-VMHostNumaNodeStatus")
def numa_status(call: Call) -> None:
    for machine in call.host.machines.values():
        if machine.on:
            call.write(
                thing(
                    "VMNumaNodeStatus",
                    {
                        "NodeId": 0,
                        "VMId": machine.id,
                        "VMName": machine.name,
                        "MemoryUsed": machine.config.memory.startup >> 20,
                    },
                )
            )


@cmdlet("Get-VMHostSupportedVersion")
def supported_versions(call: Call) -> None:
    names = {
        "8.0": "Windows Server 2016",
        "9.0": "Windows Server 2019",
        "10.0": "Windows Server 2022",
    }
    for version, name in names.items():
        if not call.flag("Default") or version == "10.0":
            call.write(
                thing(
                    "VMSupportedVersion",
                    {
                        "Name": f"Microsoft {name}",
                        "Version": Version(version),
                        "IsDefault": version == "10.0",
                    },
                )
            )


@cmdlet("Update-VMVersion")
def update_version(call: Call) -> None:
    for machine in call.machines("Name"):
        if machine.state != "Off" or machine.busy:
            raise invalid_state(machine.name)
        query = f'Are you sure you want to upgrade "{machine.name}"?'
        if call.confirm(query, "Confirm"):
            machine.config.version = "10.0"


def uptime(host: HostState) -> timedelta:
    """How long the host runs."""
    from datetime import UTC, datetime

    return datetime.now(UTC) - host.booted
