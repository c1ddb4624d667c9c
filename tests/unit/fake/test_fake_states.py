"""The whole (operation, state) table of the contract, driven through the guard."""

from __future__ import annotations

import pytest
from fakery import CIRROS, SMALL, bridge_nic, build, nic, rbd, state_of
from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import declared
from hvdrivers.contract.driver import OPERATIONS, state_table
from hvdrivers.contract.power import RebootKind
from hvdrivers.contract.states import End
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.guest import Share
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, VifQos
from hvdrivers.models.volume import DiskQos

GROWING = Flavor(vcpus=1, memory_mib=512, disk_gib=1, max_vcpus=4, max_memory_mib=2048)
BETA = Destination(host="beta")
SHARE = Share(tag="data", path="/srv/share")

ARGUMENTS = {
    "rename": ("new name",),
    "set_metadata": ({"key": "value"},),
    "rescue": (CIRROS,),
    "resize": (Flavor(vcpus=2, memory_mib=512, disk_gib=1),),
    "hot_resize_cpu": (2,),
    "hot_resize_memory": (1024,),
    "rebuild": (CIRROS,),
    "reboot[soft]": (RebootKind.SOFT,),
    "attach_volume": (rbd("vol-new"),),
    "detach_volume": ("vol-1",),
    "extend_volume": ("vol-1", 2 << 30),
    "swap_volume": ("vol-1", rbd("vol-new")),
    "set_disk_qos": ("vol-1", DiskQos(total_iops_sec=100)),
    "migrate_storage": ("fast",),
    "plug_vif": (bridge_nic(),),
    "unplug_vif": ("nic-1",),
    "set_vif_qos": ("nic-1", VifQos(inbound=Bandwidth(average=1000))),
    "get_console": (ConsoleKind.VNC,),
    "create_snapshot": ("snap",),
    "revert_snapshot": ("snapshot-1",),
    "delete_snapshot": ("snapshot-1",),
    "end_backup": ("checkpoint-1",),
    "set_guest_password": ("root", SecretStr("new password")),
    "guest_exec": (("/bin/true",),),
    "check_live_migration": (BETA,),
    "live_migrate": (BETA,),
    "cold_migrate": (BETA,),
    "attach_share": (SHARE,),
    "detach_share": ("data",),
}
SNAPSHOTS = {"revert_snapshot", "delete_snapshot", "list_snapshots"}
GONE = {"live_migrate", "cold_migrate"}

TABLE = state_table(declared(FakeDriver))
CELLS = [
    pytest.param(row, state, id=f"{row}-{state}")
    for row in TABLE
    for state in InstanceState
    if not row.startswith(("adopt", "snapshot_to_image"))
]


def prepare(host, driver, row, state):
    return build(
        host,
        driver,
        state,
        flavor=GROWING,
        volumes=(rbd("vol-1"),),
        vifs=(nic("nic-1"),),
        image=CIRROS,
        snapshot=row in SNAPSHOTS and state is not InstanceState.BUILDING,
    )


def expected(row, outcome, state):
    if row in GONE:
        return End.GONE
    if row == "revert_snapshot":
        return InstanceState.STOPPED  # that snapshot has no memory
    if row == "confirm_move":
        return state  # it has not moved
    return outcome.after(state)


@pytest.mark.parametrize(("row", "state"), CELLS)
def test_every_operation_in_every_state(host, driver, other, row, state):
    outcome = TABLE[row][state]
    uuid = prepare(host, driver, row, state)
    name = row.partition("[")[0]
    arguments = ARGUMENTS.get(row, ())
    before = host.inventory()

    if not outcome.legal:
        with pytest.raises(errors.InvalidState):
            getattr(driver, name)(uuid, *arguments)
        assert host.inventory().difference(before) == []
        return
    if name == "force_migration":
        with pytest.raises(errors.InvalidState, match="no migration"):
            driver.force_migration(uuid)
        assert host.inventory() == before
        return

    getattr(driver, name)(uuid, *arguments)

    end = expected(row, outcome, state)
    if end is End.GONE:
        with pytest.raises(errors.InstanceNotFound):
            driver.get_instance(uuid)
        assert host.inventory().of(uuid) == frozenset()
    else:
        assert state_of(driver, uuid) is end
    if not OPERATIONS[name].changes:
        assert host.inventory() == before


@pytest.mark.parametrize("state", list(InstanceState))
def test_snapshot_to_image_in_every_state(host, driver, tmp_path, state):
    uuid = prepare(host, driver, "snapshot_to_image", state)
    before = host.inventory()
    if TABLE["snapshot_to_image"][state].legal:
        driver.snapshot_to_image(uuid, tmp_path / "out.qcow2")
    else:
        with pytest.raises(errors.InvalidState):
            driver.snapshot_to_image(uuid, tmp_path / "out.qcow2")
        assert list(tmp_path.iterdir()) == []
    assert host.inventory() == before


@pytest.mark.parametrize("state", list(InstanceState))
def test_adopt_in_every_state(host, driver, state):
    uuid = host.add_foreign(state=state)
    before = host.inventory()
    if TABLE["adopt"][state].legal:
        assert driver.adopt(uuid).state is state
        assert state_of(driver, uuid) is state
    else:
        with pytest.raises(errors.InvalidState):
            driver.adopt(uuid)
        assert host.inventory() == before


def test_the_table_here_covers_every_row():
    untested = set(ARGUMENTS) - set(TABLE)
    assert untested == set()


@pytest.mark.parametrize("row", sorted(TABLE))
def test_every_instance_operation_knows_no_stranger(host, driver, tmp_path, row):
    """Somebody else's machine is 'not found', and is not touched; so is none at all."""
    name = row.partition("[")[0]
    foreign = host.add_foreign()
    arguments = ARGUMENTS.get(row, ())
    if name == "snapshot_to_image":
        arguments = (tmp_path / "out",)
    before = host.inventory()
    for uuid in (foreign, SMALL and __import__("uuid").uuid4()):
        if name == "adopt" and uuid == foreign:
            continue
        if name in {"destroy", "confirm_move"} and uuid != foreign:
            getattr(driver, name)(uuid)
            continue
        with pytest.raises(errors.InstanceNotFound) as caught:
            getattr(driver, name)(uuid, *arguments)
        assert caught.value.instance == uuid
    assert host.inventory() == before
