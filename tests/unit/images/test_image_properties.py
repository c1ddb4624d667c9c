"""Whatever the bytes are: an ImageInfo, or ImageRejected. Nothing else ever comes out."""

from __future__ import annotations

import contextlib
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvdrivers.contract.errors import ImageRejected
from hvdrivers.images import MAX_VIRTUAL_SIZE_BYTES, ImageInspector, inspect_image
from hvdrivers.models.image import ImageFormat, ImageInfo

KINDS = {
    "qcow2": (ImageFormat.QCOW2, None),
    "qcow2-old": (ImageFormat.QCOW2, "compat=0.10"),
    "vmdk": (ImageFormat.VMDK, None),
    "vmdk-stream": (ImageFormat.VMDK, "subformat=streamOptimized"),
    "vpc": (ImageFormat.VHD, None),
    "vpc-fixed": (ImageFormat.VHD, "subformat=fixed"),
    "vdi": (ImageFormat.VDI, None),
    "vhdx": (ImageFormat.VHDX, None),
}
FORMATS = st.sampled_from(list(ImageFormat))
MAGICS = [
    b"QFI\xfb\0\0\0\3",
    b"KDMV\1\0\0\0",
    b"conectix",
    b"vhdxfile",
    b"QED\0",
    b"LUKS\xba\xbe",
    b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicSparse"\n',
]
# The inspected file is new in each example, so a fixture that outlives them changes nothing.
relaxed = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    (folder / "raw").write_bytes(random.Random(3).randbytes(200 * 1024))
    images = {}
    for kind, (_, options) in KINDS.items():
        command = ["qemu-img", "convert", "-f", "raw", "-O", kind.split("-")[0]]
        command += ["-o", options] if options else []
        subprocess.run([*command, folder / "raw", folder / kind], check=True)
        images[kind] = (folder / kind).read_bytes()
    return images


def verdict(data: bytes, declared: ImageFormat, cuts: list[int] | None = None) -> ImageInfo | str:
    inspector = ImageInspector(declared)
    try:
        previous = 0
        for cut in sorted(cut % (len(data) + 1) for cut in cuts or []):
            inspector.feed(data[previous:cut])
            previous = cut
        inspector.feed(data[previous:])
        info = inspector.finish()
    except ImageRejected as error:
        return error.message
    assert info.format is declared
    assert 0 < info.virtual_size_bytes <= MAX_VIRTUAL_SIZE_BYTES
    assert info.file_size_bytes == len(data)
    return info


@relaxed
@given(
    st.sampled_from([b"", *MAGICS]),
    st.binary(max_size=3000),
    st.integers(0, 70_000),
    FORMATS,
)
def test_random_bytes(magic: bytes, data: bytes, padding: int, declared: ImageFormat) -> None:
    verdict(magic + data + bytes(padding) + data, declared)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "vhdx"])
@relaxed
@given(data=st.data())
def test_damaged_images(
    kind: str, originals: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    image = bytearray(originals[kind])
    head, tail = range(1200), range(len(image) - 1600, len(image))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.sampled_from(head) | st.sampled_from(tail))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        image[position : position + len(patch)] = patch
    keep = data.draw(st.none() | st.integers(0, len(image)))
    path = tmp_path / "damaged"
    path.write_bytes(image[:keep])
    with contextlib.suppress(ImageRejected):
        inspect_image(path, KINDS[kind][0])


@settings(parent=relaxed, max_examples=15)
@given(data=st.data())
def test_damaged_vhdx(originals: dict[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    image = bytearray(originals["vhdx"])
    metadata = image.index(b"metadata")
    areas = [0, 64 * 1024, 192 * 1024, metadata, metadata + 64 * 1024]
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.sampled_from(areas)) + data.draw(st.integers(0, 200))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        image[position : position + len(patch)] = patch
        if 192 * 1024 <= position < 256 * 1024:  # both tables, or the check ends there
            image[position + 65536 : position + 65536 + len(patch)] = patch
    path = tmp_path / "damaged"
    path.write_bytes(image)
    with contextlib.suppress(ImageRejected):
        inspect_image(path, ImageFormat.VHDX)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "vhdx"])
@settings(parent=relaxed, max_examples=15)
@given(cuts=st.lists(st.integers(0, 10**6), max_size=8), declared=FORMATS)
def test_the_network_does_not_decide(
    kind: str, originals: dict[str, bytes], cuts: list[int], declared: ImageFormat
) -> None:
    """However the stream is cut into pieces, the verdict is the same."""
    assert verdict(originals[kind], declared, cuts) == verdict(originals[kind], declared)
