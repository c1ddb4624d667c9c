"""Two processes on one server, a server that starts anew in the middle, and the examples."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pyVmomi import vmodl

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.driverkit import Undo, cut_before
from hvdrivers.guard import guarded
from hvdrivers.models.image import HostImage, ImageRef
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import NetworkVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.observer import VmwareObserver
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer
from tests.peers.waiting import wait_until

EXAMPLES = Path(__file__).parents[3] / "examples"
SPAWN = """
import json, sys
from hvdrivers import HypervisorError, connect
from hvdrivers.models.instance import InstanceSpec
given = json.loads(sys.stdin.readline())
with connect("vmware", **given["options"]) as driver:
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        driver.spawn(InstanceSpec.model_validate(given["spec"]))
        print("made")
    except HypervisorError as error:
        print(type(error).__name__)
"""


def test_two_processes_spawn_one_machine(
    peer: VcsimPeer, guarded_driver: ComputeDriver, spec: SpecFactory
) -> None:
    wanted = spec(start=True)
    given = json.dumps({"options": peer.options, "spec": wanted.model_dump(mode="json")})
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", SPAWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for each in clients:
        assert each.stdin is not None
        assert each.stdout is not None
        each.stdin.write(given + "\n")
        each.stdin.flush()
        assert each.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(2) as pool:
        said = sorted(out.strip() for out, _ in pool.map(lambda c: c.communicate("go\n"), clients))
    assert said == ["InstanceExists", "made"]
    assert guarded_driver.get_instance(wanted.uuid).state is InstanceState.RUNNING
    assert [each.uuid for each in guarded_driver.list_instances()] == [wanted.uuid]
    guarded_driver.destroy(wanted.uuid)


def test_destroy_of_what_another_client_starts_meanwhile(
    peer: VcsimPeer, driver: VmwareDriver, guarded_driver: ComputeDriver, spec: SpecFactory
) -> None:
    """Between the look at its power state, or the end of the switching off, and Destroy."""
    other = connected(peer)
    for start in (True, False):
        wanted = spec(start=start)
        guarded_driver.spawn(wanted)
        seen: list[str] = []

        def start_it(
            name: str,
            send: Callable[[], Any],
            seen: list[str] = seen,
            uuid: UUID = wanted.uuid,
        ) -> Any:
            if name == "Destroy_Task" and name not in seen:
                other.power_on(uuid)
            seen.append(name)
            return send()

        with driver.session.seam.through(start_it):
            guarded_driver.destroy(wanted.uuid)
        assert seen.count("Destroy_Task") == 2
        assert guarded_driver.list_instances() == []
    other.close()


def test_rescue_keeps_what_another_client_writes_meanwhile(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, image: ImageRef
) -> None:
    """Before each reconfiguration another client changes metadata and label."""
    other = connected(peer)
    uuid = driver.spawn(spec(start=True)).uuid
    written: list[int] = []

    def write(name: str, send: Callable[[], Any]) -> Any:
        if name == "ReconfigVM_Task":
            count = len(written)
            # the driver's next attempt goes through
            written.append(count)
            if not count % 2:
                other.set_metadata(uuid, {"written": str(count)})
                other.rename(uuid, f"name {count}")
        return send()

    def keeps(operation: Callable[[], None], state: InstanceState) -> None:
        written.clear()
        with driver.session.seam.through(write):
            operation()
        info = other.get_instance(uuid)
        newest = max(each for each in written if not each % 2)
        assert (info.name, dict(info.metadata)) == (f"name {newest}", {"written": str(newest)})
        assert info.state is state

    keeps(lambda: driver.rescue(uuid, image), InstanceState.RESCUED)
    keeps(lambda: driver.unrescue(uuid), InstanceState.RUNNING)
    driver.rescue(uuid, image)
    driver.power_off(uuid)
    keeps(lambda: driver.power_on(uuid), InstanceState.RUNNING)
    keeps(lambda: driver.rebuild(uuid, image), InstanceState.RUNNING)
    with (
        driver.session.seam.cut(cut_before, name="PowerOnVM_Task", repeats=100),
        pytest.raises(errors.OutcomeUnknown),
    ):
        driver.rebuild(uuid, image)
    keeps(lambda: driver.power_off(uuid), InstanceState.STOPPED)
    driver.destroy(uuid)
    other.close()


@pytest.mark.parametrize("call", ["CopyVirtualDisk_Task", "CreateVM_Task", "PowerOnVM_Task"])
def test_a_server_that_starts_anew_in_the_middle_of_a_spawn(call: str, spec: SpecFactory) -> None:
    with started(lambda: VcsimPeer("esx")) as peer:
        raw = connected(peer)
        driver = guarded(raw)
        driver.destroy(driver.spawn(spec()).uuid)

        def restart(name: str, send: Any) -> Any:
            if name == call:
                peer.kill()
            return send()

        wanted = spec(start=True)
        with raw.session.seam.through(restart), pytest.raises(errors.HypervisorError) as caught:
            driver.spawn(wanted, timeout=20)
        assert caught.value.retryable
        peer.start()  # with nothing in it
        assert driver.list_instances() == []
        # the image has gone with the server, which the copy finds out
        with pytest.raises(errors.DeviceBusy) as evicted:
            driver.spawn(wanted)
        assert evicted.value.retryable
        assert driver.spawn(wanted).state is InstanceState.RUNNING
        driver.destroy(wanted.uuid)
        driver.close()


def _example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": "example"}
    exec(compile((EXAMPLES / name).read_text(), name, "exec"), found)
    return found


def test_inventory_of_a_server(peer: VcsimPeer, guarded_driver: ComputeDriver) -> None:
    lines = list(_example("inventory_report.py")["report"](guarded_driver))
    assert lines[0].startswith("VMware")
    assert any("LocalDS_0" in each for each in lines)


def test_runners_that_go_down_when_their_job_is_done(
    peer: VcsimPeer, guarded_driver: ComputeDriver
) -> None:
    config = VmwareConfig(**peer.options)
    server = RawServer(config)
    observer = VmwareObserver(server, config.directory, config.compute)
    datacenter, _ = server.datacenter
    server.content.fileManager.MakeDirectory("[LocalDS_0] hvdrivers/host-images", datacenter, True)
    raw = connected(peer)
    raw.files.create_disk("[LocalDS_0] hvdrivers/host-images/runner.vmdk", 1 << 20)
    raw.close()
    over = threading.Event()

    def jobs_end() -> None:
        while not over.wait(0.02):
            for uuid, state in observer.states().items():
                if state is InstanceState.RUNNING:
                    with suppress(PreconditionMissing, vmodl.MethodFault):
                        observer.power_off(uuid)

    guest = threading.Thread(target=jobs_end)
    guest.start()
    try:
        run_pool = _example("ci_runner_pool.py")["run_pool"]
        ended = run_pool(guarded_driver, 3, HostImage(name="runner"), 60.0)
    finally:
        over.set()
        guest.join()
    assert sorted(ended.values()) == ["stopped"] * 3
    wait_until(lambda: not list(guarded_driver.list_instances()), timeout=30, what="all are gone")
    server.drop()


@pytest.mark.parametrize("first", ["attach", "delete"])
def test_a_volume_is_attached_while_it_is_being_deleted(
    driver: VmwareDriver, peer: VcsimPeer, spec: SpecFactory, first: str
) -> None:
    """Between the deletion's first look for users and its last another client attaches it."""
    info = driver.spawn(spec(start=False))
    volume = driver.create_volume(VolumeSpec(name="goes", size_bytes=1 << 20))
    attachment = VolumeAttachment(volume=volume)
    outcomes: list[type[BaseException] | None] = []
    with closing(connected(peer)) as other:
        move = driver.files.move_disk

        def attach() -> None:
            try:
                other.attach_volume(info.uuid, attachment)
            except errors.HypervisorError as error:
                outcomes.append(type(error))
            else:
                outcomes.append(None)

        def moving(source: str, target: str) -> None:
            here = not outcomes
            if here and first == "attach":
                attach()
            move(source, target)
            if here and first == "delete":
                attach()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(driver.files, "move_disk", moving)
            if first == "attach":
                with pytest.raises(errors.DeviceBusy):
                    driver.delete_volume(volume.volume_id)
            else:
                driver.delete_volume(volume.volume_id)
    attached = [each.volume_id for each in driver.get_instance(info.uuid).volumes]
    there = [each.volume_id for each in driver.list_volumes()]
    if first == "attach":
        assert (outcomes, attached, there) == ([None], [volume.volume_id], [volume.volume_id])
        driver.destroy(info.uuid)
        driver.delete_volume(volume.volume_id)
    else:
        assert (outcomes, attached, there) == ([errors.VolumeNotFound], [], [])
        driver.destroy(info.uuid)
    assert driver.list_volumes() == []


