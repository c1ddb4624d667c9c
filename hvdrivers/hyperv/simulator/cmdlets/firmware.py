"""What a machine starts from: UEFI firmware and BIOS."""

from uuid import UUID

from hvdrivers.hyperv.simulator.cmdlets import network_views, views
from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.settings import common, targets
from hvdrivers.hyperv.simulator.cmdlets.views import on_off, thing
from hvdrivers.hyperv.simulator.errors import failed, invalid_parameter, invalid_state, missing
from hvdrivers.hyperv.simulator.state import devices as dev
from hvdrivers.hyperv.simulator.state.machine import Checkpoint, Machine
from hvdrivers.hyperv.simulator.wire import Thing


@cmdlet("Get-VMFirmware")
def get_firmware(call: Call) -> None:
    for machine, config, point in targets(call):
        if config.generation != 2:
            call.error(failed("The machine has no UEFI firmware.", target=machine.name))
            continue
        call.write(_firmware(machine, config, point))


def _boot_entry(machine: Machine, config: dev.Config, identity: object) -> Thing | None:
    device: Thing | None = None
    kind = "Drive"
    for drive in config.drives:
        if drive.id == identity:
            device = views.hard_drive(machine, drive)
    for disc in config.dvds:
        if disc.id == identity:
            device = views.dvd(machine, disc)
    for nic in config.adapters:
        if nic.id == identity:
            device, kind = network_views.adapter(machine, nic), "Network"
    if device is None:
        return None
    return thing(
        "VMBootSource",
        {
            "BootType": kind,
            "Device": device,
            "Description": "EFI SCSI Device" if kind == "Drive" else "EFI Network",
            "FirmwarePath": "\\AcpiEx(VMBus,0,0)",
            "InstanceID": str(identity),
            "VMId": machine.id,
            "VMName": machine.name,
            "Id": str(identity),
        },
    )


def _firmware(machine: Machine, config: dev.Config, point: Checkpoint | None) -> Thing:
    firmware = config.firmware
    entries = [
        e for e in (_boot_entry(machine, config, identity) for identity in firmware.order) if e
    ]
    return thing(
        "VMFirmware",
        {
            "SecureBoot": on_off(firmware.secure_boot),
            "SecureBootTemplate": firmware.template,
            "SecureBootTemplateId": dev.SECURE_BOOT_TEMPLATES[firmware.template],
            "BootOrder": list(entries),
            "PreferredNetworkBootProtocol": firmware.protocol,
            "ConsoleMode": firmware.console,
            "PauseAfterBootFailure": on_off(firmware.pause_after_failure),
            **common(machine, point),
        },
    )


def _device_id(machine: Machine, item: dict[str, str]) -> UUID:
    config = machine.config
    if "VMBootSource" in item["type"]:
        known = [d.id for d in config.all_drives()] + [nic.id for nic in config.adapters]
        for identity in known:
            if str(identity) == item.get("InstanceID"):
                return identity
    elif "NetworkAdapter" in item["type"]:
        for nic in config.adapters:
            if item["Id"].lower().endswith(str(nic.id)):
                return nic.id
    else:
        key = (
            item.get("ControllerType"),
            item.get("ControllerNumber"),
            item.get("ControllerLocation"),
        )
        for drive in config.all_drives():
            slot = drive.slot
            if key == (slot.bus, str(slot.controller), str(slot.location)):
                return drive.id
    raise missing(item.get("Name", "boot device"))


@cmdlet("Set-VMFirmware")
def set_firmware(call: Call) -> None:
    for machine, config, _ in targets(call, "VMFirmware"):
        if config.generation != 2:
            raise failed("The machine has no UEFI firmware.", target=machine.name)
        firmware = config.firmware
        if machine.on:
            raise invalid_state(machine.name)
        if call.has("SecureBootTemplate") or call.has("SecureBootTemplateId"):
            names = {guid: name for name, guid in dev.SECURE_BOOT_TEMPLATES.items()}
            names |= {name.lower(): name for name in dev.SECURE_BOOT_TEMPLATES}
            given = call.text("SecureBootTemplate") or call.text("SecureBootTemplateId")
            template = names.get(given.lower())
            if template is None:
                raise invalid_parameter("SecureBootTemplate")
            if config.tpm and template != firmware.template:
                raise failed(
                    "The template cannot change once the TPM is in use.", target=machine.name
                )
            firmware.template = template
        firmware.secure_boot = call.on_off("EnableSecureBoot", firmware.secure_boot)
        firmware.protocol = call.text("PreferredNetworkBootProtocol", firmware.protocol)
        firmware.console = call.text("ConsoleMode", firmware.console)
        firmware.pause_after_failure = call.on_off(
            "PauseAfterBootFailure", firmware.pause_after_failure
        )
        if call.has("BootOrder"):
            identities = [_device_id(machine, item) for item in call.things("BootOrder")]
            firmware.order = identities
        if call.has("FirstBootDevice"):
            first = _device_id(machine, call.things("FirstBootDevice")[0])
            firmware.order = [first, *(i for i in firmware.order if i != first)]
        if call.flag("Passthru"):
            call.write(_firmware(machine, config, None))


@cmdlet("Get-VMBios")
def get_bios(call: Call) -> None:
    for machine, config, point in targets(call):
        if config.generation != 1:
            call.error(failed("The machine has no BIOS.", target=machine.name))
            continue
        call.write(_bios(machine, config, point))


def _bios(machine: Machine, config: dev.Config, point: Checkpoint | None) -> Thing:
    return thing(
        "VMBios",
        {
            "StartupOrder": list(config.firmware.startup),
            "NumLockEnabled": config.firmware.num_lock,
            **common(machine, point),
        },
    )


@cmdlet("Set-VMBios")
def set_bios(call: Call) -> None:
    for machine, config, _ in targets(call, "VMBios"):
        if config.generation != 1:
            raise failed("The machine has no BIOS.", target=machine.name)
        if machine.on:
            raise invalid_state(machine.name)
        if call.has("StartupOrder"):
            order = call.texts("StartupOrder")
            if sorted(order) != sorted(["CD", "IDE", "LegacyNetworkAdapter", "Floppy"]):
                raise invalid_parameter("StartupOrder", "Each device must be named once.")
            config.firmware.startup = order
        if call.flag("EnableNumLock"):
            config.firmware.num_lock = True
        if call.flag("DisableNumLock"):
            config.firmware.num_lock = False
        if call.flag("Passthru"):
            call.write(_bios(machine, config, None))
