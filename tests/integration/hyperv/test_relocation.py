"""migrate_storage() says that the disks have moved only if the machine has them at the destination,
wherever Move-VMStorage fails. After a failure they are where they were."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator import stateserver
from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.migration import move_storage
from hvdrivers.hyperv.simulator.cmdlets.registry import handlers
from hvdrivers.hyperv.simulator.errors import E_OUT_OF_MEMORY, failed
from hvdrivers.hyperv.simulator.state.host import MigrationJob
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.models.image import FileImage
from hvdrivers.models.instance import Flavor
from tests.integration.hyperv.site import Site, held, spec
from tests.integration.hyperv.test_by_hand import attached
from tests.integration.hyperv.test_operations import machine_of
from tests.peers.waiting import wait_until

DISKS = {"root.vhdx", "ephemeral.vhdx", "swap.vhdx"}
Handler = Callable[[Call], None]
Serve = Callable[[Handler], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Let the host serve Move-VMStorage so."""

    def put(handler: Handler) -> None:
        served = {**handlers(), "Move-VMStorage": handler}
        monkeypatch.setattr(stateserver, "handlers", lambda: served)

    return put


@pytest.fixture(autouse=True)
def clean(site: Site) -> Iterator[None]:
    yield
    site.host.state.faults.clear()
    for info in site.driver.list_instances():
        site.driver.destroy(info.uuid)
    assert site.left() == []


def spawned(site: Site, image: FileImage) -> UUID:
    flavor = Flavor(vcpus=1, memory_mib=64, ephemeral_gib=1, swap_mib=8)
    return site.driver.spawn(spec(image, flavor=flavor)).uuid


def pools_of(site: Site, uuid: UUID) -> dict[str, str]:
    """The pool of each disk that the machine has, by the host's own record. The file is there."""
    found: dict[str, str] = {}
    with site.host.world.lock:
        for drive in machine_of(site, uuid).config.drives:
            assert drive.path is not None
            folder, _, name = drive.path.rpartition("\\")
            if name in DISKS:
                assert site.host.state.files.file(drive.path).exists(), drive.path
                found[name] = "second" if folder.startswith("C:\\hv-second\\") else "default"
    assert set(found) == DISKS
    return found


def files_of(site: Site, uuid: UUID) -> list[str]:
    """Where on the host there are disks of the machine."""
    drive = site.host.drive
    folders = {
        "default": drive / "hv" / "instances" / str(uuid),
        "second": drive / "hv-second" / str(uuid),
    }
    return sorted(
        f"{pool} {each.name}" for pool, folder in folders.items() for each in folder.glob("*.vhdx")
    )


def all_in(site: Site, uuid: UUID, pool: str) -> None:
    """They are there, and nowhere else is anything left."""
    assert pools_of(site, uuid) == dict.fromkeys(DISKS, pool)
    assert files_of(site, uuid) == sorted(f"{pool} {name}" for name in DISKS)
    empty = not (site.host.drive / "hv-second" / str(uuid)).exists()
    assert empty == (pool == "default")
    assert not list((site.host.drive / "hv" / "index").glob("*.storage"))


def partly(names: set[str]) -> Handler:
    """Moves these disks, and fails then."""

    def handler(call: Call) -> None:
        chosen: list[object] = [
            each
            for each in call.items("Vhds")
            if isinstance(each, dict)
            and str(each["table"]["SourceFilePath"]).rpartition("\\")[2] in names
        ]
        if chosen:
            call.bound = {**call.bound, "Vhds": chosen}
            move_storage(call)
        raise failed("The rest was not moved.", hresult=E_OUT_OF_MEMORY)

    return handler


def first_time(handler: Handler) -> Handler:
    """Only the first call of the host is served so."""
    calls: list[Call] = []

    def served(call: Call) -> None:
        calls.append(call)
        (handler if len(calls) == 1 else move_storage)(call)

    return served


WAYS = [("default", "second"), ("second", "default")]


