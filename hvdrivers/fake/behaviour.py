"""How a fake guest behaves: what a test turns to make it stubborn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from hvdrivers.models.guest import ExecResult

Program = Callable[[Sequence[str], bytes], ExecResult]
"""A program in the guest: gets its command line and its input."""


def _echo(command: Sequence[str], stdin: bytes) -> ExecResult:
    del stdin
    return ExecResult(exit_code=0, stdout=" ".join(command[1:]).encode() + b"\n", stderr=b"")


def _cat(command: Sequence[str], stdin: bytes) -> ExecResult:
    del command
    return ExecResult(exit_code=0, stdout=stdin, stderr=b"")


def _true(command: Sequence[str], stdin: bytes) -> ExecResult:
    del command, stdin
    return ExecResult(exit_code=0, stdout=b"", stderr=b"")


def _false(command: Sequence[str], stdin: bytes) -> ExecResult:
    del command, stdin
    return ExecResult(exit_code=1, stdout=b"", stderr=b"")


@dataclass
class GuestBehaviour:
    """One guest. Change its fields at any time; ``FakeHost.default_guest`` is what new ones get."""

    agent: bool = True
    """A guest agent answers."""
    boot_seconds: float = 0.0
    """Until the agent answers after a start."""
    acpi: bool = True
    """It obeys when asked to shut down or reboot."""
    shutdown_seconds: float = 0.0
    """How long it takes to go down when asked."""
    refuses_unplug: bool = False
    """It refuses to let go of a disk or NIC."""
    detach_seconds: float = 0.0
    """How long it takes to let go of one."""
    accepts_hotplug: bool = True
    """It takes CPUs and memory that come or go while it runs."""
    crashes_on_nmi: bool = False
    converges: bool = True
    """False: it dirties memory faster than a live migration copies it, until that is forced."""
    console: str = "Fake guest ready"
    """What it writes to its serial console when it has booted."""
    exec_seconds: float = 0.0
    """How long a program runs."""
    endless: set[str] = field(default_factory=set)
    """Programs that run until their guest goes off, however long."""
    accounts: dict[str, str] | None = None
    """Users and passwords that the agent asks for before it does anything. None: it does not."""
    users: set[str] = field(default_factory=lambda: {"root", "Administrator"})
    programs: dict[str, Program] = field(
        default_factory=lambda: {
            "/bin/echo": _echo,
            "/bin/cat": _cat,
            "/bin/true": _true,
            "/bin/false": _false,
        }
    )

    def copy(self) -> Self:
        """The same behaviour, to be changed by itself."""
        accounts = None if self.accounts is None else dict(self.accounts)
        return replace(
            self,
            accounts=accounts,
            users=set(self.users),
            programs=dict(self.programs),
            endless=set(self.endless),
        )
