"""What a client leaves that dies while it makes an instance, and what the host does after that."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.models.image import FileImage
from tests.integration.hyperv.site import Site, held, spec
from tests.integration.hyperv.test_by_hand import attached, machine_of
from tests.peers.waiting import wait_until


def dies_in(site: Site, cmdlet: str, work: Callable[[], object]) -> None:
    """Do something whose PowerShell is killed while the host is in the call of a cmdlet."""
    with held(site, cmdlet) as release, ThreadPoolExecutor(1) as pool:
        doing: Future[object] = pool.submit(work)
        with release():
            site.service.kill_shells()
            assert isinstance(doing.exception(), errors.HypervisorError)


def claim_is_older(site: Site, seconds: float) -> None:
    for claim in (site.host.drive / "hv" / "index").glob("*.claim"):
        then = time.time() - seconds
        os.utime(claim, (then, then))


def test_a_spawn_whose_client_died_keeps_no_image_for_ever(site: Site, image: FileImage) -> None:
    driver = site.driver
    key = driver.cache_image(image).key
    other = driver.spawn(spec(image, start=False)).uuid
    wanted = spec(image)
    dies_in(site, "Start-VM", lambda: driver.spawn(wanted))
    assert len(site.host.state.machines) == 2
    driver.destroy(other)
    claim_is_older(site, 590)
    with pytest.raises(errors.DeviceBusy):
        driver.evict_image(key)
    assert all(each.name != "spawns" for each in driver.host_checks())
    claim_is_older(site, 610)
    assert [each.in_use for each in driver.list_cached_images()] == [False]
    (line,) = (each for each in driver.host_checks() if each.name == "spawns")
    assert str(wanted.uuid) in line.detail
    driver.evict_image(key)
    assert site.left() == []
    assert driver.list_cached_images() == []


def test_a_long_spawn_is_not_given_up(site: Site, image: FileImage) -> None:
    driver = site.driver
    key = driver.cache_image(image).key
    with held(site, "Start-VM") as release, ThreadPoolExecutor(1) as pool:
        doing = pool.submit(driver.spawn, spec(image))
        with release():
            claim_is_older(site, 3600)
            with pytest.raises(errors.DeviceBusy):
                driver.evict_image(key)
        uuid = doing.result().uuid
    claim_is_older(site, 3600)
    with pytest.raises(errors.DeviceBusy):
        driver.evict_image(key)
    driver.destroy(uuid)
    driver.evict_image(key)
    assert site.left() == []


def test_a_machine_that_the_host_makes_after_the_spawn_was_taken_up_again(
    site: Site, image: FileImage
) -> None:
    driver = site.driver
    driver.destroy(driver.spawn(spec(image)).uuid)  # the image is on the host now
    wanted = spec(image)
    with held(site, "New-VM") as release, ThreadPoolExecutor(1) as pool:
        doing = pool.submit(driver.spawn, wanted)
        with release():
            site.service.kill_shells()
            assert isinstance(doing.exception(), errors.HypervisorError)
            info = driver.spawn(wanted)
    machines = site.host.state.machines
    wait_until(lambda: len(machines) == 2, timeout=60, what="the host has made the first one")
    assert driver.get_instance(info.uuid) == info
    driver.destroy(info.uuid)
    assert site.left() == []


def test_an_adoption_whose_client_died_leaves_a_machine_of_others(
    site: Site, image: FileImage
) -> None:
    driver = site.driver
    stranger = _stranger(site, image)
    dies_in(site, "Set-VM", lambda: driver.adopt(stranger.id, name="first"))
    with pytest.raises(errors.InstanceNotFound):
        driver.destroy(stranger.id)
    assert stranger.id in site.host.state.machines
    assert (site.host.drive / "elsewhere" / "own.vhdx").exists()
    dies_in(site, "Set-VM", lambda: driver.adopt(stranger.id, name="second"))
    claim_is_older(site, 3600)
    for cached in driver.list_cached_images():
        driver.evict_image(cached.key)
    assert stranger.id in site.host.state.machines
    assert driver.adopt(stranger.id, name="adopted").uuid == stranger.id
    driver.destroy(stranger.id)
    assert site.left() == []


def _stranger(site: Site, image: FileImage) -> Machine:
    """A machine of others with a disk."""
    uuid: UUID = site.driver.spawn(spec(image, start=False)).uuid
    with site.host.world.lock:
        config = replace(machine_of(site, uuid).config, drives=[], adapters=[], dvds=[])
        stranger = Machine(host=site.host.state, config=config, path="C:\\elsewhere")
        site.host.state.machines[stranger.id] = stranger
    attached(site, stranger, "C:\\elsewhere\\own.vhdx")
    site.driver.destroy(uuid)
    return stranger
