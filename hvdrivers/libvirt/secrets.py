"""The secrets that QEMU needs for an instance's volumes, kept by libvirt as long as the volume is
attached. They never stand in a definition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from uuid import UUID, uuid5

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.undo import Undo
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.remote_volumes import is_secret_of, secret_name, secrets_of
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import Element, el, text
from hvdrivers.models.volume import VolumeAttachment

_NOTE = "/move in steps/"
_LEFT = "/left"
"""In front of a path."""


def _note_uuid(instance: UUID) -> str:
    return str(uuid5(instance, "move in steps"))


class Secrets:
    """Make them, and remove them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def make(
        self,
        instance: UUID,
        attachment: VolumeAttachment,
        undo: Undo | None = None,
        *,
        needed: Callable[[], bool] = lambda: False,
    ) -> None:
        """No call for a volume without secrets; two for each.

        Args:
            needed: whether an undo must leave them: the volume is attached after all.
        """
        remote = self._connection.remote
        for secret in secrets_of(instance, attachment):
            if undo is not None:
                undo.callback(self._take_back, str(secret.uuid), needed)
            remote.secretDefineXML(text(secret.element()), 0).setValue(secret.value, 0)

    def _take_back(self, uuid: str, needed: Callable[[], bool]) -> None:
        if not needed():
            self._delete_secret(uuid)

    def _delete_secret(self, uuid: str) -> None:
        with suppress(errors.HypervisorFault):  # libvirt's class for "no such secret"
            self._connection.remote.secretLookupByUUIDString(uuid).undefine()

    def keep_note(self, instance: UUID, note: str) -> None:
        """Keep a text that no definition may hold; one at a time. Two calls."""
        element = el(
            "secret",
            el("uuid", _note_uuid(instance)),
            el("usage", el("name", secret_name(instance, _NOTE)), type="tls"),
            ephemeral="no",
            private="no",
        )
        made = self._connection.remote.secretDefineXML(text(element), 0)
        made.setValue(note.encode(), 0)

    def note(self, instance: UUID) -> str:
        """What keep_note() keeps. Two calls."""
        found = self._connection.remote.secretLookupByUUIDString(_note_uuid(instance))
        return bytes(found.value(0)).decode()

    def forget_note(self, instance: UUID) -> None:
        """Two calls."""
        self._delete_secret(_note_uuid(instance))

    def note_left(self, instance: UUID, path: str) -> None:
        """Note a file that is left here when the instance moves away. One call."""
        element = el(
            "secret",
            el("uuid", str(uuid5(instance, f"left {path}"))),
            el("usage", el("name", secret_name(instance, f"{_LEFT}{path}")), type="tls"),
            ephemeral="no",
            private="no",
        )
        self._connection.remote.secretDefineXML(text(element), 0)

    def forget_left(self, instance: UUID) -> None:
        """Forget these files. One call, and one for each."""
        for _, secret in self._left_of(instance):
            _undefine(secret)

    def delete_of(self, instance: UUID, volume_id: str) -> None:
        """Remove those of one volume. One call, and one for each."""
        for name, secret in self._of(instance):
            if name == secret_name(instance, volume_id) and not _is_note(secret):
                _undefine(secret)

    def delete(
        self, instance: UUID, first: Callable[[UUID, list[str]], object] | None = None
    ) -> None:
        """Remove all of an instance. One call, and one for each.

        Args:
            first: is called before with the files that are left of a move, if there are any.
        """
        found = list(self._of(instance))
        left = [path for path, _ in self._left_of(instance, found)]
        if left and first is not None:
            first(instance, left)
        for _, secret in found:
            _undefine(secret)

    def _left_of(
        self, instance: UUID, found: Iterable[tuple[str, Remote]] | None = None
    ) -> Iterator[tuple[str, Remote]]:
        """The paths of files that are noted, and their notes."""
        prefix = secret_name(instance, _LEFT)
        for name, secret in self._of(instance) if found is None else found:
            if name.startswith(prefix) and _is_note(secret):
                yield name.removeprefix(prefix), secret

    def _of(self, instance: UUID) -> Iterator[tuple[str, Remote]]:
        try:
            found = self._connection.remote.listAllSecrets(0)
        except errors.NotSupported:
            return  # the daemon keeps no secrets
        for secret in found:
            name = str(secret.usageID() or "")
            if is_secret_of(name, instance):
                yield name, secret


def _is_note(secret: Remote) -> bool:
    """Whether it is one of the driver's notes. A volume's id may be any text, so its secret may
    have the name of a note; its kind is another one. No call."""
    return bool(secret.usageType() == libvirt.VIR_SECRET_USAGE_TYPE_TLS)


def _undefine(secret: Remote) -> None:
    with suppress(errors.HypervisorFault):  # another client was faster
        secret.undefine()


def has_secrets(element: Element | None) -> bool:
    """Whether a machine, or a ``<disk>``, needs secrets of libvirt's."""
    return element is not None and any(
        True for tag in ("auth", "encryption") for _ in element.iter(tag)
    )
