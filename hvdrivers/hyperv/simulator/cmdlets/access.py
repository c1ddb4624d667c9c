"""Who may open a machine's console; groups of machines."""

from uuid import UUID, uuid4

from hvdrivers.hyperv.simulator.cmdlets.call import Call, like
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.views import thing
from hvdrivers.hyperv.simulator.errors import missing


@cmdlet("Grant-VMConnectAccess", "Revoke-VMConnectAccess")
def change_access(call: Call) -> None:
    for machine in call.machines("VMName"):
        for user in call.texts("UserName"):
            known = machine.console_users
            if call.cmdlet.startswith("Grant"):
                if user not in known:
                    known.append(user)
            elif user in known:
                known.remove(user)
            else:
                raise missing(user)


@cmdlet("Get-VMConnectAccess")
def get_access(call: Call) -> None:
    for machine in call.machines("VMName"):
        for user in machine.console_users:
            if not call.has("UserName") or user in call.texts("UserName"):
                call.write(
                    thing(
                        "VMConnectAce",
                        {
                            "Username": user,
                            "VMId": machine.id,
                            "VMName": machine.name,
                            "Access": "Allowed",
                        },
                    )
                )


@cmdlet("New-VMGroup")
def new_group(call: Call) -> None:
    identity = UUID(call.text("Id")) if call.has("Id") else uuid4()
    call.host.groups[call.text("Name")] = []
    call.write(
        thing(
            "VMGroup",
            {
                "Name": call.text("Name"),
                "InstanceId": identity,
                "GroupType": call.text("GroupType"),
            },
        )
    )


@cmdlet("Get-VMGroup")
def get_group(call: Call) -> None:
    for name, members in call.host.groups.items():
        if not call.has("Name") or any(like(name, pattern) for pattern in call.texts("Name")):
            call.write(
                thing(
                    "VMGroup",
                    {
                        "Name": name,
                        "GroupType": "VMCollectionType",
                        "VMMembers": [str(identity) for identity in members],
                    },
                )
            )


@cmdlet("Remove-VMGroup")
def remove_group(call: Call) -> None:
    for name in call.texts("Name") or [item["Name"] for item in call.things("VMGroup")]:
        if call.host.groups.pop(name, None) is None:
            raise missing(name)
