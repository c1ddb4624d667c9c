"""Images on their way to a hypervisor: fetched, verified and inspected here, before it sees a byte.

Needs the extra ``hvdrivers[images]``. :func:`open_image` is what a driver calls; the rest is for
who handles images without a driver.
"""

from __future__ import annotations

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
    "inspect_image",
    "iter_chunks",
    "open_image",
    "sparse_extents",
]
