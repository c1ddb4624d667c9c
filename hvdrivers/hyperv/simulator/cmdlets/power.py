"""Power: start, stop, save, pause, reset."""

from collections.abc import Iterator
from contextlib import contextmanager

from hvdrivers.hyperv.simulator.cmdlets import views
from hvdrivers.hyperv.simulator.cmdlets.adapters import give_mac
from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.drives import claim_disk, claim_host_disk
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import (
    E_CANCELLED,
    E_FAIL,
    E_FILE_NOT_FOUND,
    E_OUT_OF_MEMORY,
    E_SHARING_VIOLATION,
    E_TIMEOUT,
    CmdletError,
    failed,
    invalid_state,
)
from hvdrivers.hyperv.simulator.state.devices import HardDrive
from hvdrivers.hyperv.simulator.state.machine import Machine

_CANCEL_SECONDS = 60.0
ALREADY = "The virtual machine is already in the specified state."


@contextmanager
def transition(machine: Machine, word: str) -> Iterator[None]:
    """The state while an operation runs; other operations are refused meanwhile."""
    before = machine.state
    machine.busy = word
    machine.set_state(word)
    try:
        yield
    except BaseException:
        machine.busy = None
        if machine.state == word:
            machine.set_state(before)
        raise
    machine.busy = None


def _each(call: Call) -> Iterator[Machine]:
    """Machines one after the other; what fails for one is an error, and the next is tried."""
    yield from list(call.machines("Name"))


def _done(call: Call, machine: Machine) -> None:
    if call.flag("Passthru"):
        call.write(views.machine(machine))


@cmdlet("Start-VM")
def start_vm(call: Call) -> None:
    for machine in _each(call):
        try:
            if machine.state == "Running" and machine.busy is None:
                call.warn(ALREADY)
            elif machine.state == "Paused":
                _resume(machine)
            else:
                machine.require("Off", "Saved")
                start(machine)
        except CmdletError as error:
            call.error(error)
            continue
        _done(call, machine)


def start(machine: Machine) -> None:
    """Turn a machine on, or bring it back from its saved state."""
    host, config = machine.host, machine.config
    _check_start(machine)
    saved = machine.saved if machine.state == "Saved" else None
    for nic in config.adapters:
        if nic.dynamic_mac and nic.mac == "000000000000":
            nic.mac = give_mac(machine)
    with transition(machine, "Starting"):
        if host.wait_for(lambda: machine.cancelled, host.timing.start):
            raise failed("The start was cancelled.", hresult=E_CANCELLED, target=machine.name)
        if host.guests is None:
            raise failed("The host is closing.", target=machine.name)
        with host.unlocked():
            guest = host.guests(machine, saved)
        machine.guest = guest
        machine.guest_runs += 1
        machine.saved = None
        machine.set_state("Running")
    machine.forget_memory(saved)
    host.record("restored" if saved is not None else "started", machine)


def _check_start(machine: Machine) -> None:
    host, config = machine.host, machine.config
    if config.memory.startup > host.free_memory():
        raise CmdletError(
            "OutOfMemory",
            "ResourceUnavailable",
            "out-of-memory",
            hresult=E_OUT_OF_MEMORY,
            target=machine.name,
            name=machine.name,
        )
    for drive in config.drives:
        _check_drive(machine, drive)
    for disc in config.dvds:
        if disc.path and not host.files.file(disc.path).is_file():
            raise start_failed(machine, f"Attachment '{disc.path}' not found.", E_FILE_NOT_FOUND)
    for nic in config.adapters:
        if nic.switch is not None and nic.switch not in host.switches:
            raise start_failed(machine, "The virtual switch does not exist.", E_FAIL)
    if config.assigned and (config.stop_action != "TurnOff" or config.memory.dynamic):
        raise start_failed(
            machine, "A device is assigned, which these settings do not allow.", E_FAIL
        )


