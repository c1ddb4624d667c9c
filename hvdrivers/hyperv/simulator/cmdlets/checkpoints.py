"""Checkpoints: a tree of configurations over a chain of differencing disks that merge."""

import copy
import ntpath
from itertools import pairwise
from uuid import UUID, uuid4

from hvdrivers.hyperv.simulator.cmdlets import views
from hvdrivers.hyperv.simulator.cmdlets.call import Call, has_wildcard, like
from hvdrivers.hyperv.simulator.cmdlets.machinefiles import remove_checkpoint, write_checkpoint
from hvdrivers.hyperv.simulator.cmdlets.power import turn_off
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import CmdletError, failed, invalid_state, missing
from hvdrivers.hyperv.simulator.state.devices import Config, HardDrive
from hvdrivers.hyperv.simulator.state.files import join
from hvdrivers.hyperv.simulator.state.host import HostState
from hvdrivers.hyperv.simulator.state.machine import Checkpoint, Machine


@cmdlet("Get-VMSnapshot")
def get_snapshots(call: Call) -> None:
    if call.has("ParentOf") or call.has("ChildOf"):
        _relatives(call)
        return
    wanted = {UUID(text) for text in call.texts("Id")}
    for machine in call.machines("VMName") if not wanted else list(call.host.machines.values()):
        points = list(machine.checkpoints.values())
        if wanted:
            points = [p for p in points if p.id in wanted]
        if call.has("Name"):
            patterns = call.texts("Name")
            for pattern in patterns:
                if not has_wildcard(pattern) and not any(like(p.name, pattern) for p in points):
                    call.error(missing(pattern))
            points = [p for p in points if any(like(p.name, pattern) for pattern in patterns)]
        if call.has("SnapshotType"):
            points = [p for p in points if p.kind == call.text("SnapshotType")]
        for point in points:
            call.write(views.checkpoint(machine, point))
    if wanted:
        known = {i for m in call.host.machines.values() for i in m.checkpoints}
        for identity in wanted - known:
            call.error(missing(identity))


def _relatives(call: Call) -> None:
    if call.has("ChildOf"):
        machine, point = call.checkpoint(call.things("ChildOf")[0])
        for child in machine.children(point.id):
            call.write(views.checkpoint(machine, child))
        return
    item = call.things("ParentOf")[0]
    if "VMSnapshot" in item["type"]:
        machine, point = call.checkpoint(item)
        parent = point.parent
    else:
        found = call.host.machines.get(UUID(item["Id"]))
        if found is None:
            raise missing(item.get("Name", item["Id"]))
        machine, parent = found, found.current_parent
    if parent is not None:
        call.write(views.checkpoint(machine, machine.checkpoints[parent]))


@cmdlet("Checkpoint-VM")
def checkpoint_vm(call: Call) -> None:
    for machine in call.machines("Name"):
        stamp = machine.created.strftime("(%m/%d/%Y - %H:%M:%S)")
        point = take(machine, call.text("SnapshotName", f"{machine.name} - {stamp}"))
        if call.flag("Passthru"):
            call.write(views.checkpoint(machine, point))


def take(machine: Machine, name: str) -> Checkpoint:
    """Make a checkpoint of a machine as it is now."""
    machine.require("Running", "Off", "Saved", "Paused")
    config, host = machine.config, machine.host
    kind = config.checkpoint_type
    if kind == "Disabled":
        raise failed("Checkpoints are disabled for this machine.", target=machine.name)
    if any(drive.disk_number is not None for drive in config.drives):
        raise failed("A machine with a physical disk cannot have checkpoints.", target=machine.name)
    if config.assigned:
        raise failed(
            "A machine with an assigned device cannot have checkpoints.", target=machine.name
        )
    vss = config.services["5CED1297-4598-4915-A5FC-AD21BB4D02A4"].enabled
    freezes = (
        vss
        and machine.state == "Running"
        and machine.guest is not None
        and machine.guest.heartbeat()
    )
    if kind == "ProductionOnly" and machine.on and not freezes:
        raise failed("A production checkpoint could not be created.", target=machine.name)
    memory = machine.saved if machine.state == "Saved" else None
    guest = None if freezes and kind.startswith("Production") else machine.guest
    machine.busy = "Checkpoint"
    try:
        host.pause(host.timing.checkpoint)
        if guest is not None and machine.state == "Running":
            guest.pause()
        point = Checkpoint(
            name, copy.deepcopy(config), parent=machine.current_parent, memory=memory
        )
        point.state = machine.state
        switch_layers(machine, [(drive, drive.path) for drive in config.drives if drive.path])
        if guest is not None:
            point.memory = guest.remember()
        machine.checkpoints[point.id] = point
        machine.current_parent = point.id
        write_checkpoint(machine, point)
    finally:
        if guest is not None and machine.guest is guest and machine.state == "Running":
            guest.resume()
        machine.busy = None
    host.world.notify()
    return point


