"""The inside of a guest, entered with an account: files, processes.

VMware Tools do what the server asks for, in the name of that account. The contents of files go over
HTTPS, by an address that the server gives. On vCenter that is an address of the ESXi host which
runs the machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.driverkit import changed
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.vmware.elsewhere import Elsewhere
from hvdrivers.vmware.guest_line import check_text
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.reader import Reader, Row
from hvdrivers.vmware.session import Session
from hvdrivers.vmware.transport import Reply, Sink

_T = TypeVar("_T")
_PLACE = "/tmp"  # noqa: S108 - of the guest; the folder in it is made by Tools, for the account alone
_GONE = "FileNotFound"
_REFUSED = frozenset({"InvalidGuestLogin", "GuestAuthenticationChallenge"})
_FOR_ITS_OWNER = 0o600
_Files = vim.vm.guest.FileManager


@dataclass(frozen=True)
class Process:
    """A process that Tools have started, as they tell it."""

    ended: bool
    exit_code: int | None


class Insides:
    """Enters guests."""

    def __init__(self, session: Session, reader: Reader, places: Places) -> None:
        self._places = places
        self._elsewhere = Elsewhere(session, reader)

    def enter(self, machine: Row, accounts: Sequence[GuestCredentials]) -> Inside:
        """A guest, with an account. No call.

        Args:
            machine: has ``runtime.host``.
            accounts: where the first is refused, the second is tried: an account's password
                changes while it is used.

        Raises:
            InvalidRequest: a name or a password that vSphere cannot carry.
            NotSupported: the server has no guest operations.
        """
        for each in accounts:
            check_text("the name of the account", each.user)
            check_text("the password of the account", each.password.get_secret_value())
        managers = self._places.get().guests
        if managers is None:
            raise errors.NotSupported(
                "the server has no guest operations: vSphere has since 5.0",
                hint="do it through the guest's network, or by cloud-init at spawn()",
            )

        def transfer(method: str, url: str, body: bytes | None, sink: Sink | None) -> Reply:
            return self._elsewhere.send(
                method, url, body=body, sink=sink, host=machine["runtime.host"]
            )

        return Inside(machine.obj, managers, accounts, transfer)

    def close(self) -> None:
        """Close the connections to hosts."""
        self._elsewhere.close()


class Inside:
    """One guest, entered with an account."""

    def __init__(
        self,
        machine: Any,
        managers: Row,
        accounts: Sequence[GuestCredentials],
        transfer: Callable[[str, str, bytes | None, Sink | None], Reply],
    ) -> None:
        self._machine = machine
        self._files = managers["fileManager"]
        self._processes = managers["processManager"]
        self._accounts = list(accounts)
        self._transfer = transfer

    def _ask(self, method: Callable[..., _T], *args: Any) -> _T:
        """One call, in the name of the account."""
        with _refusals():
            try:
                return method(self._machine, _authentication(self._accounts[0]), *args)
            except errors.PermissionDenied as error:
                if error.vendor_code not in _REFUSED or len(self._accounts) == 1:
                    raise
            del self._accounts[0]
            return method(self._machine, _authentication(self._accounts[0]), *args)

    # ---- files ----------------------------------------------------------------------------------

    def make_folder(self) -> str:
        """Make a folder that only the account can read, and give its path. 1 call; 1 more if the
        reply to it is lost, and 2 if the folder was not made then."""
        prefix = f"hvdrivers-{uuid4().hex}-"
        try:
            made = self._make_folder(prefix)
        except errors.OutcomeUnknown:
            with changed():
                made = self._found_folder(prefix) or self._make_folder(prefix)
        if not re.fullmatch(rf"{_PLACE}/{prefix}[^/\0]*", made):
            raise errors.HypervisorFault("the guest made a folder elsewhere than it was asked to")
        check_text("the path of the guest's folder", made)
        return made

    def _found_folder(self, prefix: str) -> str | None:
        found = self._ask(self._files.ListFilesInGuest, _PLACE, None, None, f"^{prefix}.*$")
        # Tools give the names alone, where the documentation has whole paths
        names = (each.path.rpartition("/")[2] for each in found.files or ())
        return next((f"{_PLACE}/{each}" for each in names if each.startswith(prefix)), None)

    def _make_folder(self, prefix: str) -> str:
        return str(self._ask(self._files.CreateTemporaryDirectoryInGuest, prefix, "", _PLACE))

    def remove_folder(self, path: str) -> None:
        """Remove a folder with what is in it. 1 call; that it is not there is a success."""
        try:
            self._remove_folder(path)
        except errors.OutcomeUnknown:
            self._remove_folder(path)

    def _remove_folder(self, path: str) -> None:
        try:
            self._ask(self._files.DeleteDirectoryInGuest, path, True)
        except errors.HypervisorFault as error:
            if error.vendor_code != _GONE:
                raise

    def write(self, path: str, data: bytes) -> None:
        """Write a file that only the account can read. 1 call and 1 request."""
        attributes = _Files.PosixFileAttributes(permissions=_FOR_ITS_OWNER)
        url = self._ask(self._files.InitiateFileTransferToGuest, path, attributes, len(data), True)
        _check(self._transfer("PUT", url, data, None), "write")

    def read(self, path: str, most: int) -> tuple[bytes, bool]:
        """The beginning of a file, and whether there is more of it. 1 call, and 1 request if there
        is something in it."""
        found = self._ask(self._files.InitiateFileTransferFromGuest, path)
        if not found.size:
            return b"", False
        sink = _Beginning(most)
        try:
            _check(self._transfer("GET", found.url, None, sink), "read")
        except _Enough:
            return bytes(sink.data[:most]), True
        return bytes(sink.data), False

    # ---- processes ------------------------------------------------------------------------------

    def start(self, program: str, arguments: str) -> int:
        """Start a program; returns its number. 1 call.

        Raises:
            InvalidRequest: the guest has no such program.
            PermissionDenied: the account may not start it.
        """
        spec = vim.vm.guest.ProcessManager.ProgramSpec(programPath=program, arguments=arguments)
        try:
            return int(self._ask(self._processes.StartProgramInGuest, spec))
        except errors.HypervisorFault as error:
            if error.vendor_code != _GONE:
                raise
            raise errors.InvalidRequest(
                "the guest has no such program",
                vendor_code=error.vendor_code,
                hint="name it by its absolute path in the guest",
            ) from error

    def process(self, number: int) -> Process | None:
        """A process that was started; None if the guest does not know it. 1 call."""
        rows = self._ask(self._processes.ListProcessesInGuest, [number]) or ()
        row = next((each for each in rows if each.pid == number), None)
        if row is None:
            return None
        return Process(row.endTime is not None, row.exitCode)


class _Enough(Exception):
    """There is more than anybody wants."""


class _Beginning:
    """Takes the beginning of a file. A guest says what it likes of its size."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.data = bytearray()

    def begin(self) -> None:
        """Forget what came before."""
        self.data.clear()

    def write(self, data: bytes) -> None:
        """The next bytes."""
        self.data += data
        if len(self.data) > self._most:
            raise _Enough


