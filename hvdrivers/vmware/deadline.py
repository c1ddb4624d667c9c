"""The deadline of the operation under way, known to the transport below it.

Calls go through pyVmomi's objects, which have no argument for a deadline. ``timed`` puts the one of
an operation where ``transport.py`` finds it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast
from uuid import UUID

from pyVmomi import vim, vmodl

from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.driverkit import Deadline
from hvdrivers.driverkit.deadline import bounding, current_deadline
from hvdrivers.driverkit.undo import operating
from hvdrivers.models.instance import InstanceSpec

_F = TypeVar("_F", bound=Callable[..., Any])


def unbounded() -> AbstractContextManager[object]:
    """Lift the bound: what was begun must be undone, also after the deadline."""
    return bounding(Deadline(None))


def timed(operation: _F) -> _F:
    """Bound an operation by its ``timeout`` argument, let it say that its instance is not there if
    another client has destroyed that meanwhile, and let it say that nothing has changed only where
    that is so. A read changes nothing: of what watch() makes on the server before a connection
    breaks, nothing outlives the session."""
    changes = OPERATIONS[operation.__name__].changes

    @functools.wraps(operation)
    def call(self: Any, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        with operating(timeout, changes=changes):
            try:
                return operation(self, *args, timeout=timeout, **kwargs)
            except errors.HypervisorFault as error:
                uuid = args[0] if args else kwargs.get("uuid", kwargs.get("spec"))
                if isinstance(uuid, InstanceSpec) and _machine_has_gone(error):
                    raise errors.DeviceBusy(
                        "another client has destroyed the instance while it was being spawned",
                        instance=uuid.uuid,
                        vendor_code=error.vendor_code,
                        retryable=True,
                        hint="call again, unless the other client is right",
                    ) from error
                if (
                    isinstance(uuid, UUID)
                    and _machine_has_gone(error)
                    and not self.machines.search(uuid)
                ):
                    raise errors.InstanceNotFound(
                        "the instance was destroyed meanwhile",
                        instance=uuid,
                        vendor_code=error.vendor_code,
                    ) from error
                raise

    return cast(_F, call)


def _machine_has_gone(error: errors.HypervisorFault) -> bool:
    fault = error.__cause__
    return isinstance(fault, vmodl.fault.ManagedObjectNotFound) and isinstance(
        fault.obj, vim.VirtualMachine
    )


def rereading(operation: _F) -> _F:
    """Do an operation again if another client has changed the machine since it was read: the server
    refuses a change that was made for an older configuration, and nothing has changed then."""

    @functools.wraps(operation)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        while True:
            try:
                return operation(self, *args, **kwargs)
            except errors.DeviceBusy as error:
                if error.vendor_code != "ConcurrentAccess":
                    raise
                current_deadline().check("another client changed the machine again and again")

    return cast(_F, call)
