"""Snapshots as a tree.

Attached volumes are independent disks, so a snapshot leaves them out. A disk that somebody has
attached by hand mostly is not: no snapshot is made with it, and none that has it is reverted. A
revert on vSphere brings the whole configuration back: size, devices, and our own values in the
extraConfig. The contract keeps those as they are now, so the driver puts back what has changed
since. What it will put back lies in a file of the instance's folder meanwhile: after a process that
died between the two a repeated revert finds it there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from pyVmomi import SoapAdapter, vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.snapshots import Snapshots
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.hints import CALL_AGAIN, NO_MEMORY, OTHER_HARDWARE, SNAPSHOTS, TAKEN_SNAPSHOT
from hvdrivers.models.instance import Flavor
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.claim import HOME
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.devices import base_file_of, by_address
from hvdrivers.vmware.differences import (
    WATCHED,
    changed_since,
    own_in,
    reverted,
    same_hardware,
    shuffled,
)
from hvdrivers.vmware.encrypted_memory import refuse_encrypted
from hvdrivers.vmware.host_devices import refuse_with_devices, refuse_with_functions
from hvdrivers.vmware.machines import VERSION, Machine
from hvdrivers.vmware.reader import Row
from hvdrivers.vmware.record import DEVICES, devices_in, path_of
from hvdrivers.vmware.snapshot_tree import SNAPSHOT, Node, nodes

_LIMIT = 80
_NOTE = "revert.xml"


class VmwareSnapshots(Topic, Snapshots):
    """Snapshots."""

    @provides(Capability.SNAPSHOT_MEMORY)
    @timed
    def create_snapshot(
        self, uuid: UUID, name: str, *, memory: bool = False, timeout: float | None = None
    ) -> Snapshot:
        """Budget: 2 reads and the task; 1 task more where another client has made one of the name
        at the same moment; of a machine that went off while it was rescued 3 reads and 2
        reconfigurations more."""
        del timeout
        found = self.machines.checked(
            "create_snapshot", uuid, SNAPSHOT, path_of(DEVICES), "config.hardware.device"
        )
        if any(each.snapshot.name == name for each in nodes(found.row)):
            raise errors.InvalidRequest(
                "the instance has a snapshot of this name", hint=TAKEN_SNAPSHOT
            )
        refuse_with_devices(found.row.get("config.hardware.device"), "makes snapshots of")
        if memory:
            refuse_encrypted(found.mark, "keeps the memory of")
        if memory and found.state is InstanceState.STOPPED:
            raise errors.InvalidRequest("a stopped machine has no memory to keep", hint=NO_MEMORY)
        found = self.rescues.over(found)
        devices = devices_in(found.row)
        if strange := _others_frozen(found.row, devices.sure):
            raise _holds_others(f"the snapshot would keep the data of {min(strange)} too")
        if memory and devices.volumes:
            raise errors.InvalidRequest(
                "vSphere keeps no memory while volumes are attached, which it leaves out",
                hint="detach them first, or make the snapshot without memory",
            )
        note = json.dumps({"hvdrivers": 1, "name": name, "memory": memory})
        made = self.tasks.run(
            lambda: found.obj.CreateSnapshot_Task(_short(name), note, memory, False),
            entity=found.obj,
        )
        row = self.reader.one(found.obj, SNAPSHOT)
        tree = list(nodes(row))
        for each in tree:
            if each.obj == made:
                self._refuse_second(found.obj, each, tree)
                return each.snapshot
        raise errors.OutcomeUnknown("the snapshot that was made is not there any more")

    @contextmanager
    def _unless_deleted(self, uuid: UUID, snapshot_id: str) -> Iterator[None]:
        """Stands around calls of a snapshot that another client may delete. 1 read where it has."""
        try:
            yield
        except (errors.InstanceNotFound, errors.HypervisorFault) as error:
            gone = error.vendor_code == "ManagedObjectNotFound"
            if not gone and not isinstance(error, errors.InstanceNotFound):
                raise
            if _node(self.machines.get(uuid, SNAPSHOT), snapshot_id) is not None:
                raise
            raise errors.VolumeNotFound(
                "another client has deleted the snapshot", hint=SNAPSHOTS
            ) from error

    def _refuse_second(self, machine: Any, mine: Node, tree: Sequence[Node]) -> None:
        """Remove a snapshot again whose name another client has taken since the check: vSphere
        allows two of a name, and numbers them in the order in which it makes them."""
        name, number = mine.snapshot.name, int(mine.snapshot.id)
        if any(each.snapshot.name == name and int(each.snapshot.id) < number for each in tree):
            with changed():
                self.tasks.run(lambda: mine.obj.RemoveSnapshot_Task(False, True), entity=machine)
            raise errors.InvalidRequest(
                "another client has just made a snapshot of this name", hint=TAKEN_SNAPSHOT
            )

    @timed
    def list_snapshots(self, uuid: UUID, *, timeout: float | None = None) -> Sequence[Snapshot]:
        """Budget: as get_instance()."""
        del timeout
        return [each.snapshot for each in nodes(self.machines.get(uuid, SNAPSHOT).row)]

    @timed
    @rereading
    def revert_snapshot(
        self, uuid: UUID, snapshot_id: str, *, timeout: float | None = None
    ) -> None:
        """Budget: 3 reads, 1 request and the task; with memory 1 read more; if size,
        devices or metadata have changed since, 1 reconfiguration and 2 requests more, and of an
        adopted machine 1 call; of a machine
        that went off while it was rescued 3 reads and 2 reconfigurations more."""
        del timeout
        found = self.machines.checked("revert_snapshot", uuid, SNAPSHOT, VERSION, HOME, *WATCHED)
        refuse_with_functions(found.row.get("config.hardware.device"), "reverts")
        node = _node(found, snapshot_id)
        if node is None:
            raise errors.VolumeNotFound("the instance has no such snapshot", hint=SNAPSHOTS)
        found = self.rescues.over(found)
        with self._unless_deleted(uuid, snapshot_id):
            then = self.reader.one(node.obj, *WATCHED)
        # of a snapshot that somebody made by hand; a disk that came later stays as it is
        own = own_in(found.row)
        if strange := _others_frozen(found.row, own) & _others_frozen(then, own):
            raise _holds_others(f"the data of {min(strange)} would come back too")
        if shuffled(found.row):
            raise errors.InvalidRequest(
                "somebody has moved a disk of the instance to another controller or unit",
                hint="move it back: the snapshot has it where it was",
            )
        memory = node.snapshot.with_memory
        if memory:
            self.room.host_for(self._size_of(found), self.places.surroundings())
        note = f"{self.folders.instance(uuid)}/{_NOTE}"
        begun = self.files.read(note)
        wanted = _begun(begun, found, node, then) if begun is not None else None
        if wanted is None:
            if memory and not same_hardware(found.row, then):
                raise errors.InvalidRequest(
                    "its flavor or devices are others than those of the snapshot's memory",
                    hint=OTHER_HARDWARE,
                )
            wanted = changed_since(found.row, then)
        with undoing() as undo:
            if wanted is not None:
                self.claims.home_of_adopted(found, undo)
                undo.callback(self.claims.forsake, uuid, _NOTE)
                text = _written(wanted, node)
                self.files.upload(note, text, len(text))
            self._require_unchanged(found)
            with self._unless_deleted(uuid, snapshot_id):
                self.tasks.run(
                    lambda: node.obj.RevertToSnapshot_Task(None, not memory), entity=found.obj
                )
        if wanted is not None:
            self.changes.reconfigure(found.obj, wanted)
        if wanted is not None or begun is not None:
            self.files.delete(note)

    def _require_unchanged(self, found: Machine) -> None:
        """Look once more before what cannot be taken back: a revert goes to the snapshot's devices,
        also from those that another client has attached since the first look. 1 call."""
        now = self.reader.one(found.obj, VERSION).get(VERSION)
        if now != found.row.get(VERSION):
            raise errors.DeviceBusy(
                "another client has changed the machine",
                vendor_code="ConcurrentAccess",
                hint=CALL_AGAIN,
            )

    @staticmethod
    def _size_of(found: Machine) -> Flavor:
        return Flavor.model_construct(
            vcpus=found.row.get("config.hardware.numCPU", 1),
            memory_mib=found.row.get("config.hardware.memoryMB", 0),
        )

    @timed
    def delete_snapshot(
        self,
        uuid: UUID,
        snapshot_id: str,
        *,
        children: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Budget: 1 read and the task."""
        del timeout
        found = self.machines.checked("delete_snapshot", uuid, SNAPSHOT)
        node = _node(found, snapshot_id)
        if node is None:
            return
        try:
            self.tasks.run(lambda: node.obj.RemoveSnapshot_Task(children, True), entity=found.obj)
        except errors.HypervisorFault as error:
            if error.vendor_code != "ManagedObjectNotFound":
                raise


