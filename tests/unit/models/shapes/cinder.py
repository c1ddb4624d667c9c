"""``connection_info`` as Cinder writes it. Sources are files of cinder 29.0 and os-brick 7.1;
``MANAGER`` is what ``cinder/volume/manager.py`` ``_parse_connection_options`` adds to every one."""

UUID = "d299a078-f0db-4993-bf03-f10fe44fd192"

MANAGER = {
    "qos_specs": None,
    "access_mode": "rw",
    "encrypted": False,
    "cacheable": False,
    "enforce_multipath": False,
}

# cinder volume/targets/iscsi.py initialize_connection, with CHAP and disk_geometry=512e
ISCSI = {
    "driver_volume_type": "iscsi",
    "data": {
        **MANAGER,
        "target_discovered": False,
        "target_portal": "192.0.2.10:3260",
        "target_iqn": f"iqn.2010-10.org.openstack:volume-{UUID}",
        "target_lun": 1,
        "volume_id": UUID,
        "auth_method": "CHAP",
        "auth_username": "stack",
        "auth_password": "hunter2-chap",
        "discard": True,
        "physical_block_size": "4096",
        "logical_block_size": "512",
    },
}

# cinder volume/driver.py _get_iscsi_properties, multipath=True: the singular keys repeat one path
ISCSI_MULTIPATH = {
    "driver_volume_type": "iscsi",
    "data": {
        **MANAGER,
        "target_discovered": False,
        "target_portal": "192.0.2.10:3260",
        "target_iqn": "iqn.2010-10.org.openstack:one",
        "target_lun": 1,
        "target_portals": ["192.0.2.10:3260", "[2001:DB8::11]:3261"],
        "target_iqns": ["iqn.2010-10.org.openstack:one", "iqn.2010-10.org.openstack:two"],
        "target_luns": [1, 2],
        "volume_id": UUID,
    },
}

# cinder tests/unit/volume/drivers/toyou/test_tyds.py: plural iqns beside a singular portal
ISCSI_TOYOU = {
    "driver_volume_type": "iscsi",
    "data": {
        "target_discovered": False,
        "target_portal": "192.168.0.2:3260",
        "target_lun": 0,
        "target_iqns": ["iqn.2023-06.com.toyou:initiator-group-uuid1"],
        "target_portals": ["192.168.0.2:3260"],
        "target_luns": [0],
        "volume_id": UUID,
    },
}

# cinder volume/drivers/rbd.py initialize_connection
RBD = {
    "driver_volume_type": "rbd",
    "data": {
        **MANAGER,
        "name": f"volumes/volume-{UUID}",
        "hosts": ["172.16.128.101", "[2001:db8::21]"],
        "ports": ["6789", "6790"],
        "cluster_name": "ceph",
        "auth_enabled": True,
        "auth_username": "cinder",
        "secret_type": "ceph",
        "secret_uuid": None,
        "volume_id": UUID,
        "discard": True,
        "keyring": "[client.cinder]\n\tkey = AQBhunter2keyring==\n",
    },
}

# cinder volume/drivers/nfs.py initialize_connection
NFS = {
    "driver_volume_type": "nfs",
    "data": {
        **MANAGER,
        "export": "nas.example.org:/srv/cinder",
        "name": f"volume-{UUID}",
        "options": "-o vers=4.2",
        "format": "qcow2",
    },
    "mount_point_base": "/var/lib/cinder/mnt",
    "serial": UUID,
}

# cinder volume/drivers/pure.py _build_connection_properties, FC: lists, and the LUN's own name
FC_PURE = {
    "driver_volume_type": "fibre_channel",
    "data": {
        **MANAGER,
        "target_discovered": True,
        "target_wwns": ["5001500150015081", "50:01:50:01:50:01:50:82"],
        "target_wwn": ["5001500150015081", "50:01:50:01:50:01:50:82"],
        "target_luns": [1, 1],
        "target_lun": 1,
        "discard": True,
        "addressing_mode": "SAM2",
        "initiator_target_map": {
            "50:01:43:80:18:6B:3F:65": ["5001500150015081", "5001500150015082"]
        },
        "wwn": "3624a93709714b5cb91634c470002b2c8",
    },
    "serial": UUID,
}

# cinder volume/drivers/huawei/huawei_driver.py: one WWN as text, and map_info
FC_HUAWEI = {
    "driver_volume_type": "fibre_channel",
    "data": {
        "target_lun": "7",
        "target_discovered": True,
        "target_wwn": "0x2000643E8C4C5F66",
        "volume_id": UUID,
        "initiator_target_map": {},
        "map_info": {"lun_id": "1", "hostgroup_id": "0"},
    },
}

# cinder volume/targets/nvmeof.py, nvmeof_conn_info_version=1
NVMEOF_V1 = {
    "driver_volume_type": "nvmeof",
    "data": {
        **MANAGER,
        "target_portal": "192.0.2.20",
        "target_port": "4420",
        "nqn": f"nqn.nvme-subsystem-1-{UUID}",
        "transport_type": "rdma",
        "ns_id": "10",
    },
    "serial": UUID,
}

