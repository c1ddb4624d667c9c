"""Move-VM between hosts that know each other, and Move-VMStorage."""

import shutil

from hvdrivers.hyperv.simulator.cmdlets import views
from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.compatibility import write_report
from hvdrivers.hyperv.simulator.cmdlets.machinefiles import remove_files, write_files
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import (
    E_ACCESS_DENIED,
    E_CANCELLED,
    CmdletError,
    failed,
    file_error,
    invalid_parameter,
    invalid_state,
)
from hvdrivers.hyperv.simulator.state.files import folder_of, join, name_of, normal
from hvdrivers.hyperv.simulator.state.host import HostState, MigrationJob
from hvdrivers.hyperv.simulator.state.machine import Machine


def _destination(call: Call) -> HostState:
    name = call.text("DestinationHost")
    other = call.host.peers.get(name.lower())
    if other is None:
        raise failed(f"The computer '{name}' could not be found.", target=name)
    kerberos = call.host.settings.migration_authentication == "Kerberos"
    if not (call.host.delegation or kerberos):
        # A network logon has no credentials for a second host.
        raise CmdletError(
            "OperationFailed",
            "NotSpecified",
            "access-denied",
            hresult=E_ACCESS_DENIED,
            target=name,
            why="No credentials are available in the security package.",
        )
    return other


Reason = tuple[str, int, str, str]
"""What speaks against a move: a text, the id of the message where Microsoft documents one, else 0,
the class of the part of the machine that it is about, and that part's file, or a NIC's name."""
SWITCH_MISSING = 33012
_SLICE = 0.05


def _blockers(call: Call, machine: Machine, other: HostState) -> list[Reason]:
    config, source = machine.config, call.host
    reasons: list[Reason] = []
    if other is source:
        reasons.append(("The machine is on this host already.", 0, "VirtualMachine", ""))
    for host in (source, other):
        if not host.settings.migration:
            reasons.append((f"Migration is not enabled on '{host.name}'.", 0, "VirtualMachine", ""))
    if config.processor.count > other.hardware.processors:
        reasons.append(("The destination has too few processors.", 0, "VMProcessor", ""))
    if machine.on and config.memory.startup > other.free_memory():
        reasons.append(("The destination has not enough memory.", 0, "VMMemory", ""))
    same = source.hardware.processor_name == other.hardware.processor_name
    if machine.on and not same and not config.processor.migration_compatible:
        text = "The processors of the hosts are not compatible."
        reasons.append((text, 0, "VMProcessor", ""))
    if machine.id in other.machines and other is not source:
        reasons.append(("A machine with this id exists already.", 0, "VirtualMachine", ""))
    return reasons + _device_blockers(call, machine, other)


def _device_blockers(call: Call, machine: Machine, other: HostState) -> list[Reason]:
    config, source = machine.config, call.host
    reasons: list[Reason] = []
    names = {switch.name for switch in other.switches.values()}
    for nic in config.adapters:
        switch = source.switches.get(nic.switch) if nic.switch else None
        if switch is not None and switch.name not in names:
            text = f"Could not find Ethernet switch '{switch.name}'."
            reasons.append((text, SWITCH_MISSING, "VMNetworkAdapter", nic.name))
    if config.assigned or config.gpus:
        reasons.append(("The machine has an assigned device.", 0, "VMAssignedDevice", ""))
    if config.tpm and not other.guardian_trust:
        text = "The key protector could not be unwrapped on the destination."
        reasons.append((text, 0, "VMSecurity", ""))
    if any(drive.disk_number is not None for drive in config.drives):
        reasons.append(("The machine has a physical disk.", 0, "HardDiskDrive", ""))
    moves = _plan(call, machine, "C:\\") if _with_storage(call) else {}
    needed = {disk for top in machine.disk_paths() for disk in source.disks.chain(top)}
    discs = {disc.path for disc in config.dvds if disc.path}
    reasons.extend(
        (
            f"The destination cannot reach '{path}'.",
            0,
            "DvdDrive" if path in discs else "Drive",
            path,
        )
        for path in sorted(needed | discs)
        if path not in moves and not path.startswith("\\\\") and not other.files.file(path).exists()
    )
    return reasons