@pytest.mark.parametrize("start", [False, True])
def test_spawn_takes_back_nothing_of_a_later_spawn(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, start: bool
) -> None:
    """Before its last task another client destroys the instance, and spawns it again."""
    with closing(connected(peer)) as other:
        driver.destroy(driver.spawn(spec()).uuid)  # the image is in the cache now
        wanted = spec(start=start)
        made = "CloneVM_Task" if peer.mode == "vpx" else "CreateVM_Task"
        last = "ReconfigVM_Task" if start else made
        home = driver.folders.instance(wanted.uuid)
        seen: list[str] = []

        def rival(name: str, send: Callable[[], Any]) -> Any:
            if name == last and not seen:
                seen.append(name)
                other.destroy(wanted.uuid)
                other.spawn(wanted)
                other.files.upload(f"{home}/theirs", b"content", 7)
                if not start:
                    raise errors.InsufficientResources("no room")
            return send()

        with driver.session.seam.through(rival), pytest.raises(errors.HypervisorError):
            driver.spawn(wanted)
        assert seen
        assert other.files.read(f"{home}/theirs") == b"content"
        assert [each.uuid for each in other.list_instances()] == [wanted.uuid]
        other.destroy(wanted.uuid)
        assert not other.files.exists(f"{home}/theirs")


