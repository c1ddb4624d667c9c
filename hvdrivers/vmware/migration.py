"""Migration on vCenter: to another host, with the guest running (vMotion) or stopped.

A destination is another cluster or host of the same vCenter, or a host of this cluster. The files
stay where they are, on a datastore that both reach; ``Destination.storage`` names another one for
the disks. What a migration is doing is read from the server's list of recent tasks, so any
connection can see it and end it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pyVmomi import vim, vmodl

from hvdrivers.contract import errors
from hvdrivers.contract.migration import ColdMigration, LiveMigration, LiveMigrationAbort
from hvdrivers.driverkit import changed
from hvdrivers.hints import MEND_MOVE
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import (
    Blocker,
    BlockerKind,
    Destination,
    MigrationPhase,
    MigrationPlan,
    MigrationProgress,
)
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.models.vif import is_port_id
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.devices import by_address, by_mac, capacity_of, file_of
from hvdrivers.vmware.host_devices import cards_with_functions
from hvdrivers.vmware.machines import STATE, VERSION, Machine, uuid_in
from hvdrivers.vmware.names import split_path
from hvdrivers.vmware.place import Places, Surroundings
from hvdrivers.vmware.reader import IN_POOL, Row
from hvdrivers.vmware.record import DEVICES, devices_in, mark_in, option, path_of
from hvdrivers.vmware.rewiring import Rewiring, rewiring
from hvdrivers.vmware.specs import Plan, wants_function
from hvdrivers.vmware.wiring import backings_of

_PATHS = (
    path_of(DEVICES),
    "config.hardware.device",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.files.vmPathName",
    "network",
    "runtime.host",
    VERSION,
)
_HOSTS_OWN = (vim.vm.device.VirtualPCIPassthrough,)


@dataclass(frozen=True)
class _There:
    """A destination that was found."""

    places: Places
    around: Surroundings
    host: Any
    """The host, if the destination names one or no cluster chooses; None: the cluster chooses."""


class VmwareMigration(Topic, LiveMigration, LiveMigrationAbort, ColdMigration):
    """vMotion and cold migration."""

    @timed
    def check_live_migration(
        self, uuid: UUID, destination: Destination, *, timeout: float | None = None
    ) -> MigrationPlan:
        """Budget: 2 reads, 5 if it is to leave the cluster. 1 more if it has LUNs, and 1 if it is
        in a server group."""
        del timeout
        found = self.machines.checked("check_live_migration", uuid, *_PATHS)
        _, blockers = self._blockers(found, destination, running=True)
        return MigrationPlan(
            destination=destination,
            copy_storage=destination.storage is not None,
            blockers=tuple(blockers),
        )

    @timed
    @rereading
    def live_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: 2 reads and the task, 5 reads if it leaves the cluster; 1 read more if it has
        LUNs, 1 reconfiguration if disks or NICs change. 1 read for a member of a server group, and
        2 to another cluster, 3 more for each rule that changes."""
        del timeout
        found = self.machines.checked("live_migrate", uuid, *_PATHS)
        self._move(found, destination, progress, running=True)

    @timed
    @rereading
    def cold_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: 2 reads and the task, 5 reads if it leaves the cluster; 1 read more if it has
        LUNs, 1 reconfiguration if disks or NICs change. 1 read for a member of a server group, and
        2 to another cluster, 3 more for each rule that changes."""
        del timeout
        found = self.machines.checked("cold_migrate", uuid, *_PATHS)
        self._move(found, destination, progress, running=False)

    @timed
    def migration_progress(self, uuid: UUID, *, timeout: float | None = None) -> MigrationProgress:
        """Budget: 3 reads."""
        del timeout
        found = self.machines.get(uuid)
        phase, percent = MigrationPhase.NONE, None
        for row in self.moves.of(found.obj):
            state = row.get("info.state")
            if state in {"queued", "running"}:
                percent = row.get("info.progress") or 0
                return MigrationProgress(phase=MigrationPhase.COPYING, percent=percent)
            if state == "success":
                phase = MigrationPhase.COMPLETED
            elif isinstance(row.get("info.error"), vmodl.fault.RequestCanceled):
                phase = MigrationPhase.ABORTED
            else:
                phase = MigrationPhase.FAILED
        return MigrationProgress(phase=phase, percent=percent)

    @timed
    def abort_migration(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 3 reads, and 1 call if a migration runs."""
        del timeout
        self.moves.end(self.machines.checked("abort_migration", uuid).obj)

    # ---- the move -------------------------------------------------------------------------------

    def _move(
        self,
        found: Machine,
        destination: Destination,
        progress: ProgressCallback | None,
        *,
        running: bool,
    ) -> None:
        there, blockers = self._blockers(found, destination, running=running)
        if there is None or blockers:
            raise errors.InvalidRequest(
                "the instance cannot move: " + "; ".join(each.reason for each in blockers),
                hint=next((each.hint for each in blockers if each.hint), MEND_MOVE),
            )
        place = there.places.get()
        spec = vim.vm.RelocateSpec(host=there.host)
        if place.compute != self.places.get().compute:
            spec.pool = place.pool
        if destination.storage is not None:
            store = there.around.datastores[destination.storage]
            spec.disk = [
                vim.vm.RelocateSpec.DiskLocator(diskId=disk.key, datastore=store.obj)
                for disk in _own_disks(found)
            ]
        if destination.storage is not None:
            self.changes.remember_disks(found)
        devices = devices_in(found.row)
        wired = self._wired(found, destination, there)
        spec.deviceChange = [*wired.removed, *wired.changed]
        if progress is not None:
            progress(Progress(phase=Phase.COPY, done=0, total=100, unit="percent"))
        self.tasks.run(
            lambda: found.obj.RelocateVM_Task(spec, None), entity=found.obj, progress=progress
        )
        group = found.mark.server_group
        if group is not None and place.compute != self.places.get().compute:
            with changed():
                self.groups.settle(group, without=found.uuid)
                self.groups.settle(group, places=there.places)
        if wired.vifs != devices.vifs:
            with changed():  # of a NIC of another kind only what it is called
                after = devices.model_copy(update={"vifs": wired.vifs})
                extra = [option(DEVICES, after)]
                self.changes.reconfigure(found.obj, vim.vm.ConfigSpec(extraConfig=extra))

    def _wired(self, found: Machine, destination: Destination, there: _There) -> Rewiring:
        hardware = found.row.get("config.hardware.device") or ()
        plan = Plan(self.room.slots(hardware))
        backings = backings_of(destination.vifs, there.around)
        return rewiring(devices_in(found.row), hardware, destination.vifs, backings, plan)

    def _networks(
        self, found: Machine, destination: Destination, there: _There
    ) -> Iterator[Blocker]:
        """Networks that the machine's NICs have, or shall have, and the destination has not."""
        cards = list(by_mac(found.row.get("config.hardware.device") or ()).values())
        now = {card.key: _network_of(card) for card in cards}
        try:
            wired = self._wired(found, destination, there).cards
        except errors.NetworkNotFound as error:
            yield Blocker(kind=BlockerKind.NETWORK, reason=error.message)
            return
        left = {now[key] for key in now if key in wired}
        left -= {now[key] for key in now if key not in wired}
        reached = {row.obj for row in there.around.networks}
        for network in found.row.get("network") or ():
            if network not in reached and network._moId not in left:
                reason = f"the destination has not the network {network._moId}"
                yield Blocker(
                    kind=BlockerKind.NETWORK,
                    reason=reason,
                    hint="name another one for the NIC with Destination.vifs",
                )

    def _blockers(
        self, found: Machine, destination: Destination, *, running: bool
    ) -> tuple[_There | None, list[Blocker]]:
        if destination.volumes:
            raise errors.NotSupported(
                "a machine moves with its volumes as they are",
                hint="reconnect() them when it is there",
            )
        if any(map(wants_function, destination.vifs)):
            raise errors.NotSupported(
                "a NIC gets a virtual function on the host that the machine is on",
                hint="reconnect() it when it is there",
            )
        there = self._found(destination.host)
        if there is None:
            reason = f"vCenter has no host or cluster {destination.host!r} that is connected"
            return None, [Blocker(kind=BlockerKind.CONNECTION, reason=reason)]
        now = found.row.get("runtime.host")
        hosts = [row.obj for row in there.around.hosts]
        if now == there.host or (there.places is not self.places and now in hosts):
            reason = "the instance is there already"
            return there, [Blocker(kind=BlockerKind.STATE, reason=reason)]
        return there, [
            *self._room(found, there),
            *_storage(found, destination, there),
            *self._luns_absent(found, there),
            *self._networks(found, destination, there),
            *_devices(found, destination),
            *self.groups.blockers(found, there.places, there.around, there.host, running=running),
            *(self._rivals(found, there) if running else ()),
            *(_encrypted(found) if running else ()),
        ]

    def _luns_absent(self, found: Machine, there: _There) -> Iterator[Blocker]:
        disks = by_address(found.row.get("config.hardware.device") or ()).values()
        hosts = [there.host] if there.host is not None else [h.obj for h in there.around.hosts]
        for name in self.luns.lacking(disks, hosts):
            yield Blocker(
                kind=BlockerKind.STORAGE,
                reason=f"the host {name} does not see a LUN that the machine has",
                hint="export it to that host, and let the host look for it",
            )

    def _found(self, name: str) -> _There | None:
        """The destination; None if it is not there or not connected."""
        around = self.places.surroundings()
        for row in around.hosts:
            if row["name"] == name and self.places.get().is_cluster:
                mine = Surroundings(
                    hosts=(row,),
                    datastores=around.datastores,
                    networks=around.networks,
                    switches=around.switches,
                    drs=False,
                )
                return _There(self.places, mine, row.obj) if _connected(row) else None
        if name == self.places.get().compute_name:
            return _There(self.places, around, around.hosts[0].obj)
        config = self.config.model_copy(
            update={"compute": name, "datastore": None, "resource_pool": None}
        )
        places = Places(self.session, self.reader, config, any_datastore=True)
        try:
            around = places.surroundings()
        except errors.InvalidRequest:
            return None
        usable = [row for row in around.hosts if _connected(row)]
        if not usable:
            return None
        fitting = [row for row in usable if not row.get("runtime.inMaintenanceMode")]
        return _There(places, around, None if around.drs else (fitting or usable)[0].obj)

    def _room(self, found: Machine, there: _There) -> Iterator[Blocker]:
        flavor = Flavor.model_construct(
            vcpus=found.row.get("config.hardware.numCPU", 1),
            memory_mib=found.row.get("config.hardware.memoryMB", 0),
        )
        try:
            self.room.host_for(flavor, there.around)
        except errors.InsufficientResources as error:
            yield Blocker(kind=BlockerKind.RESOURCES, reason=error.message, hint=error.hint)

    def _rivals(self, found: Machine, there: _There) -> Iterator[Blocker]:
        """Ports that a powered-on machine has there. One read."""
        if there.places is self.places:
            return
        vifs = devices_in(found.row).vifs
        ids = {each.id for each in vifs.values() if is_port_id(each.id)}
        rows = self.reader.below(
            there.places.get().root_pool, IN_POOL, vim.VirtualMachine, *STATE, path_of(DEVICES)
        )
        for row in rows:
            if mark_in(row, uuid_in(row)) is None or row.get("runtime.powerState") != "poweredOn":
                continue
            for mac, vif in devices_in(row).vifs.items():
                if vif.id in ids or mac in vifs:
                    yield Blocker(
                        kind=BlockerKind.NETWORK,
                        reason=f"a powered-on machine there ({uuid_in(row)}) has the port {vif.id}",
                        device=vif.id,
                    )


