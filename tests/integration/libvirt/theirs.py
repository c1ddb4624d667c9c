"""Machines that others have made, for the tests of adopt() and of what follows it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.remote import changes_nothing
from tests.integration.libvirt.machines import Host
from tests.peers.observer import VirshError


class Theirs:
    """A machine of others."""

    def __init__(self, own: Host, **shape: Any) -> None:
        self.own, self.peer = own, own.peer
        self.uuid = uuid4()
        self.name = shape.pop("name", f"theirs-{self.uuid.hex[:8]}")
        self.files: list[Path] = []
        self.define(**shape)

    def volume(
        self,
        size: str = "8M",
        *,
        format_: str = "qcow2",
        pool: str = "default",
        version: str | None = None,
    ) -> str:
        """A volume with a name of others; its path.

        Args:
            version: of qcow2; libvirt makes one of version 2 if it is not told.
        """
        name = f"their disk {uuid4().hex[:8]}.{format_}"
        self.peer.virsh("vol-create-as", pool, name, size, "--format", format_)
        path = self.peer.virsh("vol-path", "--pool", pool, name).strip()
        self.files.append(self.peer.path(path))
        if version is not None:
            compat = {"2": "0.10", "3": "1.1"}[version]
            command = ["qemu-img", "amend", "-f", format_, "-o", f"compat={compat}"]
            subprocess.run([*command, str(self.files[-1])], check=True)
        return path

    def overlay(self, base: str, format_: str = "qcow2") -> str:
        """A qcow2 volume of others that stands on a volume; its path.

        Args:
            base: path of that volume.
            format_: its format.
        """
        name = f"over {uuid4().hex[:8]}"
        self.peer.virsh(
            *("vol-create-as", "default", name, "8M", "--format", "qcow2"),
            *("--backing-vol", base, "--backing-vol-format", format_),
        )
        path = f"{self.peer.images}/{name}"
        self.files.append(self.peer.path(path))
        return path

    def define(
        self,
        *,
        disks: list[str] | None = None,
        devices: str = "",
        system: str = "<os><type arch='x86_64' machine='q35'>hvm</type></os>",
        more: str = "<features><acpi/></features>",
        metadata: str = "",
    ) -> None:
        made = [self.disk(self.volume())] if disks is None else disks
        self.peer_define(
            f"<domain type='qemu'><name>{self.name}</name><uuid>{self.uuid}</uuid>{metadata}"
            f"<memory unit='MiB'>64</memory><vcpu current='1'>2</vcpu>{system}{more}"
            f"<devices>{''.join(made)}{devices}</devices></domain>"
        )

    def peer_define(self, document: str) -> None:
        path = self.peer.root / f"{self.uuid}.xml"
        path.write_text(document)
        self.peer.virsh("define", str(path))
        path.unlink()

    @staticmethod
    def disk(path: str, target: str = "vda", format_: str = "qcow2", more: str = "") -> str:
        return (
            f"<disk type='file' device='disk'><driver name='qemu' type='{format_}'/>"
            f"<source file='{path}'/><target dev='{target}' bus='virtio'/>{more}</disk>"
        )

    def xml(self, *options: str) -> ET.Element:
        return ET.fromstring(self.peer.virsh("dumpxml", str(self.uuid), *options))

    def bare(self, *options: str) -> str:
        """The definition without metadata: what must stay."""
        found = self.xml(*options)
        for metadata in found.findall("metadata"):
            found.remove(metadata)
        return "".join(ET.tostring(found, encoding="unicode").split())

    def start(self) -> None:
        self.peer.virsh("start", str(self.uuid))

    def close(self) -> None:
        self.remove()

    def remove(self) -> None:
        uuid = str(self.uuid)
        with suppress(VirshError):
            self.peer.virsh("destroy", uuid)
        with suppress(VirshError):
            self.peer.virsh("undefine", uuid, "--nvram", "--managed-save", "--snapshots-metadata")
        for each in self.files:
            each.unlink(missing_ok=True)
        with suppress(OSError):
            (self.peer.path(self.peer.images) / "beside").rmdir()
        self.peer.virsh("pool-refresh", "default")


@contextmanager
def theirs(own: Host, **shape: Any) -> Iterator[Theirs]:
    """A machine of others for the length of the block; the host is then what it was before."""
    with own.unchanged():
        made = Theirs(own, **shape)
        try:
            yield made
        finally:
            with suppress(errors.InstanceNotFound):
                own.driver.destroy(made.uuid)
            made.remove()


def with_header(file: Path, base: str) -> None:
    """What a guest may write to the beginning of its raw disk: that it stands on a file."""
    made = file.with_name(f"{file.name} header")
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", "raw"]
    subprocess.run([*command, str(made), str(8 << 20)], check=True)
    with file.open("r+b") as disk:
        disk.write(made.read_bytes())
    made.unlink()


def is_foreign(driver: ComputeDriver, uuid: UUID) -> bool:
    """All reads agree."""
    foreign = {each.uuid for each in driver.list_foreign()}
    ours = {each.uuid for each in driver.list_instances()}
    metered = {each.uuid for each in driver.get_metrics()}
    assert (uuid in ours) is (uuid in metered) is (uuid not in foreign)
    if uuid in foreign:
        with pytest.raises(errors.InstanceNotFound):
            driver.get_instance(uuid)
    else:
        info = driver.get_instance(uuid)
        assert info.summary() == {each.uuid: each for each in driver.list_instances()}[uuid]
    return uuid in foreign


class Cut:
    """A seam that loses one call that changes something: the request, or the reply to it."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after = at, after
        self.name: str | None = None
        """Of the call; None if there was none of that number."""
        self._number = 0
        self._lock = threading.Lock()

    def __call__(self, name: str, send: Callable[[], Any]) -> Any:
        if changes_nothing(name.partition(".")[2]):
            return send()
        with self._lock:
            number, self._number = self._number, self._number + 1
        if number != self.at:
            return send()
        self.name = name
        if self.after:
            send()
            raise errors.OutcomeUnknown("the reply is lost")
        raise errors.ConnectionFailed("the connection is lost")


