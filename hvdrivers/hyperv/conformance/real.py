"""The target with real guests: what the suite asks a guest is answered by the guest of
`hvdrivers.testing.guestimage`, on its serial port.

PowerShell Direct is played beside it, as beside a played guest: its users are the simulator's, and
its programs those of this computer. What else only a played guest can be made to do raises
PreconditionMissing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import UUID

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.hyperv.conformance.needs import lacking, need_program
from hvdrivers.hyperv.conformance.others import OtherHost
from hvdrivers.hyperv.conformance.target import HypervTarget
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.guests.played import Behaviour
from hvdrivers.hyperv.simulator.guests.qemu import QemuGuest, QemuGuests, Saved
from hvdrivers.hyperv.simulator.state.host import HostState
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.hyperv.simulator.state.vhd import image_format
from hvdrivers.models.image import FileImage, ImageFormat, ImageRef
from hvdrivers.models.volume import Volume
from hvdrivers.testing.guestimage import GuestImageUnavailable, build_guest_image
from hvdrivers.testing.serialguest import SerialShell, in_time

_STARTS: Final = re.compile(rb"^SYSLINUX ", re.MULTILINE)
"""What the guest's disk says first each time it is booted from."""
_OURS: Final = slice(440, 444), b"hvg1"
"""Where the disk of the guest has its signature, and what that is."""
_PARTITION: Final = 1 << 20
"""Where the guest's only partition begins. It is FAT, and the guest's ``/disk``."""
_Users = Callable[[UUID], dict[str, str]]


class _Guest(QemuGuest):
    """One run of a guest; how often its host has reset it. Its users are those of a played guest,
    who come in by PowerShell Direct."""

    resets = 0
    users: dict[str, str] | None = None

    def accounts(self) -> dict[str, str] | None:
        return self.users

    def reset(self) -> None:
        self.resets += 1
        super().reset()


class _Guests(QemuGuests):
    """Keeps each run of each machine's guest, on whichever host."""

    def __init__(self, host: HostState, runs: dict[UUID, list[_Guest]], users: _Users) -> None:
        super().__init__(host, uefi=False)
        self._runs = runs
        self._users = users

    def __call__(self, machine: Machine, saved: object) -> _Guest:
        guest = _Guest(self, machine, saved if isinstance(saved, Saved) else None)
        guest.users = self._users(machine.id)
        self._runs.setdefault(machine.id, []).append(guest)
        return guest