def _connected(row: Row) -> bool:
    return bool(row.get("runtime.connectionState") == "connected")


def _own_disks(found: Machine) -> list[Any]:
    disks = by_address(found.row.get("config.hardware.device") or ())
    own = [disks[each] for each in devices_in(found.row).sure if each in disks]
    return [each for each in own if isinstance(each, vim.vm.device.VirtualDisk)]


def _storage(found: Machine, destination: Destination, there: _There) -> Iterator[Blocker]:
    own = _own_disks(found)
    needed = [found.row.get("config.files.vmPathName")]
    for disk in by_address(found.row.get("config.hardware.device") or ()).values():
        if destination.storage is None or disk not in own:
            needed.append(file_of(disk))
    stores = {split_path(path)[0] for path in needed if path}
    for name in sorted(stores - there.around.datastores.keys()):
        yield Blocker(
            kind=BlockerKind.STORAGE,
            reason=f"the destination does not reach the datastore {name!r}",
            hint="share the datastore between both, or move the disks with storage=",
        )
    if destination.storage is None:
        return
    store = there.around.datastores.get(destination.storage)
    if store is None:
        reason = f"the destination has no datastore {destination.storage!r}"
        yield Blocker(kind=BlockerKind.STORAGE, reason=reason)
    elif sum(map(capacity_of, own)) > int(store.get("summary.freeSpace") or 0):
        reason = f"the datastore {destination.storage!r} has no room for the disks"
        yield Blocker(kind=BlockerKind.STORAGE, reason=reason)


