"""The driver on the simulated host: what travels, what stays data, what is left behind."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import SWITCH, Site, spec

HOSTILE = [
    "'; New-Item C:\\canary; '",
    "\u2019; New-Item C:\\canary; \u2018",
    "\u201a; New-Item C:\\canary; \u201b",
    '"; New-Item C:\\canary; "',
    "$(New-Item C:\\canary)",
    "`$(New-Item C:\\canary)",
    "*",
    "[a-z]*",
    "CON",
    "trailing.",
    "/Date(0)/",
    "@{a=1}",
    "-Name",
]


def test_each_operation_is_one_request(site: Site, image: FileImage) -> None:
    driver = site.driver
    driver.destroy(driver.spawn(spec(image)).uuid)  # the image is on the host now
    wanted = spec(image)
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    attachment = VolumeAttachment(volume=volume)
    nic = HypervVif(id="one more", switch=SWITCH)
    steps = {
        "Spawn": lambda: driver.spawn(wanted),
        "Get": lambda: driver.get_instance(wanted.uuid),
        "List": driver.list_instances,
        "Rename": lambda: driver.rename(wanted.uuid, "other"),
        "SetRecord": lambda: driver.set_metadata(wanted.uuid, {"a": "b"}),
        "Attach": lambda: driver.attach_volume(wanted.uuid, attachment),
        "Detach": lambda: driver.detach_volume(wanted.uuid, attachment.volume_id),
        "Plug": lambda: driver.plug_vif(wanted.uuid, nic),
        "Unplug": lambda: driver.unplug_vif(wanted.uuid, nic.id),
        "Power": lambda: driver.reboot(wanted.uuid),
        "Metrics": driver.get_metrics,
        "Host": driver.get_available_resource,
        "Destroy": lambda: driver.destroy(wanted.uuid),
    }
    for name, step in steps.items():
        before = site.service.faults.counts()["Send"]
        with site.inner.session.seam.counting() as calls:
            step()
        assert calls == [f"hyperv.{name}"]
        assert site.service.faults.counts()["Send"] == before + 1, name
    driver.delete_volume(attachment.volume_id)
    assert site.left() == []


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_tenants_is_never_code(site: Site, image: FileImage, text: str) -> None:
    driver = site.driver
    nic = HypervVif(id=f"nic {text}", switch=SWITCH)
    info = driver.spawn(spec(image, name=text, metadata={"k": text * 20}, vifs=(nic,)))
    volume = driver.create_volume(
        VolumeSpec(name=f"v{text}".replace("\\", "").replace("/", ""), size_bytes=4 << 20)
    )
    driver.attach_volume(info.uuid, VolumeAttachment(volume=volume))
    shown = driver.get_instance(info.uuid)
    assert (shown.name, shown.metadata) == (text, {"k": text * 20})
    assert [each.id for each in shown.vifs] == [nic.id]
    assert [each.volume_id for each in shown.volumes] == [volume.volume_id]
    driver.destroy(info.uuid)
    driver.delete_volume(volume.volume_id)
    assert not (site.host.drive / "canary").exists()
    assert site.left() == []


def test_names_that_differ_in_case_are_two(site: Site) -> None:
    driver = site.driver
    for name in ("disk", "Disk", "DISK"):
        driver.create_volume(VolumeSpec(name=name, size_bytes=4 << 20))
    assert {each.name for each in driver.list_volumes()} == {"disk", "Disk", "DISK"}
    assert [driver.get_volume(each.volume_id) for each in driver.list_volumes()] == (
        driver.list_volumes()
    )
    with pytest.raises(errors.VolumeNotFound):
        driver.get_volume("default/dISK")
    with pytest.raises(errors.VolumeExists):
        driver.create_volume(VolumeSpec(name="Disk", size_bytes=4 << 20))
    for each in driver.list_volumes():
        driver.delete_volume(each.volume_id)
    assert site.left() == []


def test_the_instance_stays_the_same_whatever_is_done_to_its_machine(
    site: Site, image: FileImage
) -> None:
    driver = site.driver
    info, other = driver.spawn(spec(image)), driver.spawn(spec(image))
    machine = next(
        each for each in site.host.state.machines.values() if str(info.uuid) in each.path
    )
    with site.host.world.lock:
        machine.config.name, machine.config.notes = "renamed by hand", "edited\nby hand"
    assert driver.get_instance(info.uuid).name == "renamed by hand"
    assert {each.uuid for each in driver.list_instances()} == {info.uuid, other.uuid}
    assert driver.list_foreign() == []
    for each in (info, other):
        driver.destroy(each.uuid)
    assert site.left() == []


@pytest.mark.parametrize("strike", [Strike.SHELL_LOST_AFTER, Strike.SHELL_LOST, Strike.QUOTA])
@pytest.mark.parametrize("operation", ["Spawn", "Destroy", "Attach", "Snapshot"])
def test_a_shell_that_dies_in_the_middle(
    site: Site, image: FileImage, operation: str, strike: Strike
) -> None:
    driver = site.driver
    wanted = spec(image)
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    steps = {
        "Spawn": lambda: driver.spawn(wanted),
        "Attach": lambda: driver.attach_volume(wanted.uuid, VolumeAttachment(volume=volume)),
        "Snapshot": lambda: driver.create_snapshot(wanted.uuid, "a"),
        "Destroy": lambda: driver.destroy(wanted.uuid),
    }
    if operation != "Spawn":
        driver.spawn(wanted)
    rule = FaultRule(strike, action="Send", contains=f" {operation} ".encode())
    try:
        with site.service.faults.add(rule):
            steps[operation]()
    except errors.OutcomeUnknown:
        assert strike is Strike.SHELL_LOST_AFTER
    assert rule.hits == 1
    with suppress(errors.InstanceNotFound):
        assert len(driver.list_snapshots(wanted.uuid)) <= (operation == "Snapshot")
    try:
        steps[operation]()
    except errors.InstanceExists:
        assert operation == "Spawn"
    except errors.InvalidRequest:
        assert operation == "Snapshot"  # a name is of one snapshot
    # a shell that was given up, because a quota was reached, is deleted: it counts, too
    assert len(site.service.shells()) == 1
    driver.destroy(wanted.uuid)
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


def test_credentials_that_were_good_are_tried_twice(site: Site) -> None:
    """Found by the soak: a caller was told that its password is wrong, by a service that began."""
    site.driver.ping()
    site.service.restart()
    with site.service.faults.add(FaultRule(Strike.UNAUTHORISED, action="Create")) as once:
        site.driver.list_instances()
    assert once.hits == 1
    site.service.restart()
    always = FaultRule(Strike.UNAUTHORISED, action="Create", nth=None)
    with site.service.faults.add(always), pytest.raises(errors.AuthenticationFailed):
        site.driver.list_instances()
    assert always.hits == 2
    site.driver.list_instances()


def test_two_clients_that_spawn_one_uuid(site: Site, image: FileImage) -> None:
    wanted = spec(image)
    second = guarded(HypervDriver.connect(site.config))
    outcomes: list[str] = []

    def spawn(driver: ComputeDriver) -> None:
        try:
            driver.spawn(wanted)
        except errors.InstanceExists:
            outcomes.append("exists")
        else:
            outcomes.append("made")

    threads = [threading.Thread(target=spawn, args=(each,)) for each in (site.driver, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["exists", "made"]
    assert second.get_instance(wanted.uuid).state is InstanceState.RUNNING
    second.destroy(wanted.uuid)
    second.close()
    assert site.left() == []


def test_a_spawn_that_cannot_end_in_time_leaves_nothing(site: Site, image: FileImage) -> None:
    site.driver.destroy(site.driver.spawn(spec(image)).uuid)
    timing = site.host.state.timing
    usual, timing.start = timing.start, 1.5
    try:
        with pytest.raises(errors.OperationTimeout):
            site.driver.spawn(spec(image), timeout=1.0)
    finally:
        timing.start = usual
    assert site.left() == []


def test_only_the_data_of_an_image_is_sent(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "large.raw"
    with path.open("wb") as file:
        file.write(b"data" * 1024)
        file.truncate(256 << 20)
    before = site.service.faults.counts()["Send"]
    found = site.driver.cache_image(FileImage(path=path, format=ImageFormat.RAW))
    assert found.virtual_size_bytes == 256 << 20
    assert site.service.faults.counts()["Send"] - before < 12
    site.driver.evict_image(found.key)


def test_the_checks_of_a_host_are_one_request_and_change_nothing(site: Site) -> None:
    before = site.left()
    with site.inner.session.seam.counting() as calls:
        found = {each.name: each for each in site.driver.host_checks(timeout=60)}
    assert calls == ["hyperv.Examine"]
    assert site.left() == before
    # this engine runs on no Windows: it has neither groups nor quotas to tell
    assert (found["rights"].status, found["WinRM quotas"].status) == ("skip", "skip")
    assert found["time"].status == "ok"
    assert found["virtual switches"].detail.startswith(SWITCH)
    assert all(each.hint for each in found.values() if each.status in {"warn", "fail"})
