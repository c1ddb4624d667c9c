"""Devices of the simulated host that the suite gives to machines."""

from __future__ import annotations

from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.host import HostDevice, PartitionableGpu

_GPU = "PCI\\VEN_10DE&DEV_25B6&SUBSYS_14A910DE&REV_A1\\4&2F2E5D3&0&0018"
_INTERFACE = "{064092b3-625e-43bf-9eb5-dc845897dd59}\\GPUPARAV"


def lend_devices(host: SimulatedHost) -> None:
    """Put a device that is set aside, and a GPU that has two partitions, into a host."""
    host.state.hardware.devices += [
        HostDevice(
            "PCI\\VEN_144D&DEV_A808&SUBSYS_A801144D&REV_00\\4&1D81E16&0&0010",
            "PCIROOT(0)#PCI(0200)#PCI(0000)",
            "NVM Express Controller",
            dismounted=True,
            enabled=False,
            bus=2,
            class_code="010802",
        ),
        HostDevice(_GPU, "PCIROOT(0)#PCI(0300)#PCI(0000)", "NVIDIA A2", bus=3, class_code="030200"),
    ]
    name = "\\\\?\\" + _GPU.replace("\\", "#") + "#" + _INTERFACE
    host.state.hardware.gpus.append(PartitionableGpu(name, count=2))
