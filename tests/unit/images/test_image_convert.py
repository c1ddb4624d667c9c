"""Conversion by qemu-img, under bounds that an ordinary image never meets."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hvdrivers.contract.errors import ImageRejected, OperationTimeout
from hvdrivers.driverkit import Deadline
from hvdrivers.images import convert, open_image
from hvdrivers.models.image import FileImage, ImageFormat
from tests.peers.precondition import tool

MIB = 1 << 20


@pytest.fixture
def scattered(tmp_path: Path) -> Path:
    """A VMDK of 300 separate pieces of data: work for all the threads that qemu-img has."""
    raw, path = tmp_path / "scattered.raw", tmp_path / "scattered.vmdk"
    piece = random.Random(7).randbytes(300_000)
    with raw.open("wb") as file:
        for number in range(300):
            file.seek(number * MIB)
            file.write(piece)
        file.truncate(400 * MIB)
    tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, path)
    return path


def test_a_conversion_is_far_from_the_bound_on_its_memory(
    scattered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many threads qemu-img starts depends on how slow the disk is, and so on the day. With a
    heap for each and the usual stack, half of the bound was used on a quiet machine."""
    monkeypatch.setattr(convert, "_MEMORY", 256 * MIB)
    with (
        open_image(FileImage(path=scattered, format=ImageFormat.VMDK)) as image,
        convert.converted(image, ImageFormat.RAW) as made,
    ):
        assert os.fstat(made.fileno()).st_size == 400 * MIB


@pytest.mark.parametrize(("name", "most"), [("_MEMORY", 32 * MIB), ("_MARGIN", -1 * MIB)])
def test_a_conversion_over_its_bounds_ends(
    convert_disk: Path, monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    monkeypatch.setattr(convert, name, most)
    with (
        open_image(FileImage(path=convert_disk, format=ImageFormat.VMDK)) as image,
        pytest.raises(ImageRejected),
        convert.converted(image, ImageFormat.RAW),
    ):
        pass


def test_a_conversion_ends_at_the_deadline(convert_disk: Path) -> None:
    with (
        open_image(FileImage(path=convert_disk, format=ImageFormat.VMDK)) as image,
        pytest.raises(OperationTimeout),
        convert.converted(image, ImageFormat.RAW, deadline=Deadline(0.001)),
    ):
        pass


@pytest.fixture
def convert_disk(convert: Callable[..., Path]) -> Path:
    return convert("vmdk")
