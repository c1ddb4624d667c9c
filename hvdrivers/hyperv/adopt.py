"""Machines of others, and the host as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from hvdrivers.contract.lifecycle import Adopt
from hvdrivers.contract.maintenance import HostPower, Maintenance
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.instances import info_of
from hvdrivers.hyperv.record import InstanceRecord, MetadataRecord, packed
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.instance import InstanceInfo


class HypervAdopt(Topic, Adopt):
    """The UUID of an adopted instance is the Id of its machine."""

    def adopt(
        self,
        uuid: UUID,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> InstanceInfo:
        """Budget: 1 call. ``name`` renames the machine: its label on Hyper-V is its own name."""
        arguments = {
            "name": name or "",
            "record": packed(InstanceRecord()),
            "metadata": packed(MetadataRecord(metadata=dict(metadata or {}))),
        }
        return info_of(self.session.change("adopt", "Adopt", uuid, arguments, timeout))


class HypervMaintenance(Topic, Maintenance):
    """Hyper-V without a cluster knows no maintenance: a file in the driver's folder says so, to
    each client of this library. It binds nobody else."""

    def enter_maintenance(self, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self.session.call("EnterMaintenance", {}, Deadline(timeout))

    def exit_maintenance(self, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self.session.call("ExitMaintenance", {}, Deadline(timeout))

    def in_maintenance(self, *, timeout: float | None = None) -> bool:
        """Budget: 1 call."""
        return bool(self.session.call("InMaintenance", {}, Deadline(timeout))["closed"])


class HypervHostPower(Topic, HostPower):
    """Windows goes down with all that runs on it, so no machine may be powered on, of ours or
    not."""

    def host_power(self, action: HostPowerAction, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        arguments = {"reboot": action is HostPowerAction.REBOOT}
        self.session.call("HostPower", arguments, Deadline(timeout))
