"""Volumes: how to reach one (``Volume``), how a guest gets it (``VolumeAttachment``).

A :data:`Volume` is Cinder's ``connection_info``, typed: :func:`parse_connection_info` reads what
Cinder writes. A caller without Cinder builds one by hand. A volume of the hypervisor's own storage
is a :class:`PoolVolume`.

========================  =====================  ==========================================
``driver_volume_type``    class                  what a driver reads
========================  =====================  ==========================================
``iscsi``, ``iser``       IscsiVolume            ``targets``, ``chap``, ``discovery_chap``
``fibre_channel``         FibreChannelVolume     ``targets``, ``wwns``
``nvmeof``                NvmeofVolume           ``targets``, ``portals``, ``replicated``
``rbd``                   RbdVolume              ``monitors``, ``pool``, ``image``, ``key``
``nfs``                   NfsVolume              ``host``, ``path``, ``data.name``
``smbfs``                 SmbfsVolume            ``unc_path``, ``username``, ``password``
``local``                 LocalVolume            ``path``
``pool``                  PoolVolume             ``data.pool``, ``data.name``
``vmdk``                  VmdkVolume             ``shadow_vm``
``vstorageobject``        FcdVolume              ``data.id``, ``data.ds_ref_val``
========================  =====================  ==========================================
"""

from hvdrivers.models.volume._base import VolumeBase, VolumeData
from hvdrivers.models.volume.attachment import (
    AttachedVolume,
    CacheMode,
    DeviceType,
    DiskBus,
    VolumeAttachment,
    VolumeEncryption,
)
from hvdrivers.models.volume.connector import VolumeConnector
from hvdrivers.models.volume.fc import FcData, FcTarget, FibreChannelVolume
from hvdrivers.models.volume.host import (
    FcdData,
    FcdVolume,
    HostVolume,
    LocalData,
    LocalVolume,
    PoolData,
    PoolVolume,
    VmdkConfig,
    VmdkData,
    VmdkVolume,
    VolumeSpec,
)
from hvdrivers.models.volume.iscsi import ChapCredentials, IscsiData, IscsiTarget, IscsiVolume
from hvdrivers.models.volume.network import (
    NfsData,
    NfsVolume,
    RbdData,
    RbdMonitor,
    RbdVolume,
    SmbfsData,
    SmbfsVolume,
)
from hvdrivers.models.volume.nvmeof import (
    NvmeofData,
    NvmeofVolume,
    NvmePortal,
    NvmeReplica,
    NvmeTarget,
)
from hvdrivers.models.volume.qos import DiskQos
from hvdrivers.models.volume.union import VOLUME_TYPES, Volume, parse_connection_info

__all__ = [
    "VOLUME_TYPES",
    "AttachedVolume",
    "CacheMode",
    "ChapCredentials",
    "DeviceType",
    "DiskBus",
    "DiskQos",
    "FcData",
    "FcTarget",
    "FcdData",
    "FcdVolume",
    "FibreChannelVolume",
    "HostVolume",
    "IscsiData",
    "IscsiTarget",
    "IscsiVolume",
    "LocalData",
    "LocalVolume",
    "NfsData",
    "NfsVolume",
    "NvmePortal",
    "NvmeReplica",
    "NvmeTarget",
    "NvmeofData",
    "NvmeofVolume",
    "PoolData",
    "PoolVolume",
    "RbdData",
    "RbdMonitor",
    "RbdVolume",
    "SmbfsData",
    "SmbfsVolume",
    "VmdkConfig",
    "VmdkData",
    "VmdkVolume",
    "Volume",
    "VolumeAttachment",
    "VolumeBase",
    "VolumeConnector",
    "VolumeData",
    "VolumeEncryption",
    "VolumeSpec",
    "parse_connection_info",
]