def _authentication(account: GuestCredentials) -> Any:
    return vim.vm.guest.NamePasswordAuthentication(
        username=account.user,
        password=account.password.get_secret_value(),
        interactiveSession=False,
    )


@contextmanager
def _refusals() -> Iterator[None]:
    """Say whose refusal it is: the guest's, or the server's."""
    try:
        yield
    except errors.PermissionDenied as error:
        if error.vendor_code in _REFUSED:
            raise errors.PermissionDenied(
                "the guest refused the account",
                vendor_code=error.vendor_code,
                hint="give credentials= that the guest's operating system takes",
            ) from error
        if error.vendor_code == "GuestPermissionDenied":
            error.hint = "the account may not do that in the guest: give credentials= of another"
        elif error.vendor_code == "NoPermission":
            error.hint = (
                "the role needs Virtual machine > Guest operations: execution, modification, query"
            )
        raise
    except errors.VolumeNotFound as error:
        # a file of the guest, and none of a datastore
        raise errors.HypervisorFault(
            f"the guest does not find a file: {error.message}", vendor_code=error.vendor_code
        ) from error


def _check(reply: Reply, what: str) -> None:
    if reply.status not in (200, 201, 204):
        raise errors.HypervisorFault(
            f"the host could not {what} a file of the guest",
            vendor_code=f"HTTP {reply.status}",
            hint="is the guest's file system full, or was the machine moved meanwhile?",
        )