class RealGuestTarget(SerialShell, HypervTarget):
    """Simulated hosts whose machines are QEMU processes that boot their own disks."""

    guests_run = True
    thorough = False
    fillable = False
    time_scale = 2.0

    def __init__(self, driver: type[HypervDriver] = HypervDriver, **options: Any) -> None:
        need_program("qemu-system-x86_64", instead=", or use guests=played")
        try:
            self._boots_from = build_guest_image()
        except GuestImageUnavailable as error:
            raise lacking(f"no image to boot: {error}", "guests=played needs none") from error
        super().__init__(driver, **options)
        self._runs: dict[UUID, list[_Guest]] = {}
        with self.host.world.lock:
            self.host.state.guests = self._makes(self.host.state)

    def image(self) -> ImageRef:
        return FileImage(path=self._boots_from, format=ImageFormat.QCOW2)

    def _other(self, name: str, *, fit: bool) -> OtherHost:
        other = super()._other(name, fit=fit)
        with self.host.world.lock:
            if not isinstance(other.host.state.guests, _Guests):
                other.host.state.guests = self._makes(other.host.state)
        return other

    def _makes(self, host: HostState) -> _Guests:
        return _Guests(host, self._runs, self.host.guests.accounts)

    # ---- its serial port -------------------------------------------------------------------------

    def _guest(self, uuid: UUID) -> _Guest:
        guest = self.guest_of(uuid).guest
        if not isinstance(guest, _Guest):
            raise PreconditionMissing("the machine is off")
        return guest

    def said(self, driver: ComputeDriver, uuid: UUID) -> bytes:
        return self._guest(uuid).serial.written

    def is_ready(self, uuid: UUID, said: bytes) -> bool:
        return self._guest(uuid).heartbeat()

    def type_line(self, uuid: UUID, line: str) -> None:
        self._guest(uuid).type(f"{line}\n".encode())

    def wait_booted(self, driver: ComputeDriver, uuid: UUID) -> None:
        self.wait_shell(driver, uuid)

    def boots(self, driver: ComputeDriver, uuid: UUID) -> int:
        """The guest's boot loader says each start on the serial port: nothing of the host's is
        asked, and a disk that comes back to an older state counts no other."""
        runs = self._runs.get(self.guest_of(uuid).id, [])
        return sum(len(_STARTS.findall(each.serial.written)) for each in runs)

    @contextmanager
    def deaf_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """The guest's kernel halts without switching the machine off. It starts again at the end,
        if it has not been started meanwhile."""
        self.wait_booted(driver, uuid)
        guest = self._guest(uuid)
        guest.type(b"sync; halt -f\n")
        if not in_time(lambda: b"System halted" in guest.serial.written, 20 * self.time_scale):
            raise PreconditionMissing("the guest does not halt")
        resets = guest.resets
        try:
            yield
        finally:
            with self.host.world.lock:
                if self.guest_of(uuid).guest is guest and guest.resets == resets:
                    guest.reset()

    @contextmanager
    def keeping_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """A kernel that has halted hands nothing back. Its host asks no guest: the machine has the
        device no more, and QEMU's leads nowhere."""
        with self.deaf_guest(driver, uuid):
            yield

    # ---- its disks -------------------------------------------------------------------------------

    def device(self, driver: ComputeDriver, uuid: UUID, disk: str) -> str:
        """The guest's own name for a disk, by its serial number, of which it is told 20
        characters."""
        path = self.disk_path(uuid, disk)
        drives = (each for each in self.guest_of(uuid).config.drives if each.path == path)
        drive = next(drives, None)
        if drive is None or not path:
            raise PreconditionMissing(f"QEMU has no disk {disk}")
        look = f"grep -la '{drive.id.hex[:20]}' /sys/block/sd*/device/vpd_pg80 2>/dev/null"
        found = self.shell(
            driver, uuid, f"i=0; while [ $i -lt 60 ]; do {look} && break; i=$((i+1)); sleep 1; done"
        )
        if "\n" in found or not found:
            raise PreconditionMissing(f"the guest does not see the disk {disk}: {found!r}")
        return f"/dev/{found.split('/')[3]}"

    def on_disk(self, driver: ComputeDriver, uuid: UUID, text: str) -> bool:
        """On a disk of the guest the text is a line of the file that write_disk() writes. On the
        disk of another image it stands anywhere."""
        with self.host.world.lock:
            file = self.disk_file(uuid, "root")
        with TemporaryDirectory(prefix="hvct-") as folder:
            raw = Path(folder) / "disk"
            kind = image_format(file) or "raw"
            _run("qemu-img", "convert", "-U", "-f", kind, "-O", "raw", str(file), str(raw))
            content = raw.read_bytes()
            place, signature = _OURS
            if content[place] != signature:
                return text.encode() in content
            where = f"{raw}@@{_PARTITION}"
            if "HVCT" not in _run("mdir", "-i", where, "-b", "::").upper():
                return False
            return text in _run("mtype", "-i", where, "::hvct").splitlines()

    @contextmanager
    def served_volume(self, driver: ComputeDriver, kind: Capability) -> Iterator[Volume]:
        if kind is not Capability.VOLUME_SMBFS:
            raise PreconditionMissing("QEMU gets no disk of a storage server (served_volume)")
        with super().served_volume(driver, kind) as volume:
            yield volume

    # ---- what only a played guest does -----------------------------------------------------------

    @contextmanager
    def behaving(self, uuid: UUID, behaviour: Behaviour) -> Iterator[None]:
        raise PreconditionMissing("a real guest acts by itself (behaving)")
        yield

    @contextmanager
    def restless_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        raise PreconditionMissing(
            "the memory of a real guest is moved while it stands still (restless_guest)"
        )
        yield

    @contextmanager
    def silent_agent(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        raise PreconditionMissing(
            "the real guest has no integration services: the simulator reads what it says on its"
            " serial port (silent_agent)"
        )
        yield


def _run(*command: str) -> str:
    program = shutil.which(command[0])
    if program is None:
        raise PreconditionMissing(f"no {command[0]} on this machine")
    return subprocess.run(  # noqa: S603 - fixed programs, and no shell
        [program, *command[1:]], check=True, capture_output=True, text=True
    ).stdout
