"""The test guest on a peer: its image, a machine for it, and its serial console.

The drivers' own tests spawn through the driver and need `Console` only; `define_guest` makes a
machine with virsh, for the tests of the peers and as somebody else's ("foreign") machine.
"""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import T, wait_until

PREFIX = "hv-guest: "


class Console:
    """The lines of a serial console that is written to a file, and put aside when that is full."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self) -> str:
        written = b"".join(map(self._bytes, (".2", ".1", ".0", "")))
        return written.decode(errors="replace").replace("\r", "")

    def _bytes(self, suffix: str) -> bytes:
        try:
            return self.path.with_name(self.path.name + suffix).read_bytes()
        except FileNotFoundError:
            return b""

    def lines(self) -> list[str]:
        """What the guest has reported so far, without the prefix."""
        return [
            line.removeprefix(PREFIX)
            for line in self.text().splitlines()
            if line.startswith(PREFIX)
        ]

    def expect(self, pattern: str, *, timeout: float = 90, after: int = 0) -> re.Match[str]:
        """Wait for a report that matches from its beginning.

        Args:
            pattern: a regular expression for the line without ``hv-guest: ``.
            timeout: seconds; generous, since an emulated guest on a busy machine is slow.
            after: ignore that many lines (``len(console.lines())`` before the action).
        """
        expression = re.compile(pattern)

        def found() -> re.Match[str] | None:
            return next(filter(None, map(expression.match, self.lines()[after:])), None)

        return self.until(found, timeout=timeout, what=f"the guest says {pattern!r}")

    def until(self, condition: Callable[[], T | None], *, timeout: float, what: str) -> T:
        """:func:`wait_until` for what the guest writes; a failure shows what it wrote last."""
        try:
            return wait_until(condition, timeout=timeout, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the console:\n{self.text()[-3000:]}") from None


class Guest:
    """A machine made with virsh, not by a driver. As a context manager it is removed at the end."""

    def __init__(self, peer: LibvirtPeer, name: str, identity: str, console: Console) -> None:
        self.peer = peer
        self.name = name
        self.uuid = identity
        self.console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def start(self) -> None:
        self.peer.virsh("start", self.uuid)

    def state(self) -> str:
        return self.peer.virsh("domstate", self.uuid)

    def remove(self) -> None:
        if self.state() not in ("shut off", "crashed"):
            self.peer.virsh("destroy", self.uuid)
        self.peer.virsh("undefine", self.uuid, "--nvram")
        self.peer.virsh("vol-delete", f"{self.name}.qcow2", "--pool", "default")
        self.console.path.unlink(missing_ok=True)
        self.peer.virsh("pool-refresh", "default")  # it still lists the console's file

    def hot_plug(self, device_xml: str) -> None:
        self.peer.virsh("attach-device", self.uuid, str(self._file(device_xml)), "--live")

    def unplug(self, device_xml: str) -> None:
        """Ask for it; the guest lets go by itself."""
        self.peer.virsh("detach-device", self.uuid, str(self._file(device_xml)), "--live")

    def _file(self, text: str) -> Path:
        path = self.peer.root / "device.xml"
        path.write_text(text)
        return path


def make_volume(peer: LibvirtPeer, name: str, mebibytes: int, backing: Path | None = None) -> str:
    """A qcow2 volume in the pool ``default``; the path that the daemon knows it by."""
    path = peer.path(peer.images) / name
    command = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if backing:
        command += ["-F", "qcow2", "-b", str(backing)]
    subprocess.run([*command, str(path), f"{mebibytes}M"], check=True)
    peer.virsh("pool-refresh", "default")
    return f"{peer.images}/{name}"


def define_guest(
    peer: LibvirtPeer,
    image: Path,
    *,
    name: str | None = None,
    machine: str = "q35",
    firmware: str = "bios",
    devices: str = "",
    memory_mib: int = 192,
    vcpus: int = 1,
) -> Guest:
    """Define a machine of the image, with four free PCIe ports; it is not started."""
    identity = str(uuid.uuid4())
    name = name or f"peer-guest-{identity[:8]}"
    disk = make_volume(peer, f"{name}.qcow2", 128, backing=image)
    log = f"{peer.images}/{name}.console"
    ports = ""
    if machine == "q35":  # its root bus takes no hot-plug: each device wants a port of its own
        ports = "<controller type='pci' index='0' model='pcie-root'/>"
        ports += "<controller type='pci' model='pcie-root-port'/>" * 10
    loader = " firmware='efi'" if firmware == "uefi" else ""
    secure = "<feature enabled='no' name='secure-boot'/>" if loader else ""
    xml = f"""
      <domain type='qemu'>
        <name>{name}</name><uuid>{identity}</uuid>
        <memory unit='MiB'>{memory_mib}</memory><vcpu>{vcpus}</vcpu>
        <os{loader}>
          <type arch='x86_64' machine='{machine}'>hvm</type>
          {f"<firmware>{secure}</firmware>" if loader else ""}
          <boot dev='hd'/>
        </os>
        <features><acpi/><apic/></features>
        <on_reboot>restart</on_reboot>
        <devices>
          {ports}
          <disk type='file' device='disk'>
            <driver name='qemu' type='qcow2'/><source file='{disk}'/>
            <target dev='vda' bus='virtio'/>
          </disk>
          <serial type='pty'><log file='{log}' append='on'/><target port='0'/></serial>
          <console type='pty'><target type='serial' port='0'/></console>
          <memballoon model='virtio'/>
          {devices}
        </devices>
      </domain>"""
    path = peer.root / "domain.xml"
    path.write_text(xml)
    peer.virsh("define", str(path))
    return Guest(peer, name, identity, Console(peer.path(log)))
