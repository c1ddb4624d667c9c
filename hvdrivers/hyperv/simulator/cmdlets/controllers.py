"""IDE and SCSI controllers, floppy drives."""

from hvdrivers.hyperv.simulator.cmdlets import views
from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.settings import targets
from hvdrivers.hyperv.simulator.errors import failed, invalid_state, missing
from hvdrivers.hyperv.simulator.state import devices as dev


@cmdlet("Get-VMScsiController")
def get_scsi(call: Call) -> None:
    for machine, config, point in targets(call):
        for number in range(config.scsi):
            if not call.has("ControllerNumber") or call.integer("ControllerNumber") == number:
                call.write(views.controller(machine, "SCSI", number, point))


@cmdlet("Get-VMIdeController")
def get_ide(call: Call) -> None:
    for machine, config, point in targets(call):
        for number in range(dev.IDE_CONTROLLERS if config.generation == 1 else 0):
            if not call.has("ControllerNumber") or call.integer("ControllerNumber") == number:
                call.write(views.controller(machine, "IDE", number, point))


@cmdlet("Add-VMScsiController")
def add_scsi(call: Call) -> None:
    for machine in call.machines("VMName"):
        if machine.on or machine.busy:
            raise invalid_state(machine.name)
        if machine.config.scsi >= dev.SCSI_CONTROLLERS:
            raise failed(
                "The machine has the most SCSI controllers that it can have.", target=machine.name
            )
        machine.config.scsi += 1
        if call.flag("Passthru"):
            call.write(views.controller(machine, "SCSI", machine.config.scsi - 1))


@cmdlet("Remove-VMScsiController")
def remove_scsi(call: Call) -> None:
    if call.has("VMScsiController"):
        chosen = [
            (m, int(item["ControllerNumber"]))
            for item in call.things("VMScsiController")
            for m in call.with_id(item.get("VMId"))
        ]
    else:
        chosen = [(m, call.integer("ControllerNumber")) for m in call.machines("VMName")]
    for machine, number in chosen:
        config = machine.config
        if machine.on or machine.busy:
            raise invalid_state(machine.name)
        if number >= config.scsi:
            raise missing(f"SCSI Controller {number}")
        config.drives = [
            d for d in config.drives if (d.slot.bus, d.slot.controller) != ("SCSI", number)
        ]
        config.dvds = [
            d for d in config.dvds if (d.slot.bus, d.slot.controller) != ("SCSI", number)
        ]
        for drive in config.all_drives():
            if drive.slot.bus == "SCSI" and drive.slot.controller > number:
                drive.slot.controller -= 1
        config.scsi -= 1


@cmdlet("Get-VMFloppyDiskDrive")
def get_floppy(call: Call) -> None:
    for machine, config, point in targets(call):
        if config.generation == 1:
            call.write(
                views.thing(
                    "VMFloppyDiskDrive",
                    {
                        "Name": "Diskette Drive",
                        "Path": None,
                        "VMId": machine.id,
                        "VMName": machine.name,
                        "VMCheckpointId": point.id if point else views.NO_ID,
                    },
                )
            )
