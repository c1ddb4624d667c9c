"""Machines whose memory the CPU encrypts: AMD SEV-ES, since vSphere 7.0 Update 1.

vSphere has them with UEFI only. It does not move or suspend one while it runs, keeps no memory of
one in a snapshot, adds nothing to one that runs, makes no clones of one, and starts it without
Secure Boot ("Unsupported VMware Features on SEV-ES").
"""

from __future__ import annotations

from dataclasses import replace

from pyVmomi import VmomiSupport

from hvdrivers.contract import errors
from hvdrivers.models.instance import Firmware, InstanceSpec
from hvdrivers.vmware.passthrough import BROWSER
from hvdrivers.vmware.place import Places, Surroundings
from hvdrivers.vmware.reader import Reader, Row
from hvdrivers.vmware.record import Mark
from hvdrivers.vmware.session import Session

_TOLD = (("v7_0_1_0", "config.sevEnabled"), ("v9_0_0_0", "config.sevSnpEnabled"))
"""Since which version of the API a machine tells that its memory is encrypted, and where."""


def telling(session: Session) -> tuple[str, ...]:
    """What to read of a machine that others made, to learn that its memory is encrypted: an older
    server refuses to be asked. No call."""
    spoken = session.stub.version
    return tuple(
        path for since, path in _TOLD if VmomiSupport.IsChildVersion(spoken, f"vim.version.{since}")
    )


def is_encrypted(row: Row) -> bool:
    """Whether a machine's memory is encrypted, read with ``telling``."""
    return any(row.get(path) for _, path in _TOLD)


class EncryptedMemory:
    """Finds hosts that encrypt memory."""

    def __init__(self, reader: Reader, places: Places) -> None:
        self._reader = reader
        self._places = places

    def hosts(self, spec: InstanceSpec, around: Surroundings) -> Surroundings:
        """The same with only the hosts that can have the machine. 1 read, and 1 call for each host;
        none, and all hosts, for a machine whose memory is plain.

        Raises:
            InsufficientResources: no host encrypts memory.
            NotSupported: the machine is to have what vSphere does not give beside that.
            InvalidRequest: it has no UEFI.
        """
        if not spec.sev:
            return around
        _refuse_beside(spec)
        browser = self._reader.one(self._places.get().compute, BROWSER)[BROWSER]
        able = []
        for host in around.usable_hosts:
            target = browser.QueryConfigTarget(host.obj)
            if target is not None and target.sevSupported:
                able.append(host)
        if not able:
            raise errors.InsufficientResources(
                "no host encrypts the memory of machines",
                hint="it needs an AMD EPYC 7xx2 or newer with SEV-ES enabled in its firmware",
            )
        return replace(around, hosts=tuple(able))


def _refuse_beside(spec: InstanceSpec) -> None:
    if spec.firmware is not Firmware.UEFI:
        raise errors.InvalidRequest(
            "vSphere encrypts the memory of machines with UEFI only", hint="firmware=uefi"
        )
    for wanted, what in (
        (spec.secure_boot, "Secure Boot"),
        (spec.flavor.max_vcpus is not None, "CPUs that are added while it runs"),
        (spec.flavor.max_memory_mib is not None, "memory that is added while it runs"),
    ):
        if wanted:
            raise errors.NotSupported(
                f"vSphere gives a machine whose memory is encrypted no {what}", hint="leave it out"
            )


def refuse_encrypted(mark: Mark, what: str) -> None:
    """Refuse what vSphere does not do with a machine whose memory is encrypted.

    Raises:
        NotSupported: it is.
    """
    if mark.sev:
        raise errors.NotSupported(
            f"vSphere {what} no machine whose memory is encrypted (SEV)",
            hint="power_off() keeps its disks",
        )