def _check_drive(machine: Machine, drive: HardDrive) -> None:
    host = machine.host
    if drive.path:
        for path in _chain(machine, drive.path):
            try:
                host.files.ask(path, user=False, computer=True)
            except CmdletError as refused:
                why = f"The computer account cannot open attachment '{path}'."
                raise start_failed(machine, why, refused.hresult) from refused
            if not host.files.file(path).is_file():
                raise start_failed(machine, f"Attachment '{path}' not found.", E_FILE_NOT_FOUND)
        claim_disk(machine, drive.path)
    elif drive.disk_number is not None:
        disk = host.storage.disks.get(drive.disk_number)
        if disk is None:
            why = f"Disk {drive.disk_number} not found."
            raise start_failed(machine, why, E_FILE_NOT_FOUND)
        if not disk.offline:
            raise start_failed(machine, "The physical disk is online.", E_SHARING_VIOLATION)
        claim_host_disk(machine, drive.disk_number)


def _chain(machine: Machine, path: str) -> list[str]:
    if not machine.host.files.file(path).is_file():
        return [path]
    return machine.host.disks.chain(path)


def start_failed(machine: Machine, why: str, hresult: int) -> CmdletError:
    """Hyper-V's failure to start a machine."""
    return CmdletError(
        "OperationFailed",
        "NotSpecified",
        "start-failed",
        hresult=hresult,
        target=machine.name,
        name=machine.name,
        why=why,
    )


@cmdlet("Stop-VM")
def stop_vm(call: Call) -> None:
    for machine in _each(call):
        try:
            _stop_one(call, machine)
        except CmdletError as error:
            call.error(error)
            continue
        _done(call, machine)


def _stop_one(call: Call, machine: Machine) -> None:
    if machine.state == "Off":
        call.warn(ALREADY)
    elif call.flag("Save"):
        save(machine)
    elif call.flag("TurnOff"):
        if machine.state == "Saved":
            raise invalid_state(machine.name)
        turn_off(machine)
    else:
        if machine.state == "Saved":
            raise invalid_state(machine.name)
        query = f'Hyper-V cannot shut down virtual machine "{machine.name}" without losing data?'
        guest = machine.guest
        if guest is not None and not guest.heartbeat() and not call.flag("Force"):
            call.confirm(query, "Confirm")
        shut_down(machine)


def turn_off(machine: Machine) -> None:
    """Pull the plug. It works in every state in which the machine is on, and ends a start."""
    if machine.busy == "Starting":
        machine.cancelled = True
        machine.host.world.notify()
        try:
            machine.host.wait_for(lambda: machine.busy != "Starting", _CANCEL_SECONDS)
        finally:
            machine.cancelled = False
        if machine.state == "Off":
            return
    if machine.busy not in (None, "Stopping"):
        raise invalid_state(machine.name)
    guest, machine.guest = machine.guest, None
    machine.busy = "Stopping"
    machine.set_state("Stopping")
    if guest is not None:
        guest.power_off()
    machine.host.pause(machine.host.timing.stop)
    machine.busy = None
    machine.set_state("Off")
    machine.host.record("turned-off", machine)


def shut_down(machine: Machine) -> None:
    """Ask the guest, and wait. A guest that does not answer leaves the machine running."""
    host = machine.host
    machine.require("Running")
    guest = machine.guest
    service = machine.config.services["9F8233AC-BE49-4C79-8EE3-E7E1985B2077"]
    if guest is None or not service.enabled or not guest.heartbeat():
        raise _no_shutdown(machine, 0x80070015)
    machine.set_state("Stopping")
    guest.request_shutdown()
    host.wait_for(lambda: machine.guest is not guest, host.timing.shutdown_limit)
    if machine.guest is guest:
        if machine.state == "Stopping":
            machine.set_state("Running")
        raise _no_shutdown(machine, E_TIMEOUT)


def _no_shutdown(machine: Machine, hresult: int) -> CmdletError:
    return CmdletError(
        "OperationFailed",
        "NotSpecified",
        "shutdown-failed",
        hresult=hresult,
        target=machine.name,
        name=machine.name,
    )


