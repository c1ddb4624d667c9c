"""Resource metering."""

import time
from datetime import timedelta

from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.views import thing
from hvdrivers.hyperv.simulator.errors import failed


@cmdlet("Enable-VMResourceMetering", "Disable-VMResourceMetering", "Reset-VMResourceMetering")
def switch_metering(call: Call) -> None:
    if call.has("ResourcePoolName"):
        raise failed("Metering of resource pools is not simulated.")
    for machine in call.machines("VMName"):
        on = not call.cmdlet.startswith("Disable")
        if call.cmdlet.startswith("Reset") and machine.metering is None:
            raise failed("Metering is not enabled.", target=machine.name)
        machine.metering = time.monotonic() if on else None


@cmdlet("Measure-VM")
def measure(call: Call) -> None:
    for machine in call.machines("Name"):
        if machine.metering is None:
            call.error(failed("Metering is not enabled.", target=machine.name))
            continue
        config = machine.config
        running = machine.state == "Running"
        size = sum(call.host.disks.look(d.path).size for d in config.drives if d.path)
        call.write(
            thing(
                "VMMeteringReportForVirtualMachine",
                {
                    "VMId": machine.id,
                    "VMName": machine.name,
                    "ComputerName": call.host.name,
                    "MeteringDuration": timedelta(seconds=time.monotonic() - machine.metering),
                    "AverageProcessorUsage": 26 if running else 0,
                    "AverageMemoryUsage": config.memory.startup >> 20 if running else 0,
                    "MaximumMemoryUsage": config.memory.startup >> 20 if running else 0,
                    "MinimumMemoryUsage": config.memory.startup >> 20 if running else 0,
                    "TotalDiskAllocation": size >> 20,
                    "AggregatedAverageNormalizedIOPS": 0,
                    "AggregatedAverageLatency": 0,
                    "AggregatedDiskDataRead": 1 if running else 0,
                    "AggregatedDiskDataWritten": 1 if running else 0,
                    "AggregatedNormalizedIOCount": 0,
                    "NetworkMeteredTrafficReport": [],
                    "HardDiskMetrics": [],
                    "AvgCPU": 26 if running else 0,
                    "AvgRAM": config.memory.startup >> 20 if running else 0,
                    "TotalDisk": size >> 20,
                },
            )
        )
