"""What the driver has seen of the image cache. It is a memory, and no record: a copy or a clone of
what has gone fails, and the image is then looked for again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hvdrivers.driverkit.checks import root_disk_bytes
from hvdrivers.models.instance import Flavor
from hvdrivers.vmware.devices import by_address


@dataclass(frozen=True)
class Base:
    """A disk on the host that disks are copied from."""

    key: str
    path: str
    virtual_size: int
    size: int = 0
    """Bytes on the datastore."""


@dataclass(frozen=True)
class Template:
    """A template of ours, which vCenter clones machines from."""

    obj: Any
    snapshot: Any
    devices: Sequence[Any]
    """Its hardware, with the keys that a clone's has too."""
    address: str
    """Of its disk."""

    @property
    def disk(self) -> Any:
        """The disk that a clone's root disk comes of."""
        return by_address(self.devices)[self.address]


class SeenImages:
    """Cached images and their templates. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bases: dict[str, Base] = {}
        self._templates: dict[str, Template] = {}

    def base(self, key: str) -> Base | None:
        """The image with this cache key, if it was seen."""
        with self._lock:
            return self._bases.get(key)

    def put_base(self, base: Base) -> None:
        """It is there."""
        with self._lock:
            self._bases[base.key] = base

    def template(self, base: Base) -> Template | None:
        """The template of an image, if it was seen."""
        with self._lock:
            return self._templates.get(base.path)

    def put_template(self, base: Base, template: Template) -> None:
        """It is there."""
        with self._lock:
            self._templates[base.path] = template

    def forget(self, base: Base) -> None:
        """An image, or its template, has gone."""
        with self._lock:
            self._bases.pop(base.key, None)
            self._templates.pop(base.path, None)

    def forget_key(self, key: str) -> None:
        """The image with this cache key goes."""
        base = self.base(key)
        if base is not None:
            self.forget(base)


def root_capacity(flavor: Flavor, base: Base | None) -> int:
    """Bytes of a root disk that is made of an image; 0 without one."""
    return root_disk_bytes(base.virtual_size, flavor.disk_gib) if base is not None else 0
