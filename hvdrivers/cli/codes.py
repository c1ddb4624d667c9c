"""Exit statuses: the same meaning for every command, so that a script need not read messages."""

from __future__ import annotations

from enum import IntEnum

from hvdrivers.contract import errors


class ExitCode(IntEnum):
    """What the exit status says."""

    OK = 0
    """Done."""
    FAILED = 1
    """It did not work, and nothing more special is the matter."""
    USAGE = 2
    """The arguments are wrong, or the driver says so (InvalidRequest)."""
    UNREACHABLE = 3
    """The host cannot be reached, or does not let us in, or not do this."""
    NOT_SUPPORTED = 4
    """The driver, or this host, does not have it."""
    PARTIAL = 5
    """Some of it worked, or something was left over, or ``doctor`` has a warning."""
    UNKNOWN = 6
    """The deadline passed, or no answer came: look before trying again."""
    INTERRUPTED = 130
    """Ctrl-C."""


_BY_ERROR: tuple[tuple[type[BaseException], ExitCode], ...] = (
    # the first that fits: a subclass stands before its base
    (errors.NotSupported, ExitCode.NOT_SUPPORTED),
    (errors.ImageRejected, ExitCode.FAILED),
    (errors.InvalidRequest, ExitCode.USAGE),
    (errors.ConnectionFailed, ExitCode.UNREACHABLE),
    (errors.PermissionDenied, ExitCode.UNREACHABLE),
    (errors.OperationTimeout, ExitCode.UNKNOWN),
    (errors.OutcomeUnknown, ExitCode.UNKNOWN),
)


def code_of(error: BaseException) -> ExitCode:
    """The exit status for an error."""
    for kind, code in _BY_ERROR:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED
