"""swap_volume() beside other clients, and what those leave that die in it: the disk always has the
name of the volume that it holds, and a repeated call brings everything in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.libvirt.held_volumes import volumes_of
from hvdrivers.libvirt.pools import LOOK
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import DiskQos, PoolVolume, VolumeAttachment
from tests.integration.libvirt.children import Held, killed_in
from tests.integration.libvirt.faults import INTERNAL, script
from tests.integration.libvirt.machines import Host, Machine, local
from tests.integration.libvirt.test_remote_volumes import iscsi, luks, make_luks, secrets
from tests.integration.libvirt.test_swapping import (
    SIZE,
    copies,
    held,
    path_of,
    sum_of,
    swappable,
    two_volumes,
)
from tests.peers.fixtures import started
from tests.peers.tgt import IscsiServer
from tests.peers.waiting import wait_until

_BEGIN = "Domain.blockCopy"
LIMITS = DiskQos(total_iops_sec=400)


def names(machine: Machine) -> list[str]:
    return [each.volume_id for each in machine.info.volumes]


def serials(machine: Machine) -> list[str | None]:
    """The numbers by which the guest finds its volumes at the next start."""
    disks = volumes_of(machine.xml(inactive=True)).values()
    return [disk.findtext("serial") for disk in disks]


def restart(driver: ComputeDriver, machine: Machine) -> None:
    driver.power_off(machine.uuid)
    driver.power_on(machine.uuid)


def dies(own: Host, machine: Machine, volume_id: str, wanted: VolumeAttachment, call: str) -> None:
    """Swap in a process that dies after a call."""
    for number in count():
        made = killed_in(
            own.peer.uri, "swap_volume", (machine.uuid, volume_id, wanted), number, "after"
        )
        assert made, f"there was no {call}"
        # a look at a file ends later: see test_shares.py
        for pool in own.peer.virsh("pool-list", "--name").split():
            if pool.startswith(LOOK):
                own.peer.virsh("pool-destroy", pool)
        if made == call:
            return


@contextmanager
def met(own: Host, call: str, meet: Callable[[], object], *, after: bool = False) -> Iterator[None]:
    """Something happens before, or after, one call of the first client."""

    def fault(_name: str, send: Any) -> Any:
        if not after:
            meet()
            return send()
        answer = send()
        meet()
        return answer

    with script(own.raw, call, fault) as seam:
        yield
    assert seam.reached


def test_what_another_client_attaches_meanwhile_stays(own: Host, other: ComputeDriver) -> None:
    """Before the definition gets the replacement."""
    with own.unchanged(), own.volume(size_bytes=SIZE) as third, swappable(own) as (machine, *pair):
        old, new = pair
        third_too = VolumeAttachment(volume=third)
        meet = lambda: other.attach_volume(machine.uuid, third_too)  # noqa: E731
        with met(own, "Domain.updateDeviceFlags", meet):
            own.driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=new))
        for each in (new, third):
            assert machine.has(each.volume_id) == (True, True)


def test_switched_off_after_the_pivot(own: Host, other: ComputeDriver) -> None:
    """The volume has changed: the call says so, and the definition has all of it."""
    with own.unchanged(), swappable(own) as (machine, old, new):
        wanted = VolumeAttachment(volume=new, qos=LIMITS)
        with met(own, "Domain.blockJobAbort", lambda: other.power_off(machine.uuid), after=True):
            done = own.driver.swap_volume(machine.uuid, old.volume_id, wanted)
        assert done.volume_id == held(machine) == new.volume_id
        assert serials(machine) == [new.volume_id]
        assert machine.xml(inactive=True).findtext("devices/disk/iotune/total_iops_sec") == "400"


@pytest.mark.parametrize("call", ["Domain.blockCopy", "Domain.setMetadata", "Domain.blockJobAbort"])
def test_restarted_meanwhile(own: Host, other: ComputeDriver, call: str) -> None:
    """The copy has gone with the machine's old run: there is another one."""
    with own.unchanged(), swappable(own) as (machine, old, new):
        with met(own, call, lambda: restart(other, machine)):
            own.driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=new))
        assert held(machine) == new.volume_id
        assert sum_of(own, new) == sum_of(own, old)


