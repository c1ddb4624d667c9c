"""Two clients, each a process: one is killed in a step of its call, the other makes the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from hvdrivers.hyperv.simulator.cmdlets.removal import LISTED
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeSpec
from tests.integration.hyperv.client import call
from tests.integration.hyperv.clients import Client
from tests.integration.hyperv.site import Site, held, spec

BIGGER = Flavor(vcpus=2, memory_mib=128)


@pytest.fixture(scope="module")
def second(site: Site) -> Iterator[Site]:
    made = Site("HV2", site)
    yield made
    made.close()


@pytest.fixture(scope="module")
def rival(site: Site) -> Iterator[Client]:
    made = Client(site)
    yield made
    made.close()


@pytest.fixture
def victim(site: Site) -> Iterator[Client]:
    made = Client(site)
    yield made
    made.close()


@dataclass
class Case:
    """A call of both clients on an instance.

    ``meanwhile`` is what the other one may answer; ``again`` what a repeat answers.
    """

    operation: str
    arguments: dict[str, Any]
    meanwhile: set[str] = field(default_factory=lambda: {"done"})
    again: str = "done"


def _killed(site: Site, victim: Client, rival: Client, cmdlet: str, case: Case) -> None:
    with held(site, cmdlet) as release, ThreadPoolExecutor(1) as pool:
        victim.say([case.operation, case.arguments])
        with release():
            victim.kill()
            doing = pool.submit(rival.ask, [case.operation, case.arguments])
        said = doing.result()
    assert said in case.meanwhile, (said, cmdlet)
    assert rival.ask([case.operation, case.arguments]) == case.again


def _fresh(tmp_path: Path) -> FileImage:
    path = tmp_path / "fresh.raw"
    path.write_bytes(str(tmp_path).encode().ljust(1 << 20, b"\0"))
    return FileImage(path=path, format=ImageFormat.RAW)


@pytest.mark.parametrize(
    "cmdlet",
    [
        "Convert-VHD",
        "New-VHD",
        "Resize-VHD",
        "New-VM",
        "Set-VMProcessor",
        "Set-VM",
        "Remove-VMNetworkAdapter",
        "Add-VMHardDiskDrive",
        "Add-VMNetworkAdapter",
        "Set-VMFirmware",
        "Start-VM",
    ],
)
def test_spawn(site: Site, victim: Client, rival: Client, cmdlet: str, tmp_path: Path) -> None:
    image = _fresh(tmp_path)
    wanted = spec(image, flavor=Flavor(vcpus=1, memory_mib=64, disk_gib=1))
    arguments = {"spec": wanted.model_dump_json()}
    case = Case("spawn", arguments, {"done", "InstanceExists"}, "InstanceExists")
    _killed(site, victim, rival, cmdlet, case)
    info = site.driver.get_instance(wanted.uuid)
    assert (info.state, info.name, info.flavor) == (
        InstanceState.RUNNING,
        wanted.name,
        wanted.flavor,
    )
    assert [each.id for each in info.vifs] == [wanted.vifs[0].id]
    _gone(site, wanted.uuid)


def _gone(site: Site, *uuids: UUID) -> None:
    for uuid in uuids:
        site.driver.destroy(uuid)
    assert site.left() == []
    for cached in site.driver.list_cached_images():
        site.driver.evict_image(cached.key)
    images = site.host.drive / "hv" / "images"
    assert [each.name for each in images.iterdir()] == []


@pytest.mark.parametrize("cmdlet", ["Stop-VM", "Remove-VM", LISTED])
def test_destroy(site: Site, victim: Client, rival: Client, cmdlet: str, image: FileImage) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    _killed(site, victim, rival, cmdlet, Case("destroy", {"uuid": str(uuid)}))
    _gone(site)


@pytest.mark.parametrize("cmdlet", ["Get-VMHardDiskDrive", "Add-VMHardDiskDrive"])
def test_attach_volume(
    site: Site, victim: Client, rival: Client, cmdlet: str, image: FileImage
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    arguments = {"uuid": str(uuid), "volume": volume.model_dump_json()}
    _killed(site, victim, rival, cmdlet, Case("attach_volume", arguments))
    (shown,) = driver.get_instance(uuid).volumes
    assert shown.volume_id == volume.volume_id
    driver.detach_volume(uuid, volume.volume_id)
    driver.delete_volume(volume.volume_id)
    _gone(site, uuid)


@pytest.mark.parametrize("cmdlet", ["Get-VMSnapshot", "Checkpoint-VM"])
def test_create_snapshot(
    site: Site, victim: Client, rival: Client, cmdlet: str, image: FileImage
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    case = Case(
        "create_snapshot",
        {"uuid": str(uuid), "name": "a"},
        {"done", "InvalidRequest"},
        "InvalidRequest",  # a name is of one snapshot
    )
    _killed(site, victim, rival, cmdlet, case)
    (point,) = driver.list_snapshots(uuid)
    assert point.name == "a"
    driver.delete_snapshot(uuid, point.id)
    _gone(site, uuid)


@pytest.mark.parametrize("cmdlet", ["Convert-VHD", "New-VHD", "Stop-VM", "Start-VM"])
def test_rebuild(
    site: Site, victim: Client, rival: Client, cmdlet: str, image: FileImage, tmp_path: Path
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    arguments = {"uuid": str(uuid), "image": _fresh(tmp_path).model_dump_json()}
    _killed(site, victim, rival, cmdlet, Case("rebuild", arguments))
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    _gone(site, uuid)


@pytest.mark.parametrize("cmdlet", ["Set-VMProcessor", "Set-VMMemory"])
def test_resize(site: Site, victim: Client, rival: Client, cmdlet: str, image: FileImage) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image, start=False)).uuid
    arguments = {"uuid": str(uuid), "flavor": BIGGER.model_dump_json()}
    _killed(site, victim, rival, cmdlet, Case("resize", arguments))
    assert driver.get_instance(uuid).flavor == BIGGER
    driver.power_on(uuid)
    _gone(site, uuid)


@pytest.mark.parametrize("cmdlet", ["Compare-VM", "Move-VM"])
def test_live_migrate(
    site: Site, second: Site, victim: Client, rival: Client, cmdlet: str, image: FileImage
) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    arguments = {"uuid": str(uuid), "host": f"127.0.0.1:{second.service.port}"}
    # it has moved before the other one looks, or between its look and its move
    meanwhile = {"done", "InstanceNotFound", "DeviceBusy"}
    case = Case("live_migrate", arguments, meanwhile, "InstanceNotFound")
    _killed(site, victim, rival, cmdlet, case)
    assert second.driver.get_instance(uuid).state is InstanceState.RUNNING
    _gone(site)
    _gone(second, uuid)


@pytest.mark.parametrize("cmdlet", ["Get-VM", "Get-CimInstance"])
def test_maintenance(
    site: Site, victim: Client, rival: Client, cmdlet: str, image: FileImage
) -> None:
    driver = site.driver
    wanted: InstanceSpec = spec(image)
    uuid = driver.spawn(wanted.model_copy(update={"start": False})).uuid
    _killed(site, victim, rival, cmdlet, Case("enter_maintenance", {}))
    assert call(driver, "power_on", {"uuid": str(uuid)}) == "InsufficientResources"
    assert rival.ask(["exit_maintenance", {}]) == "done"
    driver.power_on(uuid)
    _gone(site, uuid)
