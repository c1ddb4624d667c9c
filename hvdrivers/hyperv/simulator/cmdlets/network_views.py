"""Objects of the network as cmdlets write them: adapters and what belongs to them, and switches."""

from hvdrivers.hyperv.simulator.cmdlets.views import NO_ID, on_off, plain, thing, upper
from hvdrivers.hyperv.simulator.state import devices as dev
from hvdrivers.hyperv.simulator.state.host import HostState, Switch
from hvdrivers.hyperv.simulator.state.machine import Checkpoint, Machine
from hvdrivers.hyperv.simulator.wire import Int64, Thing


def _holders(host: HostState, switch: Switch) -> list[dev.NetworkAdapter]:
    """The adapters with a virtual function: of machines that run, as long as there are some."""
    if not switch.iov:
        return []
    wishes = [
        nic
        for machine in host.machines.values()
        if machine.state == "Running"
        for nic in machine.config.adapters
        if nic.switch == switch.id and nic.iov_weight > 0 and not nic.legacy
    ]
    return wishes[: switch.functions]


def adapter(vm: Machine, nic: dev.NetworkAdapter, point: Checkpoint | None = None) -> Thing:
    """Microsoft.HyperV.PowerShell.VMNetworkAdapter."""
    host = vm.host
    switch = host.switches.get(nic.switch) if nic.switch else None
    told = vm.guest.addresses(nic.id) if vm.guest is not None and vm.state == "Running" else []
    return thing(
        "VMNetworkAdapter",
        {
            "Id": f"Microsoft:{upper(vm.id)}\\{upper(nic.id)}",
            "Name": nic.name,
            "VMName": vm.name,
            "VMId": vm.id,
            "VMCheckpointId": point.id if point else NO_ID,
            "VMSnapshotId": point.id if point else NO_ID,
            "IsManagementOs": False,
            "IsLegacy": nic.legacy,
            "IsSynthetic": not nic.legacy,
            "IsExternalAdapter": False,
            "AdapterId": upper(nic.id),
            "MacAddress": nic.mac
            if (not nic.dynamic_mac or nic.mac != "000000000000")
            else "000000000000",
            "DynamicMacAddressEnabled": nic.dynamic_mac,
            "SwitchId": nic.switch,
            "SwitchName": switch.name if switch else ("" if nic.switch is None else None),
            "Connected": nic.switch is not None,
            "Status": ["Ok"] if vm.state == "Running" else [],
            "StatusDescription": ["OK"] if vm.state == "Running" else [],
            "IPAddresses": list(told),
            "MacAddressSpoofing": on_off(nic.spoofing),
            "DhcpGuard": on_off(nic.dhcp_guard),
            "RouterGuard": on_off(nic.router_guard),
            "AllowTeaming": on_off(nic.teaming),
            "DeviceNaming": on_off(nic.device_naming),
            "PortMirroringMode": nic.mirroring,
            "IovWeight": nic.iov_weight,
            "IovUsage": int(switch is not None and nic in _holders(host, switch)),
            "VmqWeight": nic.vmq_weight,
            "BandwidthPercentage": 0,
            "BandwidthSetting": bandwidth(vm, nic) if nic.has_bandwidth else None,
            "VlanSetting": plain(dict(vlan(vm, nic).properties)),
            "IsolationSetting": isolation(nic),
            "AclList": [
                plain(dict(acl(vm, nic, each).properties)) for each in nic.acls if not each.extended
            ],
            "PoolName": nic.pool,
            "ClusterMonitored": True,
            "ComputerName": host.name,
            "IsDeleted": False,
        },
        f"VMNetworkAdapter (Name = '{nic.name}', VMName = '{vm.name}')",
    )


def bandwidth(vm: Machine, nic: dev.NetworkAdapter) -> Thing:
    """Microsoft.HyperV.PowerShell.VMNetworkAdapterBandwidthSetting."""
    return plain(
        {
            "MinimumBandwidthAbsolute": Int64(nic.minimum_absolute),
            "MinimumBandwidthWeight": Int64(nic.minimum_weight),
            "MaximumBandwidth": Int64(nic.maximum_bandwidth),
            "ParentAdapterName": nic.name,
            "VMName": vm.name,
        },
    )


