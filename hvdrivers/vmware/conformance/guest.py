"""The guests of vSphere's simulator, which are played: what a guest would write to its disk the
target writes into the disk's file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from pyVmomi import vim

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.target import Target
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.images.sparse import iter_chunks
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.observer import addresses, devices_in
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.conformance.stored import folder_of
from hvdrivers.vmware.names import split_path


class PlayedGuest(Target):
    """The half of the vSphere target that does what a guest would do."""

    def __init__(
        self, server: RawServer, config: VmwareConfig, account: GuestCredentials | None = None
    ) -> None:
        self.server = server
        self.config = config
        self._account = account

    def _flat_file(self, uuid: UUID, disk: str) -> str:
        obj = self.server.machine(uuid)
        config = self.server.of(obj, "config")["config"]
        extra = {each.key: each.value for each in config.extraConfig}
        devices = devices_in(extra)
        for address, found in addresses(config.hardware.device).items():
            volume = devices["volumes"].get(address, {})
            boots = volume.get("boot_index") == 0
            names = (devices["own"].get(address), volume.get("id"), "root" if boots else None)
            if disk in names:
                return str(found.backing.fileName).replace(".vmdk", "-flat.vmdk")
        raise PreconditionMissing(f"the machine has no disk {disk}")

    def write_disk(self, driver: ComputeDriver, uuid: UUID, text: str, disk: str = "root") -> None:
        path = self._flat_file(uuid, disk)
        line = f"\nhvct:{text}\n".encode()
        here = self.local_path(path)
        if here is not None and here.is_file():
            with here.open("ab") as file:
                file.write(line)
        else:
            self.server.file(path, (self.server.file(path) or b"") + line)

    def written(self, driver: ComputeDriver, uuid: UUID, disk: str = "root") -> Sequence[str]:
        lines = self._data(self._flat_file(uuid, disk)).split(b"\n")
        return [line[5:].decode() for line in lines if line.startswith(b"hvct:")]

    def on_disk(self, driver: ComputeDriver, uuid: UUID, text: str) -> bool:
        return text.encode() in self._data(self._flat_file(uuid, "root"))

    def _data(self, path: str) -> bytes:
        """What is in a file, without the holes of one that is on this machine: a disk has gigabytes
        of them."""
        here = self.local_path(path)
        if here is None or not here.is_file():
            return self.server.file(path) or b""
        with here.open("rb") as file:
            return b"".join(data for _, data in iter_chunks(file.fileno()))

    boot_mark = b"hv-guest: starts"
    """What each guest of the simulator writes to its serial port when it starts."""

    def wait_booted(self, driver: ComputeDriver, uuid: UUID) -> None:
        """The guest's VMware Tools run: the server is told so, as no guest would say it."""
        self.set_extra(uuid, "SET.guest.toolsRunningStatus", "guestToolsRunning")

    @contextmanager
    def deaf_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """A guest that ignores requests of its VMware Tools to shut down and to reboot."""
        self.wait_booted(driver, uuid)
        self.set_extra(uuid, "hvct.stubborn", "yes")
        try:
            yield
        finally:
            with suppress(PreconditionMissing):
                self.set_extra(uuid, "hvct.stubborn", "")

    def boots(self, driver: ComputeDriver, uuid: UUID) -> int:
        config = self.server.of(self.server.machine(uuid), "config")["config"]
        for port in config.hardware.device:
            if isinstance(port, vim.vm.device.VirtualSerialPort):
                log = self.server.file(port.backing.fileName) or b""
                return log.count(self.boot_mark)
        raise PreconditionMissing("the machine has no serial port")

    @contextmanager
    def keeping_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """A guest that uses its devices. vSphere does not ask it."""
        self.wait_booted(driver, uuid)
        yield

    @contextmanager
    def silent_agent(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """VMware Tools end; the server keeps what they have told."""
        self.set_extra(uuid, "SET.guest.toolsRunningStatus", "guestToolsNotRunning")
        try:
            yield
        finally:
            self.wait_booted(driver, uuid)

    def guest_account(self, driver: ComputeDriver, uuid: UUID) -> GuestCredentials:
        if self._account is None:
            raise PreconditionMissing(
                "the target names no account of its guest (guest_user=, guest_password=)"
            )
        return self._account

    @contextmanager
    def account_needed(self, driver: ComputeDriver, uuid: UUID) -> Iterator[GuestCredentials]:
        """VMware Tools always ask for one."""
        yield self.guest_account(driver, uuid)

    def accepts_password(self, driver: ComputeDriver, uuid: UUID, user: str, password: str) -> bool:
        account = GuestCredentials(user=user, password=SecretStr(password))
        try:
            self._processes(uuid, account)
        except vim.fault.InvalidGuestLogin:
            return False
        return True

    def _processes(self, uuid: UUID, account: GuestCredentials) -> Sequence[Any]:
        """What VMware Tools have started in the guest."""
        login = vim.vm.guest.NamePasswordAuthentication(
            username=account.user,
            password=account.password.get_secret_value(),
            interactiveSession=False,
        )
        manager = self.server.content.guestOperationsManager
        processes = self.server.of(manager, "processManager")["processManager"]
        found: Sequence[Any] = processes.ListProcessesInGuest(self.server.machine(uuid), login, [])
        return found or ()

    @contextmanager
    def endless_program(self, driver: ComputeDriver, uuid: UUID) -> Iterator[Sequence[str]]:
        yield ["/bin/sleep", "1000000"]

    def program_runs(self, driver: ComputeDriver, uuid: UUID) -> bool:
        found = self._processes(uuid, self.guest_account(driver, uuid))
        return any(each.name == "sleep" and each.endTime is None for each in found)

    def set_extra(self, uuid: UUID, key: str, value: str) -> None:
        spec = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key=key, value=value)])
        self.server.wait(self.server.machine(uuid).ReconfigVM_Task(spec))

    def local_path(self, path: str) -> Path | None:
        """Where a path of a datastore is; None: the datastore is no folder of this machine."""
        datastore, inside = split_path(path)
        found = self.server.read(vim.Datastore, "name", "summary.url")
        url = next(values["summary.url"] for _, values in found if values["name"] == datastore)
        folder = folder_of(str(url))
        return folder / inside if folder is not None else None
