"""Images on their way to a hypervisor: fetched, verified and inspected here, before it sees a byte.

Needs the extra ``images``. :func:`open_image` is what a driver calls; the rest is for
who handles images without a driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvdrivers.images._pieces import Segment, VerifiedReader
    from hvdrivers.images.inspect import (
        MAX_VIRTUAL_SIZE_BYTES,
        ImageInspector,
        InspectingStream,
        inspect_image,
    )
    from hvdrivers.images.source import LocalImage, open_image
    from hvdrivers.images.sparse import Extent, iter_chunks, sparse_extents

__all__ = [
    "MAX_VIRTUAL_SIZE_BYTES",
    "Extent",
    "ImageInspector",
    "InspectingStream",
    "LocalImage",
    "Segment",
    "VerifiedReader",
    "inspect_image",
    "iter_chunks",
    "open_image",
    "sparse_extents",
]

_ROOMS = {
    "Segment": "_pieces",
    "VerifiedReader": "_pieces",
    "MAX_VIRTUAL_SIZE_BYTES": "inspect",
    "ImageInspector": "inspect",
    "InspectingStream": "inspect",
    "inspect_image": "inspect",
    "LocalImage": "source",
    "open_image": "source",
    "Extent": "sparse",
    "iter_chunks": "sparse",
    "sparse_extents": "sparse",
}


if not TYPE_CHECKING:  # a type checker would take any misspelt name for granted

    def __getattr__(name: str) -> object:
        # httpx and oslo.utils are imported with the first image: a list of machines needs neither
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
