"""PowerShell Direct: whether a guest lets somebody in, and the users of that guest."""

from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import CmdletError
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.hyperv.simulator.wire import Thing, Value

SHORTEST = 6
"""Characters of a password that the policy of a played guest takes."""


def _machine(call: Call) -> Machine | None:
    return next(iter(call.with_id(call.text("VMId"))), None)


def _accounts(machine: Machine | None) -> dict[str, str]:
    """By their names. None, without a guest that answers."""
    found = machine.guest.accounts() if machine is not None and machine.guest is not None else None
    return {} if found is None else found


@cmdlet("Invoke-Command")
def enter(call: Call) -> None:
    machine = _machine(call)
    if machine is None:
        call.write("absent")
    elif machine.state != "Running":
        call.write("off")
    elif machine.guest is None or machine.guest.accounts() is None:
        call.write("silent")
    else:
        user = call.text("UserName").rpartition("\\")[2].lower()
        known = {name.lower(): password for name, password in _accounts(machine).items()}
        call.write("in" if known.get(user) == call.text("Password") else "refused")


@cmdlet("Get-SimulatedRun")
def get_run(call: Call) -> None:
    """The run of the guest that a session is in, as long as it lasts. No cmdlet of Windows."""
    machine = _machine(call)
    if machine is not None and machine.guest is not None:
        call.write(f"{machine.guest_runs}")


@cmdlet("Get-LocalUser")
def get_users(call: Call) -> None:
    for name in _accounts(_machine(call)):
        shown: dict[str, Value] = {"Name": name, "SID": sid_of(name), "Enabled": True}
        call.write(Thing(("Microsoft.PowerShell.Commands.LocalUser", "System.Object"), shown))


def sid_of(name: str) -> str:
    """The identifier of a user, which has nothing of the name in it."""
    return "S-1-5-21-1-2-3-" + str(int.from_bytes(name.encode()))


@cmdlet("Set-LocalUser")
def set_password(call: Call) -> None:
    accounts = _accounts(_machine(call))
    name = next((each for each in accounts if sid_of(each) == call.text("SID")), None)
    if name is None:
        raise CmdletError("UserNotFound", "ObjectNotFound", "object-not-found", name="the user")
    if len(call.text("Password")) < SHORTEST:
        raise CmdletError(
            "InvalidPassword", "InvalidArgument", "invalid-parameter", name="Password", why=""
        )
    accounts[name] = call.text("Password")
