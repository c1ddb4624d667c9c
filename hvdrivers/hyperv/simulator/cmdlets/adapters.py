"""Network adapters of machines: connections, VLANs, limits, guards, ACLs."""

import re
from collections.abc import Iterator

from hvdrivers.hyperv.simulator.cmdlets import network_views
from hvdrivers.hyperv.simulator.cmdlets.call import Call, has_wildcard, like
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import failed, invalid_parameter, invalid_state, missing
from hvdrivers.hyperv.simulator.state import devices as dev
from hvdrivers.hyperv.simulator.state.devices import Acl, NetworkAdapter, Vlan
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.state.machine import Machine

Chosen = tuple[Machine, NetworkAdapter]


def chosen(
    call: Call, names: str = "VMNetworkAdapterName", parameter: str = "VMNetworkAdapter"
) -> list[Chosen]:
    """The adapters that a call means: by object, or by machine and name pattern."""
    found: list[Chosen] = []
    if call.has(parameter):
        for item in call.things(parameter):
            match = _by_id(call, item)
            if match is None:
                call.error(missing(item.get("Name", "network adapter")))
            else:
                found.append(match)
        return found
    for machine in call.machines("VMName"):
        patterns = call.texts(names) or ["*"]
        for pattern in patterns:
            match_all = [
                (machine, nic) for nic in machine.config.adapters if like(nic.name, pattern)
            ]
            if not match_all and not has_wildcard(pattern):
                call.error(missing(pattern))
            found.extend(match_all)
    return found


def _by_id(call: Call, item: dict[str, str]) -> Chosen | None:
    for machine in call.host.machines.values():
        for nic in machine.config.adapters:
            if item.get("Id", "").lower() == f"microsoft:{machine.id}\\{nic.id}":
                return machine, nic
    return None


@cmdlet("Get-VMNetworkAdapter")
def get_adapter(call: Call) -> None:
    host = call.host
    found = call.snapshot()
    if found is not None:
        machine, point = found
        for nic in point.config.adapters:
            call.write(network_views.adapter(machine, nic, point))
        return
    if call.flag("ManagementOS") or call.flag("All"):
        for switch in host.switches.values():
            if switch.management and (
                not call.has("SwitchName") or switch.name == call.text("SwitchName")
            ):
                call.write(network_views.management_adapter(host, switch))
        if call.flag("ManagementOS"):
            return
    legacy = call.flag("IsLegacy") if call.has("IsLegacy") else None
    for machine, nic in chosen(call, "Name"):
        if legacy is None or nic.legacy == legacy:
            call.write(network_views.adapter(machine, nic))


def _mac(text: str) -> str:
    digits = re.sub("[-:.]", "", text).upper()
    if not re.fullmatch("[0-9A-F]{12}", digits) or int(digits[:2], 16) & 1 or digits == "0" * 12:
        raise invalid_parameter("StaticMacAddress", "It is not a unicast MAC address.")
    return digits


@cmdlet("Add-VMNetworkAdapter")
def add_adapter(call: Call) -> None:
    if call.flag("ManagementOS"):
        raise failed("Adapters of the management operating system are made by the switch.")
    switch = call.switch("SwitchName")
    for machine in call.machines("VMName"):
        legacy = call.flag("IsLegacy")
        config = machine.config
        if machine.busy or machine.state not in ("Off", "Running", "Paused"):
            raise invalid_state(machine.name)
        if machine.on and (config.generation == 1 or legacy):
            raise invalid_state(machine.name)
        if legacy and config.generation == 2:
            raise invalid_parameter("IsLegacy", "A machine of generation 2 has no legacy adapter.")
        same = [nic for nic in config.adapters if nic.legacy == legacy]
        if len(same) >= (
            dev.MAX_LEGACY_ADAPTERS if legacy else dev.MAX_ADAPTERS[config.generation]
        ):
            raise failed("The machine has the most adapters that it can have.", target=machine.name)
        nic = NetworkAdapter(
            call.text("Name")
            or call.text("VMNetworkAdapterName")
            or dev.ADAPTER_NAMES[call.host.language],
            legacy=legacy,
            switch=switch.id if switch else None,
        )
        nic.device_naming = call.on_off("DeviceNaming", False)
        if call.has("StaticMacAddress"):
            nic.mac, nic.dynamic_mac = _mac(call.text("StaticMacAddress")), False
        elif machine.on:
            nic.mac = give_mac(machine)
        config.adapters.append(nic)
        if config.generation == 2:
            config.firmware.order.append(nic.id)
        _changed(machine)
        if call.flag("Passthru"):
            call.write(network_views.adapter(machine, nic))


