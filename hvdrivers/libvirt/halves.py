"""A change of a running machine and of its definition, of which libvirt has made one half.

libvirt changes the running machine first, and then writes the definition to its file below
``/etc/libvirt/qemu``. Where the file cannot be written (the file system is full, or read-only), the
call fails, and the guest has the change: it would be lost at the next start. So the driver takes
the change back. Where the guest does not let go of it, the operation's outcome is OutcomeUnknown,
and the same call writes the definition when that is possible again.

Libvirt 9.0 plugs a device into a copy of the definition, which it drops if it cannot write it.
Sizes, limits and metadata it changes in the definition itself, before it writes it: then the daemon
shows what its file does not say. :func:`unwritten` stands around the call that puts that back,
which changes what the daemon shows, and fails too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hvdrivers.contract import errors
from hvdrivers.driverkit.undo import changed, ended
from hvdrivers.libvirt.remote import Remote

WRITABLE = "libvirt's own files (/etc/libvirt/qemu) need room, and a file system that is writable"
WRITABLE_THEN = f"{WRITABLE}: call again then"
_OF_A_FILE = "VIR_ERR_SYSTEM_ERROR/"
"""An errno: what libvirt reports of a file that it cannot write. And of a connection that ends, of
which an error says nothing about a file."""
_OF_A_CONNECTION = errors.OutcomeUnknown | errors.ConnectionFailed | errors.OperationTimeout


def is_unwritten(error: errors.HypervisorError) -> bool:
    """Whether it may be libvirt's own file that could not be written."""
    code = error.vendor_code or ""
    return code.startswith(_OF_A_FILE) and not isinstance(error, _OF_A_CONNECTION)


@contextmanager
def whole(take_back: Callable[[], bool]) -> Iterator[None]:
    """Stands around a call that changes a machine and its definition, of which libvirt may make one
    half. No call where it succeeds.

    Args:
        take_back: takes back what has been changed; False: nothing has. Called after a failure
            that may be the definition's.

    Raises:
        OutcomeUnknown: the definition could not be written, and the change stays in the machine.
        InsufficientResources, PermissionDenied, HypervisorFault: it could not be written, and the
            change has been taken back.
    """
    try:
        yield
    except errors.HypervisorError as error:
        if not is_unwritten(error):
            raise
        try:
            with changed():
                had = take_back()
        except (errors.OutcomeUnknown, errors.InstanceNotFound):
            raise
        except errors.HypervisorError as stays:
            raise half(error, f": {stays.message}") from error
        if not had:
            raise
        raise _taken_back(error) from error


@contextmanager
def second_half(domain: Remote, before: Callable[[], object] | None = None) -> Iterator[None]:
    """Stands around a call that writes into the definition what has come of a running machine. One
    call where it fails.

    Args:
        before: sends what the definition had, where the daemon shows what it could not write.
    """
    try:
        yield
    except errors.HypervisorError as error:
        if not is_unwritten(error):
            raise
        with changed():
            if before is not None:
                put_back(before)
            if domain.isActive():
                raise half(error) from error
        error.hint = WRITABLE_THEN
        raise


@contextmanager
def unwritten() -> Iterator[None]:
    """Stands around a call that brings what the daemon shows as the definition back to what its
    file says: that cannot be written either, and need not be."""
    try:
        yield
    except errors.HypervisorError as error:
        if not is_unwritten(error):
            raise


@contextmanager
def rest() -> Iterator[None]:
    """Stands around what follows a change that stays, as :func:`~hvdrivers.driverkit.undo.ended`,
    where that writes the definition, too.

    Raises:
        OutcomeUnknown: that could not be written, or libvirt has refused it.
        InvalidState: another client may have changed the state: ``Domains.change()`` looks again.
    """
    try:
        yield
    except errors.InvalidState:
        raise
    except errors.HypervisorError as error:
        if not is_unwritten(error):
            with ended():
                raise
        raise errors.OutcomeUnknown(
            f"a part has been done, and libvirt could not write the definition: {error.message}",
            vendor_code=error.vendor_code,
            hint=WRITABLE_THEN,
        ) from error


@contextmanager
def taking_out(reason: errors.HypervisorError) -> Iterator[None]:
    """Stands around what takes a volume out of a definition that is not to keep it.

    Raises:
        OutcomeUnknown: the definition could not be written, and has the volume.
    """
    try:
        yield
    except errors.HypervisorError as error:
        if not is_unwritten(error):
            raise
        raise errors.OutcomeUnknown(
            f"{reason.message}; the machine has the volume all the same, as libvirt could not write"
            f" its definition ({error.message})",
            vendor_code=error.vendor_code,
            hint=f"{WRITABLE}: detach_volume() it then",
        ) from reason


def put_back(send: Callable[[], object], *, ours: Callable[[], bool] = lambda: True) -> bool:
    """Send a call that sets what was there before, in the machine and its definition: for
    :func:`whole`.

    Args:
        ours: whether what has been set is still there. What another client has set since then
            stays.
    """
    if not ours():
        return False
    with unwritten():
        send()
    return True


def half(error: errors.HypervisorError, more: str = "") -> errors.OutcomeUnknown:
    """The running machine has the change, and its definition has not."""
    return errors.OutcomeUnknown(
        "the running machine has the change until its power goes, as libvirt could not write its"
        f" definition ({error.message}){more}",
        vendor_code=error.vendor_code,
        hint=WRITABLE_THEN,
    )


def _taken_back(error: errors.HypervisorError) -> errors.HypervisorError:
    known = isinstance(error, errors.InsufficientResources | errors.PermissionDenied)
    cls = type(error) if known else errors.HypervisorFault
    return cls(
        "libvirt could not write the machine's definition, and the change has been taken back:"
        f" {error.message}",
        vendor_code=error.vendor_code,
        hint=WRITABLE_THEN,
    )
