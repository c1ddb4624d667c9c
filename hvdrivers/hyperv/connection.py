"""Connection on Hyper-V: the host's facts, read when the session is opened."""

from __future__ import annotations

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.connection import Connection
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.host_info import host_info
from hvdrivers.images.convert import find_qemu_img
from hvdrivers.models.host import HostInfo


class HypervConnection(Topic, Connection):
    """Connection topic of the contract."""

    def ping(self, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self.session.call("Ping", {}, Deadline(timeout))

    def host(self, *, timeout: float | None = None) -> HostInfo:
        """Budget: none; it was read when the driver connected."""
        return host_info(self.session.facts(Deadline(timeout)))

    def close(self, *, timeout: float | None = None) -> None:
        """Budget: none counted; the shell on the host is deleted."""
        del timeout
        self.session.close()

    def narrowed(self) -> dict[Capability, str]:
        """What this host lacks, and the caller's machine. Budget: none beyond connect()."""
        facts = self.session.facts()
        lacking = {}
        if not facts.initiator:
            lacking[Capability.VOLUME_ISCSI] = (
                "the iSCSI initiator of the host (service MSiSCSI) does not run, or the user is no"
                " administrator"
            )
        if not facts.fibre:
            lacking[Capability.VOLUME_FC] = (
                "the host has no Fibre Channel port, or the user is no administrator"
            )
        if not facts.assigns:
            lacking[Capability.PCI_PASSTHROUGH] = (
                "the Hyper-V module of the host assigns no devices: Windows Server does"
            )
        if not facts.gpus:
            lacking[Capability.VGPU] = "the host has no GPU that can be cut into partitions"
        try:
            find_qemu_img()
        except errors.NotSupported as error:
            formats = (
                Capability.IMAGE_QCOW2,
                Capability.IMAGE_VMDK,
                Capability.IMAGE_VDI,
                Capability.IMAGE_OVA,
            )
            lacking |= dict.fromkeys(formats, error.message)
        return lacking
