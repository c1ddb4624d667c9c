"""Key protectors, virtual TPMs, shielding."""

from uuid import uuid4

from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.settings import targets
from hvdrivers.hyperv.simulator.cmdlets.views import NO_ID, thing
from hvdrivers.hyperv.simulator.errors import failed, invalid_parameter, invalid_state
from hvdrivers.hyperv.simulator.state.machine import Machine


def _off(machine: Machine) -> None:
    if machine.state != "Off" or machine.busy:
        raise invalid_state(machine.name)


@cmdlet("Set-VMKeyProtector")
def set_key_protector(call: Call) -> None:
    for machine in call.machines("VMName"):
        _off(machine)
        if call.flag("NewLocalKeyProtector"):
            machine.config.key_protector = b"local" + uuid4().bytes
        elif call.has("KeyProtector"):
            import base64

            match call.bound["KeyProtector"]:
                case {"base64": str(text)}:
                    machine.config.key_protector = base64.b64decode(text)
                case _:
                    raise invalid_parameter("KeyProtector")
        else:
            raise invalid_parameter("KeyProtector", "None was given.")


@cmdlet("Get-VMKeyProtector")
def get_key_protector(call: Call) -> None:
    for machine in call.machines("VMName"):
        call.write(machine.config.key_protector or b"\0\0\0\4")


@cmdlet("Enable-VMTPM", "Disable-VMTPM")
def tpm(call: Call) -> None:
    enable = call.cmdlet == "Enable-VMTPM"
    for machine in call.machines("VMName"):
        _off(machine)
        if machine.config.generation != 2:
            raise failed("Only a machine of generation 2 has a TPM.", target=machine.name)
        if enable and not machine.config.key_protector:
            raise failed("The machine has no key protector.", target=machine.name)
        machine.config.tpm = enable


@cmdlet("Get-VMSecurity")
def get_security(call: Call) -> None:
    for machine, config, point in targets(call):
        call.write(
            thing(
                "VMSecurity",
                {
                    "TpmEnabled": config.tpm,
                    "KsdEnabled": False,
                    "Shielded": config.shielded,
                    "EncryptStateAndVmMigrationTraffic": config.encrypt_state,
                    "VirtualizationBasedSecurityOptOut": False,
                    "BindToHostTpm": config.bind_to_host_tpm,
                    "VMId": machine.id,
                    "VMName": machine.name,
                    "VMCheckpointId": point.id if point else NO_ID,
                },
            )
        )


@cmdlet("Set-VMSecurity")
def set_security(call: Call) -> None:
    for machine in call.machines("VMName"):
        _off(machine)
        config = machine.config
        config.encrypt_state = call.flag("EncryptStateAndVmMigrationTraffic", config.encrypt_state)


@cmdlet("Set-VMSecurityPolicy")
def set_policy(call: Call) -> None:
    for machine in call.machines("VMName"):
        _off(machine)
        machine.config.shielded = call.flag("Shielded", machine.config.shielded)
