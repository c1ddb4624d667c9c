"""Volumes behind Fibre Channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from hvdrivers.models.base import Model, PrintableText
from hvdrivers.models.volume._base import VolumeBase, VolumeData
from hvdrivers.models.volume._text import Lun, Wwn, Wwns


class FcTarget(Model):
    """One path to the volume."""

    wwn: Wwn
    """World-wide port name of the target: 16 lower-case hexadecimal digits."""
    lun: Lun


class FcData(VolumeData):
    """``data`` of a Fibre Channel volume (os-brick ``connectors/fibre_channel.py``).

    WWNs come singly or as a list under either key, in any of their spellings.
    """

    vendor_keys: ClassVar[Mapping[str, str]] = {
        "target_discovered": "cinder: all; always false or meaningless",
        "map_info": "cinder: huawei; ids on the array",
        "zvm_fcp": "cinder: ibm/storwize_svc fc; device number under z/VM",
        "all_storage_wwpns": "cinder: ibm/ibm_storage/xiv_proxy.py; all ports of the array",
        "recommended_connections": "cinder: ibm/ibm_storage/xiv_proxy.py; advice",
    }

    target_wwn: Wwns = ()
    target_wwns: Wwns = ()
    target_lun: Lun | None = None
    target_luns: tuple[Lun, ...] = ()
    initiator_target_map: Mapping[Wwn, Wwns] = {}
    """Which target port each initiator port of the host is zoned to."""
    initiator_target_lun_map: Mapping[Wwn, tuple[tuple[Wwn, Lun], ...]] = {}
    addressing_mode: Literal["SAM", "transparent", "SAM2", "SAM3-flat"] | None = None
    """How the LUN is written into the sysfs path (os-brick constants)."""
    wwn: PrintableText | None = None
    """World-wide name of the LUN itself (cinder ``pure.py``), to tell disks apart by."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        wwns = self.target_wwns or self.target_wwn
        mapped = self.initiator_target_map or self.initiator_target_lun_map
        if not wwns and not mapped:
            raise ValueError("no target: target_wwn or target_wwns is missing")
        if self.target_lun is None and not self.target_luns and not self.initiator_target_lun_map:
            raise ValueError("target_lun is missing")
        if wwns and len(self.target_luns) not in {0, 1, len(wwns)}:
            raise ValueError("target_luns must be one, or as many as there are target_wwns")
        return self


class FibreChannelVolume(VolumeBase):
    """A volume behind Fibre Channel."""

    driver_volume_type: Literal["fibre_channel"] = "fibre_channel"
    data: FcData

    @property
    def wwns(self) -> tuple[str, ...]:
        """The target ports, without doubles."""
        return tuple(dict.fromkeys(target.wwn for target in self.targets))

    @property
    def targets(self) -> tuple[FcTarget, ...]:
        """Every target port with the LUN behind it, without doubles."""
        data = self.data
        paths: list[tuple[str, int]] = []
        wwns = data.target_wwns or data.target_wwn
        if not wwns and data.initiator_target_lun_map:
            paths = [path for paths in data.initiator_target_lun_map.values() for path in paths]
        else:
            # IBM XIV leaves target_wwn empty when only zoning knows the ports.
            wwns = wwns or tuple(w for ports in data.initiator_target_map.values() for w in ports)
            luns = data.target_luns or ((data.target_lun or 0),)
            if len(luns) == 1:
                luns *= len(wwns)
            paths = list(zip(wwns, luns, strict=True))
        return tuple(FcTarget(wwn=wwn, lun=lun) for wwn, lun in dict.fromkeys(paths))