def _network_of(card: Any) -> str | None:
    """The id of the network of a NIC; that of a distributed port group is its key."""
    network = getattr(card.backing, "network", None)
    port = getattr(card.backing, "port", None)
    if network is not None:
        return str(network._moId)
    return str(port.portgroupKey) if port is not None else None


def _encrypted(found: Machine) -> Iterator[Blocker]:
    if found.mark.sev:
        reason = "vSphere moves no running machine whose memory is encrypted (SEV)"
        yield Blocker(kind=BlockerKind.DEVICE, reason=reason, hint="stop it, and move it then")


def _devices(found: Machine, destination: Destination) -> Iterator[Blocker]:
    vifs = devices_in(found.row).vifs
    plain = {each.id for each in destination.vifs}
    for mac, card in by_mac(found.row.get("config.hardware.device") or ()).items():
        record = vifs.get(mac)
        name = None if record is None else record.id
        if cards_with_functions([card]) and name not in plain:
            yield Blocker(
                kind=BlockerKind.DEVICE,
                reason="a NIC of the machine has a virtual function of its host's adapter",
                device=name,
                hint="move it stopped, with the NIC without sriov in Destination.vifs",
            )
    for device in found.row.get("config.hardware.device") or ():
        if isinstance(device, _HOSTS_OWN):
            label = device.deviceInfo.label if device.deviceInfo is not None else "PCI device"
            yield Blocker(
                kind=BlockerKind.DEVICE,
                reason=f"the machine has a device of its host ({label})",
                device=label,
            )
