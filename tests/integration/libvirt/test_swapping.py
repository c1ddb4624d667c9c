"""swap_volume() on real QEMUs: every byte, and whatever cuts it, one whole volume is attached."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.libvirt.held_volumes import volumes_of
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.progress import Progress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import DiskQos, PoolVolume, VolumeAttachment, VolumeSpec
from tests.integration.libvirt.children import killed_in
from tests.integration.libvirt.faults import INTERNAL, after, answered, before, script
from tests.integration.libvirt.machines import Host, Machine, local
from tests.integration.libvirt.test_remote_volumes import luks, make_luks, secrets
from tests.integration.part_of_suite import WHOLE
from tests.peers.waiting import wait_until

SIZE = 8 << 20


def path_of(host: Host, volume: PoolVolume) -> Path:
    return host.peer.path(host.raw.pools.disk_path(volume.data.name))


def sum_of(host: Host, volume: PoolVolume) -> str:
    """Of a raw volume, past the cache of this host, which QEMU does not use."""
    return sha256(path_of(host, volume).read_bytes()).hexdigest()


def fill(host: Host, volume: PoolVolume) -> bytes:
    """Give a raw volume content that no two of its parts share."""
    content = os.urandom(SIZE)
    with path_of(host, volume).open("r+b") as file:
        file.write(content)
        os.fsync(file.fileno())
    return content


@contextmanager
def two_volumes(host: Host, **changes: Any) -> Iterator[tuple[PoolVolume, PoolVolume]]:
    """Two raw volumes, of which the first has content."""
    with (
        host.volume(format=ImageFormat.RAW) as old,
        host.volume(format=ImageFormat.RAW, **changes) as new,
    ):
        assert isinstance(old, PoolVolume)
        assert isinstance(new, PoolVolume)
        fill(host, old)
        yield old, new


@contextmanager
def swappable(host: Host) -> Iterator[tuple[Machine, PoolVolume, PoolVolume]]:
    """A running machine without an operating system, and two volumes, of which it has one."""
    with (
        two_volumes(host) as (old, new),
        host.empty_machine(volumes=(VolumeAttachment(volume=old),)) as machine,
    ):
        yield machine, old, new


def held(machine: Machine) -> str:
    """The volume that the machine has: on each look, live and in its definition, one and the
    same."""
    shown = {each.volume_id for each in machine.info.volumes}
    live, stored = (machine.xml(inactive=each) for each in (False, True))
    assert set(volumes_of(live)) == set(volumes_of(stored)) == shown
    (name,) = shown
    paths = {
        parts[name].find("source").attrib["file"]  # type: ignore[union-attr]
        for parts in (volumes_of(live), volumes_of(stored))
    }
    assert len(paths) == 1
    assert f"hv-volume-{name}." in paths.pop()
    return name


def copies(machine: Machine) -> bool:
    return machine.xml().find("devices/disk/mirror") is not None


def test_every_byte_while_the_guest_writes(host: Host, machine: Machine) -> None:
    """What stood on the old volume, and what the guest writes before, during and after the swap:
    the guest and the host read the same on the replacement, and nothing more reaches the old."""
    with host.unchanged(), two_volumes(host) as (old, new):
        content = path_of(host, old).read_bytes()
        machine.attach(old)
        disk = machine.sees(old.volume_id)
        machine.run("rm -f /tmp/stop /tmp/done")
        write = f"dd of=/dev/{disk} bs=4096 conv=notrunc oflag=direct"
        loop = "i=0; while [ ! -f /tmp/stop ]; do i=$((i+1)); dd if=/dev/urandom bs=4096 count=1"
        loop += f" 2>/dev/null | {write} seek=$((i%64)) 2>/dev/null; done; sync; touch /tmp/done"
        machine.run(f"( {loop} ) &")
        seen: list[Progress] = []
        wait_until(
            lambda: (
                path_of(host, old).read_bytes()[:4096] != content[:4096]
                or path_of(host, old).read_bytes()[4096:8192] != content[4096:8192]
            ),
            timeout=60,
            what="the guest writes",
        )
        swapped = host.driver.swap_volume(
            machine.uuid, old.volume_id, VolumeAttachment(volume=new), progress=seen.append
        )
        left = sum_of(host, old)
        assert held(machine) == swapped.volume_id == new.volume_id
        assert seen
        first = sum_of(host, new)
        wait_until(lambda: sum_of(host, new) != first, timeout=60, what="the guest writes on")
        machine.run("touch /tmp/stop; while [ ! -f /tmp/done ]; do sleep 1; done", timeout=120)
        machine.run("echo 3 > /proc/sys/vm/drop_caches")
        said = len(machine.console.text())
        machine.run(f"sha256sum /dev/{disk}", timeout=120)
        found = re.search(r"\b[0-9a-f]{64}\b", machine.console.text()[said:])
        assert found is not None
        assert found[0] == sum_of(host, new)
        assert path_of(host, new).read_bytes()[64 * 4096 :] == content[64 * 4096 :]
        assert sum_of(host, old) == left
        host.driver.detach_volume(machine.uuid, new.volume_id)
        machine.sees_no(old.volume_id)
        assert machine.info.volumes == ()


def test_there_and_back_and_beside_each_other(host: Host) -> None:
    """The old one comes back as another disk, and in the place that it had; the definition names
    each by its own number at the next start."""
    driver = host.driver
    with host.unchanged(), swappable(host) as (machine, old, new):
        content = sum_of(host, old)
        place = machine.info.volumes[0].device
        driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=new))
        assert held(machine) == new.volume_id
        driver.attach_volume(machine.uuid, VolumeAttachment(volume=old))
        assert {each.volume_id: each.device == place for each in machine.info.volumes} == {
            new.volume_id: True,
            old.volume_id: False,
        }
        aliases = [each.attrib["name"] for each in machine.xml().iterfind("devices/disk/alias")]
        assert len(set(aliases)) == len(aliases)
        driver.power_off(machine.uuid)
        driver.power_on(machine.uuid)
        for each in (old, new):
            assert volumes_of(machine.xml())[each.volume_id].findtext("serial") == each.volume_id
        driver.power_off(machine.uuid)
        driver.detach_volume(machine.uuid, old.volume_id)
        driver.power_on(machine.uuid)
        driver.swap_volume(machine.uuid, new.volume_id, VolumeAttachment(volume=old))
        assert held(machine) == old.volume_id
        assert sum_of(host, old) == sum_of(host, new) == content


def test_what_is_refused(host: Host) -> None:
    """Before anything is changed."""
    driver = host.driver
    with (
        host.unchanged(),
        swappable(host) as (machine, old, new),
        host.volume(size_bytes=SIZE // 2) as small,
        host.volume(size_bytes=2 * SIZE, format=ImageFormat.QCOW2) as large,
        host.volume(size_bytes=SIZE, format=ImageFormat.RAW) as looks_large,
    ):
        # a raw volume with the header of a large qcow2 in it is as large as its file
        assert isinstance(looks_large, PoolVolume)
        path = path_of(host, looks_large)
        header = bytearray(b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(96))
        header[20:24], header[24:32] = (16).to_bytes(4, "big"), (1 << 40).to_bytes(8, "big")
        with path.open("r+b") as file:
            file.write(header)
            file.truncate(SIZE // 2)
        before_ = machine.xml()
        same = local(host.raw.pools.disk_path(old.data.name), "other-name")
        for attachment, error in (
            (VolumeAttachment(volume=small), errors.InvalidRequest),
            (VolumeAttachment(volume=looks_large), errors.InvalidRequest),
            (VolumeAttachment(volume=large), errors.NotSupported),  # and no raw one
            (VolumeAttachment(volume=old), errors.InvalidRequest),
            (VolumeAttachment(volume=same), (errors.InvalidRequest, errors.DeviceBusy)),
            (VolumeAttachment(volume=new, read_only=True), errors.NotSupported),
            (
                VolumeAttachment(volume=new.model_copy(update={"multiattach": True})),
                errors.NotSupported,
            ),
        ):
            with pytest.raises(error):
                driver.swap_volume(machine.uuid, old.volume_id, attachment)
            assert sorted(map(str, machine.xml().itertext())) == sorted(
                map(str, before_.itertext())
            )
        assert held(machine) == old.volume_id
        taken = VolumeAttachment(volume=new)
        with host.empty_machine(volumes=(taken,)), pytest.raises(errors.DeviceBusy):
            driver.swap_volume(machine.uuid, old.volume_id, taken)


def test_a_larger_one(host: Host) -> None:
    """The guest sees the rest of it at its next start."""
    driver = host.driver
    with (
        host.unchanged(),
        two_volumes(host, size_bytes=2 * SIZE) as (old, new),
        host.empty_machine(volumes=(VolumeAttachment(volume=old),)) as machine,
    ):

        def size() -> str:
            device = machine.info.volumes[0].device or ""
            shown = host.peer.virsh("domblkinfo", str(machine.uuid), device)
            return shown.split("Capacity:")[1].split()[0]

        content = path_of(host, old).read_bytes()
        driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=new))
        assert held(machine) == new.volume_id
        assert size() == str(SIZE)
        with pytest.raises(errors.NotSupported) as refused:
            driver.extend_volume(machine.uuid, new.volume_id, 2 * SIZE)
        assert "power_off()" in str(refused.value.hint)
        driver.power_off(machine.uuid)
        driver.power_on(machine.uuid)
        assert size() == str(2 * SIZE)
        assert path_of(host, new).read_bytes() == content + bytes(SIZE)


def test_it_grows_afterwards_and_has_its_limits(host: Host) -> None:
    limits = DiskQos(total_iops_sec=400)
    with (
        host.unchanged(),
        host.volume(size_bytes=SIZE) as new,
        swappable(host) as (machine, old, _),
    ):
        host.driver.swap_volume(
            machine.uuid, old.volume_id, VolumeAttachment(volume=new, qos=limits)
        )
        host.driver.extend_volume(machine.uuid, new.volume_id, 2 * SIZE)
        device = machine.info.volumes[0].device or ""
        shown = host.peer.virsh("domblkinfo", str(machine.uuid), device)
        assert re.search(rf"Capacity:\s+{2 * SIZE}\b", shown)
        assert re.search(
            r"total_iops_sec\s*:\s*400", host.peer.virsh("blkdeviotune", str(machine.uuid), device)
        )


@pytest.mark.parametrize("name", ["a__2", "_5f_", "x" * 100, "--", "..", "ä b"])
def test_names_that_look_like_others(host: Host, name: str) -> None:
    """The alias of a disk carries the id, and numbers those that came later."""
    driver = host.driver
    with host.unchanged(), host.file(size=SIZE) as one, host.file(size=SIZE) as two:
        ids = [f"{name}{number}" for number in ("", "__2")]
        volumes = [local(path, each) for path, each in zip((one, two), ids, strict=True)]
        old, new = (VolumeAttachment(volume=each) for each in volumes)
        with host.empty_machine(volumes=(old,)) as machine:
            driver.swap_volume(machine.uuid, ids[0], new)
            assert [each.volume_id for each in machine.info.volumes] == [ids[1]]
            driver.attach_volume(machine.uuid, old)
            assert {each.volume_id for each in machine.info.volumes} == set(ids)


def test_metadata_that_somebody_edited(host: Host) -> None:
    with host.unchanged(), swappable(host) as (machine, old, new):
        host.driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=new))
        alias = volumes_of(machine.xml())[new.volume_id].find("alias")
        assert alias is not None
        uri = f"https://hvdrivers.org/xmlns/libvirt/1/volume/{alias.attrib['name']}"
        for content in ("", "{}", "<x/>", "[1]"):
            host.peer.virsh(
                "metadata",
                str(machine.uuid),
                "--uri",
                uri,
                "--key",
                "hvdrivers",
                "--set",
                f"<instance>{content}</instance>",
                "--live",
                "--config",
            )
            # nobody can tell any more; every operation still works
            assert [each.volume_id for each in machine.info.volumes] == [old.volume_id]


def test_two_clients_with_the_same_call(own: Host, other: ComputeDriver) -> None:
    """Both say that it is done, or the later one that it was; the copy is made once."""
    with own.unchanged(), swappable(own) as (machine, old, new):
        content = sum_of(own, old)
        wanted = VolumeAttachment(volume=new)
        told: list[str] = []

        def second(_name: str, send: Any) -> Any:
            told.append(other.swap_volume(machine.uuid, old.volume_id, wanted).volume_id)
            return send()

        with script(own.raw, "Domain.blockJobInfo", second) as seam:
            done = own.driver.swap_volume(machine.uuid, old.volume_id, wanted)
        assert seam.reached
        assert done.volume_id == told[0] == held(machine) == new.volume_id
        assert sum_of(own, new) == content
        with pytest.raises(errors.VolumeNotFound):
            other.swap_volume(machine.uuid, old.volume_id, wanted)


def test_what_meets_a_copy(own: Host, other: ComputeDriver) -> None:
    """Other operations of another client, while the copy runs: DeviceBusy, or they do not mind.
    The copy comes to its end all the same."""
    refused: dict[str, str] = {}
    with (
        own.unchanged(),
        swappable(own) as (machine, old, new),
        own.volume(size_bytes=SIZE) as third,
        own.empty_machine() as neighbour,
    ):
        uuid, wanted = machine.uuid, VolumeAttachment(volume=new)
        calls = {
            "swap": lambda: other.swap_volume(uuid, old.volume_id, VolumeAttachment(volume=third)),
            "detach": lambda: other.detach_volume(uuid, old.volume_id, timeout=5),
            "extend": lambda: other.extend_volume(uuid, old.volume_id, SIZE),
            "suspend": lambda: other.suspend(uuid),
            "delete old": lambda: other.delete_volume(old.volume_id),
            "delete new": lambda: other.delete_volume(new.volume_id),
            "attach new": lambda: other.attach_volume(neighbour.uuid, wanted),
            "attach new here": lambda: other.attach_volume(uuid, wanted),
            "snapshot": lambda: other.create_snapshot(uuid, "s"),
        }

        def meet(_name: str, send: Any) -> Any:
            for name, call in calls.items():
                try:
                    call()
                except errors.HypervisorError as error:
                    refused[name] = f"{type(error).__name__}: {error}"
                else:
                    refused[name] = "done"
            return send()

        with script(own.raw, "Domain.blockJobInfo", meet) as seam:
            own.driver.swap_volume(uuid, old.volume_id, wanted)
        assert seam.reached
        allowed = {"snapshot", "attach new here"}
        assert {name for name, what in refused.items() if not what.startswith("DeviceBusy")} <= (
            allowed
        ), refused
        assert held(machine) == new.volume_id
        assert sum_of(own, new) == sum_of(own, old)


def usable(own: Host, machine: Machine, old: PoolVolume, new: PoolVolume, content: str) -> str:
    """One of the two is attached and whole, and the other is free; which one."""
    name = held(machine)
    assert name in {old.volume_id, new.volume_id}
    assert not copies(machine)
    attached, free = (old, new) if name == old.volume_id else (new, old)
    assert sum_of(own, attached) == content
    with own.empty_machine(volumes=(VolumeAttachment(volume=free),)):
        pass
    return name


FAULTS = {
    "before": (before, (errors.ConnectionFailed, errors.OutcomeUnknown)),
    "after": (after, (errors.ConnectionFailed, errors.OutcomeUnknown)),
    "refused": (lambda *_: answered(INTERNAL), errors.HypervisorError),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_call_fails_in_turn(own: Host, kind: str) -> None:
    """Before the pivot the old volume stays and the replacement is free; after it the other way
    round. A call that says that nothing has happened is right."""
    make, expected = FAULTS[kind]
    driver = own.driver
    with own.unchanged(), two_volumes(own) as (old, new):
        content = sum_of(own, old)
        wanted = VolumeAttachment(volume=new)
        turn = list(FAULTS).index(kind)
        for number in count() if WHOLE else count(turn, len(FAULTS)):
            with own.empty_machine(volumes=(VolumeAttachment(volume=old),)) as machine:
                fault = make(own.raw, own.peer)
                with script(own.raw, number, fault) as seam:
                    try:
                        driver.swap_volume(machine.uuid, old.volume_id, wanted)
                    except expected as error:
                        raised: errors.HypervisorError | None = error
                    else:
                        raised = None
                if not seam.reached:
                    assert raised is None
                    assert number > 10
                    return
                name = usable(own, machine, old, new, content)
                if raised is None:
                    assert name == new.volume_id
                elif isinstance(raised, errors.ConnectionFailed):
                    assert name == old.volume_id, seam.calls
                if name == old.volume_id:
                    driver.swap_volume(machine.uuid, old.volume_id, wanted)
                assert usable(own, machine, old, new, content) == new.volume_id


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_client_dies_at_each_call(own: Host, when: str) -> None:
    """The next one finds the old volume, maybe with a copy that runs on, or the replacement. The
    same call goes on with such a copy; another one is DeviceBusy until then."""
    driver = own.driver
    copied = 0
    with own.unchanged(), two_volumes(own) as (old, new), own.volume(size_bytes=SIZE) as third:
        content = sum_of(own, old)
        wanted = VolumeAttachment(volume=new)
        for number in count() if WHOLE else count(0, 2):
            with own.empty_machine(volumes=(VolumeAttachment(volume=old),)) as machine:
                arguments = (machine.uuid, old.volume_id, wanted)
                call = killed_in(own.peer.uri, "swap_volume", arguments, number, when)
                if call is None:
                    assert copied
                    return
                name = held(machine)
                if copies(machine):
                    copied += 1
                    assert name == old.volume_id
                    with pytest.raises(errors.DeviceBusy):
                        driver.swap_volume(
                            machine.uuid, old.volume_id, VolumeAttachment(volume=third)
                        )
                    with pytest.raises(errors.DeviceBusy):
                        driver.delete_volume(new.volume_id)
                if name == old.volume_id:
                    driver.swap_volume(machine.uuid, old.volume_id, wanted)
                else:
                    with pytest.raises(errors.VolumeNotFound):
                        driver.swap_volume(machine.uuid, old.volume_id, wanted)
                assert usable(own, machine, old, new, content) == new.volume_id


def test_power_off_ends_the_copy_of_a_dead_client(own: Host) -> None:
    with own.unchanged(), swappable(own) as (machine, old, new):
        content = sum_of(own, old)
        arguments = (machine.uuid, old.volume_id, VolumeAttachment(volume=new))
        for number in count():
            assert killed_in(own.peer.uri, "swap_volume", arguments, number, "before")
            if copies(machine):
                break
        own.driver.power_off(machine.uuid)
        assert machine.state is InstanceState.STOPPED
        own.driver.power_on(machine.uuid)
        assert usable(own, machine, old, new, content) == old.volume_id


def test_no_time_left(own: Host) -> None:
    """A copy that does not come to its end in time ends, and the volume stays."""
    with own.unchanged(), swappable(own) as (machine, old, new):
        content = sum_of(own, old)
        arguments = machine.uuid, old.volume_id, VolumeAttachment(volume=new)

        def slow(_name: str, send: Any) -> Any:
            done = send()
            return done | {"cur": 0, "end": SIZE}

        class Slow:
            def __call__(self, name: str, send: Any) -> Any:
                return slow(name, send) if name == "Domain.blockJobInfo" else send()

        own.raw.connection.seam = Slow()
        try:
            with pytest.raises(errors.OperationTimeout):
                own.driver.swap_volume(*arguments, timeout=3)
        finally:
            own.raw.connection.seam = None
        assert usable(own, machine, old, new, content) == old.volume_id


def test_the_machine_goes_off_meanwhile(own: Host, other: ComputeDriver) -> None:
    with own.unchanged(), swappable(own) as (machine, old, new):

        def off(_name: str, send: Any) -> Any:
            other.power_off(machine.uuid)
            return send()

        with script(own.raw, "Domain.blockJobInfo", off) as seam:
            with pytest.raises(errors.InvalidState):
                own.driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=new))
            assert seam.reached
        assert held(machine) == old.volume_id
        own.driver.power_on(machine.uuid)
        assert held(machine) == old.volume_id


def test_the_replacement_is_deleted_meanwhile(own: Host, other: ComputeDriver) -> None:
    """By a client that looked for its users before the copy began, or not at all."""
    with own.unchanged(), swappable(own) as (machine, old, _):
        spec = VolumeSpec(name=f"gone-{uuid4().hex[:8]}", size_bytes=SIZE)
        new = own.driver.create_volume(spec)

        def gone(_name: str, send: Any) -> Any:
            other.delete_volume(new.volume_id)
            return send()

        with script(own.raw, "Domain.blockCopy", gone) as seam:
            with pytest.raises(errors.HypervisorError):
                own.driver.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=new))
            assert seam.reached
        assert held(machine) == old.volume_id
        assert not copies(machine)


def test_luks(own: Host, tmp_path: Path) -> None:
    """From one key to another: the old one's secret goes, and a wrong key changes nothing."""
    made, secret = tmp_path / "luks", tmp_path / "secret"
    secret.write_bytes(b"a passphrase")
    make_luks(made, secret)
    driver = own.driver
    with (
        own.unchanged(),
        own.volume(size_bytes=4 << 20, format=ImageFormat.RAW) as old,
        own.file(made.read_bytes(), size=0) as path,
        own.empty_machine(volumes=(VolumeAttachment(volume=old),)) as machine,
    ):
        with pytest.raises(errors.HypervisorError):
            driver.swap_volume(machine.uuid, old.volume_id, luks(path, b"wrong"))
        assert held(machine) == old.volume_id
        assert secrets(own) == set()
        driver.swap_volume(machine.uuid, old.volume_id, luks(path, b"a passphrase"))
        assert [each.volume_id for each in machine.info.volumes] == ["locked"]
        assert len(secrets(own)) == 1
        driver.power_off(machine.uuid)
        driver.power_on(machine.uuid)
        driver.swap_volume(machine.uuid, "locked", VolumeAttachment(volume=old))
        assert secrets(own) == set()
        assert held(machine) == old.volume_id


def test_budget(own: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = own.raw
    # on one connection: a second one would look the pools up for itself
    monkeypatch.setattr(raw.connection.links, "spare", lambda: None)
    with own.unchanged(), swappable(own) as (machine, old, new):
        with raw.connection.counting() as counter:
            raw.swap_volume(machine.uuid, old.volume_id, VolumeAttachment(volume=new))
        looks = counter.pop("Domain.blockJobInfo")
        assert looks >= 1
        assert sum(counter.values()) == 18, dict(counter)