@pytest.mark.parametrize(("here", "there"), WAYS)
@pytest.mark.parametrize(
    "moved",
    [set(), {"root.vhdx"}, {"ephemeral.vhdx", "swap.vhdx"}],
    ids=lambda moved: "+".join(sorted(moved)) or "none",
)
def test_a_move_that_fails_on_the_way_is_taken_back(
    site: Site, image: FileImage, serve: Serve, moved: set[str], here: str, there: str
) -> None:
    uuid = spawned(site, image)
    site.driver.migrate_storage(uuid, here)
    before = site.driver.get_instance(uuid)
    serve(first_time(partly(moved)))
    with (
        site.inner.session.seam.counting() as calls,
        pytest.raises(errors.InsufficientResources, match="The rest was not moved"),
    ):
        site.driver.migrate_storage(uuid, there)
    assert calls == ["hyperv.Relocate"]
    all_in(site, uuid, here)
    assert site.driver.get_instance(uuid) == before
    site.driver.migrate_storage(uuid, there)
    all_in(site, uuid, there)
    assert site.driver.get_instance(uuid) == before


@pytest.mark.parametrize(("here", "there"), WAYS)
def test_disks_that_do_not_go_back_are_told_and_kept(
    site: Site, image: FileImage, serve: Serve, here: str, there: str
) -> None:
    uuid = spawned(site, image)
    site.driver.migrate_storage(uuid, here)
    replies = [partly({"root.vhdx", "swap.vhdx"}), partly(set())]

    def served(call: Call) -> None:
        (replies.pop(0) if replies else move_storage)(call)

    serve(served)
    with pytest.raises(errors.OutcomeUnknown):
        site.driver.migrate_storage(uuid, there)
    assert replies == []
    assert pools_of(site, uuid) == {
        "root.vhdx": there,
        "ephemeral.vhdx": here,
        "swap.vhdx": there,
    }
    assert len(files_of(site, uuid)) == len(DISKS)
    site.driver.migrate_storage(uuid, there)
    all_in(site, uuid, there)


@pytest.mark.parametrize(("here", "there"), WAYS)
def test_an_error_after_the_last_disk_has_moved_undoes_nothing(
    site: Site, image: FileImage, here: str, there: str
) -> None:
    uuid = spawned(site, image)
    site.driver.migrate_storage(uuid, here)
    site.host.state.faults.fail("Move-VMStorage", late=True)
    site.driver.migrate_storage(uuid, there)
    all_in(site, uuid, there)


@pytest.mark.parametrize(("here", "there"), WAYS)
def test_sources_that_the_host_has_left_are_removed(
    site: Site, image: FileImage, serve: Serve, here: str, there: str
) -> None:
    uuid = spawned(site, image)
    site.driver.migrate_storage(uuid, here)

    def served(call: Call) -> None:
        call.bound = {**call.bound, "RetainVhdCopiesOnSource": True}
        move_storage(call)
        raise failed("A file could not be deleted.")

    serve(served)
    site.driver.migrate_storage(uuid, there)
    all_in(site, uuid, there)


@pytest.mark.parametrize("works", [True, False], ids=["works", "fails"])
@pytest.mark.parametrize(("here", "there"), WAYS)
def test_an_error_while_the_host_goes_on_says_nothing_yet(
    site: Site, image: FileImage, serve: Serve, works: bool, here: str, there: str
) -> None:
    """The cmdlet gave up, for one on want of memory in PowerShell. The host's own job did not."""
    uuid = spawned(site, image)
    site.driver.migrate_storage(uuid, here)
    state = site.host.state
    threads: list[threading.Thread] = []
    looked = state.faults.slow("Get-CimInstance")

    def served(call: Call) -> None:
        job = MigrationJob(machine_of(site, uuid).id, "")
        state.migrations.append(job)
        looks = looked.seen

        def go_on() -> None:
            with site.host.world.lock:
                # the request looks at the job meanwhile
                state.wait_for(lambda: looked.seen > looks + 1, 60)
                if works:
                    move_storage(call)
                job.state = 7 if works else 10
                site.host.world.notify()

        threads.append(threading.Thread(target=go_on))
        threads[-1].start()
        raise failed("Out of memory.", hresult=E_OUT_OF_MEMORY)

    serve(served)
    try:
        if works:
            site.driver.migrate_storage(uuid, there)
        else:
            with pytest.raises(errors.InsufficientResources):
                site.driver.migrate_storage(uuid, there)
    finally:
        for each in threads:
            each.join()
    all_in(site, uuid, there if works else here)