def give_mac(machine: Machine) -> str:
    """A dynamic address. Raises where the pool is used up."""
    try:
        return machine.host.new_mac()
    except LookupError as error:
        raise failed(str(error), target=machine.name) from error


def _changed(machine: Machine) -> None:
    if machine.guest is not None:
        machine.guest.changed()
    machine.host.world.notify()


@cmdlet("Remove-VMNetworkAdapter")
def remove_adapter(call: Call) -> None:
    for machine, nic in chosen(call, "Name" if call.has("Name") else "VMNetworkAdapterName"):
        if machine.busy or machine.state not in ("Off", "Running", "Paused"):
            raise invalid_state(machine.name)
        if machine.on and (machine.config.generation == 1 or nic.legacy):
            raise invalid_state(machine.name)
        machine.config.adapters.remove(nic)
        machine.config.firmware.order = [i for i in machine.config.firmware.order if i != nic.id]
        _changed(machine)
        if call.flag("Passthru"):
            call.write(network_views.adapter(machine, nic))


@cmdlet("Rename-VMNetworkAdapter")
def rename_adapter(call: Call) -> None:
    for machine, nic in chosen(call, "Name"):
        nic.name = call.text("NewName")
        if call.flag("Passthru"):
            call.write(network_views.adapter(machine, nic))


def _target_switch(call: Call) -> Switch | None:
    for item in call.things("VMSwitch"):
        for switch in call.host.switches.values():
            if str(switch.id) == item["Id"].lower():
                return switch
        raise missing(item.get("Name", "switch"))
    return call.switch("SwitchName")


@cmdlet("Connect-VMNetworkAdapter")
def connect_adapter(call: Call) -> None:
    switch = _target_switch(call)
    for machine, nic in chosen(call, "Name" if call.has("Name") else "VMNetworkAdapterName"):
        nic.switch = switch.id if switch else None
        _changed(machine)
        if call.flag("Passthru"):
            call.write(network_views.adapter(machine, nic))


@cmdlet("Disconnect-VMNetworkAdapter")
def disconnect_adapter(call: Call) -> None:
    for machine, nic in chosen(call, "Name" if call.has("Name") else "VMNetworkAdapterName"):
        nic.switch = None
        _changed(machine)
        if call.flag("Passthru"):
            call.write(network_views.adapter(machine, nic))


@cmdlet("Set-VMNetworkAdapter")
def set_adapter(call: Call) -> None:
    for machine, nic in chosen(call, "Name"):
        _set(call, machine, nic)
        _changed(machine)
        if call.flag("Passthru"):
            call.write(network_views.adapter(machine, nic))


def _set(call: Call, machine: Machine, nic: NetworkAdapter) -> None:
    if call.has("StaticMacAddress") or call.flag("DynamicMacAddress"):
        if machine.on:
            raise invalid_state(machine.name)
        if call.has("StaticMacAddress"):
            nic.mac, nic.dynamic_mac = _mac(call.text("StaticMacAddress")), False
        else:
            nic.mac, nic.dynamic_mac = "000000000000", True
    nic.spoofing = call.on_off("MacAddressSpoofing", nic.spoofing)
    nic.dhcp_guard = call.on_off("DhcpGuard", nic.dhcp_guard)
    nic.router_guard = call.on_off("RouterGuard", nic.router_guard)
    nic.teaming = call.on_off("AllowTeaming", nic.teaming)
    nic.device_naming = call.on_off("DeviceNaming", nic.device_naming)
    nic.mirroring = call.text("PortMirroring", nic.mirroring)
    if not 0 <= call.integer("IovWeight") <= 100:
        raise invalid_parameter("IovWeight", "The range is 0 through 100.")
    nic.iov_weight = call.integer("IovWeight", nic.iov_weight)
    nic.vmq_weight = call.integer("VmqWeight", nic.vmq_weight)
    for name in ("MaximumBandwidth", "MinimumBandwidthAbsolute"):
        # The service keeps limits in units of 8 bit; values below one are refused.
        if call.has(name) and call.integer(name) < 0:
            raise invalid_parameter(name)
    bandwidth = ("MaximumBandwidth", "MinimumBandwidthAbsolute", "MinimumBandwidthWeight")
    if any(call.has(name) for name in bandwidth):
        switch = machine.host.switches.get(nic.switch) if nic.switch else None
        if call.has("MinimumBandwidthWeight") and switch and switch.bandwidth_mode != "Weight":
            raise failed(
                "The switch does not have the mode of minimum bandwidth.", target=machine.name
            )
        nic.maximum_bandwidth = call.integer("MaximumBandwidth", nic.maximum_bandwidth)
        nic.minimum_absolute = call.integer("MinimumBandwidthAbsolute", nic.minimum_absolute)
        nic.minimum_weight = call.integer("MinimumBandwidthWeight", nic.minimum_weight)
        nic.has_bandwidth = any((nic.maximum_bandwidth, nic.minimum_absolute, nic.minimum_weight))