@pytest.mark.parametrize("again", ["claims", "claims late"])
def test_folder_that_a_spawn_left_is_another_clients_now(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, again: str
) -> None:
    """The server could not be reached when the spawn was undone. Before the next spawn of this
    driver another client destroys what was left, and spawns; or it does so while that spawn
    removes the folder, between its look at the folder and its next call."""
    with closing(connected(peer)) as other:
        driver.destroy(driver.spawn(spec()).uuid)
        wanted = spec()
        home = driver.folders.instance(wanted.uuid)
        made = "CloneVM_Task" if peer.mode == "vpx" else "CreateVM_Task"
        refused: list[str] = []

        def die(name: str, send: Callable[[], Any]) -> Any:
            if name == made:
                refused.append(name)
                raise errors.InsufficientResources("no room")
            if refused and name in ("SearchDatastore_Task", "DeleteDatastoreFile_Task"):
                raise errors.ConnectionFailed("the server is gone")
            return send()

        with driver.session.seam.through(die), pytest.raises(errors.InsufficientResources):
            driver.spawn(wanted)
        assert wanted.uuid in driver.claims.unfinished
        rest: list[str] = [again]

        def rival(name: str = "", send: Callable[[], Any] = bool) -> Any:
            # the search's reply, and after it the folder that was looked at
            if rest and name in ("", "MoveDatastoreFile_Task", "DeleteDatastoreFile_Task"):
                rest.pop()
                other.destroy(wanted.uuid)
                other.claims.take(wanted.uuid, Undo())
                other.files.upload(f"{home}/theirs", b"content", 7)
            return send()

        if again == "claims":
            rival()
        with driver.session.seam.through(rival), pytest.raises(errors.DeviceBusy):
            driver.spawn(wanted, timeout=4)
        assert not rest
        assert other.files.read(f"{home}/theirs") == b"content"
        other.destroy(wanted.uuid)
        driver.destroy(driver.spawn(wanted).uuid)
        assert not other.files.exists(f"{home}/theirs")