def switch_layers(machine: Machine, drives: "list[tuple[HardDrive, str]]") -> None:
    """Put a fresh differencing disk over each path; a running guest goes on writing there."""
    host = machine.host
    made: list[str] = []
    try:
        for drive, below in drives:
            drive.path = _layer_name(below)
            host.disks.differencing(drive.path, below)
            made.append(drive.path)
        layered = getattr(machine.guest, "layered", None)
        if layered is not None:
            layered({below: drive.path for drive, below in drives})
    except BaseException:
        for drive, below in drives:
            drive.path = below
        for path in made:
            host.files.file(path).unlink(missing_ok=True)
        raise


def _layer_name(path: str) -> str:
    folder, name = ntpath.split(path)
    stem, suffix = ntpath.splitext(name)
    root, _, tail = stem.rpartition("_")
    if len(tail) == 36 and tail.count("-") == 4:
        stem = root
    new = ".avhd" if suffix.lower() in (".vhd", ".avhd") else ".avhdx"
    return join(folder, f"{stem}_{str(uuid4()).upper()}{new}")


def chosen_checkpoints(call: Call) -> list[tuple[Machine, Checkpoint]]:
    """The checkpoints that a call means; each that is missing is an error of its own."""
    found: list[tuple[Machine, Checkpoint]] = []
    for key in ("VMSnapshot", "InputObject"):
        for item in call.things(key):
            try:
                found.append(call.checkpoint(item))
            except CmdletError as error:
                call.error(error)
    if found or call.has("VMSnapshot"):
        return found
    for machine in call.machines("VMName"):
        points = list(machine.checkpoints.values())
        for pattern in call.texts("Name") or ["*"]:
            match = [(machine, p) for p in points if like(p.name, pattern)]
            if not match and not has_wildcard(pattern):
                call.error(missing(pattern))
            found.extend(match)
    return found


@cmdlet("Rename-VMSnapshot")
def rename_snapshot(call: Call) -> None:
    for machine, point in chosen_checkpoints(call):
        point.name = call.text("NewName")
        if call.flag("Passthru"):
            call.write(views.checkpoint(machine, point))


@cmdlet("Restore-VMSnapshot")
def restore_snapshot(call: Call) -> None:
    for machine, point in chosen_checkpoints(call)[:1]:
        restore(machine, point)
        if call.flag("Passthru"):
            call.write(views.checkpoint(machine, point))


def restore(machine: Machine, point: Checkpoint) -> None:
    """Bring configuration and disks of a checkpoint back; name and notes come with it."""
    host = machine.host
    if machine.busy or machine.merging:
        raise invalid_state(machine.name)
    if machine.on:
        turn_off(machine)
    machine.busy = "Restore"
    try:
        host.pause(host.timing.restore)
        old = {drive.path for drive in machine.config.drives if drive.path}
        config = copy.deepcopy(point.config)
        machine.config = config
        switch_layers(machine, [(drive, drive.path) for drive in config.drives if drive.path])
        kept = set()
        for each in machine.checkpoints.values():
            kept |= {drive.path for drive in each.config.drives}
        for path in old - kept:
            if path.lower().endswith((".avhdx", ".avhd")):
                host.files.file(path).unlink(missing_ok=True)
                host.disks.forget(path)
        machine.current_parent = point.id
        saved, machine.saved = machine.saved, point.memory
        machine.forget_memory(saved)
        machine.set_state("Saved" if point.memory is not None else "Off")
    finally:
        machine.busy = None


