"""Maintenance: of the host, or of every host of the cluster."""

from __future__ import annotations

from typing import Any

from hvdrivers.contract import errors
from hvdrivers.contract.maintenance import Maintenance
from hvdrivers.driverkit import Undo, undoing
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.reader import Row

_IN = "runtime.inMaintenanceMode"


class VmwareMaintenance(Topic, Maintenance):
    """Maintenance mode, in which a host takes no new machines."""

    @timed
    def enter_maintenance(self, *, timeout: float | None = None) -> None:
        """Budget: 3 reads, and a task for each host that is not in maintenance yet."""
        del timeout
        on = [row for row in self.machines.rows("runtime.powerState") if _is_on(row)]
        if on:
            raise errors.InvalidState(
                f"{len(on)} machines are powered on", hint="stop or move them first"
            )
        with undoing() as undo:
            for host in self._hosts():
                if not host.get(_IN):
                    self._enter(host.obj, undo)

    @timed
    def exit_maintenance(self, *, timeout: float | None = None) -> None:
        """Budget: 2 reads, and a task for each host that is in maintenance."""
        del timeout
        for host in self._hosts():
            if host.get(_IN):
                self._leave(host.obj)

    @timed
    def in_maintenance(self, *, timeout: float | None = None) -> bool:
        """Budget: 2 reads. A cluster is in maintenance if all of its hosts are."""
        del timeout
        hosts = self._hosts()
        return bool(hosts) and all(host.get(_IN) for host in hosts)

    def _hosts(self) -> list[Row]:
        hosts = self.reader.one(self.places.get().compute, "host").get("host") or []
        return self.reader.many(hosts, _IN)

    def _enter(self, host: Any, undo: Undo) -> None:
        """One task; 1 read more where another client was faster, whose host it is to leave then."""
        undo.callback(self._leave, host)
        try:
            self.tasks.run(lambda: host.EnterMaintenanceMode_Task(0, False, None), entity=host)
        except errors.HypervisorError as error:
            if error.vendor_code is None:
                raise
            undo.forget()  # the server has refused: if the host is in maintenance, by another
            refused = isinstance(error, (errors.InvalidState, errors.DeviceBusy))
            if not (refused and self.reader.one(host, _IN).get(_IN)):
                raise

    def _leave(self, host: Any) -> None:
        try:
            self.tasks.run(lambda: host.ExitMaintenanceMode_Task(0), entity=host)
        except errors.InvalidState:
            return  # it is in use again already


def _is_on(row: Row) -> bool:
    return bool(row.get("runtime.powerState") == "poweredOn")
