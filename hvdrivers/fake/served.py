"""Volumes of storage servers, as Cinder describes them: what a fake host is given to attach. The
servers are played: the fake knows nothing of a volume but its id."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.volume import Volume, parse_connection_info

_SERVER = "192.0.2.20"
SERVED: Mapping[Capability, tuple[str, Mapping[str, object]]] = MappingProxyType(
    {
        Capability.VOLUME_ISCSI: (
            "iscsi",
            {
                "target_portal": f"{_SERVER}:3260",
                "target_iqn": "iqn.2026-01.org.example:hvct",
                "target_lun": 1,
                "auth_method": "CHAP",
                "auth_username": "hvct",
                "auth_password": "hvct-secret-1234",
            },
        ),
        Capability.VOLUME_RBD: (
            "rbd",
            {
                "name": "volumes/hvct",
                "hosts": [_SERVER],
                "ports": ["6789"],
                "auth_enabled": True,
                "auth_username": "cinder",
                "keyring": "AQBSdFhcGgUIGhAA3bQkVMkkVtCxTkiQDBF4nQ==",
            },
        ),
        Capability.VOLUME_NFS: ("nfs", {"export": f"{_SERVER}:/export", "name": "hvct"}),
        Capability.VOLUME_SMBFS: (
            "smbfs",
            {
                "export": f"//{_SERVER}/share",
                "name": "hvct.vhdx",
                "format": "vhdx",
                "options": "-o username=hvct,password=hvct-secret",
            },
        ),
        Capability.VOLUME_FC: (
            "fibre_channel",
            {"target_wwn": ["50014380186b3f65"], "target_lun": 1},
        ),
        Capability.VOLUME_NVMEOF: (
            "nvmeof",
            {
                "target_nqn": "nqn.2014-08.org.example:hvct",
                "vol_uuid": "6f0b1c8e-0000-4000-8000-000000000001",
                "portals": [(_SERVER, 4420, "tcp")],
            },
        ),
        Capability.VOLUME_VMDK: ("vmdk", {"volume": "vm-17", "name": "hvct"}),
        Capability.VOLUME_FCD: (
            "vstorageobject",
            {"id": "6f0b1c8e-0000-4000-8000-000000000002", "ds_ref_val": "datastore-1"},
        ),
    }
)
"""One volume for each capability: the type of its ``connection_info``, and its ``data``."""


def served(kind: Capability, volume_id: str) -> Volume:
    """A volume of this kind, with this id."""
    driver_volume_type, data = SERVED[kind]
    return parse_connection_info(
        {"driver_volume_type": driver_volume_type, "serial": volume_id, "data": dict(data)}
    )
