"""Real guests: a machine that is on is a QEMU process that boots the machine's own disks.

Every drive is a SCSI disk behind virtio-scsi, whatever controller the machine has: the kernels of
small test guests know that bus. Generation 2 boots with UEFI where OVMF is installed. The power
button stands for the shutdown service. A guest that reports on its serial console as
``hvdrivers.testing.guestimage`` does has a heartbeat and addresses; another one has neither.
"""

import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from hvdrivers.hyperv.simulator.errors import E_FAIL, failed
from hvdrivers.hyperv.simulator.guests import blocks, picture
from hvdrivers.hyperv.simulator.guests.played import guest_stopped
from hvdrivers.hyperv.simulator.guests.qmp import Json, Qmp, QmpError
from hvdrivers.hyperv.simulator.guests.reports import lives, reports
from hvdrivers.hyperv.simulator.guests.serial import SerialPipes
from hvdrivers.hyperv.simulator.state.devices import NetworkAdapter
from hvdrivers.hyperv.simulator.state.files import join
from hvdrivers.hyperv.simulator.state.machine import Machine

if TYPE_CHECKING:
    from hvdrivers.hyperv.simulator.state.host import HostState

PORTS = 16
"""PCI Express ports for network adapters that come while the guest runs."""
_SAVE_SECONDS = 120.0
_KEPT = 1 << 20


@dataclass
class QemuGuests:
    """Makes real guests for a host: ``simulated.state.guests = QemuGuests(simulated.state)``."""

    host: "HostState"
    program: str = "qemu-system-x86_64"
    accelerator: str = "tcg"
    uefi: bool = True
    code: Path = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
    variables: Path = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
    arguments: list[str] = field(default_factory=list)

    def __call__(self, machine: Machine, saved: object) -> "QemuGuest":
        return QemuGuest(self, machine, saved if isinstance(saved, Saved) else None)


@dataclass
class Saved:
    """Memory of a guest in a file, which port each adapter had, and what the guest had said since
    it started: one that goes on says none of it again. The memory has the size that the guest
    started with, in bytes, whatever size the machine has by now."""

    file: Path
    ports: dict[UUID, int]
    said: bytes
    memory: int

    def drop(self) -> None:
        """Delete the file."""
        self.file.unlink(missing_ok=True)


