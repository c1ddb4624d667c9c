"""What cannot be done with an adopted machine, and why."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors

_NAMES = "its disks do not have the names by which the driver tells a disk from what replaces it"
_REASONS = {"prepare_move": _NAMES}
_INSTEAD = (
    "snapshot_to_image() and spawn() one from that image; or use the machine's own tools before"
    " adopt()"
)


def refuse_adopted(operation: str, uuid: UUID) -> None:
    """Raise NotSupported for what an adopted machine has not. No call."""
    reason = _REASONS.get(operation)
    if reason is not None:
        raise errors.NotSupported(
            f"{operation}() of an adopted machine: {reason}", instance=uuid, hint=_INSTEAD
        )
