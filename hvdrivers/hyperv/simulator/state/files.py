"""The Windows file tree: paths of drive ``C:`` and of shares, as files below one folder."""

import ntpath
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hvdrivers.hyperv.simulator.errors import E_ACCESS_DENIED, CmdletError, file_error

E_BAD_NET_NAME = 0x80070043

_FORBIDDEN = frozenset('<>"|?*')
_RESERVED = frozenset(
    [
        "CON",
        "PRN",
        "AUX",
        "NUL",
        *(f"COM{n}" for n in range(1, 10)),
        *(f"LPT{n}" for n in range(1, 10)),
    ]
)


@dataclass
class Share:
    """A share of a file server.

    Attributes:
        folder: what it shows, on this machine.
        user: whether the user of the sessions may open its files.
        computer: whether the account of the host's computer may, as which Hyper-V opens disks.
    """

    folder: Path
    user: bool = True
    computer: bool = True


class WindowsFiles:
    """Drive ``C:`` is the folder ``root``; :meth:`share` gives the folder of a network share.

    Args:
        goes_on: whether the credentials of a session let it go on to a file server.
    """

    def __init__(self, root: Path, goes_on: Callable[[], bool] = lambda: True) -> None:
        self.root = root
        self._shares: dict[str, Share] = {}
        self._goes_on = goes_on

    def share(self, server: str, name: str, folder: Path) -> Share:
        """Make ``\\\\server\\name`` lead to a folder of this machine. Its rights may be changed."""
        share = self._shares[f"{server}\\{name}".lower()] = Share(folder)
        return share

    def unshare(self, server: str, name: str) -> None:
        """Take a share away."""
        del self._shares[f"{server}\\{name}".lower()]

    def ask(self, path: str, *, user: bool = True, computer: bool = False) -> None:
        """Refuse a path of a share that the session's user, or the host's computer, cannot open.

        Raises:
            CmdletError: access is denied, or there is no such share.
        """
        server, share = _place(path)
        if not server:
            return
        if user and not self._goes_on():
            # the file server is asked by nobody, whether it has the share or not
            raise _denied(path)
        found = self._shares.get(f"{server}\\{share}".lower())
        if found is None:
            raise _no_share(path)
        if (user and not found.user) or (computer and not found.computer):
            raise _denied(path)

    def file(self, path: str) -> Path:
        """The file that a Windows path means, whether it exists or not.

        Letter case is ignored where an entry exists, as NTFS does. Raises a CmdletError for a name
        that Windows refuses.
        """
        base, parts = self._split(path)
        current = base
        for part in parts:
            direct = current / part
            if direct.exists() or not current.is_dir():
                current = direct
                continue
            lowered = part.lower()
            match = next(
                (entry for entry in current.iterdir() if entry.name.lower() == lowered), None
            )
            current = match or direct
        return current

    def _split(self, path: str) -> tuple[Path, list[str]]:
        text = path.replace("/", "\\")
        if text.startswith("\\\\?\\"):
            text = text[4:]
        if text.startswith("\\\\"):
            server, share, *rest = [*text[2:].split("\\"), ""]
            found = self._shares.get(f"{server}\\{share}".lower())
            if found is None:
                raise _no_share(path)
            base = found.folder
        else:
            drive, tail = ntpath.splitdrive(text)
            if drive.upper() != "C:" or not tail.startswith("\\"):
                raise file_error("path-not-found", path)
            base, rest = self.root, tail.split("\\")
        parts = [part for part in rest if part not in ("", ".")]
        for part in parts:
            stem = part.split(".")[0].upper()
            if part == ".." or _FORBIDDEN & set(part) or ":" in part or stem in _RESERVED:
                raise file_error("invalid-name", path)
            if part.endswith((" ", ".")) or any(ord(char) < 32 for char in part):
                raise file_error("invalid-name", path)
        return base, parts

    def windows(self, file: Path) -> str:
        """The Windows path of a file below ``C:`` or a share."""
        try:
            return "C:\\" + "\\".join(file.relative_to(self.root).parts)
        except ValueError:
            for name, share in self._shares.items():
                if file.is_relative_to(share.folder):
                    return "\\\\" + "\\".join([name, *file.relative_to(share.folder).parts])
            raise

    def same(self, one: str, other: str) -> bool:
        """Whether two Windows paths mean the same file."""
        return normal(one) == normal(other)


def _place(path: str) -> tuple[str, str]:
    """Server and share of a UNC path; empty for another one."""
    text = path.replace("/", "\\")
    if not text.startswith("\\\\") or text.startswith("\\\\?\\"):
        return "", ""
    server, share, *_ = [*text[2:].split("\\"), ""]
    return server, share


def _denied(path: str) -> CmdletError:
    return CmdletError(
        "AccessDenied",
        "PermissionDenied",
        "access-denied",
        hresult=E_ACCESS_DENIED,
        target=path,
        why="The machine account or the user initiating the VM management operation or both do"
        f" not have the required access to the file share '{path}'.",
    )


def _no_share(path: str) -> CmdletError:
    return CmdletError(
        "OperationFailed",
        "NotSpecified",
        "failed",
        hresult=E_BAD_NET_NAME,
        target=path,
        why=f"The network name of '{path}' cannot be found.",
    )


def normal(path: str) -> str:
    """A form of a path in which equal paths are equal texts."""
    return ntpath.normpath(path.replace("/", "\\")).lower()


def join(*parts: str) -> str:
    """Windows path of the parts."""
    return ntpath.join(*parts)


def folder_of(path: str) -> str:
    """The folder of a Windows path."""
    return ntpath.dirname(path)


def name_of(path: str) -> str:
    """The last part of a Windows path."""
    return ntpath.basename(path)
