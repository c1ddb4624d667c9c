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


_CHANGES = """#!/bin/sh
dd if={hostile} of={image} conv=notrunc status=none
{program} "$@"
status=$?
dd if={harmless} of={image} conv=notrunc status=none
exit $status
"""


def test_a_backing_file_that_is_named_only_while_qemu_img_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes its change back afterwards: only what was inspected may be read."""
    image, harmless, hostile = (tmp_path / f"{name}.qcow2" for name in ("image", "a", "b"))
    secret = tmp_path / "secret.raw"
    secret.write_bytes(b"secret".ljust(MIB, b"!"))
    tool("qemu-img", "create", "-f", "qcow2", image, str(MIB))
    tool("qemu-img", "create", "-f", "qcow2", "-b", secret, "-F", "raw", hostile, str(MIB))
    hostile.write_bytes(hostile.read_bytes()[:4096])
    harmless.write_bytes(image.read_bytes()[:4096])
    program = tmp_path / "bin" / "qemu-img"
    program.parent.mkdir()
    names = {"hostile": hostile, "image": image, "harmless": harmless}
    program.write_text(_CHANGES.format(program=convert.find_qemu_img(), **names))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with (
        open_image(FileImage(path=image, format=ImageFormat.QCOW2)) as opened,
        convert.converted(opened, ImageFormat.RAW) as made,
    ):
        assert made.read() == bytes(MIB)


def test_a_file_that_was_changed_is_not_converted(convert_disk: Path) -> None:
    with (
        open_image(FileImage(path=convert_disk, format=ImageFormat.VMDK)) as image,
        convert_disk.open("r+b") as file,
    ):
        file.seek(512)
        file.write(b'parentFileNameHint="x"')
        file.flush()
        with (
            pytest.raises(ImageRejected, match="changed"),
            convert.converted(image, ImageFormat.RAW),
        ):
            pass
