"""Values for the optional fields of volumes and NICs, and limits that the driver takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.models.hardware import CpuTopology, TpmModel, VideoModel, WatchdogAction
from hvdrivers.models.vif import Bandwidth, NicModel, VifQos
from hvdrivers.models.volume import CacheMode, DeviceType, DiskBus, DiskQos

VOLUME_VALUES: Mapping[str, Sequence[object]] = {
    "bus": tuple(DiskBus),
    "cache": tuple(CacheMode),
    "device_type": (DeviceType.CDROM, DeviceType.LUN),
    "discard": (True, False),
    "tag": ("hvct-tag",),
}
"""What to ask for, by the field of a VolumeAttachment. A driver need not take each value of a field
that it takes, but one of them it must."""

VIF_VALUES: Mapping[str, Sequence[object]] = {
    "model": tuple(NicModel),
    "mtu": (1400, 1500, 9000),
    "vlan": (7,),
    "queues": (2,),
    "active": (False,),
    "tag": ("hvct-tag",),
}
"""The same of a NIC."""

HARDWARE_VALUES: Mapping[str, Sequence[object]] = {
    "machine_type": (),  # the target says
    "disk_bus": tuple(DiskBus),
    "nic_model": tuple(NicModel),
    "video": tuple(VideoModel),
    "cpu_topology": (CpuTopology(sockets=1, cores=2), CpuTopology(sockets=2)),
    "watchdog": tuple(WatchdogAction),
    "rng": (True,),
    "tpm_model": tuple(TpmModel),
}
"""What to ask for, by the field of Hardware."""

_ORDER = ("total_iops_sec", "total_bytes_sec", "read_iops_sec", "read_bytes_sec")


def disk_qos(trial: Trial, wanted: DiskQos) -> DiskQos:
    """The limits of ``wanted`` that the driver takes; if it takes none of them, another."""
    taken = trial.driver.takes.get(DiskQos, frozenset())
    kept = {name: value for name, value in wanted.limits().items() if name in taken}
    if kept.keys() - {"size_iops_sec"}:
        return DiskQos(**kept)
    for name in (*_ORDER, *sorted(taken)):
        if name in taken and not name.endswith("_max") and name != "size_iops_sec":
            share = sum(wanted.limits().values()) % 7 + 1  # so that two of them differ
            # whole numbers of 8 KiB, in which some hypervisors count
            return DiskQos(**{name: share << 20 if "bytes" in name else share * 80})
    raise PreconditionMissing("the driver declares disk-qos and takes no field of DiskQos")


def vif_qos(trial: Trial, wanted: VifQos) -> VifQos:
    """The limits of ``wanted`` that the driver takes; if it limits one direction only, that one."""
    takes = trial.driver.takes
    directions = takes.get(VifQos, frozenset())
    if not directions:
        raise PreconditionMissing("the driver declares vif-qos and takes no field of VifQos")
    given = {
        name: _bandwidth(trial, limits)
        for name in ("inbound", "outbound")
        if (limits := getattr(wanted, name)) is not None
    }
    kept = {name: limits for name, limits in given.items() if name in directions}
    return VifQos(**(kept or {min(directions): next(iter(given.values()))}))


@contextmanager
def limiting_a_nic(trial: Trial) -> Iterator[None]:
    """Around a call that makes limits of the target's NIC come true. A host may limit NICs of
    another wiring only, and the driver learns that from the host: it raises NotSupported with the
    host's code and a hint, and changes nothing. Then the target cannot show what the check looks
    for."""
    before = trial.picture()
    try:
        yield
    except errors.NotSupported as error:
        if error.vendor_code is None or error.hint is None:
            raise  # the driver's own refusal, of what it declares
        trial.equal(trial.picture(), before, "the host after it refused limits of a NIC")
        raise PreconditionMissing(
            f"the host limits no NIC that is wired like the target's: {error.message}"
        ) from error


def _bandwidth(trial: Trial, wanted: Bandwidth) -> Bandwidth:
    taken = trial.driver.takes.get(Bandwidth, frozenset()) | {"average"}
    return Bandwidth(
        **{
            name: value
            for name in Bandwidth.model_fields
            if name in taken and (value := getattr(wanted, name)) is not None
        }
    )