@cmdlet("Save-VM")
def save_vm(call: Call) -> None:
    for machine in _each(call):
        try:
            if machine.state == "Saved":
                call.warn(ALREADY)
            else:
                save(machine)
        except CmdletError as error:
            call.error(error)
            continue
        _done(call, machine)


def save(machine: Machine) -> None:
    """Write the guest's memory to disk and go off."""
    machine.require("Running", "Paused")
    if machine.config.assigned or machine.config.gpus:
        raise failed("A machine with an assigned device cannot be saved.", target=machine.name)
    with transition(machine, "Saving"):
        machine.host.pause(machine.host.timing.save)
        machine.saved = machine.guest.save() if machine.guest is not None else None
        machine.guest = None
        machine.set_state("Saved")
    machine.host.record("saved", machine)


@cmdlet("Suspend-VM")
def suspend_vm(call: Call) -> None:
    for machine in _each(call):
        try:
            if machine.state == "Paused":
                call.warn(ALREADY)
            else:
                machine.require("Running")
                with transition(machine, "Pausing"):
                    machine.host.pause(machine.host.timing.pause)
                    if machine.guest is not None:
                        machine.guest.pause()
                    machine.set_state("Paused")
                machine.host.record("paused", machine)
        except CmdletError as error:
            call.error(error)
            continue
        _done(call, machine)


@cmdlet("Resume-VM")
def resume_vm(call: Call) -> None:
    for machine in _each(call):
        try:
            if machine.state == "Running":
                call.warn(ALREADY)
            else:
                machine.require("Paused")
                _resume(machine)
        except CmdletError as error:
            call.error(error)
            continue
        _done(call, machine)


def _resume(machine: Machine) -> None:
    with transition(machine, "Resuming"):
        machine.host.pause(machine.host.timing.pause)
        if machine.guest is not None:
            machine.guest.resume()
        machine.set_state("Running")
    machine.host.record("resumed", machine)


@cmdlet("Restart-VM")
def restart_vm(call: Call) -> None:
    for machine in _each(call):
        try:
            machine.require("Running", "Paused")
            if not call.confirm(
                f'Are you sure you want to restart virtual machine "{machine.name}"?', "Confirm"
            ):
                continue
            machine.require("Running", "Paused")
            _reboot(call, machine)
        except CmdletError as error:
            call.error(error)
            continue
        _done(call, machine)


def reset(machine: Machine) -> None:
    """The reset button: the machine stays on and its guest begins anew."""
    if machine.guest is None:
        raise invalid_state(machine.name)
    if machine.state == "Paused":
        machine.guest.resume()
    machine.guest.reset()
    machine.guest_runs += 1
    machine.set_state("Running")
    machine.host.record("reset", machine)


def _reboot(call: Call, machine: Machine) -> None:
    reset(machine)
    if call.flag("Wait"):
        limit = call.integer("Timeout", 300)
        guest = machine.guest

        def ready() -> bool:
            return guest is not None and guest.heartbeat()

        if not machine.host.wait_for(ready, limit):
            raise failed(
                "The guest did not answer in time.", hresult=E_TIMEOUT, target=machine.name
            )


@cmdlet("Debug-VM")
def debug_vm(call: Call) -> None:
    for machine in _each(call):
        machine.require("Running")
        if call.flag("InjectNonMaskableInterrupt") and machine.guest is not None:
            machine.guest.inject_nmi()
        _done(call, machine)


@cmdlet("Remove-VMSavedState")
def remove_saved_state(call: Call) -> None:
    found = call.snapshot()
    if found is not None:
        memory, found[1].memory = found[1].memory, None
        found[0].forget_memory(memory)
        return
    for machine in call.machines("VMName"):
        machine.require("Saved")
        saved, machine.saved = machine.saved, None
        machine.forget_memory(saved)
        machine.set_state("Off")
