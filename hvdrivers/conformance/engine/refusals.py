"""The other side of every capability: what is not declared must be refused, and change nothing.

For each capability there is one request that needs it. Where a driver does not declare it, the
engine makes that request once, instead of every check that needs the capability: it must raise
NotSupported, and the host must look as before. No check does this for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretBytes, SecretStr

from hvdrivers.conformance.engine.field_values import vif_qos
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.consoles import CONSOLE_CAPABILITIES
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.group import ServerGroup, ServerGroupPolicy
from hvdrivers.models.guest import Share
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.image import HostImage, ImageFormat
from hvdrivers.models.instance import (
    CpuPolicy,
    Firmware,
    PciRequest,
    VgpuRequest,
)
from hvdrivers.models.migration import Destination
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import (
    Bandwidth,
    BridgeVif,
    DvsVif,
    HostdevVif,
    HypervVif,
    MacvtapVif,
    NetworkVif,
    OvsVif,
    TapVif,
    UserVif,
    VdpaVif,
    VhostUserVif,
    Vif,
    VifQos,
)
from hvdrivers.models.volume import (
    DiskQos,
    Volume,
    VolumeAttachment,
    VolumeEncryption,
    VolumeSpec,
    parse_connection_info,
)

Request = Callable[[Trial, UUID], object]
"""Makes the request with the UUID of a stopped instance."""

_PCI = PciAddress("0000:7f:1f.7")
_HOST_IMAGE = HostImage(name="hvct-no-such-image")
_POOL_VOLUME = parse_connection_info(
    {"driver_volume_type": "pool", "serial": "hvct", "data": {"name": "hvct-none"}}
)


def _op(name: str, *args: object, **kwargs: object) -> Request:
    def request(trial: Trial, uuid: UUID) -> object:
        return getattr(trial.driver, name)(uuid, *args, **kwargs)

    return request


def _host_op(name: str, *args: object, **kwargs: object) -> Request:
    def request(trial: Trial, _uuid: UUID) -> object:
        return getattr(trial.driver, name)(*args, **kwargs)

    return request


def _spawn(**changes: Any) -> Request:
    def request(trial: Trial, _uuid: UUID) -> object:
        return trial.spawn(start=False, **changes)

    return request


def _flavor(**changes: object) -> Request:
    def request(trial: Trial, _uuid: UUID) -> object:
        return trial.spawn(start=False, flavor=trial.target.flavor.model_copy(update=changes))

    return request


def _image(format_: ImageFormat) -> Request:
    return _spawn(image=HostImage(name="hvct-no-such-image", format=format_))


def _volume(connection_info: Mapping[str, object], **changes: object) -> Request:
    volume = parse_connection_info({"serial": "hvct", **connection_info})
    return _op("attach_volume", VolumeAttachment.model_validate({"volume": volume, **changes}))


def _vif(vif: Vif) -> Request:
    return _op("plug_vif", vif)


def _rescue_from_volume(trial: Trial, uuid: UUID) -> object:
    return trial.driver.rescue(uuid, trial.target.image())


def _limit_a_nic(trial: Trial, uuid: UUID) -> None:
    limits = VifQos(inbound=Bandwidth(average=1000))
    # a driver may take one direction only
    wanted = vif_qos(trial, limits) if trial.has(Capability.VIF_QOS) else limits
    trial.driver.set_vif_qos(uuid, "hvct", wanted)


_VIF = {"id": "hvct"}
_DESTINATION = Destination(host="hvct-nowhere")
_QOS = DiskQos(total_iops_sec=100)
_POOL = {"driver_volume_type": "pool", "data": {"name": "hvct-none"}}
_ISCSI = {
    "driver_volume_type": "iscsi",
    "data": {
        "target_portal": "127.0.0.1:3260",
        "target_iqn": "iqn.2026-11.org.x:y",
        "target_lun": 1,
    },
}

REQUESTS: dict[Capability, Request] = {
    Capability.PAUSE: _op("pause"),
    Capability.SUSPEND: _op("suspend"),
    Capability.CRASH_DUMP: _op("inject_nmi"),
    Capability.RESCUE: _op("rescue", _HOST_IMAGE),
    Capability.RESIZE: lambda trial, uuid: trial.driver.resize(uuid, trial.target.flavor),
    Capability.HOT_RESIZE_CPU: _op("hot_resize_cpu", 2),
    Capability.HOT_RESIZE_MEMORY: _op("hot_resize_memory", 512),
    Capability.REBUILD: lambda trial, uuid: trial.driver.rebuild(uuid, trial.target.image()),
    Capability.ADOPT: _op("adopt"),
    Capability.EXTEND_VOLUME: _op("extend_volume", "hvct", 1 << 30),
    Capability.SWAP_VOLUME: _op("swap_volume", "hvct", VolumeAttachment(volume=_POOL_VOLUME)),
    Capability.RECONNECT: _op("reconnect", vifs=(NetworkVif(id="hvct", network="hvct-none"),)),
    Capability.HOST_VOLUMES: _host_op("create_volume", VolumeSpec(size_bytes=1 << 20)),
    Capability.DISK_QOS: _op("set_disk_qos", "hvct", _QOS),
    Capability.VIF_QOS: _limit_a_nic,
    Capability.IMAGE_CACHE: lambda trial, _: trial.driver.cache_image(trial.target.image()),
    Capability.SNAPSHOT_TO_IMAGE: _op("snapshot_to_image", Path("hvct-never-written.qcow2")),
    Capability.SNAPSHOTS: _op("create_snapshot", "hvct"),
    Capability.SNAPSHOT_MEMORY: _op("create_snapshot", "hvct", memory=True),
    Capability.INCREMENTAL_BACKUP: _op("begin_backup"),
    Capability.CONSOLE_LOG: _op("get_console_log"),
    **{capability: _op("get_console", kind) for kind, capability in CONSOLE_CAPABILITIES.items()},
    Capability.SCREENSHOT: _op("screenshot"),
    Capability.GUEST_PASSWORD: _op("set_guest_password", "root", SecretStr("hvct-secret")),
    Capability.GUEST_FREEZE: _op("freeze"),
    Capability.GUEST_EXEC: _op("guest_exec", ["/bin/true"]),
    Capability.GUEST_ADDRESSES: _op("guest_addresses"),
    Capability.LIVE_MIGRATION: _op("live_migrate", _DESTINATION),
    Capability.LIVE_MIGRATION_ABORT: _op("abort_migration"),
    Capability.LIVE_MIGRATION_FORCE: _op("force_migration"),
    Capability.COLD_MIGRATION: _op("cold_migrate", _DESTINATION),
    Capability.MOVE_IN_STEPS: _op("prepare_move"),
    Capability.STORAGE_MIGRATION: _op("migrate_storage", "hvct-nowhere"),
    Capability.MAINTENANCE: _host_op("enter_maintenance"),
    Capability.HOST_POWER: _host_op("host_power", HostPowerAction.REBOOT),
    Capability.SHARES: _op("attach_share", Share(tag="hvct", path="/hvct-nowhere")),
    Capability.CONFIG_DRIVE: _spawn(cloud_init=CloudInit()),
    Capability.SEED_DISC: _spawn(seed=SeedDisc(content=SecretBytes(bytes(2048)))),
    Capability.START_PAUSED: _op("start_paused"),
    Capability.USER_DATA: _spawn(cloud_init=CloudInit(user_data=SecretBytes(b"#cloud-config"))),
    Capability.BOOT_FROM_VOLUME: _spawn(
        image=None, volumes=(VolumeAttachment(volume=_POOL_VOLUME, boot_index=0),)
    ),
    Capability.RESCUE_BOOT_FROM_VOLUME: _rescue_from_volume,
    Capability.EPHEMERAL_DISK: _flavor(ephemeral_gib=1),
    Capability.SWAP_DISK: _flavor(swap_mib=64),
    Capability.UEFI: _spawn(firmware=Firmware.UEFI),
    Capability.SECURE_BOOT: _spawn(firmware=Firmware.UEFI, secure_boot=True),
    Capability.VTPM: _spawn(vtpm=True),
    Capability.SEV: _spawn(sev=True),
    Capability.NUMA: _flavor(numa_nodes=1),
    Capability.CPU_PINNING: _flavor(cpu_policy=CpuPolicy.DEDICATED),
    Capability.HUGEPAGES: _flavor(page_size_kib=2048),
    Capability.PCI_PASSTHROUGH: _spawn(pci_devices=(PciRequest(address=_PCI),)),
    Capability.VGPU: _spawn(vgpus=(VgpuRequest(type="hvct"),)),
    Capability.SERVER_GROUP: _spawn(
        server_group=ServerGroup(name="hvct", policy=ServerGroupPolicy.ANTI_AFFINITY)
    ),
    Capability.IMAGE_RAW: _image(ImageFormat.RAW),
    Capability.IMAGE_QCOW2: _image(ImageFormat.QCOW2),
    Capability.IMAGE_VMDK: _image(ImageFormat.VMDK),
    Capability.IMAGE_VHD: _image(ImageFormat.VHD),
    Capability.IMAGE_VHDX: _image(ImageFormat.VHDX),
    Capability.IMAGE_VDI: _image(ImageFormat.VDI),
    Capability.IMAGE_OVA: _image(ImageFormat.OVA),
    Capability.IMAGE_ISO: _image(ImageFormat.ISO),
    Capability.IMAGE_HOST: _spawn(image=_HOST_IMAGE),
    Capability.MULTI_ATTACH: _volume({**_POOL, "multiattach": True}),
    Capability.ENCRYPTED_VOLUME: _volume(
        _POOL, encryption=VolumeEncryption(provider="luks", secret=SecretBytes(b"hvct-secret"))
    ),
    Capability.VOLUME_POOL: _volume(_POOL),
    Capability.VOLUME_LOCAL: _volume(
        {"driver_volume_type": "local", "data": {"device_path": "/hvct-nowhere"}}
    ),
    Capability.VOLUME_ISCSI: _volume(_ISCSI),
    Capability.VOLUME_RBD: _volume(
        {
            "driver_volume_type": "rbd",
            "data": {"name": "hvct/none", "hosts": ["127.0.0.1"], "ports": ["6789"]},
        }
    ),
    Capability.VOLUME_NFS: _volume(
        {"driver_volume_type": "nfs", "data": {"export": "127.0.0.1:/hvct", "name": "none"}}
    ),
    Capability.VOLUME_SMBFS: _volume(
        {"driver_volume_type": "smbfs", "data": {"export": "//127.0.0.1/hvct", "name": "none"}}
    ),
    Capability.VOLUME_FC: _volume(
        {
            "driver_volume_type": "fibre_channel",
            "data": {"target_wwn": ["500a098280feeba5"], "target_lun": 1},
        }
    ),
    Capability.VOLUME_NVMEOF: _volume(
        {
            "driver_volume_type": "nvmeof",
            "data": {
                "target_portal": "127.0.0.1",
                "target_port": 4420,
                "nqn": "nqn.2026-11.org.x:y",
                "transport_type": "tcp",
                "ns_id": 1,
            },
        }
    ),
    Capability.VOLUME_VMDK: _volume(
        {"driver_volume_type": "vmdk", "data": {"volume": "vm-1", "name": "x"}}
    ),
    Capability.VOLUME_FCD: _volume(
        {"driver_volume_type": "vstorageobject", "data": {"id": "x", "ds_ref_val": "datastore-1"}}
    ),
    Capability.VIF_NETWORK: _vif(NetworkVif(**_VIF, network="hvct-none")),
    Capability.VIF_BRIDGE: _vif(BridgeVif(**_VIF, bridge="hvct-none")),
    Capability.VIF_OVS: _vif(OvsVif(**_VIF, bridge="hvct-none")),
    Capability.VIF_TAP: _vif(TapVif(**_VIF)),
    Capability.VIF_MACVTAP: _vif(MacvtapVif(**_VIF, source="hvct-none")),
    Capability.VIF_HOSTDEV: _vif(HostdevVif(**_VIF, pci_address=_PCI)),
    Capability.VIF_VHOSTUSER: _vif(
        VhostUserVif.model_validate({**_VIF, "socket": "/hvct-none", "mode": "server"})
    ),
    Capability.VIF_VDPA: _vif(VdpaVif.model_validate({**_VIF, "pci_address": _PCI})),
    Capability.VIF_DVS: _vif(DvsVif.model_validate({**_VIF, "port_group": "hvct-none"})),
    Capability.VIF_USER: _vif(UserVif(**_VIF)),
    Capability.VIF_HYPERV: _vif(HypervVif.model_validate({**_VIF, "switch": "hvct-none"})),
}
"""A request for each capability, but those of ``IN_A_STATE``."""

IN_A_STATE: dict[Capability, tuple[InstanceState, type[errors.HypervisorError], Request]] = {
    Capability.HOT_RENAME: (
        InstanceState.RUNNING,
        errors.NotSupported,
        lambda trial, uuid: trial.driver.rename(uuid, f"{trial.journal.prefix}other"),
    ),
    Capability.DETACH_PAUSED: (
        InstanceState.PAUSED,
        errors.InvalidState,
        _op("detach_volume", "hvct-absent"),
    ),
    Capability.NMI_PAUSED: (InstanceState.PAUSED, errors.InvalidState, _op("inject_nmi")),
}
"""Capabilities that a machine's state asks for: the state, the error without them, the request."""


