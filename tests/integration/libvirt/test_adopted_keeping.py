"""destroy(keep=) of machines that others have made, and that adopt() has taken over."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.models.instance import Keep
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_adopted_snapshots import value_in, write
from tests.integration.libvirt.test_budgets import calls, look_at_users, numbers
from tests.integration.libvirt.theirs import Theirs, at_each_cut, is_foreign, theirs, with_header

pytestmark = pytest.mark.usefixtures("impatient")

S = InstanceState
ALL = frozenset(Keep)
ROOT = frozenset({Keep.ROOT_DISK})


def kept(machine: Theirs) -> dict[str, Path]:
    """The volumes that have been kept, by the role of the disk."""
    prefix = f"{machine.uuid}-"
    return {
        each.volume_id.removeprefix(prefix): machine.peer.path(str(each.path))
        for each in machine.own.driver.list_volumes()
        if each.volume_id.startswith(prefix)
    }


def forget(machine: Theirs) -> None:
    for role in kept(machine):
        machine.own.driver.delete_volume(f"{machine.uuid}-{role}")


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_each_disk_becomes_a_volume_that_stands_alone(own: Host, on: bool) -> None:
    """qcow2 over an image of others, and raw on another bus. The image stays."""
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        golden, raw = machine.volume(), machine.volume(format_="raw")
        write(machine.files[0], 4)
        write(machine.files[1], 6, "raw")
        before = machine.files[0].read_bytes()
        over = machine.overlay(golden)
        second = machine.disk(raw, "sdb", "raw").replace("bus='virtio'", "bus='sata'")
        machine.define(disks=[machine.disk(over), second])
        if on:
            machine.start()
        driver.adopt(machine.uuid)
        driver.destroy(machine.uuid, keep=ALL)
        found = kept(machine)
        assert {role: value_in(file) for role, file in found.items()} == {"root": 4, "disk1": 6}
        for file in found.values():
            told = subprocess.run(
                ["qemu-img", "info", str(file)], check=True, capture_output=True, text=True
            ).stdout
            assert "file format: qcow2" in told
            assert "backing file" not in told
        assert not machine.files[1].exists()
        assert not machine.files[2].exists()
        assert machine.files[0].read_bytes() == before
        forget(machine)


def test_only_what_is_asked_for(own: Host) -> None:
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        disks = [machine.disk(machine.volume()), machine.disk(machine.volume(), "vdb")]
        machine.define(disks=disks)
        driver.adopt(machine.uuid)
        driver.destroy(machine.uuid, keep=ROOT)
        assert kept(machine).keys() == {"root"}
        assert not any(each.exists() for each in machine.files)
        # another machine of this UUID: its disk would get a name that is taken
        machine.define()
        driver.adopt(machine.uuid)
        with pytest.raises(errors.VolumeExists, match="has been kept"):
            driver.destroy(machine.uuid, keep=ROOT)
        assert not is_foreign(driver, machine.uuid)
        assert machine.files[-1].exists()
        forget(machine)


def _used(machine: Theirs) -> type[errors.HypervisorError]:
    machine.overlay(f"{machine.peer.images}/{machine.files[-1].name}", "raw")
    return errors.DeviceBusy


def _disguised(machine: Theirs) -> type[errors.HypervisorError]:
    with_header(machine.files[-1], "/etc/passwd")
    return errors.InvalidRequest


@pytest.mark.parametrize("spoil", [_used, _disguised])
def test_what_cannot_be_kept_is_refused(
    own: Host, spoil: Callable[[Theirs], type[errors.HypervisorError]]
) -> None:
    """Nothing has changed then, and the machine runs on."""
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        machine.define(disks=[machine.disk(machine.volume(format_="raw"), format_="raw")])
        driver.adopt(machine.uuid)
        if spoil is _disguised:
            expected = spoil(machine)
            machine.start()
        else:
            machine.start()
            expected = spoil(machine)
        shape = machine.bare()
        with pytest.raises(expected) as refused:
            driver.destroy(machine.uuid, keep=ROOT)
        assert refused.value.hint
        assert machine.bare() == shape
        assert driver.get_instance(machine.uuid).state is S.RUNNING
        assert machine.files[0].exists()
        assert kept(machine) == {}


def test_each_changing_call_is_lost(own: Host) -> None:
    """Its bytes are in its disk or in the copy, the same call comes to the end, and nothing but
    the copy is left."""
    driver, made = own.driver, list[Theirs]()

    def begin(machine: Theirs) -> Callable[[], object]:
        made.append(machine)
        machine.define(disks=[machine.disk(machine.volume())])
        write(machine.files[-1], 5)
        machine.start()
        driver.adopt(machine.uuid)
        return lambda: guarded(own.raw).destroy(machine.uuid, keep=ROOT)

    def then(machine: Theirs, what: str) -> None:
        assert machine.files[-1].exists() or value_in(kept(machine)["root"]) == 5, what
        driver.destroy(machine.uuid, keep=ROOT)
        assert value_in(kept(machine)["root"]) == 5, what
        forget(machine)

    try:
        at_each_cut(own, begin, then, least=14)
    finally:
        for each in made:
            forget(each)


def test_the_calls_that_it_takes(own: Host) -> None:
    raw = own.raw
    with theirs(own) as machine:
        raw.adopt(machine.uuid)
        look = look_at_users(raw, volumes=1, machines=1)
        found = calls(raw, lambda: raw.destroy(machine.uuid, keep=ROOT))
        assert found <= 14 + 2 + 1 + look + 5 + look + 5
        assert 5 in numbers("destroy")
        forget(machine)
