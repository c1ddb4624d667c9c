"""Clauses of ``contract/storage.py``: secrets of encrypted volumes beside each other."""

from __future__ import annotations

from pydantic import SecretBytes

from hvdrivers.conformance.checks.storage import expect_volume
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.volume import VolumeAttachment, VolumeEncryption

STOR_070 = clause(
    "STOR-070",
    "detach_volume() of an encrypted volume leaves the secrets of the instance's other volumes: it"
    " can be started with them",
    operation="detach_volume",
    needs=[Capability.ENCRYPTED_VOLUME, Capability.HOST_VOLUMES],
)

STOR_074 = clause(
    "STOR-074",
    "a volume that its storage decrypts (control_location back-end) is attached as any other, by a"
    " driver without encrypted-volume too, and needs no passphrase",
    operation="attach_volume",
    needs=[Capability.HOST_VOLUMES],
)

STOR_078 = clause(
    "STOR-078",
    "an encrypted volume is opened with the passphrase of its attachment, whatever characters that"
    " has: at once, at every later start, and after another encrypted volume was detached",
    operation="attach_volume",
    needs=[Capability.ENCRYPTED_VOLUME],
)


@check(STOR_070)
def others_keep_their_secrets(trial: Trial) -> None:
    if trial.observer is None:
        raise PreconditionMissing("there is no observer to look at secrets")

    def locked() -> VolumeAttachment:
        secret = VolumeEncryption(provider="luks", secret=SecretBytes(b"hvct-passphrase"))
        return VolumeAttachment(volume=trial.volume(), encryption=secret)

    def secrets() -> set[str]:
        return {each for each in residue() if "secret" in each.lower()}

    residue = trial.observer.residue
    kept, going = locked(), locked()
    uuid = trial.spawn(start=False).uuid
    none = secrets()
    trial.driver.attach_volume(uuid, kept)
    own = secrets()
    trial.check(own > none, "the host shows no secret of an encrypted volume")
    trial.driver.attach_volume(uuid, going)
    trial.driver.detach_volume(uuid, going.volume_id)
    trial.equal(secrets(), own, "secrets after the other volume was detached")


@check(STOR_074)
def what_the_storage_decrypts_is_any_volume(trial: Trial) -> None:
    theirs = VolumeEncryption(
        provider="luks", control_location="back-end", cipher="aes-xts-plain64", key_size=256
    )
    attachment = VolumeAttachment(volume=trial.volume(), encryption=theirs)
    uuid = trial.spawn(start=False).uuid
    trial.driver.attach_volume(uuid, attachment)
    expect_volume(trial, uuid, attachment.volume_id, True, "after attach_volume()")
    trial.driver.destroy(uuid)
    other = trial.spawn(start=False, volumes=(attachment,)).uuid
    expect_volume(trial, other, attachment.volume_id, True, "after spawn()")


@check(STOR_078)
def passphrase_opens_it(trial: Trial) -> None:
    driver, target = trial.driver, trial.target
    words = ("hvct é '\"&<>\\ $x".encode(), b"hvct-other")
    with (
        target.locked_volume(driver, words[0]) as kept,
        target.locked_volume(driver, words[1]) as going,
    ):
        first, second = (
            VolumeAttachment(
                volume=volume,
                encryption=VolumeEncryption(provider="luks", secret=SecretBytes(word)),
            )
            for volume, word in zip((kept, going), words, strict=True)
        )
        uuid = trial.spawn(volumes=(second,)).uuid
        trial.check(target.opened(driver, uuid, going.volume_id), "spawn() has not opened it")
        driver.attach_volume(uuid, first)
        trial.check(target.opened(driver, uuid, kept.volume_id), "attach_volume() did not open it")
        target.wait_booted(driver, uuid)
        driver.detach_volume(uuid, going.volume_id)
        driver.power_off(uuid)
        driver.power_on(uuid)
        trial.check(target.opened(driver, uuid, kept.volume_id), "the next start did not open it")
        driver.power_off(uuid)
        driver.detach_volume(uuid, kept.volume_id)
