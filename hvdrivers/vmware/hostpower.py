"""An ESXi host that is rebooted or shut down.

A vCenter is no host: it stays up when its hosts go down, and a cluster has several. So the driver
offers this for an ESXi host that it talks to directly.
"""

from __future__ import annotations

from hvdrivers.contract import errors
from hvdrivers.contract.maintenance import HostPower
from hvdrivers.driverkit import changed
from hvdrivers.models.host import HostPowerAction
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed

_GONE = (errors.ConnectionFailed, errors.OutcomeUnknown, errors.InstanceNotFound)


class VmwareHostPower(Topic, HostPower):
    """Host power."""

    @timed
    def host_power(self, action: HostPowerAction, *, timeout: float | None = None) -> None:
        """Budget: 2 reads, 1 call, and the reads of a task.

        The host refuses while it is not in maintenance, unless it is forced to: the driver looks
        itself that no machine is powered on, of ours or not, and forces it.
        """
        del timeout
        rows = self.machines.rows("runtime.powerState")
        on = [row for row in rows if row.get("runtime.powerState") == "poweredOn"]
        if on:
            raise errors.InvalidState(
                f"{len(on)} machines are powered on", hint="stop or move them first"
            )
        host = self.reader.one(self.places.get().compute, "host")["host"][0]
        reboots = action is HostPowerAction.REBOOT
        task = (host.RebootHost_Task if reboots else host.ShutdownHost_Task)(True)
        try:
            with changed():
                self.tasks.outcome(task)
        except _GONE as error:
            # the API's documentation: whoever is connected to the host itself sees no success of
            # the task, but the end of the connection
            if error.vendor_code not in {None, "ManagedObjectNotFound", "NotAuthenticated"}:
                raise
