"""Clauses of ``contract/storage.py`` beyond attach and detach: how the host names itself, and
volumes that grow, are swapped and limited. The host's own are in ``host_volumes.py``."""

from __future__ import annotations

from uuid import UUID, uuid4

from hvdrivers.conformance.checks.storage import STOR_005, shown_volume
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.field_values import disk_qos
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import (
    DiskQos,
    LocalData,
    LocalVolume,
    VolumeAttachment,
    VolumeEncryption,
)

STOR_015 = clause(
    "STOR-015",
    "get_volume_connector() gives the host the same names at every call and on every connection",
    operation="get_volume_connector",
)
STOR_016 = clause(
    "STOR-016",
    "get_volume_connector() has the name that each protocol that the driver declares needs",
    operation="get_volume_connector",
)
STOR_018 = clause(
    "STOR-018",
    "a volume that is attached read-only, by attach_volume() or spawn(), is shown as read-only, and"
    " the machine cannot write to it",
    operation="attach_volume",
)
STOR_019 = clause(
    "STOR-019",
    "attach_volume() of an encrypted volume without its passphrase raises InvalidRequest and"
    " changes nothing",
    operation="attach_volume",
    needs=[Capability.ENCRYPTED_VOLUME],
)
STOR_020 = clause(
    "STOR-020",
    "after extend_volume() every connection shows the new size",
    operation="extend_volume",
)
STOR_021 = clause(
    "STOR-021",
    "extend_volume() to the size that the machine sees changes nothing; to less it raises"
    " InvalidRequest and changes nothing",
    operation="extend_volume",
)
STOR_022 = clause(
    "STOR-022",
    "extend_volume() of a volume that is not attached to this instance raises VolumeNotFound and"
    " changes nothing",
    operation="extend_volume",
)
STOR_040 = clause(
    "STOR-040",
    "set_disk_qos() sets the limits of that volume, and None removes them, at once and for later"
    " starts",
    operation="set_disk_qos",
)
STOR_041 = clause(
    "STOR-041",
    "set_disk_qos() of a volume that is not attached to this instance raises VolumeNotFound and"
    " changes nothing",
    operation="set_disk_qos",
)
STOR_042 = clause(
    "STOR-042",
    "the limits that an attachment names are in force once it is attached, by attach_volume(),"
    " spawn() or swap_volume()",
    operation="attach_volume",
    needs=[Capability.DISK_QOS],
)

_SIZE = 64 << 20
_QOS = DiskQos(total_iops_sec=400, total_bytes_sec=8 << 20)
_OTHER_QOS = DiskQos(read_bytes_sec=1 << 20)
_ON_AND_OFF = [
    Case("running", (InstanceState.RUNNING,)),
    Case("stopped", (InstanceState.STOPPED,)),
]