def _bootable(trial: Trial) -> Volume:
    return trial.volume(1 << 30) if trial.has(Capability.HOST_VOLUMES) else _POOL_VOLUME


def refuse(trial: Trial, capability: Capability) -> None:
    """Make the request and demand that it is refused."""
    if capability in IN_A_STATE:
        state, refusal, request = IN_A_STATE[capability]
        if state is InstanceState.PAUSED and not trial.has(Capability.PAUSE):
            return  # there is no such state here
        if capability is Capability.NMI_PAUSED and not trial.has(Capability.CRASH_DUMP):
            refusal = errors.NotSupported
        uuid = trial.in_state(state)
        with trial.unchanged(), trial.raises(refusal):
            request(trial, uuid)
        return
    changes: dict[str, Any] = {}
    if capability is Capability.RESCUE_BOOT_FROM_VOLUME and trial.has(Capability.RESCUE):
        # what it is about is the instance; where there can be none that boots from a volume,
        # spawn() refuses to make one
        if trial.has(Capability.BOOT_FROM_VOLUME) and not trial.has(Capability.HOST_VOLUMES):
            return  # the suite has no volume to boot from
        changes["image"] = None
        changes["volumes"] = (VolumeAttachment(volume=_bootable(trial), boot_index=0),)
        if not trial.has(Capability.BOOT_FROM_VOLUME):
            with trial.unchanged(), trial.raises(errors.NotSupported):
                trial.spawn(start=False, **changes)
            return
    uuid = trial.spawn(start=False, **changes).uuid
    with trial.unchanged(), trial.raises(errors.NotSupported):
        REQUESTS[capability](trial, uuid)