def _with_storage(call: Call) -> bool:
    return call.flag("IncludeStorage") or call.has("VirtualMachinePath") or call.has("Vhds")


def compare_move(call: Call) -> None:
    """Compare-VM for a move: the reasons that speak against it."""
    other = _destination(call)
    for machine in call.machines("Name"):
        write_report(call, machine.id, machine.name, _blockers(call, machine, other))


@cmdlet("Move-VM")
def move_vm(call: Call) -> None:
    if call.has("CompatibilityReport"):
        raise invalid_parameter("CompatibilityReport", "The simulated host takes machines only.")
    other = _destination(call)
    for machine in list(call.machines("Name")):
        if machine.state not in ("Running", "Off", "Saved", "Paused") or machine.busy:
            raise invalid_state(machine.name)
        reasons = _blockers(call, machine, other)
        if reasons:
            raise failed(" ".join(text for text, *_ in reasons), target=machine.name)
        _move(call, machine, other)
        if call.flag("Passthru"):
            call.write(views.machine(machine))


def _move(call: Call, machine: Machine, other: HostState) -> None:
    source = call.host
    job = MigrationJob(machine.id, other.name)
    source.migrations.append(job)
    machine.busy = "Migration"
    machine.status = "Moving"
    try:
        _copy_memory(machine, other, job)
        path = call.text("DestinationStoragePath") or call.text("VirtualMachinePath")
        path = path or join(other.settings.machine_path, machine.name)
        moves = _plan(call, machine, path)
        managed = machine.disk_paths()
        put_away = _put_away(machine)
        try:
            _carry(source, other, moves)
        except CmdletError:
            _bring_back(machine, put_away)
            raise
        _rename(machine, moves)
        _clear(call, managed, moves)
        remove_files(machine)
        for nic in machine.config.adapters:
            switch = source.switches.get(nic.switch) if nic.switch else None
            if switch is not None:
                nic.switch = next(s.id for s in other.switches.values() if s.name == switch.name)
        del source.machines[machine.id]
        other.machines[machine.id] = machine
        machine.host = other
        machine.path = path
        write_files(machine)
        _bring_back(machine, put_away)
        moved = getattr(machine.guest, "moved", None)
        if moved is not None:
            moved()
        job.state, job.percent = 7, 100
        source.world.notify()
    except CmdletError:
        job.state = 8 if job.cancelled else 10
        raise
    finally:
        machine.busy = None
        machine.status = "Operating normally"
    source.record("deleted", machine)
    other.record("created", machine)


def _copy_memory(machine: Machine, other: HostState, job: MigrationJob) -> None:
    """Let the time of a migration pass. A restless guest takes any time, until a cancel."""
    source, waited = machine.host, 0.0
    limit = source.timing.migration
    while True:
        restless = getattr(machine.guest, "restless", None)
        endless = restless is not None and machine.state == "Running" and restless()
        if waited >= limit and not endless:
            break
        source.wait_for(lambda: job.cancelled, min(_SLICE, limit) or _SLICE)
        waited += _SLICE
        job.percent = min(90, max(job.percent, int(90 * waited / limit) if limit else 90))
        if job.cancelled:
            raise failed("The operation was cancelled.", hresult=E_CANCELLED, target=machine.name)
        if source.closing or other.closing:
            raise failed("The host is closing.", target=machine.name)


def _put_away(machine: Machine) -> object:
    """Save a real guest, which cannot take its open files along; a played one needs nothing."""
    guest = machine.guest
    if guest is None or not getattr(guest, "fixed_disks", False):
        return None
    saved = guest.save()
    machine.guest = None
    return saved