def test_destroy_finds_what_a_spawn_was_about_to_delete(
    driver: VmwareDriver, spec: SpecFactory
) -> None:
    """Its process has died after it had renamed the folder."""
    uuid = driver.spawn(spec()).uuid
    driver.destroy(uuid)
    left = f"{driver.folders.instance(uuid)}.undone"
    driver.files.make_folder(left)
    driver.files.upload(f"{left}/root.vmdk", b"content", 7)
    driver.destroy(uuid)
    assert driver.files.read(f"{left}/root.vmdk") is None


_FLAVOR = Flavor(vcpus=1, memory_mib=128)
_VIF = NetworkVif(id="n", network="VM Network")
_ON_RUNNING: dict[str, Callable[[ComputeDriver, UUID], object]] = {
    "power_off": lambda driver, uuid: driver.power_off(uuid),
    "power_off graceful": lambda driver, uuid: driver.power_off(uuid, graceful=5),
    "reboot": lambda driver, uuid: driver.reboot(uuid),
    "suspend": lambda driver, uuid: driver.suspend(uuid),
}
_ON_STOPPED: dict[str, Callable[[ComputeDriver, UUID], object]] = {
    "power_on": lambda driver, uuid: driver.power_on(uuid),
    "rename": lambda driver, uuid: driver.rename(uuid, "another"),
    "set_metadata": lambda driver, uuid: driver.set_metadata(uuid, {"a": "b"}),
    "plug_vif": lambda driver, uuid: driver.plug_vif(uuid, _VIF),
    "resize": lambda driver, uuid: driver.resize(uuid, _FLAVOR),
    "create_snapshot": lambda driver, uuid: driver.create_snapshot(uuid, "one"),
}


@pytest.mark.parametrize("operation", [*_ON_RUNNING, *_ON_STOPPED, "rescue", "rebuild"])
def test_instance_that_another_client_destroys_meanwhile(
    peer: VcsimPeer,
    driver: VmwareDriver,
    guarded_driver: ComputeDriver,
    spec: SpecFactory,
    image: ImageRef,
    operation: str,
) -> None:
    """Between the look at it and the first task, or while its guest is asked to shut down. The
    error says that it is not there, and no wait goes on for it."""
    uuid = guarded_driver.spawn(spec(start=operation in _ON_RUNNING)).uuid
    with_image = {
        "rescue": lambda driver, uuid: driver.rescue(uuid, image),
        "rebuild": lambda driver, uuid: driver.rebuild(uuid, image),
    }
    act = (_ON_RUNNING | _ON_STOPPED | with_image)[operation]
    seen: list[str] = []
    gone: list[str] = []
    with closing(connected(peer)) as other:

        def rival(name: str, send: Callable[[], Any]) -> Any:
            seen.append(name)
            task = name.endswith("_Task") and name != "CopyVirtualDisk_Task"
            # the first wait tells what is, and the second what has changed
            waits = "ShutdownGuest" in seen and seen.count("WaitForUpdatesEx") == 2
            if not gone and (task or waits):
                gone.append(name)
                other.destroy(uuid)
            return None if name == "ShutdownGuest" else send()  # the guest takes its time

        with driver.session.seam.through(rival), pytest.raises(errors.InstanceNotFound):
            act(guarded_driver, uuid)
    assert seen.count("WaitForUpdatesEx") < 5
    assert guarded_driver.list_instances() == []
    guarded_driver.destroy(uuid)  # what a copy has left
    assert not driver.files.exists(driver.folders.instance(uuid))
