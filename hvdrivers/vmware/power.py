"""Power on vSphere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.power import Power, RebootKind, Suspend
from hvdrivers.driverkit import Deadline, undoing
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed, unbounded
from hvdrivers.vmware.devices import by_address, file_of, lun_of
from hvdrivers.vmware.encrypted_memory import refuse_encrypted
from hvdrivers.vmware.host_devices import refuse_with_devices
from hvdrivers.vmware.machines import VERSION, Machine
from hvdrivers.vmware.moved import DISCS
from hvdrivers.vmware.questions import PENDING
from hvdrivers.vmware.reader import filter_spec
from hvdrivers.vmware.record import DEVICES, devices_in, path_of
from hvdrivers.vmware.waiting import collector_of, news, wait_for

_TOOLS = "guest.toolsRunningStatus"
_RUNS = "guestToolsRunning"
_BEFORE = 0.1
"""Seconds before its deadline at which a soft reboot gives up: the error shall say why."""
_STARTING = (
    path_of(DEVICES),
    "config.hardware.device",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "network",
)


def _luns(found: Machine) -> list[str]:
    """Ids of the LUNs that a machine has, which was read with ``_STARTING``."""
    disks = by_address(found.row.get("config.hardware.device") or ()).values()
    return [uuid for uuid in map(lun_of, disks) if uuid is not None]


def _is_off(power: str) -> bool:
    return power == "poweredOff"


class VmwarePower(Topic, Power, Suspend):
    """On, off, reboot, suspend."""

    @timed
    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 2 reads, 1 more and 1 request for each volume if there are volumes or NICs, and
        the task. 1 read more with LUNs, and 1 for a member of an anti-affinity group."""
        del timeout
        found = self.machines.checked("power_on", uuid, *_STARTING)
        if found.state is InstanceState.RUNNING:
            return
        found = self.rescues.end(found)
        self._require_startable(found)
        with undoing() as undo:
            self._powered(found, lambda: self.power.on(found.obj), "poweredOn")
            if luns := _luns(found):  # nothing locks them: another may have got one meanwhile
                undo.callback(self.power.ensure_off, found.obj)
                self.luns.require_free(uuid, luns)

    def _require_startable(self, found: Machine) -> None:
        row = found.row
        surroundings = self.places.surroundings()
        flavor = Flavor.model_construct(
            vcpus=row.get("config.hardware.numCPU", 1),
            memory_mib=row.get("config.hardware.memoryMB", 0),
        )
        self.room.host_for(flavor, surroundings)
        self.groups.check_start(found, surroundings)
        devices = devices_in(row)
        hardware = row.get("config.hardware.device") or ()
        networks = {each.obj for each in surroundings.networks}
        for network in row.get("network") or ():
            if network not in networks:
                raise errors.NetworkNotFound(
                    "a network of the instance has gone",
                    hint="bring it back, or reconnect() the NIC to another one",
                )
        disks = by_address(hardware)
        for address in (*devices.own, *devices.volumes):
            if devices.own.get(address) in DISCS:
                self._require_disc(disks.get(address))
                continue
            path = file_of(disks[address]) if address in disks else None
            if path is None or not self.files.exists(path):
                raise errors.VolumeNotFound(
                    f"a disk of the instance ({address}) has gone",
                    hint="put its file back; or reconnect() or detach_volume() the volume",
                )
        self.usage.require_free(
            found.uuid,
            volumes=[each.held for each in devices.volumes.values() if not each.multiattach],
            shared=[each.held for each in devices.volumes.values() if each.multiattach],
            vifs=[each.id for each in devices.vifs.values()],
            macs=list(devices.vifs),
            luns=_luns(found),
        )

    def _require_disc(self, drive: Any) -> None:
        """A disc in a drive is there. A guest reads it at its first start; people may take it out
        later. One request."""
        path = file_of(drive) if drive is not None else None
        if path is not None and not self.files.exists(path):
            raise errors.VolumeNotFound(
                f"the seed disc {path} has gone",
                hint="put the file back, or take the disc out of the instance's CD drive",
            )

    def _powered(self, found: Machine, change: Callable[[], object], wanted: str) -> None:
        """Change the power; a machine that is there already is a success."""
        try:
            change()
        except errors.InvalidState as error:
            if error.vendor_code == PENDING or self.power.state(found.obj) != wanted:
                raise

    @timed
    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        """Budget: 1 read and the task; graceful: 1 call more and those of the wait. A machine that
        waits with a question is answered first: 4 calls more."""
        del timeout
        found = self.machines.checked("power_off", uuid, VERSION)
        if found.mark.restart or found.mark.building:
            # an interrupted operation wanted to start it, or spawn() has just started it and is
            # about to say so: not any more
            self.changes.mark(found, restart=False, building=False)
        if found.state is InstanceState.STOPPED:
            return
        if graceful and found.state is InstanceState.RUNNING and self._shut_down(found, graceful):
            return
        self.power.ensure_off(found.obj)

    def _shut_down(self, found: Machine, seconds: float) -> bool:
        """Ask the guest to shut down, and wait; False if it did not, or has no VMware Tools."""
        try:
            found.obj.ShutdownGuest()
        except (errors.GuestAgentUnavailable, errors.InvalidState, errors.NotSupported):
            return self.power.state(found.obj) == "poweredOff"
        limit = Deadline(min(seconds, max(0.0, current_deadline().left - 1.0)))
        return wait_for(self.reader, found.obj, "runtime.powerState", _is_off, limit)

    @timed
    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 read and the task. SOFT needs VMware Tools in the guest."""
        del timeout
        found = self.machines.checked("reboot", uuid, variant=kind)
        if kind is RebootKind.SOFT:
            self._reboot_guest(found)
            return
        self.tasks.run(found.obj.ResetVM_Task, entity=found.obj)

    def _reboot_guest(self, found: Machine) -> None:
        """Ask the guest, and wait until its VMware Tools have ended and begun again."""
        limit = Deadline(max(0.05, current_deadline().left - _BEFORE))
        spec = filter_spec([(vim.VirtualMachine, [_TOOLS])], [(found.obj, [])])
        with unbounded(), collector_of(self.session, spec) as collector:
            version = (news(collector, "", limit) or ("", {}))[0]
            try:
                found.obj.RebootGuest()
            except errors.GuestAgentUnavailable as error:
                error.hint = "install open-vm-tools in the guest, or reboot hard"
                raise
            gone_down = False
            while not limit.passed:
                told = news(collector, version, limit)
                if told is None:
                    told = version, dict(self.reader.one(found.obj, _TOOLS).values)
                version = told[0]
                runs = told[1].get(_TOOLS, _RUNS if not gone_down else None) == _RUNS
                if gone_down and runs:
                    return
                gone_down = gone_down or not runs
        if not gone_down:
            raise errors.DeviceBusy(
                "the guest did not go down within the deadline",
                hint="it runs on, and may still heed the request; reboot hard does not ask",
            )

    # ---- suspend --------------------------------------------------------------------------------

    @timed
    def suspend(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 read and the task."""
        del timeout
        found = self.machines.checked("suspend", uuid, "config.hardware.device")
        if found.state is not InstanceState.SUSPENDED:
            refuse_with_devices(found.row.get("config.hardware.device"), "suspends")
            refuse_encrypted(found.mark, "suspends")
            suspend = partial(self.tasks.run, found.obj.SuspendVM_Task, entity=found.obj)
            self._powered(found, suspend, "suspended")

    @timed
    def resume(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: as power_on()."""
        del timeout
        found = self.machines.checked("resume", uuid, *_STARTING)
        if found.state is not InstanceState.RUNNING:
            self._require_startable(found)
            self._powered(found, lambda: self.power.on(found.obj), "poweredOn")
