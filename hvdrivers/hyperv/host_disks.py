"""A logical unit of a storage server, as the scripts find it on the host (``scripts/disks.ps1``).

What a record keeps of it is :func:`disk_path`. Credentials travel in the request, on the standard
input of the host's PowerShell, and are in no record. The host keeps those of a login that it
repeats when it starts.
"""

from __future__ import annotations

from hvdrivers.contract import errors
from hvdrivers.hyperv.library import Json
from hvdrivers.models.volume import ChapCredentials, FibreChannelVolume, IscsiVolume, Volume


def disk_path(volume: IscsiVolume | FibreChannelVolume) -> str:
    """What stands for the volume where a file would have its path: its first target, and the unit
    there."""
    if isinstance(volume, IscsiVolume):
        first = volume.targets[0]
        return f"iscsi:{first.iqn},{first.lun}"
    if not volume.targets:
        raise errors.VolumeNotFound("no target port of the volume is named")
    port = volume.targets[0]
    return f"fc:{port.wwn},{port.lun}"


def disk_of(volume: Volume) -> dict[str, Json] | None:
    """Where the host finds the disk; None for a volume that is a file."""
    if isinstance(volume, IscsiVolume):
        if volume.driver_volume_type != "iscsi":
            raise errors.NotSupported("the initiator of Windows has no iSER")
        return {
            "kind": "iscsi",
            "targets": [
                {"host": each.host, "port": each.port, "iqn": each.iqn, "lun": each.lun}
                for each in volume.targets
            ],
            "chap": _chap(volume.chap),
            "discovery": _chap(volume.discovery_chap),
        }
    if isinstance(volume, FibreChannelVolume):
        return {
            "kind": "fc",
            "targets": [{"wwn": each.wwn, "lun": each.lun} for each in volume.targets],
        }
    return None


def _chap(credentials: ChapCredentials | None) -> dict[str, Json] | None:
    if credentials is None:
        return None
    secret = credentials.password.get_secret_value()
    if not 12 <= len(secret) <= 16:
        raise errors.InvalidRequest(
            "the initiator of Windows takes CHAP secrets of 12 to 16 characters"
        )
    return {"user": credentials.username, "secret": secret}
