"""The target with real guests: what the suite asks a guest is answered by the guest of
`hvdrivers.testing.guestimage`, on its serial port."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.hyperv.conformance.target import HypervTarget
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.guests.qemu import QemuGuest, QemuGuests
from hvdrivers.models.image import FileImage, ImageFormat, ImageRef
from hvdrivers.testing.guestimage import GuestImageUnavailable, build_guest_image

_BOOT: Final = 90.0
_PATIENCE: Final = 1.0
_TEXTS: Final = "dd if={} bs=4096 count=1 2>/dev/null | tr -d '\\000'"
_BOOTS: Final = re.compile(r"^hv-guest: boot number (\d+)\r?$", re.MULTILINE)


class RealGuestTarget(HypervTarget):
    """A simulated host whose machines are QEMU processes that boot their own disks."""

    guests_run = True
    thorough = False
    fillable = False
    time_scale = 2.0

    def __init__(self, driver: type[HypervDriver] = HypervDriver, **options: Any) -> None:
        super().__init__(driver, **options)
        with self.host.world.lock:
            self.host.state.guests = QemuGuests(self.host.state, uefi=False)

    def image(self) -> ImageRef:
        try:
            return FileImage(path=build_guest_image(), format=ImageFormat.QCOW2)
        except GuestImageUnavailable as error:
            raise PreconditionMissing(f"no image to boot: {error}") from error

    def _guest(self, uuid: UUID) -> QemuGuest:
        guest = self.guest_of(uuid).guest
        if not isinstance(guest, QemuGuest):
            raise PreconditionMissing("the machine is off, or its guest is a played one")
        return guest

    def _said(self, uuid: UUID) -> str:
        return self._guest(uuid).serial.written.decode("utf-8", "replace")

    def wait_booted(self, driver: ComputeDriver, uuid: UUID) -> None:
        before = self._said(uuid).count("hv-guest: pong")
        asked = -_PATIENCE

        def answers() -> bool:
            nonlocal asked
            said = self._said(uuid)
            if time.monotonic() - asked > _PATIENCE and self._guest(uuid).heartbeat():
                asked = time.monotonic()
                self._guest(uuid).type(b"ping\n")
            return said.count("hv-guest: pong") > before

        if not _in_time(answers, _BOOT * self.time_scale):
            raise PreconditionMissing("the guest did not boot in time")

    def shell(self, driver: ComputeDriver, uuid: UUID, command: str) -> str:
        """Run a command in the guest; what it printed."""
        self.wait_booted(driver, uuid)
        mark = uuid4().hex[:8]
        begin, end = f'hvct-"begin"-{mark}', f'hvct-"end"-{mark}'
        first, last = (each.replace('"', "") for each in (begin, end))
        self._guest(uuid).type(f"echo {begin}; {command}; echo {end}\n".encode())
        if not _in_time(lambda: last in self._said(uuid), _BOOT * self.time_scale):
            raise PreconditionMissing("the guest does not answer on its console")
        between = self._said(uuid).partition(first)[2].partition(last)[0].replace("\r", "")
        lines = (each for each in between.splitlines() if not each.startswith("hv-guest: "))
        return "\n".join(lines).strip()

    def boots(self, driver: ComputeDriver, uuid: UUID) -> int:
        """The guest counts its starts on its own disk."""
        self.wait_booted(driver, uuid)
        return int(self.shell(driver, uuid, "cat /disk/boots") or 0)

    def write_disk(self, driver: ComputeDriver, uuid: UUID, text: str, disk: str = "root") -> None:
        if disk == "root":
            self.shell(driver, uuid, f"echo '{text}' >> /disk/hvct; sync")
            return
        device = self._device(driver, uuid, disk)
        command = f"{{ {_TEXTS.format(device)}; echo '{text}'; }} >/run/hvct"
        write = f"dd if=/run/hvct of={device} bs=4096 conv=sync,notrunc,fsync 2>/dev/null"
        self.shell(driver, uuid, f"{command}; {write}")

    def written(self, driver: ComputeDriver, uuid: UUID, disk: str = "root") -> Sequence[str]:
        if disk == "root":
            return self.shell(driver, uuid, "cat /disk/hvct 2>/dev/null").splitlines()
        return self.shell(
            driver, uuid, _TEXTS.format(self._device(driver, uuid, disk))
        ).splitlines()

    def _device(self, driver: ComputeDriver, uuid: UUID, volume_id: str) -> str:
        drive = self._looking(uuid).volumes(uuid)[volume_id]
        serial = drive.id.hex[:20]
        look = f"grep -la '{serial}' /sys/block/sd*/device/vpd_pg80 2>/dev/null"
        found = self.shell(
            driver, uuid, f"i=0; while [ $i -lt 60 ]; do {look} && break; i=$((i+1)); sleep 1; done"
        )
        if "\n" in found or not found:
            raise PreconditionMissing(f"the guest does not see the volume {volume_id}: {found!r}")
        return f"/dev/{found.split('/')[3]}"


def _in_time(condition: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.03)
    return True
