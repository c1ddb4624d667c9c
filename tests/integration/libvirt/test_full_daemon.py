"""The folder in which libvirt itself writes down what it knows of its machines is full."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.libvirtd import LibvirtPeer

FOLDER = "/var/lib/libvirt/qemu"
RUN, POOLS = "/run/libvirt/qemu", "/run/libvirt/storage"
S = InstanceState
_CHANGING = {
    f"Domain.monitor[{each}]"
    for each in ("transaction", "snapshot-load", "blockdev-snapshot-delete-internal-sync")
}


_NO_ROOM = re.compile("room|No space")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host whose daemon has that folder on a small file system."""
    with LibvirtPeer() as peer:
        kept = f"{FOLDER}-before"
        peer.inside("cp", "-a", FOLDER, kept)
        with peer.small(FOLDER, 8 << 20):
            peer.inside("sh", "-c", f"cp -a {kept}/. {FOLDER}/")
            made = Host(peer, Path("/none"))
            yield made
            made.close()


@pytest.fixture(scope="module")
def machines(host: Host) -> Iterator[tuple[Machine, Machine]]:
    """One that runs and has two snapshots, and one that is off and has one."""
    with host.empty_machine() as on, host.made_empty() as off:
        host.driver.create_snapshot(off.uuid, "first")
        host.driver.create_snapshot(on.uuid, "below")
        host.driver.create_snapshot(on.uuid, "above", memory=True)
        yield on, off


@pytest.fixture(params=["bytes", "files"])
def full(
    host: Host, machines: tuple[Machine, Machine], request: pytest.FixtureRequest
) -> Iterator[None]:
    """It has no bytes left; or it has, and can have no more files."""
    if request.param == "bytes":
        host.peer.inside("sh", "-c", f"cat /dev/zero >{FOLDER}/fill", check=False)
        yield
        host.peer.inside("rm", f"{FOLDER}/fill")
        return
    there = os.statvfs(f"/proc/{host.peer.daemon_pid}/root{FOLDER}")
    host.peer.inside("mount", "-o", f"remount,nr_inodes={there.f_files - there.f_ffree}", FOLDER)
    yield
    host.peer.inside("mount", "-o", f"remount,nr_inodes={there.f_files}", FOLDER)


def refused(host: Host, call: Callable[[], object]) -> None:
    with (
        host.unchanged(),
        pytest.raises(errors.InsufficientResources, match=_NO_ROOM) as caught,
    ):
        call()
    assert caught.value.hint


def test_what_needs_it(host: Host, machines: tuple[Machine, Machine], full: None) -> None:
    """Each is refused for want of room, and leaves nothing; both machines stay as they are."""
    driver, (on, off) = host.driver, machines
    (first,) = driver.list_snapshots(off.uuid)
    below, above = driver.list_snapshots(on.uuid)
    for call in (
        lambda: driver.suspend(on.uuid),
        lambda: driver.create_snapshot(on.uuid, "a"),
        lambda: driver.create_snapshot(on.uuid, "b", memory=True),
        lambda: driver.create_snapshot(off.uuid, "c"),
        lambda: driver.revert_snapshot(off.uuid, first.id),
        lambda: driver.delete_snapshot(off.uuid, first.id),
        lambda: driver.revert_snapshot(on.uuid, below.id),
        lambda: driver.revert_snapshot(on.uuid, above.id),
        lambda: driver.delete_snapshot(on.uuid, below.id),
        lambda: driver.begin_backup(on.uuid),
        lambda: driver.power_on(off.uuid),
        lambda: driver.start_paused(off.uuid),
        lambda: driver.spawn(host.empty()),
        lambda: driver.screenshot(on.uuid),
    ):
        refused(host, call)
    assert (on.state, off.state) == (S.RUNNING, S.STOPPED)
    assert driver.list_snapshots(on.uuid) == [below, above]
    assert driver.list_snapshots(off.uuid) == [first]


def test_what_needs_none(host: Host, machines: tuple[Machine, Machine], full: None) -> None:
    _, off = machines
    for vcpus in (2, 1):
        host.driver.resize(off.uuid, Flavor(vcpus=vcpus, memory_mib=64))
    host.driver.set_metadata(off.uuid, {"a": "b"})
    with host.made_empty():
        pass


@pytest.mark.parametrize("folders", [(RUN,), (RUN, POOLS)], ids=["machines", "all of it"])
def test_no_room_for_what_runs(
    host: Host, machines: tuple[Machine, Machine], folders: tuple[str, ...]
) -> None:
    """Below /run, which is a small file system of its own on most hosts. QEMU writes there too."""
    with ExitStack() as small:
        for folder in folders:
            small.enter_context(host.peer.small(folder, 4096))
            host.peer.inside("sh", "-c", f"cat /dev/zero >{folder}/fill", check=False)
        refused(host, lambda: host.driver.spawn(host.empty()))
    with host.made_empty():
        pass


def test_what_fills_up_on_the_way(host: Host, machines: tuple[Machine, Machine]) -> None:
    """As soon as data changes: what libvirt writes down at the end has kept its room."""
    driver, on = host.driver, machines[0]
    uuid, peer = on.uuid, host.peer
    above = next(each for each in driver.list_snapshots(uuid) if each.with_memory)

    def seam(name: str, send: Callable[[], Any]) -> Any:
        if name in _CHANGING:
            filled.append(name)
            peer.inside("sh", "-c", f"cat /dev/zero >{FOLDER}/fill", check=False)
        return send()

    for call in (
        lambda: driver.create_snapshot(uuid, "new"),
        lambda: driver.revert_snapshot(uuid, above.id),
        lambda: driver.delete_snapshot(uuid, above.id),
    ):
        filled: list[str] = []
        host.raw.connection.seam = seam
        try:
            call()
        finally:
            host.raw.connection.seam = None
            peer.inside("rm", f"{FOLDER}/fill")
        assert filled
        shown = driver.list_snapshots(uuid)
        told = peer.virsh("qemu-monitor-command", str(uuid), '{"execute":"query-block"}')
        assert set(re.findall(r"\bhv-[0-9a-f]{16}\b", told)) == {each.id for each in shown}
        peer.restart()
        assert driver.list_snapshots(uuid) == shown
    driver.create_snapshot(uuid, "above", memory=True)


def test_afterwards(host: Host, machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """Nothing that was refused stands in the way."""
    driver, (on, off) = host.driver, machines
    shown = driver.list_snapshots(on.uuid)
    host.peer.restart()
    assert driver.list_snapshots(on.uuid) == shown
    driver.revert_snapshot(on.uuid, shown[-1].id)
    driver.delete_snapshot(on.uuid, shown[0].id)
    driver.snapshot_to_image(on.uuid, tmp_path / "copy")  # a job, too
    snapshot = driver.create_snapshot(on.uuid, "a", memory=True)
    driver.delete_snapshot(on.uuid, snapshot.id)
    driver.suspend(on.uuid)
    driver.resume(on.uuid)
    driver.revert_snapshot(off.uuid, driver.list_snapshots(off.uuid)[0].id)
