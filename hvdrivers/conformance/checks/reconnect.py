"""Clauses of ``reconnect()``, and of connections that a machine has at the host it moves to."""

from __future__ import annotations

from pydantic import SecretBytes

from hvdrivers.conformance.checks.migration import Elsewhere, movable
from hvdrivers.conformance.checks.storage import shown_volume
from hvdrivers.conformance.engine.assertions import expect_state
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import Volume, VolumeAttachment, VolumeEncryption

RECON_001 = clause(
    "RECON-001",
    "after reconnect() a volume is the one behind the new connection, with its id, device and boot"
    " index, and the old one is free",
    operation="reconnect",
    needs=[Capability.HOST_VOLUMES],
)
RECON_002 = clause(
    "RECON-002",
    "after reconnect() a NIC is plugged into what the new wiring names at the next start, with its"
    " id, address and place",
    operation="reconnect",
)
RECON_003 = clause(
    "RECON-003",
    "reconnect() of what the instance has not, or to what the host cannot find, raises"
    " VolumeNotFound or NetworkNotFound and changes nothing, also of what else is named",
    operation="reconnect",
)
RECON_004 = clause(
    "RECON-004",
    "a machine that moves has the connections there that Destination names, and the others as they"
    " were",
    operation="cold_migrate",
    needs=[Capability.RECONNECT],
)
RECON_005 = clause(
    "RECON-005",
    "after reconnect() an encrypted volume is opened with the passphrase of the new attachment",
    operation="reconnect",
    needs=[Capability.ENCRYPTED_VOLUME],
)
_NIC, _OTHER = "hvct-nic", "hvct-other"


def _elsewhere(trial: Trial, old: VolumeAttachment) -> VolumeAttachment:
    """The same volume id, on another volume of the host."""
    other = trial.volume()
    moved = other.model_copy(update={"serial": old.volume_id})
    return VolumeAttachment(volume=moved)


@check(
    RECON_001,
    cases=[
        Case("data", (None,)),
        Case("boot", (0,), needs=frozenset({Capability.BOOT_FROM_VOLUME})),
    ],
)
def volume_is_the_other(trial: Trial, boot_index: int | None) -> None:
    first = VolumeAttachment(volume=trial.volume(), boot_index=boot_index)
    stays = VolumeAttachment(volume=trial.volume())
    uuid = trial.spawn(start=False, volumes=(first, stays)).uuid
    before = trial.driver.get_instance(uuid)
    other = trial.volume()
    moved = VolumeAttachment(volume=other.model_copy(update={"serial": first.volume_id}))
    trial.driver.reconnect(uuid, volumes=(moved,))
    now = trial.other.get_instance(uuid)
    for field in ("device", "bus", "boot_index"):
        was = getattr(shown_volume(before, first.volume_id), field)
        found = getattr(shown_volume(now, first.volume_id), field)
        trial.equal(found, was, f"{field} of the volume after reconnect()")
    trial.equal(
        shown_volume(now, stays.volume_id),
        shown_volume(before, stays.volume_id),
        "the other volume",
    )
    # what was behind the old connection is nobody's; what is behind the new one is the machine's
    taker = trial.spawn(start=False).uuid
    trial.driver.power_on(uuid)
    trial.driver.attach_volume(taker, VolumeAttachment(volume=first.volume))
    trial.driver.power_on(taker)
    trial.driver.power_off(taker)
    trial.driver.detach_volume(taker, first.volume_id)
    with trial.raises(errors.DeviceBusy):
        trial.driver.delete_volume(other.volume_id)


@check(RECON_005)
def new_passphrase_opens_it(trial: Trial) -> None:
    driver, target = trial.driver, trial.target

    def attachment(volume: Volume, word: bytes) -> VolumeAttachment:
        secret = VolumeEncryption(provider="luks", secret=SecretBytes(word))
        return VolumeAttachment(volume=volume, encryption=secret)

    with target.locked_volume(driver, b"hvct-right") as volume:
        wrong = attachment(volume, b"hvct-wrong")
        uuid = trial.spawn(start=False, volumes=(wrong,)).uuid
        driver.reconnect(uuid, volumes=(attachment(volume, b"hvct-right"),))
        driver.power_on(uuid)
        trial.check(target.opened(driver, uuid, volume.volume_id), "the new one did not open it")
        driver.power_off(uuid)
        driver.detach_volume(uuid, volume.volume_id)


@check(RECON_002)
def nic_is_wired_anew(trial: Trial) -> None:
    with trial.target.passing_network(_NIC) as gone:
        vifs = (gone, trial.target.vif(_OTHER))
        uuid = trial.spawn(start=False, vifs=vifs).uuid
    before = trial.driver.get_instance(uuid)
    trial.driver.reconnect(uuid, vifs=(trial.target.vif(_NIC),))
    now = trial.other.get_instance(uuid)
    trial.equal(
        [(each.id, each.address) for each in now.vifs],
        [(each.id, each.address) for each in before.vifs],
        "NICs and their order",
    )
    trial.driver.power_on(uuid)
    expect_state(trial, uuid, InstanceState.RUNNING, "wired to a network that is there")


@check(RECON_003)
def unknown_nic_changes_nothing(trial: Trial) -> None:
    uuid = trial.spawn(start=False, vifs=(trial.target.vif(_NIC),)).uuid
    mine = trial.target.vif(_NIC).model_copy(update={"address": "52:54:00:0a:0b:0c"})
    for wrong in (trial.target.vif(_OTHER), trial.target.vif_to_nowhere(_NIC)):
        vifs = (mine, wrong) if wrong.id != mine.id else (wrong,)
        with trial.unchanged(), trial.raises(errors.NetworkNotFound):
            trial.driver.reconnect(uuid, vifs=vifs)


@check(RECON_003, needs=[Capability.HOST_VOLUMES])
def unknown_volume_changes_nothing(trial: Trial) -> None:
    mine = VolumeAttachment(volume=trial.volume())
    absent = VolumeAttachment(volume=trial.volume())
    uuid = trial.spawn(start=False, volumes=(mine,), vifs=(trial.target.vif(_NIC),)).uuid
    vif = trial.target.vif(_NIC).model_copy(update={"address": "52:54:00:0a:0b:0c"})
    moved = _elsewhere(trial, mine)
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.driver.reconnect(uuid, volumes=(moved, absent), vifs=(vif,))


@check(RECON_004)
def has_them_at_the_destination(trial: Trial) -> None:
    there = Elsewhere(trial)
    with trial.target.passing_network(_NIC) as gone:
        uuid = movable(trial, start=False, vifs=(gone, trial.target.movable_vif(_OTHER)))
        there.expect(uuid)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.cold_migrate(uuid, there.destination)
    wired = there.destination.model_copy(update={"vifs": (trial.target.movable_vif(_NIC),)})
    trial.driver.cold_migrate(uuid, wired)
    found = [each.id for each in there.driver.get_instance(uuid).vifs]
    trial.equal(found, [_NIC, _OTHER], "NICs at the destination")
    there.driver.power_on(uuid)
    trial.equal(there.driver.get_instance(uuid).state, InstanceState.RUNNING, "state there")
