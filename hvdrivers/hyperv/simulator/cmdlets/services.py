"""Integration services: their names are localised, their component ids are not."""

from hvdrivers.hyperv.simulator.cmdlets.call import Call, has_wildcard, like
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.settings import targets
from hvdrivers.hyperv.simulator.cmdlets.views import NO_ID, thing
from hvdrivers.hyperv.simulator.errors import failed, file_error, invalid_state, missing
from hvdrivers.hyperv.simulator.state.devices import SERVICE_NAMES, Service
from hvdrivers.hyperv.simulator.state.machine import Checkpoint, Machine
from hvdrivers.hyperv.simulator.wire import Thing

_TYPES = {
    "shutdown": "ShutdownComponent",
    "kvp": "DataExchangeComponent",
    "guest-file": "GuestServiceInterfaceComponent",
}


def service_name(machine: Machine, service: Service) -> str:
    """The name in the host's language."""
    return SERVICE_NAMES[machine.host.language][service.key]


def _view(machine: Machine, service: Service, point: Checkpoint | None = None) -> Thing:
    answers = machine.guest is not None and machine.state == "Running" and machine.guest.heartbeat()
    status = ("OK" if answers else "No Contact") if machine.state == "Running" else ""
    return thing(
        _TYPES.get(service.key, "VMIntegrationComponent"),
        {
            "Id": f"Microsoft:{str(machine.id).upper()}\\{service.component}",
            "Name": service_name(machine, service),
            "Enabled": service.enabled,
            "PrimaryOperationalStatus": "Ok" if answers else None,
            "PrimaryStatusDescription": status if service.enabled else "",
            "SecondaryOperationalStatus": None,
            "SecondaryStatusDescription": "",
            "OperationalStatus": ["Ok"] if answers and service.enabled else [],
            "StatusDescription": [status] if status and service.enabled else [],
            "VMId": machine.id,
            "VMName": machine.name,
            "VMCheckpointId": point.id if point else NO_ID,
            "ComputerName": machine.host.name,
        },
    )


@cmdlet("Get-VMIntegrationService")
def get_services(call: Call) -> None:
    patterns = call.texts("Name") or ["*"]
    for machine, config, point in targets(call):
        names = [service_name(machine, service) for service in config.services.values()]
        for pattern in patterns:
            if not has_wildcard(pattern) and not any(like(name, pattern) for name in names):
                call.error(missing(pattern))
        for service in config.services.values():
            if any(like(service_name(machine, service), pattern) for pattern in patterns):
                call.write(_view(machine, service, point))


@cmdlet("Enable-VMIntegrationService", "Disable-VMIntegrationService")
def switch_services(call: Call) -> None:
    enable = call.cmdlet.startswith("Enable")
    chosen: list[tuple[Machine, Service]] = []
    if call.has("VMIntegrationService"):
        for item in call.things("VMIntegrationService"):
            for machine in call.with_id(item.get("VMId")):
                chosen.append((machine, machine.config.services[item["Id"][-36:].upper()]))
    else:
        for machine in call.machines("VMName"):
            for pattern in call.texts("Name"):
                match = [
                    service
                    for service in machine.config.services.values()
                    if like(service_name(machine, service), pattern)
                ]
                if not match and not has_wildcard(pattern):
                    call.error(missing(pattern))
                chosen.extend((machine, service) for service in match)
    for machine, service in chosen:
        service.enabled = enable
        if call.flag("Passthru"):
            call.write(_view(machine, service))


@cmdlet("Copy-VMFile")
def copy_file(call: Call) -> None:
    for machine in call.machines("Name"):
        service = machine.config.services["6C09BB55-D683-4DA0-8931-C9BF705F6480"]
        guest = machine.guest
        if machine.state != "Running" or guest is None:
            raise invalid_state(machine.name)
        if not service.enabled or not guest.heartbeat():
            raise failed("The guest service interface does not answer.", target=machine.name)
        source = call.host.files.file(call.text("SourcePath"))
        if not source.is_file():
            raise file_error("file-not-found", call.text("SourcePath"))
        receive = getattr(guest, "receive", None)
        if receive is None:
            raise failed("The guest does not take files.", target=machine.name)
        receive(call.text("DestinationPath"), source.read_bytes())