class QemuGuest:
    """One QEMU process, from power on to power off."""

    fixed_disks = True

    def __init__(self, makes: QemuGuests, machine: Machine, saved: Saved | None) -> None:
        self._makes = makes
        self._machine = machine
        self._host = machine.host
        self._folder = Path(mkdtemp(prefix="q", dir=machine.host.pipes))
        self._ports: dict[UUID, int] = dict(saved.ports) if saved else {}
        self._uefi = makes.uefi and machine.config.generation == 2
        self._memory = saved.memory if saved else machine.config.memory.startup
        self._asked = False
        self._gone = False
        self._said = bytearray(saved.said if saved else b"")
        self._echo = False
        self._serial_socket: socket.socket | None = None
        self.serial = SerialPipes(machine, self.type)
        self._log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen(  # noqa: S603 - a program that the owner of the host names
            self._command(saved), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        try:
            self.qmp = Qmp(self._folder / "m", self._heard, lambda: self._process.poll() is None)
        except QmpError as error:
            said = (self._folder / "log").read_text("utf-8", "replace")
            self.power_off()
            raise failed(
                said.strip()[-500:] or str(error), hresult=E_FAIL, target=machine.name
            ) from error
        self._read_serial()
        self.disks = blocks.Blocks(self.qmp, machine)
        self.disks.plug_all()
        for nic in machine.config.adapters:
            self._link(nic)
        if saved is not None:
            self._bring_back(saved)
            self.qmp("cont")
        else:
            # Firmware learns the boot order of drives that were plugged at a reset.
            self.qmp("system_reset")
            self.qmp("cont")

    # The command line.

    def _command(self, saved: Saved | None) -> list[str]:
        config, makes = self._machine.config, self._makes
        command = [
            makes.program, "-name", "hvsim", "-nodefaults", "-no-user-config", "-S",
            "-machine", f"q35,accel={makes.accelerator}", "-cpu", "max",
            "-uuid", str(config.bios_guid), "-smp", str(config.processor.count),
            "-m", f"{self._memory >> 20}M", "-display", "none", "-vga", "std",
            "-qmp", f"unix:{self._folder / 'm'},server=on,wait=off",
            "-chardev", f"socket,id=com1,path={self._folder / 's'},server=on,wait=off",
            "-device", "isa-serial,chardev=com1", *makes.arguments,
        ]  # fmt: skip
        if self._uefi:
            command += self._firmware()
        for bus in blocks.buses(self._machine):
            command += ["-device", f"virtio-scsi-pci,id={bus}"]
        for port in range(PORTS):
            command += ["-device", f"pcie-root-port,id=port{port},chassis={port + 1}"]
        for nic in config.adapters:
            command += self._nic_arguments(nic)
        if saved is not None:
            command += ["-incoming", "defer"]
        return command

    def _firmware(self) -> list[str]:
        """UEFI, with the machine's own variables, which live beside its configuration."""
        name = f"{str(self._machine.id).upper()}.vmgs"
        store = self._host.files.file(join(self._machine.path, "Virtual Machines", name))
        if not store.exists():
            store.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._makes.variables, store)
        return [
            "-drive", f"if=pflash,format=raw,readonly=on,file={self._makes.code}",
            "-drive", f"if=pflash,format=raw,file={blocks.comma(store)}",
        ]  # fmt: skip

    def _port(self, nic: NetworkAdapter) -> int:
        if nic.id not in self._ports:
            self._ports[nic.id] = next(
                port for port in range(PORTS) if port not in self._ports.values()
            )
        return self._ports[nic.id]

    def _nic_arguments(self, nic: NetworkAdapter) -> list[str]:
        name = f"nic{nic.id.hex}"
        return [
            "-netdev", f"user,id=net{nic.id.hex},restrict=on",
            "-device",
            f"virtio-net-pci,id={name},netdev=net{nic.id.hex},mac={_colons(nic.mac)},"
            f"bus=port{self._port(nic)},romfile=",
        ]  # fmt: skip

    # What the host does.

    def power_off(self) -> None:
        self._gone = True
        if hasattr(self, "qmp"):
            self.qmp.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._serial_socket is not None:
            self._serial_socket.close()
        self.serial.close()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def reset(self) -> None:
        self._said.clear()
        # SeaBIOS, when it finds that it has run before, resets the machine again itself.
        self._echo = not self._uefi
        self.qmp("system_reset")

    def pause(self) -> None:
        self.qmp("stop")

    def resume(self) -> None:
        self.qmp("cont")

    def remember(self) -> object:
        """Write the memory of a paused guest to a file, for a checkpoint; it stays paused."""
        folder = self._host.files.file(join(self._machine.path, "Snapshots"))
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{str(uuid4()).upper()}.vmrs"  # as Hyper-V names it
        self._migrate("migrate", f"exec:cat > {shlex.quote(str(file))}")
        return Saved(file, dict(self._ports), bytes(self._said), self._memory)

    def _bring_back(self, saved: Saved) -> None:
        self._migrate("migrate-incoming", f"exec:cat {shlex.quote(str(saved.file))}")

    def _migrate(self, command: str, uri: str) -> None:
        """Move memory to or from a file, and wait for the end."""
        self.qmp.history.clear()
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        self.qmp(command, uri=uri)
        ended = ("completed", "failed")
        self.qmp.wait_event("MIGRATION", lambda data: data["status"] in ended, _SAVE_SECONDS)
        if not any(data.get("status") == "completed" for _, data in self.qmp.history):
            raise failed("The memory could not be moved.", target=self._machine.name)
        # QEMU has no event for being able to run again.
        while self._status() in ("finish-migrate", "inmigrate"):
            time.sleep(0.005)

    def _status(self) -> str:
        match self.qmp("query-status"):
            case {"status": str(status)}:
                return status
        raise QmpError("QEMU has no status")

    def save(self) -> object:
        if self._machine.state != "Paused":
            self.qmp("stop")
        try:
            saved = self.remember()
        except BaseException:
            self.qmp("cont")
            raise
        self.power_off()
        return saved

    def request_shutdown(self) -> None:
        self._asked = True
        self.qmp("system_powerdown")

    def inject_nmi(self) -> None:
        self.qmp("inject-nmi")

    def changed(self) -> None:
        if self._gone:
            return
        self.serial.refresh()
        self.disks.reconcile()
        self._reconcile_adapters()

    def _reconcile_adapters(self) -> None:
        wanted = {nic.id: nic for nic in self._machine.config.adapters}
        for identity, nic in wanted.items():
            if identity not in self._ports:
                name = identity.hex
                self.qmp("netdev_add", type="user", id=f"net{name}", restrict=True)
                self.qmp(
                    "device_add", driver="virtio-net-pci", id=f"nic{name}", netdev=f"net{name}",
                    mac=_colons(nic.mac), bus=f"port{self._port(nic)}", romfile="",
                )  # fmt: skip
            self._link(nic)
        for identity in [each for each in self._ports if each not in wanted]:
            # The guest lets go of the device by itself; _heard() frees its port then. One that does
            # not has no link any more: Hyper-V asks no guest.
            try:
                self.qmp("set_link", name=f"nic{identity.hex}", up=False)
                self.qmp("device_del", id=f"nic{identity.hex}")
            except QmpError:
                continue

    def _link(self, nic: NetworkAdapter) -> None:
        self.qmp("set_link", name=f"nic{nic.id.hex}", up=nic.switch is not None)

    def layered(self, below: dict[str, str]) -> None:
        """A checkpoint put a layer over each path: write there from now on."""
        self.disks.layered(below)

    def committed(self, child: str, layer: str) -> None:
        """Write what a layer holds into the disk below it, while the guest runs."""
        self.disks.commit(child, layer)

    def grow(self, path: str, size: int) -> bool:
        """Change the size of a disk that this process has open; whether it has it open."""
        return self.disks.grow(path, size)

    def screen(self, width: int, height: int) -> bytes:
        """The screen as RGB565."""
        file = self._folder / "screen"
        self.qmp("screendump", filename=str(file))
        return picture.rgb565(file.read_bytes(), width, height)

    # What the guest says.

    def _reports(self) -> list[str]:
        return reports(bytes(self._said))

    def heartbeat(self) -> bool:
        return not self._gone and lives(self._reports())

    def addresses(self, adapter: UUID) -> list[str]:
        """Addresses that the guest reported for the interface with this adapter's MAC address."""
        nic = next((n for n in self._machine.config.adapters if n.id == adapter), None)
        if nic is None:
            return []
        names: dict[str, str] = {}
        found: dict[str, str] = {}
        for line in self._reports():
            if match := re.match(r"nic (\S+) mac=(\S+) attached", line):
                names[match[2].lower()] = match[1]
            elif match := re.match(r"address (\S+) (\S+)", line):
                found[match[1]] = match[2]
        address = found.get(names.get(_colons(nic.mac).lower(), ""))
        return [address] if address else []

    def details(self) -> dict[str, str]:
        booted = next((line for line in self._reports() if line.startswith("booted ")), None)
        if booted is None:
            return {}
        facts = dict(re.findall(r"(\w+)=(\S+)", booted))
        return {"OSName": "hv-guest", "OSVersion": "1", "FullyQualifiedDomainName": facts["uuid"]}

    def accounts(self) -> dict[str, str] | None:
        return None  # no Windows

    def type(self, sent: bytes) -> None:
        """Bytes to the guest's first serial port."""
        if self._serial_socket is not None:
            try:
                self._serial_socket.sendall(sent)
            except OSError:
                return

    def _read_serial(self) -> None:
        link = self._serial_socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.connect(str(self._folder / "s"))

        def pump() -> None:
            try:
                while got := link.recv(1 << 14):
                    self._said += got
                    del self._said[:-_KEPT]
                    self.serial.write_bytes(got)
                    self._host.world.notify()
            except OSError:
                return

        threading.Thread(target=pump, daemon=True, name="hyperv-qemu-serial").start()

    def _heard(self, name: str, data: Json) -> None:
        with self._host.world.lock:
            if self._gone:
                return
            if name == "RESET" and data.get("guest"):
                self._echo = self._echo and not self._said
                self._said.clear()
                if not self._echo:
                    self._host.record("guest-reset", self._machine)
            elif name == "GUEST_PANICKED":
                self._host.record("failed", self._machine)
            elif name == "DEVICE_DELETED":
                self._deleted(str(data.get("device", "")))
            elif name == "GONE":
                guest_stopped(self._machine, self, asked=self._asked)
            self._host.world.notify()

    def _deleted(self, device: str) -> None:
        for identity in list(self._ports):
            if device == f"nic{identity.hex}":
                del self._ports[identity]
                self.qmp("netdev_del", id=f"net{identity.hex}")


def _colons(mac: str) -> str:
    return ":".join(mac[i : i + 2] for i in range(0, 12, 2))