def cuts(raw: LibvirtDriver, begin: Callable[[], Callable[[], object]]) -> Iterator[str]:
    """Do an operation again and again, and lose another of its changing calls each time, the
    request first and then the reply. Yields after each what was lost.

    Args:
        begin: prepares one, and returns what does it.
    """
    number, after = 0, False
    while True:
        act = begin()
        seam = raw.connection.seam = Cut(number, after=after)
        try:
            act()
        except errors.HypervisorError:
            pass
        finally:
            raw.connection.seam = None
        if seam.name is None:
            return
        yield f"{number} {seam.name} {'reply' if after else 'request'}"
        number, after = (number + 1, False) if after else (number, True)


def at_each_cut(
    own: Host,
    begin: Callable[[Theirs], Callable[[], object]],
    then: Callable[[Theirs, str], object],
    *,
    least: int,
) -> None:
    """Lose each changing call of an operation as cuts() does, each time with a new machine of
    others. destroy() leaves no file of it, and nothing that the host lists.

    Args:
        begin: prepares the machine, which has no disk yet, and returns what does the operation.
        then: looks at the machine after the loss; it is also told what was lost.
        least: so many losses there are, or more.
    """
    made: list[Theirs] = []

    def begun() -> Callable[[], object]:
        made.append(Theirs(own, disks=[]))
        return begin(made[-1])

    lost = 0
    try:
        for what in cuts(own.raw, begun):
            machine, lost = made[-1], lost + 1
            then(machine, what)
            own.driver.destroy(machine.uuid)
            assert not any(each.exists() for each in machine.files), what
            assert not [line for line in own.residue() if str(machine.uuid) in line], what
            machine.remove()
        assert lost >= least
    finally:
        for each in made:
            with suppress(errors.HypervisorError):
                own.driver.destroy(each.uuid)
            each.remove()
