"""Mutants that do not take text as text, or tell secrets."""

from __future__ import annotations

import logging
import re
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.image_store import Images
from hvdrivers.fake.records import ImageRecord, Machine
from hvdrivers.fake.showing import Showing
from hvdrivers.fake.steps import Task
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import InstanceInfo, InstanceSpec, Metadata


class _Names(FakeDriver):
    def _kept(self, name: str) -> str:
        return name

    def _rename(self, uuid: UUID, name: str) -> None:
        super()._rename(uuid, self._kept(name))


@mutant("HOSTILE-001")
class NamesAreTruncated(_Names):
    """A name is cut off at 60 characters."""

    def _kept(self, name: str) -> str:
        return name[:60]


@mutant("HOSTILE-001")
class NamesAreCutInBytes(_Names):
    """A name is cut off at 127 bytes of UTF-8."""

    def _kept(self, name: str) -> str:
        return name.encode()[:127].decode(errors="ignore") or "x"


@mutant("HOSTILE-001")
class NamesAreUnescaped(_Names):
    """XML entities in a name are resolved once too often."""

    def _kept(self, name: str) -> str:
        return name.replace("&amp;", "&")


@mutant("HOSTILE-001")
class NamesAreNormalised(_Names):
    """A name is brought into a normal form of Unicode."""

    def _kept(self, name: str) -> str:
        import unicodedata

        return unicodedata.normalize("NFC", name)


@mutant("HOSTILE-001")
class NamesAreUcs2(_Names):
    """Characters beyond the basic plane become question marks."""

    def _kept(self, name: str) -> str:
        return re.sub("[\U00010000-\U0010ffff]", "?", name)


@mutant("HOSTILE-002")
class SpawnStripsSlashes(FakeDriver):
    """spawn() takes slashes out of the name, as it names a file after it."""

    def _define(self, task: Task, spec: InstanceSpec, image: ImageRecord | None) -> None:
        super()._define(task, spec, image)
        self.fake_host.machines[spec.uuid].name = spec.name.replace("/", "-")


@mutant("HOSTILE-004")
class MetadataLoseNewline(FakeDriver):
    """A value loses the line break at its end."""

    def _set_metadata(self, uuid: UUID, metadata: Metadata) -> None:
        super()._set_metadata(uuid, {k: v.removesuffix("\n") for k, v in metadata.items()})


@mutant("HOSTILE-004")
class MetadataLikeXml(FakeDriver):
    """A carriage return comes back as a line feed, as XML parsers do it."""

    class showing_type(Showing):
        def info(self, machine: Machine) -> InstanceInfo:
            info = super().info(machine)
            seen = {
                key: value.replace("\r\n", "\n").replace("\r", "\n")
                for key, value in info.metadata.items()
            }
            return info.model_copy(update={"metadata": seen})


@mutant("HOSTILE-004")
class SpawnStripsControls(FakeDriver):
    """spawn() drops control characters from metadata."""

    def _define(self, task: Task, spec: InstanceSpec, image: ImageRecord | None) -> None:
        super()._define(task, spec, image)
        machine = self.fake_host.machines[spec.uuid]
        machine.metadata = {k: re.sub("[\0-\x08]", "", v) for k, v in spec.metadata.items()}


@mutant("HOSTILE-004")
class EmptyValueIsNone(FakeDriver):
    """An entry without a value is dropped, if it is the only one."""

    def _set_metadata(self, uuid: UUID, metadata: Metadata) -> None:
        super()._set_metadata(uuid, {} if list(metadata.values()) == [""] else metadata)


@mutant("HOSTILE-005")
class MetadataAreCutOff(FakeDriver):
    """More than 16,000 bytes of metadata lose their end."""

    def _set_metadata(self, uuid: UUID, metadata: Metadata) -> None:
        if sum(len(key) + len(value.encode()) for key, value in metadata.items()) > 16000:
            metadata = {key: value[:3990] for key, value in metadata.items()}
        super()._set_metadata(uuid, metadata)


@mutant("HOSTILE-006")
class KeysIgnoreCase(FakeDriver):
    """Keys of metadata are case-insensitive, as a Hyper-V or a Windows registry has them."""

    def _set_metadata(self, uuid: UUID, metadata: Metadata) -> None:
        unique = {key.lower(): (key, value) for key, value in metadata.items()}
        super()._set_metadata(uuid, dict(unique.values()))


@mutant("HOSTILE-007")
class ImageNameIsAPattern(FakeDriver):
    """The name of an image is a pattern."""

    class images_type(Images):
        def host_image(self, ref: HostImage) -> ImageRecord:
            if "*" in ref.name or "?" in ref.name:
                ref = ref.model_copy(update={"name": self.host.size.images[0].name})
            return super().host_image(ref)


@mutant("HOSTILE-008")
class SecretInLog(FakeDriver):
    """The user data are logged at level DEBUG."""

    def _define(self, task: Task, spec: InstanceSpec, image: ImageRecord | None) -> None:
        super()._define(task, spec, image)
        if spec.cloud_init is not None and spec.cloud_init.user_data is not None:
            data = spec.cloud_init.user_data.get_secret_value()
            logging.getLogger("hvdrivers.fake").debug("user data: %r", data)


@mutant("HOSTILE-008")
class SecretInRepr(FakeDriver):
    """The administrator's password is in the metadata of the instance."""

    def _define(self, task: Task, spec: InstanceSpec, image: ImageRecord | None) -> None:
        super()._define(task, spec, image)
        if spec.cloud_init is not None and spec.cloud_init.admin_password is not None:
            password = spec.cloud_init.admin_password.get_secret_value()
            self.fake_host.machines[spec.uuid].metadata["hvct.password"] = password


@mutant("HOSTILE-008")
class SecretInError(FakeDriver):
    """An error shows the password as PowerShell encodes it: UTF-16, in hexadecimal digits."""

    def _check_spec(self, spec: InstanceSpec) -> None:
        try:
            super()._check_spec(spec)
        except errors.NetworkNotFound as error:
            if spec.cloud_init is None or spec.cloud_init.admin_password is None:
                raise
            password = spec.cloud_init.admin_password.get_secret_value()
            raise errors.NetworkNotFound(
                f"New-VM -Password {password.encode('utf-16-le').hex()}: no such switch"
            ) from error


@mutant("HOSTILE-009")
class FindsByName(FakeDriver):
    """destroy() goes by the name: another instance named after its UUID goes with it."""

    def _forget(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        super()._forget(uuid)
        for other in list(self.fake_host.ours()):
            if machine is not None and other.name.startswith(machine.name.rstrip("*%") or "hvct"):
                self.fake_host.machines.pop(other.uuid)