@pytest.mark.parametrize("size", [SIZE, 4 * SIZE])
def test_extended_meanwhile(own: Host, other: ComputeDriver, size: int) -> None:
    """The replacement is looked at again: it may be too small now, or have room enough."""
    with (
        own.unchanged(),
        own.volume(size_bytes=SIZE, format=ImageFormat.QCOW2) as old,
        own.volume(size_bytes=size, format=ImageFormat.RAW) as new,
        own.empty_machine(volumes=(VolumeAttachment(volume=old),)) as machine,
    ):
        uuid, wanted = machine.uuid, VolumeAttachment(volume=new)
        meet = lambda: other.extend_volume(uuid, old.volume_id, 2 * SIZE)  # noqa: E731
        with met(own, _BEGIN, meet):
            if size == SIZE:
                with pytest.raises(errors.InvalidRequest, match=str(2 * SIZE)) as refused:
                    own.driver.swap_volume(uuid, old.volume_id, wanted)
                assert refused.value.hint
            else:
                own.driver.swap_volume(uuid, old.volume_id, wanted)
        assert held(machine) == (old if size == SIZE else new).volume_id
        assert not copies(machine)
        own.driver.power_off(uuid)
        own.driver.detach_volume(uuid, held(machine))


@pytest.mark.parametrize("replaces", ["swap", "detach"])
def test_another_volume_is_there_meanwhile(own: Host, other: ComputeDriver, replaces: str) -> None:
    """A copy goes by the name of the device, and another volume has got it."""
    with (
        own.unchanged(),
        own.volume(format=ImageFormat.RAW) as third,
        swappable(own) as (machine, old, new),
    ):
        uuid, third_too = machine.uuid, VolumeAttachment(volume=third)

        def meet() -> None:
            if replaces == "swap":
                other.swap_volume(uuid, old.volume_id, third_too)
                return
            other.power_off(uuid)
            other.detach_volume(uuid, old.volume_id)
            other.attach_volume(uuid, third_too)
            other.power_on(uuid)

        assert isinstance(third, PoolVolume)
        with met(own, "Domain.blockCopy", meet), pytest.raises(errors.VolumeNotFound):
            own.driver.swap_volume(uuid, old.volume_id, VolumeAttachment(volume=new))
        assert names(machine) == [third.volume_id]
        assert not copies(machine)
        assert (sum_of(own, third) == sum_of(own, old)) is (replaces == "swap")


def test_two_replacements(own: Host, other: ComputeDriver) -> None:
    """The one that comes second writes nothing over what the first one has written."""
    with (
        own.unchanged(),
        swappable(own) as (machine, old, new),
        own.volume(size_bytes=SIZE, format=ImageFormat.RAW) as third,
    ):
        arguments = machine.uuid, old.volume_id, VolumeAttachment(volume=third)
        shown = Held(own.peer.uri, "swap_volume", arguments, -1)
        assert shown.go_on() == "done"
        back = VolumeAttachment(volume=old)
        own.driver.swap_volume(machine.uuid, third.volume_id, back)
        first, last = (shown.calls.index(each) for each in ("StorageVol.path", _BEGIN))
        for number in range(first, last + 1):
            second = Held(own.peer.uri, "swap_volume", arguments, number)
            told: list[str] = []
            with met(own, _BEGIN, partial(_go_on, second, told), after=True):
                own.raw.connection.seam = _Watching(own.raw.connection.seam, other, machine)
                watching = own.raw.connection.seam
                own.driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=new))
            assert told == ["DeviceBusy"]
            assert watching.seen == [[new.volume_id]]
            own.driver.swap_volume(machine.uuid, new.volume_id, back)


def _go_on(client: Held, told: list[str]) -> None:
    told.append(client.go_on())


class _Watching:
    """What another client sees right after the pivot."""

    def __init__(self, inner: Any, other: ComputeDriver, machine: Machine) -> None:
        self.seen: list[list[str]] = []
        self._inner, self._other, self._machine = inner, other, machine

    def __call__(self, name: str, send: Any) -> Any:
        answer = self._inner(name, send)
        if name == "Domain.blockJobAbort":
            info = self._other.get_instance(self._machine.uuid)
            self.seen.append([each.volume_id for each in info.volumes])
        return answer


def test_one_replacement_for_two(own: Host, other: ComputeDriver) -> None:
    """Of another machine, and of another disk of the same one."""
    with (
        own.unchanged(),
        two_volumes(own) as (old, new),
        own.volume(format=ImageFormat.RAW) as second,
        own.volume(format=ImageFormat.RAW) as third,
        own.empty_machine(volumes=[VolumeAttachment(volume=each) for each in (old, second)]) as one,
        own.empty_machine(volumes=[VolumeAttachment(volume=third)]) as two,
    ):
        wanted = VolumeAttachment(volume=new)

        def meet() -> None:
            for machine, volume in ((one, second), (two, third)):
                with pytest.raises(errors.DeviceBusy):
                    other.swap_volume(machine.uuid, volume.volume_id, wanted)

        with met(own, "Domain.blockCopy", meet, after=True):
            own.driver.swap_volume(one.uuid, old.volume_id, wanted)
        assert set(names(one)) == {new.volume_id, second.volume_id}
        assert names(two) == [third.volume_id]
        assert not copies(one)
        assert not copies(two)
        assert sum_of(own, new) == sum_of(own, old)