def _bring_back(machine: Machine, saved: object) -> None:
    """Let a guest that was put away go on, where its machine is now."""
    if saved is not None and machine.host.guests is not None:
        machine.guest = machine.host.guests(machine, saved)
        machine.forget_memory(saved)
        if machine.state == "Paused":
            machine.guest.pause()


def _clear(call: Call, managed: set[str], moves: dict[str, str]) -> None:
    """Delete what was moved. Parents that others may use stay, unless the call says otherwise."""
    host = call.host
    if call.flag("RetainVhdCopiesOnSource"):
        return
    for old in moves:
        if old in managed or call.flag("RemoveSourceUnmanagedVhds"):
            host.files.file(old).unlink(missing_ok=True)
            host.disks.forget(old)


def _plan(call: Call, machine: Machine, path: str) -> dict[str, str]:
    """New path of each local disk file, parents first.

    A call that names files by ``-Vhds`` moves those and the machine's own. Parents that it does not
    name must be at the destination already.
    """
    chosen: dict[str, str] = {}
    for item in call.items("Vhds"):
        match item:
            case {"table": dict(table)}:
                pair = {str(key).lower(): str(value) for key, value in table.items()}
                chosen[normal(pair["sourcefilepath"])] = pair["destinationfilepath"]
    moves: dict[str, str] = {}
    for top in sorted(machine.disk_paths()):
        for each in reversed(machine.host.disks.chain(top)):
            if each.startswith("\\\\") or each in moves:
                continue
            if chosen and each not in machine.disk_paths() and normal(each) not in chosen:
                continue
            default = join(path, "Virtual Hard Disks", name_of(each))
            moves[each] = chosen.get(normal(each), default)
    return moves


def _carry(source: HostState, other: HostState, moves: dict[str, str]) -> None:
    """Copy the files, and let each name its parent at the new place."""
    for old, new in moves.items():
        if other.files.file(new).exists():
            raise file_error("file-exists", new)
        disk = source.disks.look(old)
        other.disks.need(new, disk.file_size)
    for old, new in moves.items():
        target = other.files.file(new)
        other.files.file(folder_of(new)).mkdir(parents=True, exist_ok=True)
        parent = source.disks.look(old).parent
        shutil.copyfile(source.files.file(old), target)
        if parent is not None:
            other.disks.rebase(new, moves.get(parent, parent))


def _rename(machine: Machine, moves: dict[str, str]) -> None:
    for config in (machine.config, *(p.config for p in machine.checkpoints.values())):
        for drive in config.drives:
            drive.path = moves.get(drive.path, drive.path)


@cmdlet("Move-VMStorage")
def move_storage(call: Call) -> None:
    for machine in call.machines("Name"):
        if machine.busy or machine.merging:
            raise invalid_state(machine.name)
        path = call.text("DestinationStoragePath") or call.text("VirtualMachinePath")
        host = call.host
        job = MigrationJob(machine.id, "")
        host.migrations.append(job)
        machine.busy = "Migration"
        try:
            _copy_memory(machine, host, job)
            wanted = _plan(call, machine, path or machine.path)
            if not path:
                named = {normal(str(v)) for v in _named(call)}
                wanted = {old: new for old, new in wanted.items() if normal(old) in named}
            moves = {old: new for old, new in wanted.items() if not host.files.same(old, new)}
            managed = machine.disk_paths()
            put_away = _put_away(machine)
            try:
                _carry(host, host, moves)
                _rename(machine, moves)
                _clear(call, managed, moves)
            finally:
                _bring_back(machine, put_away)
            if path:
                remove_files(machine)
                machine.path = path
                write_files(machine)
            job.state, job.percent = 7, 100
        except CmdletError:
            job.state = 8 if job.cancelled else 10
            raise
        finally:
            machine.busy = None


def _named(call: Call) -> list[object]:
    found: list[object] = []
    for item in call.items("Vhds"):
        match item:
            case {"table": dict(table)}:
                found.extend(v for k, v in table.items() if str(k).lower() == "sourcefilepath")
    return found
