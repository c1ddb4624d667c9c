"""An ESXi host that is rebooted or shut down.

A vCenter is no host: it stays up when its hosts go down, and a cluster has several. So the driver
offers this for an ESXi host that it talks to directly.
"""

from __future__ import annotations

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.maintenance import HostPower
from hvdrivers.driverkit import changed
from hvdrivers.models.host import HostPowerAction
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.reader import step

_GONE = (errors.ConnectionFailed, errors.OutcomeUnknown, errors.InstanceNotFound)


class VmwareHostPower(Topic, HostPower):
    """Host power."""

    @timed
    def host_power(self, action: HostPowerAction, *, timeout: float | None = None) -> None:
        """Budget: 2 reads, 1 call, and the reads of a task.

        The host refuses while it is not in maintenance, unless it is forced to: the driver looks
        itself that no machine is powered on, of ours or not, and forces it. Another client may
        start one between the two; in maintenance none starts, and the host is not forced.
        """
        del timeout
        (host,) = self.reader.below(
            self.places.get().compute,
            [step(vim.ComputeResource, "host")],
            vim.HostSystem,
            "runtime.inMaintenanceMode",
        )
        forced = not host.get("runtime.inMaintenanceMode")
        rows = self.machines.rows("runtime.powerState")
        on = [row for row in rows if row.get("runtime.powerState") == "poweredOn"]
        if on:
            raise errors.InvalidState(
                f"{len(on)} machines are powered on", hint="stop or move them first"
            )
        reboots = action is HostPowerAction.REBOOT
        task = (host.obj.RebootHost_Task if reboots else host.obj.ShutdownHost_Task)(forced)
        try:
            with changed():
                self.tasks.outcome(task)
        except _GONE as error:
            # the API's documentation: whoever is connected to the host itself sees no success of
            # the task, but the end of the connection
            if error.vendor_code not in {None, "ManagedObjectNotFound", "NotAuthenticated"}:
                raise
