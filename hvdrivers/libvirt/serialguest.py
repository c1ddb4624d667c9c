"""The test guest as the conformance suite meets it: what it says on its serial console, and what
is typed there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import libvirt

from hvdrivers.conformance.target import PreconditionMissing, Target
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.naming import from_alias
from hvdrivers.libvirt.observing import RawHost
from hvdrivers.libvirt.xml import attribute, parse

_TEXTS = "dd if={} bs=4096 count=1 2>/dev/null | tr -d '\\000'"
"""What write_disk() has written to a device, which has no file system."""
_BOOT = 90.0
"""Seconds within which an emulated guest has booted on a busy machine."""
_PATIENCE = 1.0
"""Seconds after which a guest that has not answered is asked again."""
_STARTS = re.compile(rb"^SYSLINUX |^hv-guest: starts", re.MULTILINE)
"""What the test guest says first: through BIOS, and through UEFI."""


class SerialGuest(Target):
    """The half of the libvirt target that talks to the guest of `hvdrivers.testing.guestimage`."""

    def __init__(self, raw: RawHost) -> None:
        self._raw = raw
        self._console: tuple[tuple[UUID, int, Any], Any] | None = None

    def close(self) -> None:
        self._close_console()

    def wait_booted(self, driver: ComputeDriver, uuid: UUID) -> None:
        """The guest answers when it is spoken to on its serial console."""
        before = console(driver, uuid).count(b"hv-guest: pong")
        asked = -_PATIENCE

        def answers() -> bool:
            nonlocal asked
            self._open_console(uuid)  # so that QEMU listens when the guest does
            said = console(driver, uuid)
            if b"hv-guest: ready" in said and time.monotonic() - asked > _PATIENCE:
                asked = time.monotonic()
                self._type(uuid, "ping")
            return said.count(b"hv-guest: pong") > before

        if in_time(answers, _BOOT * self.time_scale):
            return
        raise PreconditionMissing("the guest did not boot in time")

    def boots(self, driver: ComputeDriver, uuid: UUID) -> int:
        return len(_STARTS.findall(console(driver, uuid)))

    def write_disk(self, driver: ComputeDriver, uuid: UUID, text: str, disk: str = "root") -> None:
        if disk == "root":
            self._shell(driver, uuid, f"echo '{text}' >> /disk/hvct; sync")
            return
        device = self._device(driver, uuid, disk)
        command = f"{{ {_TEXTS.format(device)}; echo '{text}'; }} >/run/hvct"
        write = f"dd if=/run/hvct of={device} bs=4096 conv=sync,notrunc,fsync 2>/dev/null"
        self._shell(driver, uuid, f"{command}; {write}")

    def written(self, driver: ComputeDriver, uuid: UUID, disk: str = "root") -> Sequence[str]:
        if disk == "root":
            return self._shell(driver, uuid, "cat /disk/hvct 2>/dev/null").splitlines()
        texts = _TEXTS.format(self._device(driver, uuid, disk))
        return self._shell(driver, uuid, texts).splitlines()

    def on_disk(self, driver: ComputeDriver, uuid: UUID, text: str) -> bool:
        """What a guest writes stands in the disk's file as it is, neither compressed nor
        encrypted."""
        for disk in parse(self._raw.domain(uuid).XMLDesc(0)).iterfind("devices/disk"):
            if attribute(disk, "boot", "order") == "1":
                return text.encode() in self._raw.content(source_of(disk))
        raise PreconditionMissing("the machine boots from no disk")

    def _device(self, driver: ComputeDriver, uuid: UUID, volume_id: str) -> str:
        """The guest's own name for a volume, by its serial number, of which virtio tells 20
        characters."""
        if volume_id in {"ephemeral", "swap"}:
            raise PreconditionMissing(f"the {volume_id} disk has no serial number to find it by")
        disk = next(
            each
            for each in parse(self._raw.domain(uuid).XMLDesc(0)).iterfind("devices/disk")
            if from_alias("volume", attribute(each, "alias", "name") or "") == volume_id
        )
        serial = (disk.findtext("serial") or "")[:20]
        look = f"grep -l '^{serial}' /sys/block/*/serial && break; sleep 1"  # just plugged
        found = self._shell(driver, uuid, f"for i in 1 2 3 4 5 6 7 8 9; do {look}; done")
        if found.count("\n") or not found:
            raise PreconditionMissing(f"the guest does not see the volume {volume_id}")
        return f"/dev/{found.split('/')[3]}"

    @contextmanager
    def stubborn_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """The guest's kernel halts without switching the machine off. It starts again at the end,
        or when the machine is switched off and on."""
        self.wait_booted(driver, uuid)
        self._type(uuid, "sync; halt -f")
        in_time(lambda: b"System halted" in console(driver, uuid), 5)
        try:
            yield
        finally:
            with suppress(libvirt.libvirtError):
                domain = self._raw.domain(uuid)
                if domain.isActive():
                    domain.reset(0)

    def _shell(self, driver: ComputeDriver, uuid: UUID, command: str) -> str:
        """Run a command in the guest; what it printed."""
        self.wait_booted(driver, uuid)
        mark = uuid4().hex[:8]
        # in quotes, so that the echo of what is typed is not taken for the output
        begin, end = f'hvct-"begin"-{mark}', f'hvct-"end"-{mark}'
        first, last = (each.replace('"', "").encode() for each in (begin, end))
        self._type(uuid, f"echo {begin}; {command}; echo {end}")
        if not in_time(lambda: last in console(driver, uuid), 30):
            raise PreconditionMissing("the guest does not answer on its console")
        between = console(driver, uuid).partition(first)[2].partition(last)[0]
        return between.decode(errors="replace").replace("\r", "").strip()

    def _open_console(self, uuid: UUID) -> Any:
        """The guest's console. It stays open: QEMU takes a second to see that somebody is there."""
        connect = self._raw.connect
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

    def _type(self, uuid: UUID, line: str) -> None:
        self._open_console(uuid).send(line.encode() + b"\n")


def console(driver: ComputeDriver, uuid: UUID) -> bytes:
    """All that the guest has said."""
    return driver.get_console_log(uuid, max_bytes=1 << 20).data


def in_time(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for it; whether it came."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.03)
    return True
