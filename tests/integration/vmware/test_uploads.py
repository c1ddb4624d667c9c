"""What goes over the wire when an image is brought to a datastore, and what is there then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvdrivers.conformance.engine import image_files
from hvdrivers.driverkit import Deadline
from hvdrivers.images.convert import converted_disk
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.progress import Phase, Progress
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import connected
from tests.peers.vcsim import VcsimPeer

MIB = 1 << 20
SIZE = 100 * MIB


@pytest.fixture
def server(driver: VmwareDriver) -> Iterator[RawServer]:
    made = RawServer(driver.config)
    yield made
    made.drop()


def disk(path: Path, *places: int) -> bytes:
    """A raw disk with something at these places, and holes."""
    with path.open("wb") as file:
        for place in places:
            file.seek(place)
            file.write(os.urandom(4096))
        file.truncate(SIZE)
    return path.read_bytes()


def image_of(path: Path, kind: ImageFormat) -> FileImage:
    if kind is not ImageFormat.RAW:
        made = path.with_suffix(f".{kind}")
        with (
            path.open("rb") as raw,
            converted_disk(raw.fileno(), kind, deadline=Deadline(None)) as content,
        ):
            made.write_bytes(content.read())
        path = made
    return image_files.reference(path, kind, checksum=True)


@pytest.mark.parametrize("kind", [ImageFormat.RAW, ImageFormat.QCOW2])
@pytest.mark.parametrize(
    ("places", "most"),
    [
        ((0, 5 * MIB - 100), 6 * MIB),
        ((), MIB),
        ((SIZE - 4096,), SIZE),  # a GPT has a copy there
    ],
)
def test_zeros_at_the_end_are_not_sent(
    driver: VmwareDriver,
    server: RawServer,
    tmp_path: Path,
    kind: ImageFormat,
    places: tuple[int, ...],
    most: int,
) -> None:
    content = disk(tmp_path / "disk", *places)
    image = image_of(tmp_path / "disk", kind)
    told: list[Progress] = []
    with driver.session.seam.counting() as calls:
        entry = driver.cache_image(image, progress=told.append)
    sent = [each for each in told if each.phase is Phase.UPLOAD]
    assert (sent[-1].done, sent[-1].total) == (most, most) if places else sent[-1].done <= most
    assert calls.count("ExtendVirtualDisk_Task") == (most < SIZE)
    assert entry.virtual_size_bytes == SIZE
    path = driver.folders.path("images", entry.key, f"disk-{SIZE}")
    assert driver.files.disk_size(f"{path}.vmdk") == SIZE
    # the simulator grows the description of a disk, and not its file
    assert (server.file(f"{path}-flat.vmdk") or b"").ljust(SIZE, b"\0") == content
    driver.evict_image(entry.key)


def test_pieces_are_no_smaller_than_they_must_be(peer: VcsimPeer, tmp_path: Path) -> None:
    """Each piece is a turn through our progress, the deadline and the encryption."""
    disk(tmp_path / "disk", 0, SIZE - 4096)
    made = connected(peer)
    told: list[Any] = []
    entry = made.cache_image(image_of(tmp_path / "disk", ImageFormat.RAW), progress=told.append)
    steps = [each for each in told if each.phase is Phase.UPLOAD]
    assert len(steps) <= SIZE // MIB + 1
    made.evict_image(entry.key)
    made.close()
