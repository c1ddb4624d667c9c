"""304 random changes by 8 threads, with connections that break: nothing is left anywhere."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.vif import NetworkVif
from hvdrivers.models.volume import Volume, VolumeAttachment, VolumeSpec
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.observer import VmwareObserver
from hvdrivers.vmware.conformance.raw_server import RawServer
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.peers.vcsim import VcsimPeer
from tests.peers.waiting import wait_until

THREADS, EACH = 8, 38
KINDS = ("ContainerView", "PropertyCollector", "PropertyFilter", "VirtualMachineSnapshot")


def life(driver: ComputeDriver, wanted: InstanceSpec, volume: Volume, seed: int) -> None:
    """One machine and what happens to it."""
    rng = random.Random(seed)
    uuid, image = wanted.uuid, wanted.image
    assert image is not None
    changes: list[Callable[[], Any]] = [
        lambda: driver.spawn(wanted),
        lambda: driver.power_on(uuid),
        lambda: driver.power_off(uuid),
        lambda: driver.suspend(uuid),
        lambda: driver.attach_volume(uuid, VolumeAttachment(volume=volume)),
        lambda: driver.detach_volume(uuid, volume.volume_id),
        lambda: driver.plug_vif(uuid, NetworkVif(id=f"n{rng.random()}", network="VM Network")),
        lambda: driver.create_snapshot(uuid, f"s{rng.random()}"),
        lambda: [driver.delete_snapshot(uuid, s.id) for s in driver.list_snapshots(uuid)],
        lambda: driver.rescue(uuid),
        lambda: driver.unrescue(uuid),
        lambda: driver.rebuild(uuid, image),
        lambda: driver.rename(uuid, f"n{rng.randrange(99)}"),
        lambda: driver.destroy(uuid),
    ]
    for number in range(EACH):
        try:
            (changes[0] if number % 8 == 0 else rng.choice(changes))()
        except errors.ContractViolation:
            raise
        except errors.HypervisorError:
            continue  # not in this state, or its connection broke: what counts is what is left


def test_nothing_is_left(peer: VcsimPeer, spec: SpecFactory) -> None:
    config = VmwareConfig(**peer.options)
    server = RawServer(config)
    observer = VmwareObserver(server, config.directory, config.compute)
    warm = guarded(connected(peer))
    warm.destroy(warm.spawn(spec(uuid=uuid4())).uuid)
    warm.close()
    before, threads = observer.residue(), threading.active_count()
    objects = {kind: peer.ask("/objects")[kind] for kind in KINDS}
    sessions = len(server.of(server.content.sessionManager, "sessionList")["sessionList"])
    raw = connected(peer)
    driver = guarded(raw)
    # before and after the disturbance: a cut may leave the outcome of these unknown, rightly so
    wanted = [spec() for _ in range(THREADS)]
    volumes = [
        driver.create_volume(VolumeSpec(name=f"leak-{each.uuid}", size_bytes=1 << 20))
        for each in wanted
    ]
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(0.5):
            raw.session.transport.cut()

    cutter = threading.Thread(target=disturb)
    cutter.start()
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda *of: life(driver, *of), wanted, volumes, range(THREADS)))
    finally:
        over.set()
        cutter.join()
    for each, volume in zip(wanted, volumes, strict=True):
        driver.destroy(each.uuid)
        driver.delete_volume(volume.volume_id)
    assert list(driver.list_instances()) == []
    driver.close()
    assert observer.residue() == before
    assert {kind: peer.ask("/objects")[kind] for kind in KINDS} == objects
    left = server.of(server.content.sessionManager, "sessionList")["sessionList"]
    assert len(left) <= sessions
    server.drop()
    wait_until(lambda: threading.active_count() <= threads, timeout=60, what="threads end")
