"""Machines for the tests: a driver on the shared host, and guests that really run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.events import EventStream
from hvdrivers.guard import guarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import IMAGE_PREFIX, console_name
from hvdrivers.models.events import LifecycleEvent, ResyncEvent
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor, InstanceInfo, InstanceSpec
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import LocalVolume, Volume, VolumeAttachment, VolumeSpec
from tests.peers.guest import Console
from tests.peers.libvirtd import POOL, LibvirtPeer
from tests.peers.observer import NOBODYS, changed
from tests.peers.waiting import wait_until

BOOT = 300.0
"""Seconds within which a guest has booted, on a machine that others use too."""


class Host:
    """A driver on a peer, with what the tests do beside it."""

    def __init__(self, peer: LibvirtPeer, image: Path, **options: Any) -> None:
        self.peer = peer
        self.image = image
        config = LibvirtConfig(uri=peer.uri, virt_type="qemu", **options)
        self.raw = LibvirtDriver.connect(config)
        self.raw.pools.disks()
        self.raw.pools.consoles()
        self.driver: ComputeDriver = guarded(self.raw)

    def close(self) -> None:
        self.driver.close()

    def spec(self, **changes: Any) -> InstanceSpec:
        """A spec of the test guest, to be started."""
        values: dict[str, Any] = {
            "uuid": uuid4(),
            "name": "test",
            "flavor": Flavor(vcpus=1, memory_mib=192),
            "image": FileImage(path=self.image, format=ImageFormat.QCOW2),
        }
        return InstanceSpec(**(values | changes))

    def empty(self, **changes: Any) -> InstanceSpec:
        """A spec of a machine without an operating system: its BIOS waits for ever, and neither
        heeds the power button nor lets go of a device."""
        path = self.peer.root / "empty.raw"
        if not path.exists():
            path.write_bytes(bytes(1 << 20))
        image = FileImage(path=path, format=ImageFormat.RAW)
        flavor = Flavor(vcpus=1, memory_mib=64)
        return self.spec(**({"image": image, "flavor": flavor} | changes))

    def destination(self, **changes: Any) -> Destination:
        """This host, for a machine that moves here from another one."""
        return Destination(host=self.peer.uri, address="127.0.0.1", **changes)

    def spawn(self, **changes: Any) -> Machine:
        """Spawn; the caller destroys it (or uses ``machine()``)."""
        return self.made(self.spec(**changes))

    def made(self, spec: InstanceSpec) -> Machine:
        """Spawn from a whole spec."""
        self.driver.spawn(spec)
        return Machine(self, spec.uuid)

    @contextmanager
    def machine(self, **changes: Any) -> Iterator[Machine]:
        """A machine for the length of the block."""
        made = self.spawn(**changes)
        try:
            yield made
        finally:
            self.driver.destroy(made.uuid)

    @contextmanager
    def empty_machine(self, **changes: Any) -> Iterator[Machine]:
        """A machine without an operating system for the length of the block."""
        made = self.made(self.empty(**changes))
        try:
            yield made
        finally:
            self.driver.destroy(made.uuid)

    def made_empty(self, **changes: Any) -> AbstractContextManager[Machine]:
        """The same, and it is never started."""
        return self.empty_machine(start=False, **changes)

    @contextmanager
    def volume(self, **changes: Any) -> Iterator[Volume]:
        """A volume for the length of the block; it must not be attached any more at its end."""
        values: dict[str, Any] = {"name": f"v-{uuid4().hex[:8]}", "size_bytes": 8 << 20}
        made = self.driver.create_volume(VolumeSpec(**(values | changes)))
        try:
            yield made
        finally:
            self.driver.delete_volume(made.volume_id)

    @contextmanager
    def file(self, content: bytes = b"", size: int = 8 << 20) -> Iterator[str]:
        """A file on the host; its path as the host knows it."""
        path = f"{self.peer.images}/a file, ü {uuid4().hex[:8]}"
        outside = self.peer.path(path)
        outside.write_bytes(content)
        os.truncate(outside, max(size, len(content)))
        try:
            yield path
        finally:
            outside.unlink()
            # deletions refresh every pool, so this one may have seen the file
            self.peer.virsh("pool-refresh", POOL)

    def residue(self) -> set[str]:
        """What is on the host, without cached images, and without the devices of libvirt's own
        naming: those of any host on this machine, and on none of our bridges."""
        return {
            line
            for line in self.peer.residue()
            if IMAGE_PREFIX not in line and not line.startswith(("tap vnet", f"{NOBODYS}vnet"))
        }

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """The host is after the block what it was before."""
        before = self.residue()
        yield
        self.compare(before)

    def compare(self, before: set[str]) -> None:
        """The host is what it was. Some patience: what other tests on this machine plug shows for
        a moment as a tap device that nobody holds."""
        try:
            wait_until(
                lambda: not changed(before, self.residue()),
                timeout=30,
                what="the host is as before",
            )
        except AssertionError:
            found = changed(before, self.residue())
            assert not found, found


class Machine:
    """An instance of the test guest."""

    def __init__(self, host: Host, uuid: UUID) -> None:
        self.host = host
        self.uuid = uuid
        self.console = Console(host.peer.path(host.raw.pools.console_path(console_name(uuid))))

    @property
    def info(self) -> InstanceInfo:
        return self.host.driver.get_instance(self.uuid)

    @property
    def state(self) -> InstanceState:
        """The state, in which all reads agree. Of a machine that may change by itself meanwhile ask
        ``info``: its reads are at different moments."""
        state = self.info.state
        listed = {each.uuid: each for each in self.host.driver.list_instances()}
        assert listed[self.uuid] == self.info.summary()
        assert listed[self.uuid].state is state
        return state

    def booted(self, after: int = 0) -> Machine:
        """Wait until the guest has booted and reported what it has."""
        self.console.expect("ready", timeout=BOOT, after=after)
        return self

    def said(self) -> int:
        """How many lines the guest has said, for ``expect(after=)``."""
        return len(self.console.lines())

    def xml(self, *, inactive: bool = False, secure: bool = False) -> ET.Element:
        """What virsh shows."""
        options = ("--inactive",) * inactive + ("--security-info",) * secure
        return ET.fromstring(self.host.peer.virsh("dumpxml", str(self.uuid), *options))

    def type(self, line: str) -> None:
        """Type a line on the serial console; the guest's shell runs it. Returns when the guest
        has echoed it; what the kernel says in between may stand in the middle of the echo."""
        source = self.xml().find("devices/serial/source")
        assert source is not None
        before = len(self.console.text())
        pieces = [line[at : at + 16] for at in range(0, len(line), 16)]
        terminal = os.open(source.attrib["path"], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        came = bytearray()

        def echoed() -> bool:
            # QEMU sees within a second that somebody is there; it wants its output read
            with suppress(BlockingIOError):
                came.extend(os.read(terminal, 65536))
            text = self.console.text()[before:]
            return sum(piece not in text for piece in pieces) <= len(pieces) // 4

        try:
            os.write(terminal, line.encode() + b"\n")
            self.console.until(echoed, timeout=120, what=f"the guest echoes {line!r}")
        except AssertionError as error:
            state = self.host.peer.virsh("domstate", "--reason", str(self.uuid)).strip()
            error.add_note(f"the machine: {state}; its terminal: {bytes(came[-1000:])!r}")
            raise
        finally:
            os.close(terminal)

    def run(self, line: str, *, timeout: float = 120) -> None:
        """Type a line and wait until it has run."""
        said = self.said()
        self.type(line)
        self.console.expect("exit 0", timeout=timeout, after=said)

    def disks(self) -> dict[str, str]:
        """Disks by serial number, as the guest has reported them until now."""
        found: dict[str, str] = {}
        for said in self.console.lines():
            if match := re.match(r"disk (\w+) \d+ MiB serial=(\S*) attached", said):
                found[match[2]] = match[1]
            elif match := re.match(r"disk (\w+) removed", said):
                found = {serial: disk for serial, disk in found.items() if disk != match[1]}
        return found

    def attach(self, volume: Volume, **options: Any) -> None:
        self.host.driver.attach_volume(self.uuid, VolumeAttachment(volume=volume, **options))

    def sees(self, serial: str) -> str:
        """Wait until the guest has a disk with this serial number."""
        what = f"the guest sees {serial}; it said {self.console.lines()[-5:]}"
        return wait_until(lambda: self.disks().get(serial), timeout=120, what=what)

    def sees_no(self, serial: str) -> None:
        wait_until(
            lambda: serial not in self.disks(), timeout=120, what=f"the guest let go of {serial}"
        )

    def has(self, volume_id: str) -> tuple[bool, bool]:
        """Whether virsh shows the volume in the running machine, and in the definition."""
        from hvdrivers.libvirt.devices import volumes_of

        return volume_id in volumes_of(self.xml()), volume_id in volumes_of(self.xml(inactive=True))


def told(
    stream: EventStream, uuid: UUID, last: InstanceState, *, quiet: float = 1.0
) -> list[InstanceState | None]:
    """The states that a stream tells of an instance, until it is quiet and this was the last.

    Args:
        quiet: seconds without an event.
    """
    found: list[InstanceState | None] = []

    def ended() -> bool:
        event = stream.next(timeout=quiet)
        if isinstance(event, ResyncEvent):
            found.append(event.states.get(uuid))
        elif isinstance(event, LifecycleEvent) and event.uuid == uuid:
            found.append(event.state)
        return event is None and bool(found) and found[-1] is last

    wait_until(ended, timeout=120, what=f"the stream tells of {last}")
    return found


def local(path: str, serial: str, **data: Any) -> LocalVolume:
    """A file or block device of the host as a volume."""
    return LocalVolume(serial=serial, data={"device_path": path, **data})


@pytest.fixture(scope="module")
def host(libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    """The shared host, with one driver for the tests of a module."""
    made = Host(libvirt_peer, guest_image)
    before = made.residue()
    yield made
    made.compare(before)
    made.close()


@pytest.fixture(scope="module")
def machine(host: Host) -> Iterator[Machine]:
    """A booted guest that the tests of a module share: each leaves it as it was."""
    with host.machine(name="shared") as made:
        yield made.booted()