@cmdlet("Get-VMNetworkAdapterVlan")
def get_vlan(call: Call) -> None:
    found = call.snapshot()
    pairs: Iterator[Chosen] | list[Chosen]
    if found is not None:
        pairs = [(found[0], nic) for nic in found[1].config.adapters]
    elif call.flag("ManagementOS"):
        return
    else:
        pairs = chosen(call)
    for machine, nic in pairs:
        call.write(network_views.vlan(machine, nic, network_views.adapter(machine, nic)))


@cmdlet("Set-VMNetworkAdapterVlan")
def set_vlan(call: Call) -> None:
    if call.flag("ManagementOS"):
        raise failed("VLANs of the management operating system are not simulated.")
    for machine, nic in chosen(call):
        if call.flag("Untagged"):
            nic.vlan = Vlan()
        elif call.flag("Access"):
            nic.vlan = Vlan("Access", access=_vlan_id(call.integer("VlanId"), "VlanId"))
        elif call.flag("Trunk"):
            allowed = _numbers(call.text("AllowedVlanIdList"))
            native = call.integer("NativeVlanId")
            if not 0 <= native <= 4094:
                raise invalid_parameter("NativeVlanId")
            nic.vlan = Vlan("Trunk", native=native, allowed=allowed)
        else:
            raise failed(
                "Private VLANs and isolation of this kind are not simulated.", target=machine.name
            )
        _changed(machine)
        if call.flag("Passthru"):
            call.write(network_views.vlan(machine, nic, network_views.adapter(machine, nic)))


def _vlan_id(number: int, name: str) -> int:
    if not 1 <= number <= 4094:
        raise invalid_parameter(name)
    return number


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise invalid_parameter("AllowedVlanIdList")
        found.extend(
            _vlan_id(n, "AllowedVlanIdList") for n in range(int(first), int(last or first) + 1)
        )
    return found


@cmdlet("Get-VMNetworkAdapterIsolation")
def get_isolation(call: Call) -> None:
    for _, nic in chosen(call):
        call.write(network_views.isolation(nic))


@cmdlet("Set-VMNetworkAdapterIsolation")
def set_isolation(call: Call) -> None:
    for _, nic in chosen(call):
        nic.isolation = call.text("IsolationMode", nic.isolation)


@cmdlet("Add-VMNetworkAdapterAcl", "Add-VMNetworkAdapterExtendedAcl")
def add_acl(call: Call) -> None:
    extended = "Extended" in call.cmdlet
    directions = {"Both": ["Inbound", "Outbound"]}.get(
        call.text("Direction"), [call.text("Direction")]
    )
    for machine, nic in chosen(call):
        for direction in directions:
            rule = Acl(
                call.text("Action"),
                direction,
                extended=extended,
                weight=call.integer("Weight"),
                local=call.text("LocalIPAddress") or call.text("LocalMacAddress"),
                remote=call.text("RemoteIPAddress") or call.text("RemoteMacAddress"),
                protocol=call.text("Protocol"),
                local_port=call.text("LocalPort"),
                remote_port=call.text("RemotePort"),
                stateful=call.flag("Stateful"),
            )
            nic.acls.append(rule)
            if call.flag("Passthru"):
                call.write(network_views.acl(machine, nic, rule))


@cmdlet("Get-VMNetworkAdapterAcl", "Get-VMNetworkAdapterExtendedAcl")
def get_acl(call: Call) -> None:
    extended = "Extended" in call.cmdlet
    for machine, nic in chosen(call):
        for rule in nic.acls:
            if rule.extended == extended:
                call.write(network_views.acl(machine, nic, rule))


@cmdlet("Remove-VMNetworkAdapterAcl", "Remove-VMNetworkAdapterExtendedAcl")
def remove_acl(call: Call) -> None:
    extended = "Extended" in call.cmdlet
    direction = call.text("Direction")
    for _, nic in chosen(call):
        nic.acls = [
            rule
            for rule in nic.acls
            if rule.extended != extended
            or (direction not in ("", "Both") and rule.direction != direction)
            or (call.has("Weight") and rule.weight != call.integer("Weight"))
            or (call.has("Action") and rule.action != call.text("Action"))
            or (call.has("RemoteIPAddress") and rule.remote != call.text("RemoteIPAddress"))
            or (call.has("LocalIPAddress") and rule.local != call.text("LocalIPAddress"))
        ]