@check(STOR_015)
def host_has_one_name(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    with trial.unchanged():
        first = trial.driver.get_volume_connector()
        trial.equal(trial.driver.get_volume_connector(), first, "the second answer")
        trial.equal(trial.other.get_volume_connector(), first, "the answer to another")
        trial.check(first.host.strip(), "the host has no name")
        # which host of a cluster is meant may depend on the instance; that there is one may not
        trial.check(trial.driver.get_volume_connector(uuid).host.strip(), "no host for an instance")


@check(
    STOR_016,
    cases=[
        Case("iscsi", ("initiator",), needs=frozenset({Capability.VOLUME_ISCSI})),
        Case("fibre-channel", ("wwpns",), needs=frozenset({Capability.VOLUME_FC})),
        Case("nvmeof", ("nqn",), needs=frozenset({Capability.VOLUME_NVMEOF})),
    ],
)
def protocol_has_its_name(trial: Trial, field: str) -> None:
    connector = trial.driver.get_volume_connector()
    trial.check(getattr(connector, field), f"the connector has no {field}")
    trial.check(field in connector.to_cinder(), f"Cinder is not told {field}")


@check(STOR_005, needs=[Capability.VOLUME_LOCAL])
def absent_path_is_refused(trial: Trial) -> None:
    data = LocalData(device_path="/var/lib/hvct-absent")
    attachment = VolumeAttachment(volume=LocalVolume(serial="hvct-absent", data=data))
    uuid = trial.spawn(start=False).uuid
    for on in (False, True):
        if on:
            trial.driver.power_on(uuid)
        with trial.unchanged(), trial.raises(errors.VolumeNotFound):
            trial.driver.attach_volume(uuid, attachment)
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.spawn(volumes=(attachment,))


@check(STOR_019)
def passphrase_is_needed(trial: Trial) -> None:
    encryption = VolumeEncryption(provider="luks", encryption_key_id=str(uuid4()))
    attachment = VolumeAttachment(volume=trial.volume(), encryption=encryption)
    uuid = trial.spawn(start=False).uuid
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.attach_volume(uuid, attachment)


@check(STOR_018)
def is_read_only(trial: Trial) -> None:
    observer = trial.observer
    if observer is None:
        raise PreconditionMissing("there is no observer, and a driver may show what is not so")
    first, later, hot = (VolumeAttachment(volume=trial.volume(), read_only=True) for _ in range(3))
    open_ = VolumeAttachment(volume=trial.volume())
    try:
        uuid = trial.spawn(volumes=(first, open_), start=False).uuid
    except errors.NotSupported:
        uuid = trial.spawn(volumes=(open_,), start=False).uuid
        with trial.unchanged(), trial.raises(errors.NotSupported):
            trial.driver.attach_volume(uuid, later)
        return
    wanted: set[str] = set()
    for attachment, when in (
        (first, "spawn()"),
        (later, "attach_volume()"),
        (hot, "attach_volume() to a machine that runs"),
    ):
        if attachment is hot:
            trial.driver.power_on(uuid)
            found = set(observer.read_only(uuid))
            trial.equal(found, wanted, "volumes that cannot be written to while it runs")
        if attachment is not first:
            try:
                trial.driver.attach_volume(uuid, attachment)
            except errors.NotSupported:
                trial.check(attachment is hot, "attach_volume() refuses what spawn() takes")
                continue
        wanted.add(attachment.volume_id)
        shown = trial.other.get_instance(uuid).volumes
        found = {each.volume_id for each in shown if each.read_only}
        trial.equal(found, wanted, f"volumes that are shown as read-only after {when}")
        found = set(observer.read_only(uuid))
        trial.equal(found, wanted, f"volumes that cannot be written to after {when}")


@check(STOR_020, cases=_ON_AND_OFF)
def new_size_is_seen(trial: Trial, state: InstanceState) -> None:
    attachment = trial.attachment()
    uuid = trial.in_state(state, volumes=(attachment,))
    size = 2 * _SIZE
    trial.target.grow_volume(trial.driver, attachment.volume_id, size)
    trial.driver.extend_volume(uuid, attachment.volume_id, size)
    for driver in (trial.driver, trial.other):
        shown = shown_volume(driver.get_instance(uuid), attachment.volume_id)
        trial.check(shown is not None, "the volume is not attached any more")
        trial.check(shown and shown.size_bytes in {size, None}, f"the machine sees {shown}")


@check(STOR_020)
def new_size_is_seen_at_the_next_start(trial: Trial) -> None:
    attachment = trial.attachment()
    uuid = trial.spawn(volumes=(attachment,)).uuid
    size = 2 * _SIZE
    trial.target.grow_volume(trial.driver, attachment.volume_id, size)
    trial.driver.extend_volume(uuid, attachment.volume_id, size)
    trial.driver.power_off(uuid)
    trial.driver.power_on(uuid)
    shown = shown_volume(trial.driver.get_instance(uuid), attachment.volume_id)
    trial.check(shown and shown.size_bytes in {size, None}, f"the machine sees {shown}")


@check(STOR_021)
def never_shrinks(trial: Trial) -> None:
    attachment = trial.attachment()
    uuid = trial.spawn(volumes=(attachment,)).uuid
    with trial.unchanged():
        trial.driver.extend_volume(uuid, attachment.volume_id, _SIZE)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.extend_volume(uuid, attachment.volume_id, _SIZE // 2)


@check(STOR_022)
def only_what_is_attached_grows(trial: Trial) -> None:
    attachment = trial.attachment()
    trial.spawn(volumes=(attachment,), start=False)
    other = trial.spawn(start=False).uuid
    for volume_id in ("hvct-absent", attachment.volume_id):
        with trial.unchanged(), trial.raises(errors.VolumeNotFound):
            trial.driver.extend_volume(other, volume_id, 2 * _SIZE)


def _limits(trial: Trial, uuid: UUID) -> dict[str, dict[str, int]]:
    if trial.observer is None:
        raise PreconditionMissing("there is no observer, and get_instance() shows no limits")
    return {name: dict(limits) for name, limits in trial.observer.disk_limits(uuid).items()}


@check(STOR_040, cases=_ON_AND_OFF)
def limits_are_in_force(trial: Trial, state: InstanceState) -> None:
    limited, free = trial.attachment(), VolumeAttachment(volume=trial.volume())
    uuid = trial.in_state(state, volumes=(limited, free))
    for qos in (disk_qos(trial, _QOS), disk_qos(trial, _OTHER_QOS), None):
        for _ in range(2):  # repeating it changes nothing more
            trial.driver.set_disk_qos(uuid, limited.volume_id, qos)
            wanted = {limited.volume_id: qos.limits() if qos else {}, free.volume_id: {}}
            trial.equal(_limits(trial, uuid), wanted, f"limits after set_disk_qos({qos})")
    trial.driver.set_disk_qos(uuid, limited.volume_id, disk_qos(trial, _QOS))
    wanted = {limited.volume_id: disk_qos(trial, _QOS).limits(), free.volume_id: {}}
    trial.driver.power_off(uuid)
    trial.equal(_limits(trial, uuid), wanted, "limits after power_off()")
    trial.driver.power_on(uuid)
    trial.equal(_limits(trial, uuid), wanted, "limits at the next start")


@check(STOR_041)
def only_what_is_attached_is_limited(trial: Trial) -> None:
    attachment = trial.attachment()
    trial.spawn(volumes=(attachment,), start=False)
    other = trial.spawn(start=False).uuid
    for volume_id in ("hvct-absent", attachment.volume_id):
        with trial.unchanged(), trial.raises(errors.VolumeNotFound):
            trial.driver.set_disk_qos(other, volume_id, disk_qos(trial, _QOS))


@check(STOR_042, cases=_ON_AND_OFF)
def attachments_limits_are_in_force(trial: Trial, state: InstanceState) -> None:
    attachment = VolumeAttachment(volume=trial.volume(), qos=disk_qos(trial, _QOS))
    uuid = trial.in_state(state)
    trial.driver.attach_volume(uuid, attachment)
    trial.equal(
        _limits(trial, uuid), {attachment.volume_id: disk_qos(trial, _QOS).limits()}, "limits"
    )


@check(STOR_042)
def limits_are_in_force_from_the_start(trial: Trial) -> None:
    attachment = VolumeAttachment(volume=trial.volume(), qos=disk_qos(trial, _QOS))
    uuid = trial.spawn(volumes=(attachment,)).uuid
    trial.equal(
        _limits(trial, uuid),
        {attachment.volume_id: disk_qos(trial, _QOS).limits()},
        "limits after spawn()",
    )


@check(STOR_042, needs=[Capability.SWAP_VOLUME])
def replacements_limits_are_in_force(trial: Trial) -> None:
    old, new = (
        trial.attachment(),
        VolumeAttachment(volume=trial.volume(), qos=disk_qos(trial, _QOS)),
    )
    uuid = trial.spawn(volumes=(old,)).uuid
    trial.driver.swap_volume(uuid, old.volume_id, new)
    trial.equal(
        _limits(trial, uuid),
        {new.volume_id: disk_qos(trial, _QOS).limits()},
        "limits after swap_volume()",
    )
