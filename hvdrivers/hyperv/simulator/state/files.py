"""The Windows file tree: paths of drive ``C:`` and of shares, as files below one folder."""

import ntpath
from pathlib import Path

from hvdrivers.hyperv.simulator.errors import E_ACCESS_DENIED, CmdletError, file_error

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


class WindowsFiles:
    """Drive ``C:`` is the folder ``root``; :meth:`share` gives the folder of a network share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shares: dict[str, Path] = {}

    def share(self, server: str, name: str, folder: Path) -> None:
        """Make ``\\\\server\\name`` lead to a folder of this machine."""
        self._shares[f"{server}\\{name}".lower()] = folder

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
            server, share, *rest = text[2:].split("\\")
            folder = self._shares.get(f"{server}\\{share}".lower())
            if folder is None:
                raise CmdletError(
                    "AccessDenied",
                    "PermissionDenied",
                    "access-denied",
                    hresult=E_ACCESS_DENIED,
                    target=path,
                    why=f"The share of '{path}' cannot be reached.",
                )
            base = folder
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
            for name, folder in self._shares.items():
                if file.is_relative_to(folder):
                    return "\\\\" + "\\".join([name, *file.relative_to(folder).parts])
            raise

    def same(self, one: str, other: str) -> bool:
        """Whether two Windows paths mean the same file."""
        return normal(one) == normal(other)


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