@pytest.mark.parametrize(("here", "there"), WAYS)
def test_nothing_is_said_of_disks_that_the_host_does_not_show(
    site: Site, image: FileImage, serve: Serve, here: str, there: str
) -> None:
    uuid = spawned(site, image)
    site.driver.migrate_storage(uuid, here)

    def served(call: Call) -> None:
        move_storage(call)
        # all looks from now on
        site.host.state.faults.fail("Get-VMHardDiskDrive", "OutOfMemory", hresult=E_OUT_OF_MEMORY)

    serve(served)
    with pytest.raises(errors.OutcomeUnknown):
        site.driver.migrate_storage(uuid, there)
    site.host.state.faults.clear()
    assert pools_of(site, uuid) == dict.fromkeys(DISKS, there)
    site.driver.migrate_storage(uuid, there)
    all_in(site, uuid, there)


@pytest.mark.parametrize(("here", "there"), WAYS)
@pytest.mark.parametrize(
    "moved",
    [{"root.vhdx"}, DISKS],
    ids=lambda moved: "+".join(sorted(moved)) or "none",
)
def test_who_is_killed_leaves_a_move_that_the_next_one_ends(
    site: Site, image: FileImage, serve: Serve, moved: set[str], here: str, there: str
) -> None:
    """The host's job has got so far, whatever became of the client's process."""
    uuid = spawned(site, image)
    site.driver.migrate_storage(uuid, here)
    ended: list[Call] = []

    def served(call: Call) -> None:
        try:
            (move_storage if moved == DISKS else partly(moved))(call)
        finally:
            ended.append(call)

    serve(first_time(served))
    with held(site, "Move-VMStorage") as release, ThreadPoolExecutor(1) as pool:
        moving = pool.submit(site.driver.migrate_storage, uuid, there)
        with release():
            site.service.kill_shells()
            with pytest.raises(errors.OutcomeUnknown):
                moving.result()
    with site.host.world.lock:
        assert site.host.state.wait_for(lambda: len(ended) > 0, 60)
    site.driver.migrate_storage(uuid, there)
    all_in(site, uuid, there)


def test_a_destroy_meanwhile_removes_disks_in_both_pools(
    site: Site, image: FileImage, serve: Serve
) -> None:
    uuid = spawned(site, image)
    serve(partly({"root.vhdx"}))
    file = site.host.drive / "hv" / "index" / f"{uuid}.storage"
    # one driver would do one after the other
    other = guarded(HypervDriver.connect(site.config))
    with other, held(site, "Move-VMStorage") as release, ThreadPoolExecutor(2) as pool:
        moving = pool.submit(site.driver.migrate_storage, uuid, "second")
        with release():
            going = pool.submit(other.destroy, uuid)
            wait_until(lambda: file.read_text() == "destroy", timeout=60, what="destroy() is asked")
        going.result()
        with pytest.raises(errors.InstanceNotFound):
            moving.result()
    assert site.left() == []


def test_disks_of_one_name_do_not_fit_into_one_folder(site: Site, image: FileImage) -> None:
    uuid = spawned(site, image)
    with site.host.world.lock:
        config = replace(machine_of(site, uuid).config, drives=[], adapters=[], dvds=[])
        stranger = Machine(host=site.host.state, config=config, path="C:\\elsewhere")
        site.host.state.machines[stranger.id] = stranger
    files = [attached(site, stranger, f"C:\\elsewhere\\{each}\\d.vhdx") for each in ("a", "b")]
    site.driver.adopt(stranger.id, name="adopted")
    with pytest.raises(errors.NotSupported, match=r"is named d\.vhdx") as caught:
        site.driver.migrate_storage(stranger.id, "second")
    assert caught.value.hint is not None
    assert all(each.exists() for each in files)
    assert not (site.host.drive / "hv-second" / str(stranger.id)).exists()
