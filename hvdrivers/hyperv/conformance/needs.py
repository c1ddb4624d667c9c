"""What a simulated host needs of this machine, and how to get it."""

from __future__ import annotations

import shutil
from typing import Final

from hvdrivers.contract.errors import ConnectionFailed
from hvdrivers.hyperv.simulator.wsman_shell import ENGINE_HINT, NoEngine, find_engine

_PACKAGES: Final = {"qemu-img": "qemu-utils", "qemu-system-x86_64": "qemu-system-x86"}
"""Of Debian and Ubuntu, by the program."""


def need_engine() -> None:
    """The simulated host runs the driver's scripts in a PowerShell.

    Raises:
        ConnectionFailed: there is none.
    """
    try:
        find_engine()
    except NoEngine as error:
        raise lacking(str(error), ENGINE_HINT) from error


def need_program(name: str, *, instead: str = "") -> None:
    """A program of QEMU's.

    Raises:
        ConnectionFailed: it is not on this machine.
    """
    if shutil.which(name) is None:
        hint = f"install QEMU (Debian, Ubuntu: apt-get install {_PACKAGES[name]})"
        raise lacking(f"there is no {name} on this machine", hint + instead)


def lacking(what: str, hint: str) -> ConnectionFailed:
    """The error of a host that cannot be there."""
    return ConnectionFailed(
        f"the simulated Hyper-V host cannot start: {what}", hint=hint, retryable=False
    )
