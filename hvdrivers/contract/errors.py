"""The error tree. A class says what the caller should do; the attributes say what happened.

::

    HypervisorError
    ├── NotSupported             the driver, or this host, does not have the operation: do not retry
    ├── InvalidRequest           the arguments are wrong: correct them
    │   └── ImageRejected        the image is unsafe, corrupt, or not what it claims to be
    ├── PluginError              the driver is not installed completely, or is broken: install it
    ├── InvalidState             the instance is in a state that does not allow it: change it first
    ├── InstanceNotFound         no such instance (of ours)
    ├── InstanceExists           the UUID is taken
    ├── VolumeNotFound           the volume, image or snapshot named does not exist
    ├── VolumeExists             the name of the new volume is taken
    ├── NetworkNotFound          the bridge, network, switch or port group does not exist
    ├── DeviceBusy               the device is in use, or the guest keeps it: see ``retryable``
    ├── InsufficientResources    the host has not enough memory, CPU, disk, or devices
    ├── GuestAgentUnavailable    no agent answers inside the guest
    ├── ConnectionFailed         the host cannot be reached; nothing was changed: retry
    │   ├── AuthenticationFailed wrong credentials, certificate or key
    │   └── (dead host, refused, cut before the request was sent)
    ├── PermissionDenied         connected, but not allowed to do this
    ├── OperationTimeout         the deadline passed; what was begun has been undone
    ├── OutcomeUnknown           the request was sent and no reply came: ask, then retry
    └── HypervisorFault          the hypervisor failed in a way no caller can act on
        └── ContractViolation    the driver broke the contract: a bug in the driver

Every error carries ``operation``, ``host``, ``instance``, ``vendor_code``, ``hint`` and
``retryable``; the vendor's own exception, if any, is its ``__cause__``.
"""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

_LONGEST = 2000
"""Characters of a message, and of a hint."""
_JOINERS = "\u200c\u200d"
"""Harmless, and names are unreadable without them."""
_BREAKS = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029")


def _one_line(text: str) -> str:
    r"""A text that any log and any encoding takes: names and paths that it quotes come from others.
    A line break is a space, what else is not printable is written out (``\x1b``, ``\u202e``), and
    of a long text both ends are kept."""
    if not isinstance(text, str):
        return text  # a driver has made it badly, which the guard tells
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    if char.isprintable() or char in _JOINERS:
        return char
    return " " if char in _BREAKS else char.encode("unicode_escape").decode("ascii")


class HypervisorError(Exception):
    """The root. ``str(error)`` is one line; ``hint`` says what to do about it.

    Attributes:
        message: what went wrong, without secrets: printable text of 2,000 characters at most.
        operation: the contract operation that failed (``"spawn"``), once known.
        host: the host as the caller named it (without credentials).
        instance: UUID of the instance concerned.
        vendor_code: the vendor's own code: ``"VIR_ERR_NO_DOMAIN"``, a fault name, a FQID.
        hint: one sentence that tells the caller what to do.
        retryable: whether the same call may succeed later by itself: if the caller waits, and
            changes nothing else.
    """

    retryable_default: ClassVar[bool] = False
    hint_default: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        operation: str | None = None,
        host: str | None = None,
        instance: UUID | None = None,
        vendor_code: str | None = None,
        hint: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        self.message = _one_line(message)
        super().__init__(self.message)
        self.operation = operation
        self.host = host
        self.instance = instance
        self.vendor_code = vendor_code
        self.hint = _one_line(hint) if hint is not None else self.hint_default
        self.retryable = self.retryable_default if retryable is None else retryable

    def locate(
        self,
        *,
        operation: str | None = None,
        host: str | None = None,
        instance: UUID | None = None,
    ) -> None:
        """Fill in where it happened; what is already known stays. The guard calls this.

        The hint becomes a note, so that a traceback in a log shows it too.
        """
        self.operation = self.operation or operation
        self.host = self.host or host
        self.instance = self.instance or instance
        note = f"hint: {self.hint}"
        if self.hint and note not in getattr(self, "__notes__", ()):
            self.add_note(note)

    def __str__(self) -> str:
        parts = [self.message]
        if self.vendor_code:
            parts.append(f"[{self.vendor_code}]")
        where = ", ".join(
            f"{label} {value}"
            for label, value in (
                ("operation", self.operation),
                ("instance", self.instance),
                ("host", self.host),
            )
            if value is not None
        )
        if where:
            parts.append(f"({where})")
        return " ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        # The default pickles only positional arguments and would lose the context between
        # processes (a task queue, a multiprocessing pool).
        return (_rebuild, (type(self), dict(self.__dict__)))