@cmdlet("Remove-VMSnapshot")
def remove_snapshot(call: Call) -> None:
    for machine, point in chosen_checkpoints(call):
        if point.id not in machine.checkpoints:
            continue
        if machine.busy:
            raise invalid_state(machine.name)
        doomed = [point]
        if call.flag("IncludeAllChildSnapshots"):
            queue = [point]
            while queue:
                children = machine.children(queue.pop().id)
                doomed.extend(children)
                queue.extend(children)
        for each in reversed(doomed):
            remove(machine, each)
        if call.flag("Passthru"):
            call.write(views.checkpoint(machine, point))


def remove(machine: Machine, point: Checkpoint) -> None:
    """Drop a checkpoint from the tree at once; its disks merge after the host's merge time."""
    host = machine.host
    remove_checkpoint(machine, point)
    del machine.checkpoints[point.id]
    machine.forget_memory(point.memory)
    for child in machine.checkpoints.values():
        if child.parent == point.id:
            child.parent = point.parent
    if machine.current_parent == point.id:
        machine.current_parent = point.parent
    layers = [drive.path for drive in point.config.drives if drive.path]
    if not layers:
        return
    machine.merging += 1

    def work() -> None:
        try:
            # a layer that two branches lie on merges once one of them is gone
            waiting = [*layers, *machine.unmerged]
            machine.unmerged = []
            while waiting:
                left = [layer for layer in waiting if not merge_layer(machine, layer)]
                if len(left) == len(waiting):
                    machine.unmerged = left
                    break
                waiting = left
        finally:
            machine.merging -= 1
            host.record("merged", machine)
            host.world.notify()

    host.world.after(host.timing.merge, work)


def _holders(machine: Machine) -> list[Config]:
    return [machine.config, *(point.config for point in machine.checkpoints.values())]


def merge_layer(machine: Machine, layer: str) -> bool:
    """Give up one disk file of a removed checkpoint: merge its only child into it, or delete it.
    False: several disks lie on it, so that it must wait."""
    host = machine.host
    used = {drive.path for config in _holders(machine) for drive in config.drives if drive.path}
    if any(host.files.same(layer, path) for path in used):
        return True
    if not host.files.file(layer).is_file():
        return True
    children = _layers_above(machine, host, layer)
    if not children:
        if layer.lower().endswith((".avhdx", ".avhd")):
            host.files.file(layer).unlink()
            host.disks.forget(layer)
        return True
    if len(children) > 1:
        return False
    child = children[0]
    committed = getattr(machine.guest, "committed", None)
    running = any(d.path and host.files.same(d.path, child) for d in machine.config.drives)
    if committed is not None and running:
        committed(child, layer)
        host.files.file(child).unlink(missing_ok=True)
        host.disks.forget(child)
    else:
        host.disks.merge(child, layer)
    for config in _holders(machine):
        for drive in config.drives:
            if drive.path and host.files.same(drive.path, child):
                drive.path = layer
    for above in _all_layers(machine, host):
        if host.files.same(host.disks.look(above).parent or "", child):
            host.disks.rebase(above, layer)
    return True


def _all_layers(machine: Machine, host: HostState) -> list[str]:
    return [path for path in machine.disk_paths() if host.files.file(path).is_file()]


def _layers_above(machine: Machine, host: HostState, layer: str) -> list[str]:
    """Layers of this machine that lie directly on a file."""
    seen: dict[str, str] = {}
    for top in _all_layers(machine, host):
        chain = host.disks.chain(top)
        for child, parent in pairwise(chain):
            if host.files.same(parent, layer):
                seen[child.lower()] = child
    return list(seen.values())


def drop_all_checkpoints(machine: Machine) -> None:
    """A machine that is removed loses its checkpoints; its disks merge into what it had first."""
    for point in list(machine.checkpoints.values()):
        remove(machine, point)
