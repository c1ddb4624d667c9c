"""Virtual switches."""

from uuid import UUID

from hvdrivers.hyperv.simulator.cmdlets import network_views
from hvdrivers.hyperv.simulator.cmdlets.call import Call, has_wildcard, like
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import failed, invalid_parameter, missing
from hvdrivers.hyperv.simulator.state.host import Switch


@cmdlet("Get-VMSwitch")
def get_switch(call: Call) -> None:
    switches = list(call.host.switches.values())
    if call.has("Id"):
        wanted = [UUID(text) for text in call.texts("Id")]
        found = [s for s in switches if s.id in wanted]
        if not found:
            raise missing(call.text("Id"))
    elif call.has("Name"):
        found = []
        for pattern in call.texts("Name"):
            match = [s for s in switches if like(s.name, pattern)]
            if not match and not has_wildcard(pattern):
                call.error(missing(pattern))
            found.extend(match)
    else:
        found = switches
    kinds = call.texts("SwitchType")
    for switch in found:
        if not kinds or switch.kind in kinds:
            call.write(network_views.switch(call.host, switch))


@cmdlet("New-VMSwitch")
def new_switch(call: Call) -> None:
    host = call.host
    switch = Switch(call.text("Name"), notes=call.text("Notes"))
    uplinks = call.texts("NetAdapterName") or call.texts("NetAdapterInterfaceDescription")
    if uplinks:
        unknown = [name for name in uplinks if name not in host.hardware.adapters]
        if unknown:
            raise missing(unknown[0])
        used = {s.uplink for s in host.switches.values()}
        if uplinks[0] in used:
            raise failed(
                "The network adapter is already bound to a virtual switch.", target=uplinks[0]
            )
        switch.kind, switch.uplink = "External", uplinks[0]
        switch.management = call.flag("AllowManagementOS", True)
        switch.embedded_teaming = call.flag("EnableEmbeddedTeaming", len(uplinks) > 1)
    else:
        switch.kind = call.text("SwitchType", "Private")
        switch.management = switch.kind == "Internal"
    mode = call.text("MinimumBandwidthMode", "Default")
    switch.bandwidth_mode = "Absolute" if mode == "Default" else mode
    switch.iov = call.flag("EnableIov")
    host.switches[switch.id] = switch
    call.write(network_views.switch(host, switch))


def _chosen(call: Call) -> list[Switch]:
    host = call.host
    found: list[Switch] = []
    for item in call.things("VMSwitch"):
        switch = host.switches.get(UUID(item["Id"]))
        if switch is None:
            raise missing(item.get("Name", ""))
        found.append(switch)
    for pattern in call.texts("Name") or call.texts("VMSwitchName"):
        match = [s for s in host.switches.values() if like(s.name, pattern)]
        if not match and not has_wildcard(pattern):
            call.error(missing(pattern))
        found.extend(match)
    return found


@cmdlet("Remove-VMSwitch")
def remove_switch(call: Call) -> None:
    host = call.host
    for switch in _chosen(call):
        if not call.confirm(
            f'Are you sure you want to remove virtual switch "{switch.name}"?', "Confirm"
        ):
            continue
        if any(
            m.on and nic.switch == switch.id
            for m in host.machines.values()
            for nic in m.config.adapters
        ):
            raise failed("The switch is in use by running machines.", target=switch.name)
        del host.switches[switch.id]
        for machine in host.machines.values():
            for nic in machine.config.adapters:
                if nic.switch == switch.id:
                    nic.switch = None


@cmdlet("Rename-VMSwitch")
def rename_switch(call: Call) -> None:
    for switch in _chosen(call):
        switch.name = call.text("NewName")
        if call.flag("Passthru"):
            call.write(network_views.switch(call.host, switch))


@cmdlet("Set-VMSwitch")
def set_switch(call: Call) -> None:
    for switch in _chosen(call):
        switch.notes = call.text("Notes", switch.notes)
        if call.has("SwitchType"):
            if call.text("SwitchType") == "External" and not switch.uplink:
                raise invalid_parameter("SwitchType")
            switch.kind = call.text("SwitchType")
            if switch.kind != "External":
                switch.uplink = ""
        if call.has("NetAdapterName"):
            name = call.text("NetAdapterName")
            if name not in call.host.hardware.adapters:
                raise missing(name)
            switch.kind, switch.uplink = "External", name
        switch.management = call.flag("AllowManagementOS", switch.management)
        if call.flag("Passthru"):
            call.write(network_views.switch(call.host, switch))
