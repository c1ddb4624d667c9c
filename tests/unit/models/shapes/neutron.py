"""Ports, Nova VIFs and networks, as Neutron 29 and Nova 34 write them."""

PORT_ID = "b679325f-ca89-4ee0-a8be-6db1409b69ea"
NETWORK_ID = "dc2dd0a1-5b2f-4f0c-8a3d-0f3f6a7e9d11"

# Neutron API reference, "Show network details"
NETWORK = {
    "id": NETWORK_ID,
    "name": "private",
    "mtu": 1442,
    "provider:network_type": "geneve",
    "provider:physical_network": None,
    "provider:segmentation_id": 3,
}

# Neutron API reference, "Show port details", as ML2/OVN fills it in
PORT_OVN = {
    "id": PORT_ID,
    "name": "",
    "network_id": NETWORK_ID,
    "tenant_id": "f1",
    "admin_state_up": True,
    "status": "DOWN",
    "mac_address": "FA:16:3E:4C:2C:30",
    "fixed_ips": [{"subnet_id": "s1", "ip_address": "192.168.233.3"}],
    "device_owner": "compute:nova",
    "binding:host_id": "compute1",
    "binding:vif_type": "ovs",
    "binding:vif_details": {
        "port_filter": True,
        "connectivity": "l2",
        "bridge_name": "br-int",
        "datapath_type": "netdev",
        "bound_drivers": {"0": "ovn"},
    },
    "binding:vnic_type": "normal",
    "binding:profile": {},
    "qos_policy_id": None,
}


def port(vif_type, details=None, *, vnic_type="normal", profile=None, **more):
    """The same port, wired otherwise."""
    return {
        **PORT_OVN,
        "binding:vif_type": vif_type,
        "binding:vif_details": details or {},
        "binding:vnic_type": vnic_type,
        "binding:profile": profile or {},
        **more,
    }


# neutron plugins/ml2/drivers/mech_sriov: vif_details has port_filter and vlan (as text); nova fills
# in pci_slot
PORT_SRIOV = port(
    "hw_veb",
    {"port_filter": False, "vlan": "1000", "connectivity": "l2"},
    vnic_type="direct",
    profile={
        "pci_slot": "0000:03:10.1",
        "pci_vendor_info": "8086:10ed",
        "physical_network": "physnet1",
        "trusted": "true",
    },
)

# neutron plugins/ml2/drivers/macvtap
PORT_MACVTAP = port(
    "macvtap",
    {
        "macvtap_source": "eth0.100",
        "macvtap_mode": "bridge",
        "physical_interface": "eth0",
        "vlan": 100,
    },
)

# neutron plugins/ml2/drivers/openvswitch mech driver over a netdev datapath
PORT_VHOSTUSER = port(
    "vhostuser",
    {
        "vhostuser_mode": "server",
        "vhostuser_ovs_plug": True,
        "vhostuser_socket": "/var/run/openvswitch/vhub679325f-ca",
        "bridge_name": "br-int",
        "datapath_type": "netdev",
    },
)

# nova network/model.py VIF, as in instance_info_caches.network_info
NOVA_VIF = {
    "id": PORT_ID,
    "address": "fa:16:3e:4c:2c:30",
    "network": {
        "id": NETWORK_ID,
        "bridge": "br-int",
        "label": "private",
        "subnets": [
            {
                "cidr": "192.168.233.0/24",
                "dns": [{"address": "192.0.2.53", "type": "dns", "version": 4, "meta": {}}],
                "gateway": {
                    "address": "192.168.233.1",
                    "type": "gateway",
                    "version": 4,
                    "meta": {},
                },
                "ips": [
                    {
                        "address": "192.168.233.3",
                        "type": "fixed",
                        "version": 4,
                        "meta": {},
                        "floating_ips": [],
                    }
                ],
                "routes": [
                    {
                        "cidr": "10.0.0.0/8",
                        "gateway": {"address": "192.168.233.254", "type": "gateway"},
                        "interface": None,
                    }
                ],
                "version": 4,
                "meta": {"dhcp_server": "192.168.233.2"},
            }
        ],
        "meta": {"injected": False, "tenant_id": "f1", "mtu": 1442, "tunneled": True},
    },
    "type": "ovs",
    "details": {"port_filter": True, "bridge_name": "br-int", "datapath_type": "system"},
    "devname": "tapb679325f-ca",
    "ovs_interfaceid": PORT_ID,
    "qbh_params": None,
    "qbg_params": None,
    "active": False,
    "vnic_type": "normal",
    "profile": {},
    "preserve_on_delete": False,
    "delegate_create": True,
    "meta": {},
}