def _node(found: Machine, snapshot_id: str) -> Node | None:
    return next((each for each in nodes(found.row) if each.snapshot.id == snapshot_id), None)


def _others_frozen(row: Row, own: Collection[str]) -> frozenset[str]:
    """The files of disks that are not the machine's own and that snapshots are about. The driver
    attaches only independent disks, so somebody has attached these, or has changed their mode.

    Args:
        own: the addresses of its own ones.
    """
    return frozenset(
        base_file_of(disk) or address
        for address, disk in by_address(row.get("config.hardware.device") or ()).items()
        if isinstance(disk, vim.vm.device.VirtualDisk)
        and address not in own
        and not str(getattr(disk.backing, "diskMode", "")).startswith("independent")
    )


def _holds_others(message: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(
        message,
        hint="somebody has attached this disk; detach it, or make it an independent one",
    )


def _short(name: str) -> str:
    """For people who look at the server; the name itself is in the description."""
    return "".join("_" if char in "/\\%" else char for char in name)[:_LIMIT]


def _written(wanted: Any, node: Node) -> bytes:
    text: bytes = SoapAdapter.Serialize(wanted)
    return node.snapshot.id.encode() + b"\n" + text


def _begun(text: bytes, found: Machine, node: Node, then: Row) -> Any:
    """What a revert that was interrupted had to put back; None if it had not begun."""
    name, _, spec = text.partition(b"\n")
    if name != node.snapshot.id.encode() or not reverted(found.row, then):
        return None
    return SoapAdapter.Deserialize(spec, vim.vm.ConfigSpec)
