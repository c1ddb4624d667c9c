"""Remove-Item, with the errors of Windows, and a pause between its listing and its work."""

import errno
from functools import partial
from pathlib import Path

from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import (
    E_DIR_NOT_EMPTY,
    E_PATH_NOT_FOUND,
    CmdletError,
    invalid_parameter,
)

LISTED = "Remove-Item, listed"
"""A fault rule of this name is met when a folder has been listed and nothing is removed yet."""


@cmdlet("Remove-Item")
def remove_item(call: Call) -> None:
    for path in call.texts("LiteralPath"):
        call.host.files.ask(path)
        file = call.host.files.file(path)
        if not file.exists():
            raise CmdletError(
                "PathNotFound",
                "ObjectNotFound",
                "path-not-found",
                kind="System.Management.Automation.ItemNotFoundException",
                hresult=E_PATH_NOT_FOUND,
                target=path,
                path=path,
            )
        inside = sorted(file.rglob("*"), reverse=True) if file.is_dir() else []
        if inside and not call.flag("Recurse"):
            raise invalid_parameter("Recurse", "The simulated host asks nobody.")
        for rule in call.host.faults.meet(LISTED):
            call.host.wait_for(partial(getattr, rule, "over"), rule.before)
        for each in [*inside, file]:
            _remove(call, each)


def _remove(call: Call, file: Path) -> None:
    if not file.is_dir() or file.is_symlink():
        file.unlink(missing_ok=True)
        return
    try:
        file.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        path = call.host.files.windows(file)
        raise CmdletError(
            "RemoveFileSystemItemIOError",
            "WriteError",
            "dir-not-empty",
            kind="System.IO.IOException",
            hresult=E_DIR_NOT_EMPTY,
            target=path,
            path=path,
        ) from error