def test_one_that_joins_and_fails(own: Host, other: ComputeDriver) -> None:
    """It ends no copy that another client has begun."""
    with own.unchanged(), swappable(own) as (machine, old, new):
        arguments = machine.uuid, old.volume_id, VolumeAttachment(volume=new)

        def refused(_name: str, _send: Any) -> Any:
            raise INTERNAL

        with closing(Host(own.peer, own.image)) as third:

            def meet() -> None:
                with script(third.raw, "Domain.blockJobInfo", refused) as seam:
                    with pytest.raises(errors.HypervisorFault):
                        third.driver.swap_volume(*arguments)
                    assert seam.reached

            with met(own, "Domain.blockJobInfo", meet):
                own.driver.swap_volume(*arguments)
        assert held(machine) == new.volume_id
        assert sum_of(own, new) == sum_of(own, old)


def test_a_client_dies_after_the_pivot(own: Host) -> None:
    """The same call does what it did not come to, and says that the old volume has gone."""
    driver = own.driver
    with (
        own.unchanged(),
        two_volumes(own, size_bytes=2 * SIZE) as (old, new),
        own.empty_machine(volumes=(VolumeAttachment(volume=old),)) as machine,
    ):
        wanted = VolumeAttachment(volume=new, qos=LIMITS)
        dies(own, machine, old.volume_id, wanted, "Domain.blockJobAbort")
        assert held(machine) == new.volume_id
        assert serials(machine) == [old.volume_id]
        with pytest.raises(errors.VolumeNotFound):
            driver.swap_volume(machine.uuid, old.volume_id, wanted)
        restart(driver, machine)
        assert held(machine) == new.volume_id
        assert serials(machine) == [new.volume_id]
        device = machine.info.volumes[0].device or ""
        assert f"{2 * SIZE}" in own.peer.virsh("domblkinfo", str(machine.uuid), device)
        limits = own.peer.virsh("blkdeviotune", str(machine.uuid), device)
        assert "total_iops_sec : 400" in " ".join(limits.split())


def test_another_connection_after_a_swap_that_came_to_no_end(own: Host) -> None:
    """Of the volume that the machine has, before and after the moment of the change: it stays that
    one, also while its definition names another file."""
    with own.file(size=SIZE) as one, own.file(size=SIZE) as two, own.file(size=SIZE) as third:
        for call, name in (("Domain.setMetadata", "old"), ("Domain.blockJobAbort", "new")):
            old = VolumeAttachment(volume=local(one, "old"))
            new = VolumeAttachment(volume=local(two, "new"))
            with own.unchanged(), own.empty_machine(volumes=(old,)) as machine:
                dies(own, machine, "old", new, call)
                own.driver.power_off(machine.uuid)
                assert names(machine) == [name]
                moved = VolumeAttachment(volume=local(third, name))
                own.driver.reconnect(machine.uuid, volumes=(moved,))
                assert names(machine) == [name]
                own.driver.power_on(machine.uuid)
                assert names(machine) == [name]


def test_nothing_stays_of_a_volume_that_is_detached(own: Host) -> None:
    """However often volumes come, change and go."""
    driver = own.driver
    with own.unchanged(), swappable(own) as (machine, old, new):
        for _ in range(2):
            driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=new))
            driver.power_off(machine.uuid)
            driver.detach_volume(machine.uuid, new.volume_id)
            for inactive in (False, True):
                slots = [
                    each.tag
                    for each in machine.xml(inactive=inactive).iterfind("metadata/*")
                    if "/volume/" in each.tag
                ]
                assert slots == []
            driver.attach_volume(machine.uuid, VolumeAttachment(volume=old))
            driver.power_on(machine.uuid)
            assert held(machine) == old.volume_id


