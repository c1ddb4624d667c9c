"""A logical unit of a storage server, as the scripts find it on the host (``scripts/disks.ps1``).

What a record keeps of it is :func:`disk_path`. Credentials travel in the request, on the standard
input of the host's PowerShell, and are in no record. The host keeps those of a login that it
repeats when it starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from hvdrivers.contract import errors
from hvdrivers.hyperv.library import Json, Secret
from hvdrivers.models.volume import ChapCredentials, FibreChannelVolume, IscsiVolume, Volume

_PATTERN: Final = re.compile(r"[*?\[\]`]")
"""What PowerShell reads as a pattern, and no iSCSI name has (RFC 3722)."""
_USER_BYTES: Final = 255
"""Of a CHAP name: the longest text that an iSCSI login carries (RFC 7143, 6.1)."""
_LUNS: Final = 1 << 32
"""Windows numbers logical units with 32 bits at most."""


def disk_path(volume: IscsiVolume | FibreChannelVolume) -> str:
    """What stands for the volume where a file would have its path: its first target, and the unit
    there."""
    if isinstance(volume, IscsiVolume):
        first = volume.targets[0]
        return f"iscsi:{first.iqn},{first.lun}"
    if not volume.targets:
        raise errors.VolumeNotFound(
            "no target port of the volume is named",
            hint="give target_wwn as the storage server shows it",
        )
    port = volume.targets[0]
    return f"fc:{port.wwn},{port.lun}"


def disk_of(volume: Volume) -> dict[str, Json] | None:
    """Where the host finds the disk; None for a volume that is a file."""
    if isinstance(volume, FibreChannelVolume) and volume.data.enforce_multipath:
        raise errors.NotSupported(
            "this driver counts no paths on the Fibre Channel",
            hint="leave enforce_multipath out; the host may have more paths through Multipath I/O",
        )
    if isinstance(volume, IscsiVolume):
        if volume.driver_volume_type != "iscsi":
            raise errors.NotSupported(
                "the initiator of Windows has no iSER", hint="export the volume as iscsi"
            )
        for each in volume.targets:
            if _PATTERN.search(each.iqn):
                raise errors.InvalidRequest(
                    "the name of the target has a character that no iSCSI name has",
                    hint="give target_iqn as the storage server shows it",
                )
        _check_luns(each.lun for each in volume.targets)
        return {
            "kind": "iscsi",
            "targets": [
                {"host": each.host, "port": each.port, "iqn": each.iqn, "lun": each.lun}
                for each in volume.targets
            ],
            "enforce": volume.data.enforce_multipath,
            "chap": _chap(volume.chap),
            "discovery": _chap(volume.discovery_chap),
        }
    if isinstance(volume, FibreChannelVolume):
        _check_luns(each.lun for each in volume.targets)
        return {
            "kind": "fc",
            "targets": [{"wwn": each.wwn, "lun": each.lun} for each in volume.targets],
        }
    return None


def _check_luns(luns: Iterable[int]) -> None:
    if any(lun >= _LUNS for lun in luns):
        raise errors.VolumeNotFound(
            "Windows sees no logical unit with so high a number",
            hint="give target_lun as the storage server shows it",
        )


def _chap(credentials: ChapCredentials | None) -> dict[str, Json] | None:
    if credentials is None:
        return None
    secret = credentials.password.get_secret_value()
    if not secret.isascii():
        raise errors.InvalidRequest(
            "the initiator of Windows takes a CHAP secret of 12 to 16 bytes, and no documentation"
            " says which bytes it makes of letters beyond ASCII",
            hint="set a secret of ASCII characters at the storage server",
        )
    if not 12 <= len(secret) <= 16:
        raise errors.InvalidRequest(
            "the initiator of Windows takes CHAP secrets of 12 to 16 characters",
            hint="set such a secret at the storage server, and give it as auth_password",
        )
    if len(credentials.username.encode()) > _USER_BYTES:
        raise errors.InvalidRequest(
            f"a CHAP user has at most {_USER_BYTES} bytes",
            hint="give auth_username as the storage server knows it",
        )
    return {"user": credentials.username, "secret": Secret(secret)}
