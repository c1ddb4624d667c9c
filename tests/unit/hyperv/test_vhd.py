"""The footer of a fixed VHD, read by QEMU and by our own inspection."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hvdrivers.hyperv.vhd import footer, padded
from hvdrivers.images import inspect_image
from hvdrivers.models.image import ImageFormat
from tests.peers.precondition import tool


@pytest.mark.parametrize("size", [1, 3 << 20, (64 << 20) + 512, 3 << 30, 130 << 30])
def test_a_raw_disk_with_the_footer_is_a_vhd(tmp_path: Path, size: int) -> None:
    capacity = padded(size)
    path = tmp_path / "disk.vhd"
    with path.open("wb") as file:
        file.write(os.urandom(4096))
        file.truncate(capacity)
        file.seek(capacity)
        file.write(footer(capacity))
    if capacity < 1 << 30:  # the inspection reads all of the file
        found = inspect_image(path, ImageFormat.VHD)
        assert (found.virtual_size_bytes, found.file_size_bytes) == (capacity, capacity + 512)
    shown = json.loads(tool("qemu-img", "info", "-f", "vpc", "--output=json", path))
    assert shown["virtual-size"] == capacity