@pytest.mark.parametrize("call", [_BEGIN, "Domain.blockJobInfo", "Domain.blockJobAbort"])
@pytest.mark.parametrize("what", ["the daemon", "QEMU"])
def test_killed_meanwhile(own: Host, what: str, call: str) -> None:
    """The old volume is attached and whole, and the call can be repeated."""
    driver = own.driver
    with own.unchanged(), swappable(own) as (machine, old, new):
        content, wanted = sum_of(own, old), VolumeAttachment(volume=new)

        def kill() -> None:
            if what == "the daemon":
                own.peer.restart()
                return
            os.kill(own.peer.qemu_pid(str(machine.uuid)), signal.SIGKILL)
            wait_until(
                lambda: own.peer.virsh("domstate", str(machine.uuid)).strip() == "shut off",
                timeout=60,
                what="the daemon knows that QEMU has gone",
            )

        expected = errors.ConnectionFailed if what == "the daemon" else errors.InvalidState
        with met(own, call, kill), pytest.raises(expected):
            driver.swap_volume(machine.uuid, old.volume_id, wanted)
        if what == "QEMU":
            assert machine.state is InstanceState.CRASHED
            driver.power_on(machine.uuid)
        assert held(machine) == old.volume_id
        assert not copies(machine)
        assert sum_of(own, old) == content
        driver.swap_volume(machine.uuid, old.volume_id, wanted)
        assert held(machine) == new.volume_id
        assert sum_of(own, new) == content


def test_keys(own: Host, tmp_path: Path) -> None:
    """Every byte through two keys and back. The secrets of a dead client's old volume go with the
    same call, and those of a copy that runs on stay."""
    driver, made = own.driver, {}
    secret = tmp_path / "secret"
    for key in (b"one", b"two"):
        secret.write_bytes(key)
        make_luks(tmp_path / "luks", secret)
        made[key] = (tmp_path / "luks").read_bytes()
    with (
        own.unchanged(),
        own.volume(size_bytes=4 << 20, format=ImageFormat.RAW) as plain,
        own.volume(size_bytes=4 << 20, format=ImageFormat.RAW) as back,
        own.file(made[b"one"], size=0) as first,
        own.file(made[b"two"], size=0) as second,
    ):
        assert isinstance(plain, PoolVolume)
        assert isinstance(back, PoolVolume)
        path_of(own, plain).write_bytes(os.urandom(4 << 20))
        one = luks(first, b"one").model_copy(update={"volume": local(first, "one")})
        two = luks(second, b"two").model_copy(update={"volume": local(second, "two")})
        wanted = VolumeAttachment(volume=back)
        with own.empty_machine(volumes=(VolumeAttachment(volume=plain),)) as machine:
            driver.swap_volume(machine.uuid, plain.volume_id, one)
            driver.swap_volume(machine.uuid, "one", two)
            assert len(secrets(own)) == 1
            restart(driver, machine)
            dies(own, machine, "two", wanted, "Domain.blockJobAbort")
            with pytest.raises(errors.VolumeNotFound):
                driver.swap_volume(machine.uuid, "two", wanted)
            assert secrets(own) == set()
            assert sum_of(own, back) == sum_of(own, plain)

            def refused(_name: str, _send: Any) -> Any:
                raise INTERNAL

            dies(own, machine, back.volume_id, one, "Domain.setMetadata")
            with (
                script(own.raw, "Domain.blockJobInfo", refused),
                pytest.raises(errors.HypervisorFault),
            ):
                driver.swap_volume(machine.uuid, back.volume_id, one)
            assert len(secrets(own)) == 1
            driver.swap_volume(machine.uuid, back.volume_id, one)
            restart(driver, machine)
            assert names(machine) == ["one"]


def test_to_a_server_and_back(own: Host) -> None:
    """With a client that dies on the way back: stored and running, the disk has one name."""
    size = 16 << 20
    with (
        started(IscsiServer) as server,
        own.unchanged(),
        own.volume(size_bytes=size, format=ImageFormat.RAW) as old,
        own.volume(size_bytes=size, format=ImageFormat.RAW) as back,
        own.empty_machine(volumes=(VolumeAttachment(volume=old),)) as machine,
    ):
        assert isinstance(old, PoolVolume)
        assert isinstance(back, PoolVolume)
        own.driver.swap_volume(machine.uuid, old.volume_id, iscsi(server))
        wanted = VolumeAttachment(volume=back)

        def is_one() -> bool:
            both = [volumes_of(machine.xml(inactive=each)) for each in (False, True)]
            return [list(each) for each in both] == [["san-1"], ["san-1"]]

        assert is_one()
        dies(own, machine, "san-1", wanted, "Domain.setMetadata")
        assert is_one()
        restart(own.driver, machine)
        assert is_one()
        own.driver.swap_volume(machine.uuid, "san-1", wanted)
        assert held(machine) == back.volume_id
        assert secrets(own) == set()
        assert sum_of(own, back) == sum_of(own, old)
