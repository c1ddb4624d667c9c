"""Volumes that the conformance suite brings to a libvirt host: of storage servers, and encrypted
ones; and directories to share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID, uuid4

import libvirt

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.requirements import VOLUME_CAPABILITIES
from hvdrivers.libvirt.conformance.guest import SerialGuest
from hvdrivers.libvirt.conformance.raw_host import RawHost
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.libvirt.xml import el, parse, text
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.volume import PoolVolume, Volume, parse_connection_info

_SIZE = 8 << 20
_GRAIN = 4096
_FILLING = "hvct-filling-"
_MARK = "hvct-in-the-clear"
_TRIES = 100
"""qemu-img measures how long a hash takes by CPU time, and gives up where the kernel says that it
took none: then it is to be called again."""


class StorageGuest(SerialGuest):
    """The part of the libvirt target that has volumes.

    Args:
        pool: where encrypted volumes are made; the driver makes the pool.
        fill: the suite may fill the file systems of the driver's pools.
        served: volumes of storage servers that this host's QEMU reaches, or a JSON file with a list
            of their ``connection_info``. The suite writes to none of them.
    """

    def __init__(
        self,
        raw: RawHost,
        there: RawHost | None = None,
        *,
        pool: str,
        served: Sequence[Volume] | str | Path = (),
        fill: bool = False,
    ) -> None:
        super().__init__(raw, there)
        self._fill = fill
        self._volume_pool = pool
        self._directories: list[str] = []
        self._served = _from_file(Path(served)) if isinstance(served, str | Path) else served

    def shared_directories(self) -> tuple[str, str]:
        """Two that libvirt makes, as it makes the directory of a pool, and not in a pool."""
        while len(self._directories) < 2:
            name = f"hvct-share-{uuid4().hex[:8]}"
            pool = _folder_pool(name, f"{self._beside_the_pool()}/{name}")
            flags = libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD
            made = self.raw.connect.storagePoolCreateXML(pool, flags)
            self._directories.append(parse(made.XMLDesc(0)).findtext("target/path") or "")
            made.destroy()
        return self._directories[0], self._directories[1]

    def _beside_the_pool(self) -> str:
        try:
            pool = self.raw.connect.storagePoolLookupByName(self._volume_pool)
        except libvirt.libvirtError:
            return "/var/lib/libvirt"  # no driver has made it yet
        path = parse(pool.XMLDesc(0)).findtext("target/path") or ""
        return path.rstrip("/").rpartition("/")[0]

    def close(self) -> None:
        """Remove the directories."""
        super().close()
        while self._directories:
            path = self._directories.pop()
            with suppress(libvirt.libvirtError):  # the host has gone
                name = path.rpartition("/")[2]
                pool = self.raw.connect.storagePoolDefineXML(_folder_pool(name, path), 0)
                pool.delete(0)
                pool.undefine()

    @contextmanager
    def served_volume(self, driver: ComputeDriver, kind: Capability) -> Iterator[Volume]:
        for volume in self._served:
            if VOLUME_CAPABILITIES[volume.driver_volume_type] is kind:
                yield volume
                return
        raise PreconditionMissing(f"no volume of a server was named for {kind} (served=)")

    @contextmanager
    def locked_volume(self, driver: ComputeDriver, passphrase: bytes) -> Iterator[Volume]:
        """The host makes it, in the driver's pool."""
        driver.list_volumes()  # makes the pool where it is missing
        name = f"hvct-locked-{uuid4().hex[:8]}"
        with self._secret(passphrase) as secret:
            key = el("secret", type="passphrase", uuid=secret)
            xml = el(
                "volume",
                el("name", name),
                el("capacity", str(_SIZE), unit="bytes"),
                el("target", el("format", type="raw"), el("encryption", key, format="luks")),
            )
            self._make(text(xml))
        try:
            yield PoolVolume.model_validate(
                {"serial": name, "data": {"name": name, "format": ImageFormat.RAW}}
            )
        finally:
            pool = self.raw.connect.storagePoolLookupByName(self._volume_pool)
            pool.storageVolLookupByName(name).delete(0)

    def _make(self, xml: str) -> None:
        pool = self.raw.connect.storagePoolLookupByName(self._volume_pool)
        for _ in range(_TRIES):
            try:
                pool.createXML(xml, 0)
                return
            except libvirt.libvirtError as error:
                if "accurate CPU usage" not in str(error):
                    raise PreconditionMissing(f"the host encrypts no volume: {error}") from error
        raise PreconditionMissing("the host's qemu-img cannot measure its CPU time")

    @contextmanager
    def _secret(self, value: bytes) -> Iterator[str]:
        uuid = str(uuid4())
        connect = self.raw.connect
        secret = connect.secretDefineXML(
            text(el("secret", el("uuid", uuid), ephemeral="yes", private="yes"))
        )
        try:
            secret.setValue(value, 0)
            yield uuid
        finally:
            secret.undefine()

    thin = True
    """Of a raw volume too, unless it is asked for otherwise."""

    @property
    def fillable(self) -> bool:
        return self._fill

    @contextmanager
    def filled(self, driver: ComputeDriver, pool: str, leaving: int) -> Iterator[None]:
        """A raw volume whose room is taken at once. Other pools may be on the same file system."""
        storage = self.raw.connect.storagePoolLookupByName(pool)
        storage.refresh(0)
        size = max(0, int(storage.info()[3]) - leaving - _GRAIN) // _GRAIN * _GRAIN
        name = f"{_FILLING}{uuid4().hex[:8]}"
        storage.createXML(volume_xml(name, size, "raw", allocation=size), 0)
        try:
            yield
        finally:
            storage = self.raw.connect.storagePoolLookupByName(pool)
            storage.storageVolLookupByName(name).delete(0)

    def opened(self, driver: ComputeDriver, uuid: UUID, volume_id: str) -> bool:
        """The guest reads what it has written, and that is not in the file as it is."""
        self.wait_booted(driver, uuid)
        device = self.device(driver, uuid, volume_id)
        # an encrypted volume without content is no zeros
        write = f"echo {_MARK} | dd of={device} bs=4096 conv=sync,notrunc,fsync 2>/dev/null"
        read = f"dd if={device} bs=4096 count=1 2>/dev/null | tr -d '\\000'"
        if self.shell(driver, uuid, f"{write}; {read}") != _MARK:
            return False
        pool = self.raw.connect.storagePoolLookupByName(self._volume_pool)
        path = pool.storageVolLookupByName(volume_id).path()
        return _MARK.encode() not in self.raw.content(path)


def _folder_pool(name: str, path: str) -> str:
    return text(el("pool", el("name", name), el("target", el("path", path)), type="dir"))


def _from_file(path: Path) -> list[Volume]:
    try:
        return [parse_connection_info(each) for each in json.loads(path.read_bytes())]
    except OSError as error:
        raise PreconditionMissing(f"{path} cannot be read: {error.strerror}") from error
