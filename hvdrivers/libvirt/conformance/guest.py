"""The test guest as the conformance suite meets it: what it says on its serial console, and what
is typed there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import libvirt
import libvirt_qemu

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.target import Target
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.libvirt.conformance.raw_host import RawHost
from hvdrivers.libvirt.devices import source_of, volumes_of
from hvdrivers.libvirt.xml import attribute, parse
from hvdrivers.models.image import FileImage
from hvdrivers.models.state import InstanceState
from hvdrivers.testing.serialguest import BOOT_SECONDS, SerialShell, in_time

_LOOKS = 60
"""How often, about once a second, a guest looks for a volume that was just plugged."""
_STARTS = re.compile(rb"^SYSLINUX |^hv-guest: starts", re.MULTILINE)
"""What the test guest says first: through BIOS, and through UEFI."""


class SerialGuest(SerialShell, Target):
    """The half of the libvirt target that talks to the guest of `hvdrivers.testing.guestimage`."""

    def __init__(self, raw: RawHost, there: RawHost | None = None) -> None:
        self.raw, self.raw_there = raw, there
        self._console: tuple[tuple[UUID, int, Any], Any] | None = None

    def close(self) -> None:
        self._close_console()

    def _host(self, uuid: UUID) -> RawHost:
        """The host that the machine is on."""
        if self.raw_there is not None:
            with suppress(libvirt.libvirtError):
                self.raw_there.domain(uuid)
                return self.raw_there
        return self.raw

    def wait_booted(self, driver: ComputeDriver, uuid: UUID) -> None:
        """The guest answers when it is spoken to on its serial console, and its agent when it is
        asked: an agent starts a moment after the guest says that it is ready."""
        self.wait_shell(driver, uuid)
        if not in_time(lambda: self._agent_answers(uuid), BOOT_SECONDS * self.time_scale):
            raise PreconditionMissing("the guest's agent did not start in time")

    def _agent_answers(self, uuid: UUID) -> bool:
        with suppress(libvirt.libvirtError):
            libvirt_qemu.qemuAgentCommand(
                self._host(uuid).domain(uuid), '{"execute":"guest-ping"}', 5, 0
            )
            return True
        return False

    def boots(self, driver: ComputeDriver, uuid: UUID) -> int:
        domain = self._host(uuid).domain(uuid)
        if not domain.name().endswith(f".{uuid}"):
            return int(domain.ID())  # a machine of others has no log; each start has a number
        return len(_STARTS.findall(console(driver, uuid)))

    def on_disk(self, driver: ComputeDriver, uuid: UUID, text: str) -> bool:
        """What a guest writes stands in the disk's file as it is, neither compressed nor
        encrypted; or in a file that the disk stands on, if that is another image than that of the
        guest, which has many a short word."""
        image = self.image()
        usual = Path(image.path).read_bytes() if isinstance(image, FileImage) else b""
        domain = self._host(uuid).domain(uuid)
        xml = parse(domain.XMLDesc(0))
        own = xml.findall("devices/disk/alias[@name='ua-own-root']/..")
        if not domain.name().endswith(f".{uuid}"):
            # a machine of others: the first disk of its definition, which has none of a rescue
            definition = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
            own = definition.findall("devices/disk[@device='disk']")
        for disk in own or xml.iterfind("devices/disk"):
            if own or attribute(disk, "boot", "order") == "1":
                parts = self._host(uuid).contents(source_of(disk))
                return any(text.encode() in part for part in parts if part != usual)
        raise PreconditionMissing("the machine boots from no disk")

    def device(self, driver: ComputeDriver, uuid: UUID, disk: str) -> str:
        """The guest's own name for a volume, by its serial number, of which virtio tells 20
        characters."""
        xml = parse(self._host(uuid).domain(uuid).XMLDesc(0))
        own = xml.find(f"devices/disk/alias[@name='ua-own-{disk}']/..")
        element = own if own is not None else volumes_of(xml)[disk]
        serial = (element.findtext("serial") or "")[:20]
        files = "/sys/block/*/serial"
        if attribute(element, "address", "type") == "pci":
            # a volume that was swapped keeps the number of the one before it
            parts = [attribute(element, "address", name) for name in ("domain", "bus", "slot")]
            numbers = [int(each or "0", 16) for each in parts]
            function = int(attribute(element, "address", "function") or "0", 16)
            where = "{:04x}:{:02x}:{:02x}".format(*numbers)
            files = f"/sys/bus/pci/devices/{where}.{function}/virtio*/block/*/serial"
        # a disk that was just plugged may have no such file yet
        look = f"grep -l '^{serial}' {files} 2>/dev/null && break; i=$((i+1)); sleep 1"
        found = self.shell(driver, uuid, f"i=0; while [ $i -lt {_LOOKS} ]; do {look}; done")
        if found.count("\n") or not found:
            raise PreconditionMissing(
                f"the guest does not see the volume {disk} at {files}: {found!r}"
            )
        return f"/dev/{found.split('/')[-2]}"

    @contextmanager
    def keeping_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """A kernel that has halted hands nothing back, and takes nothing. QEMU takes what was asked
        for when the machine is reset at the end; that is over once the guest has booted."""
        self.wait_booted(driver, uuid)
        boots = self.boots(driver, uuid)
        with self.deaf_guest(driver, uuid):
            yield
        if self._host(uuid).domain(uuid).state()[0] == libvirt.VIR_DOMAIN_RUNNING:
            in_time(lambda: self.boots(driver, uuid) > boots, 60)

    @contextmanager
    def deaf_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """The guest's kernel halts without switching the machine off. It starts again at the end,
        or when the machine is switched off and on."""
        self.wait_booted(driver, uuid)
        self.type_line(uuid, "sync; halt -f")
        in_time(lambda: b"System halted" in console(driver, uuid), 5)
        try:
            yield
        finally:
            with suppress(libvirt.libvirtError):
                domain = self._host(uuid).domain(uuid)
                if domain.isActive():
                    domain.reset(0)

    # ---- its agent -------------------------------------------------------------------------------

    def accepts_password(self, driver: ComputeDriver, uuid: UUID, user: str, password: str) -> bool:
        """The guest keeps its passwords as crypt(3) hashes, in /etc/shadow."""
        line = self.shell(driver, uuid, f"grep '^{user}:' /etc/shadow").strip()
        hashed = line.split(":")[1] if ":" in line else ""
        salt = hashed.rpartition("$")[0]
        if not salt:
            return False
        word = password.replace("'", "'\\''")
        again = self.shell(driver, uuid, f"mkpasswd -m sha512 -S '{salt.split('$')[2]}' '{word}'")
        return again.strip() == hashed

    @contextmanager
    def silent_agent(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        self.shell(driver, uuid, "killall -STOP qemu-ga")
        try:
            yield
        finally:
            self.shell(driver, uuid, "killall -CONT qemu-ga")

    @contextmanager
    def endless_program(self, driver: ComputeDriver, uuid: UUID) -> Iterator[Sequence[str]]:
        self.wait_booted(driver, uuid)
        boots = self.boots(driver, uuid)
        try:
            yield ["/bin/sleep", "100000"]
        finally:
            with suppress(errors.InstanceNotFound):  # it has gone, and the program with it
                on = driver.get_instance(uuid).state is InstanceState.RUNNING
                if on and self.boots(driver, uuid) == boots:
                    self.shell(driver, uuid, "killall sleep")

    def program_runs(self, driver: ComputeDriver, uuid: UUID) -> bool:
        # grep does not find itself
        look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'slee[p] 100000'"
        return self.shell(driver, uuid, look).strip() not in {"", "0"}

    def said(self, driver: ComputeDriver, uuid: UUID) -> bytes:
        self._open_console(uuid)  # so that QEMU listens when the guest does
        return console(driver, uuid)

    def _open_console(self, uuid: UUID) -> Any:
        """The guest's console. It stays open: QEMU takes a second to see that somebody is there."""
        connect = self._host(uuid).connect
        domain = connect.lookupByUUIDString(str(uuid))
        # each start of the machine has a console of its own, each connection its streams
        key = uuid, domain.ID(), connect
        if self._console is None or self._console[0] != key:
            self._close_console()
            stream = connect.newStream(0)
            domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
            self._console = key, stream
        return self._console[1]

    def _close_console(self) -> None:
        console, self._console = self._console, None
        if console is not None:
            with suppress(libvirt.libvirtError):  # it has ended with its machine
                console[1].abort()

    def type_line(self, uuid: UUID, line: str) -> None:
        self._open_console(uuid).send(line.encode() + b"\n")


def console(driver: ComputeDriver, uuid: UUID) -> bytes:
    """All that the guest has said."""
    return driver.get_console_log(uuid, max_bytes=1 << 20).data