def vlan(vm: Machine, nic: dev.NetworkAdapter, parent: Thing | None = None) -> Thing:
    """Microsoft.HyperV.PowerShell.VMNetworkAdapterVlanSetting."""
    setting = nic.vlan
    return thing(
        "VMNetworkAdapterVlanSetting",
        {
            "OperationMode": setting.mode,
            "AccessVlanId": setting.access,
            "NativeVlanId": setting.native,
            "AllowedVlanIdList": list(setting.allowed),
            "AllowedVlanIdListString": ",".join(str(number) for number in setting.allowed),
            "PrivateVlanMode": None,
            "PrimaryVlanId": 0,
            "SecondaryVlanId": 0,
            "ParentAdapter": parent,
            "VMName": vm.name,
            "IsTemplate": False,
            "ComputerName": vm.host.name,
        },
    )


def isolation(nic: dev.NetworkAdapter) -> Thing:
    """Microsoft.HyperV.PowerShell.VMNetworkAdapterIsolationSetting."""
    return plain(
        {
            "IsolationMode": nic.isolation,
            "AllowUntaggedTraffic": False,
            "DefaultIsolationID": 0,
            "MultiTenantStack": "Off",
            "ParentAdapterName": nic.name,
        },
    )


def acl(vm: Machine, nic: dev.NetworkAdapter, rule: dev.Acl) -> Thing:
    """A port ACL, plain or extended."""
    return thing(
        "VMNetworkAdapterExtendedAclSetting" if rule.extended else "VMNetworkAdapterAclSetting",
        {
            "Action": rule.action,
            "Direction": rule.direction,
            "LocalAddress": rule.local,
            "RemoteAddress": rule.remote,
            "LocalIPAddress": rule.local,
            "RemoteIPAddress": rule.remote,
            "LocalPort": rule.local_port,
            "RemotePort": rule.remote_port,
            "Protocol": rule.protocol,
            "Weight": rule.weight,
            "Stateful": rule.stateful,
            "ParentAdapterName": nic.name,
            "VMName": vm.name,
        },
    )


def management_adapter(host: HostState, switch: Switch) -> Thing:
    """Microsoft.HyperV.PowerShell.VMInternalNetworkAdapter."""
    return thing(
        "VMInternalNetworkAdapter",
        {
            "Id": f"{upper(switch.id)}--{upper(switch.management_adapter)}",
            "Name": switch.name,
            "SwitchName": switch.name,
            "SwitchId": switch.id,
            "IsManagementOs": True,
            "IsExternalAdapter": False,
            "MacAddress": f"00155DFF{switch.management_adapter.int & 0xFFFF:04X}",
            "DeviceId": "{" + upper(switch.management_adapter) + "}",
            "Status": ["Ok"],
            "IPAddresses": [],
            "VMName": "",
            "VMId": NO_ID,
            "ComputerName": host.name,
        },
    )


def switch(host: HostState, each: Switch) -> Thing:
    """Microsoft.HyperV.PowerShell.VMSwitch."""
    return thing(
        "VMSwitch",
        {
            "Id": each.id,
            "Name": each.name,
            "SwitchType": each.kind,
            "Notes": each.notes,
            "AllowManagementOS": each.management,
            "NetAdapterInterfaceDescription": each.uplink or None,
            "NetAdapterInterfaceDescriptions": [each.uplink] if each.uplink else [],
            "NetAdapterInterfaceGuid": None,
            "EmbeddedTeamingEnabled": each.embedded_teaming,
            "IovEnabled": each.iov,
            "IovSupport": each.functions > 0,
            "IovSupportReasons": []
            if each.functions
            else ["This network adapter does not support SR-IOV."],
            "IovVirtualFunctionCount": Int64(each.functions),
            "IovVirtualFunctionsInUse": Int64(len(_holders(host, each))),
            "BandwidthReservationMode": each.bandwidth_mode,
            "DefaultFlowMinimumBandwidthAbsolute": Int64(0),
            "DefaultFlowMinimumBandwidthWeight": Int64(0),
            "AvailableVMQueues": 0,
            "PacketDirectEnabled": False,
            "ComputerName": host.name,
            "IsDeleted": False,
        },
        f"VMSwitch (Name = '{each.name}') [Id = '{each.id}']",
    )
