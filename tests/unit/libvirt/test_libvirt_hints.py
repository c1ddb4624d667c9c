"""Errors that libvirt words have a hint by their class; the driver's own are in
``tests/unit/test_hints.py``."""

from __future__ import annotations

import pytest

libvirt = pytest.importorskip("libvirt")

from hvdrivers.contract import errors  # noqa: E402
from hvdrivers.libvirt.errors import TABLE, translate  # noqa: E402

BY_CLASS = (errors.VolumeNotFound, errors.NetworkNotFound, errors.InvalidRequest)


BY_CODE = ("VIR_ERR_BLOCK_COPY_ACTIVE", "VIR_ERR_OPERATION_TIMEOUT", "VIR_ERR_RESOURCE_BUSY")


@pytest.mark.parametrize(
    "code", sorted(n for n, cls in TABLE.items() if cls in BY_CLASS or n in BY_CODE)
)
def test_each_of_libvirts_has_one(code: str) -> None:
    error = libvirt.libvirtError("")
    number = getattr(libvirt, code, None)
    if number is None:
        pytest.skip(f"precondition missing: this libvirt has no {code}")
    error.err = (number, 0, "words", libvirt.VIR_ERR_ERROR, None, None, None, 0, -1)
    assert translate(error).hint
