"""Volumes behind iSCSI (and iSER, the same over RDMA)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from hvdrivers.models.base import Model, PrintableText
from hvdrivers.models.volume._base import VolumeBase, VolumeData
from hvdrivers.models.volume._text import Host, Iqn, Lun, Port, Secret, join_portal, split_portal

ISCSI_PORT = 3260


class IscsiTarget(Model):
    """One path to the volume."""

    host: Host
    """Address or name, IPv6 without brackets."""
    port: Port = ISCSI_PORT
    iqn: Iqn
    lun: Lun

    @property
    def portal(self) -> str:
        """``10.0.0.1:3260``, ``[fd00::1]:3260``."""
        return join_portal(self.host, self.port)


class ChapCredentials(Model):
    """User name and password for CHAP."""

    username: PrintableText
    password: Secret


def _normalise_portal(value: str) -> str:
    return join_portal(*split_portal(value, ISCSI_PORT))


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Portal = Annotated[str, Field(max_length=300)]
AuthMethod = Annotated[Literal["CHAP", "NONE"], BeforeValidator(_upper)]


class IscsiData(VolumeData):
    """``data`` of an iSCSI volume (cinder ``volume/targets/iscsi.py`` ``_get_iscsi_properties``).

    One target in the singular keys, several in the plural ones; ``IscsiVolume.targets`` is both.
    """

    vendor_keys: ClassVar[Mapping[str, str]] = {
        "target_discovered": "cinder: all; whether discovery was done when it was exported",
        "provider_location": "cinder: ibm/ibm_storage/xiv_proxy.py; repeats the target",
        "addressing_mode": "cinder: pure.py; the initiator finds out by itself",
    }

    target_portal: Portal | None = None
    target_iqn: Iqn | None = None
    target_lun: Lun | None = None
    target_portals: tuple[Portal, ...] = ()
    target_iqns: tuple[Iqn, ...] = ()
    target_luns: tuple[Lun, ...] = ()
    auth_method: AuthMethod | None = None
    auth_username: PrintableText | None = None
    auth_password: Secret | None = None
    discovery_auth_method: AuthMethod | None = None
    discovery_auth_username: PrintableText | None = None
    discovery_auth_password: Secret | None = None
    wwn: PrintableText | None = None
    """World-wide name of the LUN itself (cinder ``pure.py``), to tell disks apart by."""

    @field_validator("target_portal")
    @classmethod
    def _portal(cls, value: str | None) -> str | None:
        return value if value is None else _normalise_portal(value)

    @field_validator("target_portals")
    @classmethod
    def _portals(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_normalise_portal(item) for item in value)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        several = bool(self.target_portals and self.target_iqns)
        if not several and (self.target_portal is None) != (self.target_iqn is None):
            raise ValueError("target_portal and target_iqn belong together")
        if not several and self.target_portal is None:
            raise ValueError(
                "no target: target_portal and target_iqn, or their plurals, are missing"
            )
        if self.target_lun is None and not self.target_luns:
            raise ValueError("target_lun is missing")
        if self.target_iqns:
            count = len(self.target_iqns)
            if (
                len(self.target_portals) != count
                or len(self.target_luns or self.target_iqns) != count
            ):
                raise ValueError(
                    "target_portals, target_iqns and target_luns must have the same length"
                )
        for kind in ("auth", "discovery_auth"):
            if getattr(self, f"{kind}_method") == "CHAP" and not (
                getattr(self, f"{kind}_username") and getattr(self, f"{kind}_password")
            ):
                raise ValueError(f"{kind}_method CHAP needs {kind}_username and {kind}_password")
        return self


class IscsiVolume(VolumeBase):
    """A volume behind iSCSI."""

    driver_volume_type: Literal["iscsi", "iser"] = "iscsi"
    data: IscsiData

    @property
    def targets(self) -> tuple[IscsiTarget, ...]:
        """Every path, without doubles; the first is the one that Cinder prefers."""
        data = self.data
        paths: list[tuple[str, str, int]] = []
        # A multipath answer repeats the preferred path in the singular keys.
        lun = data.target_lun if data.target_lun is not None else next(iter(data.target_luns), 0)
        if data.target_portal is not None and data.target_iqn is not None:
            paths.append((data.target_portal, data.target_iqn, lun))
        luns = data.target_luns or (lun,) * len(data.target_iqns)
        if data.target_iqns:  # without them os-brick ignores target_portals, and so do we
            paths.extend(zip(data.target_portals, data.target_iqns, luns, strict=True))
        targets = []
        for portal, iqn, number in dict.fromkeys(paths):
            host, port = split_portal(portal, ISCSI_PORT)
            targets.append(IscsiTarget(host=host, port=port, iqn=iqn, lun=number))
        return tuple(targets)

    @property
    def chap(self) -> ChapCredentials | None:
        """Credentials for the session, if CHAP is used."""
        data = self.data
        if data.auth_username is None or data.auth_password is None or data.auth_method == "NONE":
            return None
        return ChapCredentials(username=data.auth_username, password=data.auth_password)

    @property
    def discovery_chap(self) -> ChapCredentials | None:
        """Credentials for discovery (SendTargets), if CHAP is used there."""
        data = self.data
        if data.discovery_auth_username is None or data.discovery_auth_password is None:
            return None
        return ChapCredentials(
            username=data.discovery_auth_username, password=data.discovery_auth_password
        )