# the same, nvmeof_conn_info_version=2
NVMEOF_V2 = {
    "driver_volume_type": "nvmeof",
    "data": {
        **MANAGER,
        "target_nqn": "nqn.2014-08.org.nvmexpress:uuid:one",
        "vol_uuid": None,
        "portals": [("192.0.2.20", "4420", "RoCEv2"), ["2001:db8::20", 4420, "tcp"]],
        "ns_id": "10",
    },
    "serial": UUID,
}

# cinder volume/drivers/kioxia/kumoscale.py: replicated, and 'writable'
NVMEOF_REPLICATED = {
    "driver_volume_type": "nvmeof",
    "data": {
        "vol_uuid": UUID.replace("-", "").upper(),
        "alias": "volume-1",
        "writable": True,
        "volume_replicas": [
            {
                "vol_uuid": "6E4F3B1A-0000-4000-8000-000000000001",
                "target_nqn": "nqn.2020-10.com.kioxia:a",
                "portals": [("192.0.2.1", "4420", "TCP")],
            },
            {
                "vol_uuid": "6e4f3b1a000040008000000000000002",
                "target_nqn": "nqn.2020-10.com.kioxia:b",
                "portals": [("192.0.2.2", "4420", "TCP")],
            },
        ],
        "replica_count": 2,
    },
}

# cinder volume/drivers/linstordrv.py LinstorDrbdDriver
LOCAL = {
    "driver_volume_type": "local",
    "data": {**MANAGER, "device_path": "/dev/drbd1000"},
    "serial": UUID,
}

# cinder volume/drivers/vmware/vmdk.py _get_connection_info, connector with platform and os_type
VMDK = {
    "driver_volume_type": "vmdk",
    "data": {
        **MANAGER,
        "volume": "vm-42",
        "volume_id": UUID,
        "name": f"volume-{UUID}",
        "profile_id": None,
        "vmdk_size": 1073741824,
        "vmdk_path": f"[ds1] volume-{UUID}/volume-{UUID}.vmdk",
        "datastore": "datastore-11",
        "datacenter": "datacenter-2",
        "config": {
            "vmware_host_ip": "vc.example.org",
            "vmware_host_port": 443,
            "vmware_host_username": "administrator@vsphere.local",
            "vmware_host_password": "hunter2-vc",
            "vmware_api_retry_count": 10,
            "vmware_task_poll_interval": 2.0,
            "vmware_ca_file": None,
            "vmware_insecure": False,
            "vmware_tmp_dir": "/tmp",
            "vmware_image_transfer_timeout_secs": 7200,
        },
    },
}

# cinder volume/drivers/vmware/fcd.py initialize_connection
FCD = {
    "driver_volume_type": "vstorageobject",
    "data": {
        **MANAGER,
        "id": "e6d2a4b1-5f8a-4c8d-a4b8-2c1f3f7f2b1a",
        "ds_ref_val": "datastore-11",
        "adapter_type": "lsiLogic",
    },
    "serial": UUID,
}

# Nova's Hyper-V driver and the Windows SMB driver of Cinder, as they were until 2023
SMBFS = {
    "driver_volume_type": "smbfs",
    "data": {
        "export": "//192.0.2.30/share",
        "name": f"volume-{UUID}.vhdx",
        "format": "vhdx",
        "options": "-o username=LAB\\cinder,password=hunter2-smb",
    },
    "serial": UUID,
}

ALL = {
    "iscsi": ISCSI,
    "iscsi-multipath": ISCSI_MULTIPATH,
    "iscsi-toyou": ISCSI_TOYOU,
    "rbd": RBD,
    "nfs": NFS,
    "fc-pure": FC_PURE,
    "fc-huawei": FC_HUAWEI,
    "nvmeof-v1": NVMEOF_V1,
    "nvmeof-v2": NVMEOF_V2,
    "nvmeof-replicated": NVMEOF_REPLICATED,
    "local": LOCAL,
    "vmdk": VMDK,
    "fcd": FCD,
    "smbfs": SMBFS,
}

# Cinder's attachments API (v3.44+) has connection_info flat; manager.py _connection_create adds the
# last two keys.
ATTACHMENT_FLAT = {
    "driver_volume_type": "iscsi",
    **ISCSI["data"],
    "attachment_id": "3b4db356-253d-4fab-bfa0-e3626c0b8405",
    "enforce_multipath": True,
}

# nova volume/cinder.py _translate_attachment_ref makes this of it, and block_device.py adds the
# serial and multiattach
NOVA_TRANSLATED = {
    "driver_volume_type": "nfs",
    "data": {**NFS["data"], "mount_point_base": "/var/lib/cinder/mnt"},
    "status": "attaching",
    "instance": "7c6f2c9c-5f0a-4f9a-8d7e-1d1f1a1b1c1d",
    "attached_at": "",
    "detached_at": "",
    "volume_id": UUID,
    "connector": {"host": "compute1", "multipath": False},
    "multiattach": True,
}

# GET /v3/{project}/volumes/{id}/encryption
ENCRYPTION = {
    "encryption_key_id": "e8b1a5c0-2b9a-4a44-9d3b-0c4d6a1f8f00",
    "control_location": "front-end",
    "cipher": "aes-xts-plain64",
    "key_size": 256,
    "provider": "luks",
}
