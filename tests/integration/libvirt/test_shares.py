"""Directories of the host in a guest that really mounts them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree as ET

import pytest
from pydantic import ValidationError

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.libvirt import pools
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.guest import Share
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.machines import Host, Machine


@contextmanager
def directory(host: Host, name: str = "share") -> Iterator[tuple[str, Path]]:
    """An empty directory: its path on the host, and where the test sees it."""
    base = f"{host.peer.images}/{uuid4().hex[:8]}"
    path = f"{base}/{name}"
    outside = host.peer.path(path)
    outside.mkdir(parents=True)
    try:
        yield path, outside
    finally:
        host.peer.inside("rm", "-r", base)


def shape(machine: Machine) -> str:
    return ET.tostring(machine.xml(inactive=True), encoding="unicode")


def shares(machine: Machine) -> dict[str, str]:
    found = machine.xml(inactive=True).iterfind("devices/filesystem")
    return {each.find("target").get("dir"): each.find("source").get("dir") for each in found}  # type: ignore[union-attr,misc]


def test_a_guest_reads_and_writes_in_it(host: Host) -> None:
    """It sees the directory and nothing else of the host: a symlink leads to its own files."""
    tag = "data-" + "x" * 31
    with (
        host.unchanged(),
        directory(host, "a ü &<'\">=: share") as (path, outside),
        host.machine(start=False) as machine,
    ):
        (outside / "from-host").write_text("hello\n")
        (outside.parent / "secret").write_text("not yours\n")
        (outside / "out").symlink_to("../secret")
        (outside / "passwd").symlink_to("/etc/passwd")
        before = shape(machine)
        host.driver.attach_share(machine.uuid, Share(tag=tag, path=path))
        fixed = f"{path}/fixed"
        (outside / "fixed").mkdir()
        host.peer.inside("mount", "--bind", fixed, fixed)
        host.peer.inside("mount", "-o", "remount,bind,ro", fixed)
        host.driver.attach_share(machine.uuid, Share(tag="fixed", path=fixed))
        host.driver.power_on(machine.uuid)
        machine.booted()
        machine.run("mkdir -p /tmp/f && mount -t virtiofs fixed /tmp/f && ! touch /tmp/f/new")
        assert not (outside / "fixed/new").exists()
        machine.run(f"mkdir -p /tmp/s && mount -t virtiofs {tag} /tmp/s")
        machine.run("grep -q hello /tmp/s/from-host")
        machine.run("echo back > /tmp/s/from-guest && sync")
        assert (outside / "from-guest").read_text() == "back\n"
        machine.run("! cat /tmp/s/out")
        machine.run("! cat /tmp/s/../secret")
        machine.run("cmp /tmp/s/passwd /etc/passwd")  # the guest's own
        with pytest.raises(errors.InvalidState):
            host.driver.detach_share(machine.uuid, tag)
        host.driver.power_off(machine.uuid)
        host.peer.inside("umount", "--lazy", fixed)
        for each in (tag, "fixed"):
            host.driver.detach_share(machine.uuid, each)
        assert shape(machine) == before


def test_what_cannot_be_saved_with_a_share(host: Host) -> None:
    with host.unchanged(), directory(host) as (path, _), host.machine(start=False) as machine:
        host.driver.attach_share(machine.uuid, Share(tag="data", path=path))
        host.driver.power_on(machine.uuid)
        machine.booted()
        with pytest.raises(errors.NotSupported):
            host.driver.suspend(machine.uuid)
        with pytest.raises(errors.NotSupported):
            host.driver.create_snapshot(machine.uuid, "with memory", memory=True)
        assert machine.state is InstanceState.RUNNING
        assert host.driver.list_snapshots(machine.uuid) == []
        made = host.driver.create_snapshot(machine.uuid, "disks alone")
        host.driver.delete_snapshot(machine.uuid, made.id)
        host.driver.reboot(machine.uuid)


def test_what_is_refused(host: Host) -> None:
    """Each with a hint, and nothing is left."""
    with host.unchanged(), directory(host) as (path, outside), host.made_empty() as machine:
        before = shape(machine)
        (outside / "file").touch()
        disks = host.raw.pools.path(host.raw.pools.disks())
        for name, error in {
            f"{path}/absent": errors.VolumeNotFound,
            f"{path}/file": errors.VolumeNotFound,
            f"{path}/file/below": errors.VolumeNotFound,
            f"{path}/{'x' * 256}": errors.VolumeNotFound,
            disks: errors.InvalidRequest,
            f"{disks}/below": errors.InvalidRequest,
            "/var": errors.InvalidRequest,
            "/proc/self": errors.InvalidRequest,
            "/dev": errors.InvalidRequest,
        }.items():
            with pytest.raises(error) as refused:
                host.driver.attach_share(machine.uuid, Share(tag="t", path=name))
            assert refused.value.hint, name
        with pytest.raises(errors.NotSupported):
            host.driver.attach_share(machine.uuid, Share(tag="t", path=path, read_only=True))
        # virtiofsd would read these as options of its own
        for name in (f"{path},sandbox=chroot", f"{path}\\054sandbox=chroot"):
            host.peer.path(name).mkdir()
            with pytest.raises(errors.NotSupported) as refused:
                host.driver.attach_share(machine.uuid, Share(tag="t", path=name))
            assert refused.value.hint, name
        for tag, name in (
            ("", path),
            ("x" * 37, path),
            ("ü" * 19, path),
            ("a\nb", path),
            ("t", "relative"),
            ("t", ""),
            ("t", "/"),
            ("t", f"{path}/../other"),
            ("t", f"{path}/./other"),
            ("t", f"{path}//other"),
            ("t", f"{path}/"),
            ("t", f"{path}\x00"),
        ):
            with pytest.raises(ValidationError):
                Share(tag=tag, path=name)
        assert shape(machine) == before
        host.driver.detach_share(machine.uuid, "<never & 'there'>")
        assert shape(machine) == before


def test_hostile_tags(host: Host) -> None:
    """QEMU takes each as it is: none is an option of its command line."""
    tags = ("a,b=c", "</filesystem>", "'\"&", "ü 🦆", "-o", "../../x")
    with host.unchanged(), directory(host) as (path, _), host.made_empty() as machine:
        for tag in tags:
            host.driver.attach_share(machine.uuid, Share(tag=tag, path=path))
        assert shares(machine) == dict.fromkeys(tags, path)
        host.driver.power_on(machine.uuid)
        assert machine.state is InstanceState.RUNNING
        host.driver.power_off(machine.uuid)
        for tag in tags:
            host.driver.detach_share(machine.uuid, tag)
        assert shares(machine) == {}


def test_the_directory_has_gone(host: Host) -> None:
    with host.unchanged(), host.made_empty() as machine:
        with directory(host) as (path, _):
            host.driver.attach_share(machine.uuid, Share(tag="data", path=path))
        with pytest.raises(errors.VolumeNotFound, match=re.escape(path)) as refused:
            host.driver.power_on(machine.uuid)
        assert refused.value.hint
        assert machine.state is InstanceState.STOPPED
        host.driver.detach_share(machine.uuid, "data")
        host.driver.power_on(machine.uuid)


def test_memory_is_shared_as_long_as_there_is_one(host: Host) -> None:
    """resize() keeps it so, and the last detach_share() ends it."""
    flavor = Flavor(vcpus=1, memory_mib=64)

    def is_shared() -> bool:
        access = machine.xml(inactive=True).find("memoryBacking/access")
        return access is not None and access.get("mode") == "shared"

    with host.unchanged(), directory(host) as (path, _), host.made_empty() as machine:
        for tag in ("one", "two"):
            host.driver.attach_share(machine.uuid, Share(tag=tag, path=path))
        for changes in ({"memory_mib": 96}, {"max_memory_mib": 2048}, {"vcpus": 2}, {}):
            size = {"vcpus": 1, "memory_mib": 64, **changes}
            host.driver.resize(machine.uuid, Flavor.model_validate(size))
            assert is_shared(), changes
            assert shares(machine) == {"one": path, "two": path}
        host.driver.detach_share(machine.uuid, "one")
        assert is_shared()
        host.driver.detach_share(machine.uuid, "two")
        assert machine.xml(inactive=True).find("memoryBacking") is None
        host.driver.resize(machine.uuid, flavor)
        assert not is_shared()


def test_two_clients(host: Host) -> None:
    """What one attaches or detaches, another does not undo."""
    with (
        host.unchanged(),
        directory(host) as (path, _),
        host.made_empty() as machine,
        closing(guarded(connect(host.peer))) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        for _ in range(3):
            wanted = {f"tag-{number}": path for number in range(4)}
            calls = [
                pool.submit(driver.attach_share, machine.uuid, Share(tag=tag, path=path))
                for tag, driver in zip(wanted, (host.driver, other) * 2, strict=True)
            ]
            for call in calls:
                call.result()
            assert shares(machine) == wanted
            calls = [
                pool.submit(driver.detach_share, machine.uuid, tag)
                for tag, driver in zip(wanted, (other, host.driver) * 2, strict=True)
            ]
            for call in calls:
                call.result()
            assert shares(machine) == {}
            assert machine.xml(inactive=True).find("memoryBacking") is None


def test_budgets(host: Host) -> None:
    def count(call: Callable[[], object]) -> int:
        with host.raw.connection.counting() as counter:
            call()
        return sum(counter.values())

    def stated(operation: Callable[..., object]) -> list[int]:
        text = inspect.getdoc(operation) or ""
        return [int(each) for each in re.findall(r"\b\d+\b", text[text.index("Budget") :])]

    raw = host.raw
    with host.unchanged(), directory(host) as (path, _), host.made_empty() as machine:
        first, second = Share(tag="one", path=path), Share(tag="two", path=path)
        raw.pools.path(raw.pools.consoles())
        assert [
            count(lambda: raw.attach_share(machine.uuid, first)),
            count(lambda: raw.attach_share(machine.uuid, second)),
            count(lambda: raw.attach_share(machine.uuid, second)),
        ] == stated(LibvirtDriver.attach_share)
        counted = [count(lambda: raw.detach_share(machine.uuid, "one"))]
        counted.insert(0, count(lambda: raw.detach_share(machine.uuid, "two")))
        counted.append(count(lambda: raw.detach_share(machine.uuid, "two")))
        assert counted == stated(LibvirtDriver.detach_share)


def test_a_look_that_a_killed_client_left_is_ended(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once: it may be another client's that lives. The directory stays."""
    name = f"{pools.LOOK}{uuid4().hex[:16]}"
    with directory(host) as (path, outside):
        (outside / "file").write_text("kept")
        host.peer.virsh("pool-create-as", name, "dir", "--target", path)
        try:
            host.driver.list_volumes()
            with host.raw.connection.counting() as young:
                host.driver.list_volumes()
            assert name in host.peer.virsh("pool-list", "--name").split()
            monkeypatch.setattr(pools, "LOOK_ENDS_WITHIN", 0.0)
            with host.raw.connection.counting() as calls:
                host.driver.list_volumes()
            assert sum(calls.values()) <= sum(young.values()) + 1, calls
            assert name not in host.peer.virsh("pool-list", "--name", "--all").split()
        finally:
            if name in host.peer.virsh("pool-list", "--name", "--all").split():
                host.peer.virsh("pool-destroy", name)
        assert (outside / "file").read_text() == "kept"