def worth_repeating(error: BaseException) -> bool:
    """Whether the same call may succeed if the caller waits and then makes it again.

    A predicate for a retry library (``tenacity.retry_if_exception(worth_repeating)``). It is safe
    for each operation, since a repeated call converges or raises the error that the operation
    names: spawn() raises InstanceExists if an earlier attempt had worked. Not for ``reboot()`` and
    ``guest_exec()``, which do it again (``Repeat.AGAIN``).
    """
    return isinstance(error, HypervisorError) and error.retryable


def _rebuild(cls: type[HypervisorError], state: dict[str, object]) -> HypervisorError:
    error = cls.__new__(cls)
    Exception.__init__(error, state["message"])
    error.__dict__.update(state)
    return error


class NotSupported(HypervisorError):
    """The operation, or the feature asked for, does not exist here. Nothing was changed."""


class InvalidRequest(HypervisorError):
    """The arguments are wrong. Nothing was changed."""


class ImageRejected(InvalidRequest):
    """The image is unsafe (backing file, external data, foreign extents), corrupt, too large for
    the disk asked for, or not the format or checksum that was declared. Nothing was uploaded, or
    what was uploaded has been removed."""


class PluginError(HypervisorError):
    """A driver that is registered and cannot be used: its package or one that it needs is missing
    or broken, two packages claim its name, or its class does not keep the contract. Raised by
    connect() before anything is sent; ``hint`` has the command that installs what is missing."""


class InvalidState(HypervisorError):
    """The instance's state does not allow the operation. Nothing was changed."""


class InstanceNotFound(HypervisorError):
    """No instance of ours has this UUID. A foreign machine with that UUID is 'not found' too."""

    hint_default = (
        "list_instances() shows what exists; list_foreign() shows machines made by others"
    )


class InstanceExists(HypervisorError):
    """The UUID is taken, by an instance of ours or by a foreign machine. Nothing was changed."""

    hint_default = "choose a new UUID, or destroy() what is there"


class VolumeNotFound(HypervisorError):
    """The volume, pool, cached image or snapshot named does not exist on the host."""


class VolumeExists(HypervisorError):
    """A volume has the name that a new one is to have. Nothing was changed."""

    hint_default = "get_volume() shows what is there; choose a new name, or delete_volume() it"


class NetworkNotFound(HypervisorError):
    """The bridge, network, virtual switch or port group named does not exist on the host."""


class DeviceBusy(HypervisorError):
    """A machine, client or operation uses the device, or the guest did not release it in time.
    An attached device stays attached.

    The error is retryable where the cause can end without a call: the guest releases the device,
    the machine that has the volume or the port powers off, or a migration ends. It has
    ``retryable=False`` where the caller must remove something first: the attachments of a volume
    before delete_volume(), the disks on an image before evict_image(), or the snapshots of a disk
    before the disk changes."""

    retryable_default = True


class InsufficientResources(HypervisorError):
    """The host lacks memory, CPU, disk space or devices for this. Nothing was left behind."""


class GuestAgentUnavailable(HypervisorError):
    """No guest agent answers: not installed, not started, or the guest is still booting."""

    retryable_default = True
    hint_default = "install and start the guest agent in the guest, or wait until it has booted"


class ConnectionFailed(HypervisorError):
    """The host cannot be reached, or the connection broke before the request was sent.
    Nothing was changed by the call that raised it."""

    retryable_default = True
    hint_default = "check that the host is up and reachable: hvdrivers doctor HOST"


class AuthenticationFailed(ConnectionFailed):
    """The host refused the credentials, certificate or key."""

    retryable_default = False
    hint_default = "check the user name, password, key or certificate for this host"


class PermissionDenied(HypervisorError):
    """Authenticated, but not allowed; or the hypervisor may not open a file it was given."""


class OperationTimeout(HypervisorError):
    """The deadline passed. What the operation had begun has been undone, or never began."""

    retryable_default = True
    hint_default = "give a longer timeout=, or look at the host's load"


class OutcomeUnknown(HypervisorError):
    """The request reached the host, or may have, and no reply came back: it is done, or (where
    the driver could still undo what it had begun) nothing is left of it. Read the state, then
    repeat the call if need be: it converges, or raises the error that its documentation names
    (InstanceExists after a spawn that had worked); an operation that its rules call AGAIN
    (``Repeat.AGAIN``: reboot, guest_exec) does it again."""

    retryable_default = True
    hint_default = "get_instance() tells what happened; then repeat the call if need be"


class HypervisorFault(HypervisorError):
    """The hypervisor failed in a way no caller can act on; ``__cause__`` has its own words."""


class ContractViolation(HypervisorFault):
    """The driver returned or raised something the contract does not allow: a bug in the driver."""

    hint_default = "report this to the driver's author, with the log line of the operation"
