"""Virtual hardware that a caller may choose: machine type, buses, models of devices.

The driver chooses what the caller leaves out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from hvdrivers.models.base import Model
from hvdrivers.models.vif.common import NicModel
from hvdrivers.models.volume.attachment import DiskBus


class VideoModel(StrEnum):
    """The graphics adapter."""

    NONE = "none"
    """None at all: the console is serial."""
    VGA = "vga"
    CIRRUS = "cirrus"
    QXL = "qxl"
    VIRTIO = "virtio"
    BOCHS = "bochs"
    VMVGA = "vmvga"


class WatchdogAction(StrEnum):
    """What the hypervisor does when the guest stops feeding its watchdog."""

    RESET = "reset"
    POWER_OFF = "poweroff"
    PAUSE = "pause"
    NONE = "none"


class TpmModel(StrEnum):
    """How the guest sees its TPM."""

    TIS = "tis"
    CRB = "crb"


class CpuTopology(Model):
    """How the guest sees its CPUs. The product is ``Flavor.vcpus``, or ``max_vcpus`` if given."""

    sockets: Annotated[int, Field(ge=1, le=1024)] = 1
    cores: Annotated[int, Field(ge=1, le=1024)] = 1
    threads: Annotated[int, Field(ge=1, le=1024)] = 1

    @property
    def cpus(self) -> int:
        """The product."""
        return self.sockets * self.cores * self.threads


class Hardware(Model):
    """Each field is optional, and refused by a driver that does not take it (``driver.takes``).
    None: what the driver prefers."""

    machine_type: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """In the hypervisor's own words: ``q35``, ``vmx-19``, a generation."""
    disk_bus: DiskBus | None = None
    """For the instance's own disks, and for volumes that name none."""
    nic_model: NicModel | None = None
    """For NICs that name none."""
    video: VideoModel | None = None
    cpu_topology: CpuTopology | None = None
    watchdog: WatchdogAction | None = None
    """None: no watchdog."""
    rng: bool | None = None
    """A source of random numbers (virtio-rng)."""
    tpm_model: TpmModel | None = None
    """Needs ``vtpm``."""
