"""open_image on files, and the models of image references."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from hvdrivers.contract.errors import (
    ImageRejected,
    InvalidRequest,
    OperationTimeout,
    PermissionDenied,
)
from hvdrivers.images import LocalImage, iter_chunks, open_image, sparse_extents
from hvdrivers.images.sparse import SparseWriter
from hvdrivers.models.image import (
    Checksum,
    FileImage,
    HostImage,
    HttpImage,
    ImageFormat,
    ImageRef,
    content_cache_key,
)
from hvdrivers.models.progress import Phase, Progress

SUM = "sha256:" + "ab" * 32


def test_file(disk: Path) -> None:
    seen: list[Progress] = []
    with open_image(FileImage(path=disk, format=ImageFormat.RAW), progress=seen.append) as image:
        assert image.sha256 == hashlib.sha256(disk.read_bytes()).hexdigest()
        assert image.cache_key == f"raw-sha256-{image.sha256}"
        assert image.path.read_bytes() == disk.read_bytes()
        assert b"".join(data for _, data in image.chunks(1000)) == disk.read_bytes()
        descriptor = image.descriptor
    assert {report.phase for report in seen} == {Phase.VERIFY}
    assert seen[-1].fraction == 1.0
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


def test_file_checksum(disk: Path) -> None:
    value = hashlib.sha512(disk.read_bytes()).hexdigest()
    whole = hashlib.sha256(value.encode()).hexdigest()
    ref = FileImage(path=disk, format=ImageFormat.RAW, checksum=f"sha512:{value}")  # type: ignore[arg-type]
    with open_image(ref) as image:
        assert image.cache_key == ref.cache_key() == f"raw-sha512-{whole}"
    wrong = ref.model_copy(update={"checksum": Checksum(algorithm="sha256", value="0" * 64)})
    with pytest.raises(ImageRejected, match="checksum"), open_image(wrong):
        pass


def test_file_is_read_through_one_descriptor(convert: Callable[..., Path], disk: Path) -> None:
    """Somebody swaps the file under the same name after the inspection."""
    path = convert("qcow2")
    original = path.read_bytes()
    with open_image(FileImage(path=path, format=ImageFormat.QCOW2)) as image:
        evil = path.with_suffix(".evil")
        evil.write_bytes(b"evil")
        evil.rename(path)
        assert os.pread(image.descriptor, len(original), 0) == original
        assert image.path.read_bytes() == original


def test_file_changed_during_the_upload(convert: Callable[..., Path]) -> None:
    path = convert("qcow2")
    with open_image(FileImage(path=path, format=ImageFormat.QCOW2)) as image:
        chunks = image.chunks()
        next(chunks)
        with path.open("r+b") as file:
            file.write(b"QFI\xfb\0\0\0\3\0\0\0\0\0\0\1")
            file.truncate(5_000_000)
        with pytest.raises(ImageRejected, match="changed"):
            list(chunks)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path in ("absent", "loop", "fifo", "", "x" * 300, "nul\0nul"):
        ref = FileImage(path=tmp_path / path, format=ImageFormat.RAW)
        with pytest.raises(InvalidRequest), open_image(ref):
            pass


def test_no_permission(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hvdrivers.images.inspect.os.open", refuse)  # the tests may run as root
    ref = FileImage(path=disk, format=ImageFormat.RAW)
    with pytest.raises(PermissionDenied) as caught, open_image(ref):
        pass
    assert isinstance(caught.value.__cause__, PermissionError)


def test_limits(disk: Path) -> None:
    ref = FileImage(path=disk, format=ImageFormat.RAW)
    with pytest.raises(ImageRejected, match="more than"), open_image(ref, max_bytes=1000):
        pass
    with pytest.raises(OperationTimeout), open_image(ref, timeout=0):
        pass
    with pytest.raises(InvalidRequest), open_image(HostImage(name="template")):
        pass


@pytest.mark.parametrize(
    ("image_format", "at", "number"),
    [
        ("qcow2", 20, 0),  # the size of a cluster: none
        ("qcow2", 20, 60),  # more than any memory has
        ("vmdk", 20, 0),  # the size of a grain
        ("vhdx", 192 << 10, 0),  # what names its tables
    ],
)
def test_a_header_that_changes_after_the_inspection(
    convert: Callable[..., Path], image_format: str, at: int, number: int
) -> None:
    """The tables are looked for where it said then."""
    path = convert(image_format)
    changed: list[Progress] = []

    def change(report: Progress) -> None:
        changed.append(report)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(number.to_bytes(8, "little" if image_format != "qcow2" else "big")[-4:])
            file.write(bytes(4))

    ref = FileImage(path=path, format=ImageFormat(image_format))
    with pytest.raises(ImageRejected, match="changed"), open_image(ref, progress=change):
        pass
    assert changed


def test_a_raising_progress_callback_stops(disk: Path) -> None:
    class StopHere(Exception):
        pass

    def stop(_: Progress) -> None:
        raise StopHere

    ref = FileImage(path=disk, format=ImageFormat.RAW)
    with pytest.raises(StopHere), open_image(ref, progress=stop):
        pass


# -------------------------------------------------------------------------------- sparse files


def test_sparse_extents(tmp_path: Path) -> None:
    mib = 1024 * 1024
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 * mib)
        file.seek(8 * mib)
        file.write(b"x" * mib)
        extents = list(sparse_extents(file.fileno()))
    with path.open("rb") as file:
        assert [(e.offset, e.length, e.is_data) for e in extents] == [
            (0, 8 * mib, False),
            (8 * mib, mib, True),
            (9 * mib, 55 * mib, False),
        ]
        assert [(o, len(d)) for o, d in iter_chunks(file.fileno(), 700_000)] == [
            (8 * mib, 700_000),
            (8 * mib + 700_000, mib - 700_000),
        ]


def test_empty_and_full_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with path.open("rb") as file:
        assert list(sparse_extents(file.fileno())) == []
    path.write_bytes(b"x" * 10)
    with path.open("rb") as file:
        assert list(sparse_extents(file.fileno())) == [(0, 10, True)]


def test_sparse_writer(tmp_path: Path) -> None:
    content = bytes(3_000_000) + b"data" + bytes(5_000_000) + b"end" + bytes(200_000)
    path = tmp_path / "spool"
    with path.open("w+b") as file:
        writer = SparseWriter(file.fileno())
        writer.write(b"something else")
        writer.restart()
        for start in range(0, len(content), 99_999):
            writer.write(content[start : start + 99_999])
        writer.finish()
    assert path.read_bytes() == content
    assert path.stat().st_blocks * 512 < 1_000_000


# -------------------------------------------------------------------------------------- models


def test_references_are_told_apart_by_source() -> None:
    adapter: TypeAdapter[ImageRef] = TypeAdapter(ImageRef)
    file = adapter.validate_python({"source": "file", "path": "/x", "format": "qcow2"})
    assert isinstance(file, FileImage)
    assert file.cache_key() is None
    host = adapter.validate_python({"source": "host", "name": "Tmpl / ünï"})
    assert isinstance(host, HostImage)
    http = adapter.validate_python(
        {"source": "http", "url": "https://a/b", "format": "raw", "checksum": SUM}
    )
    assert adapter.validate_json(adapter.dump_json(http)) == http


def test_cache_keys_fit_everywhere() -> None:
    keys = set()
    for name in ("a", "A", "ü", "x" * 255, "../../etc", "host-a"):
        keys.add(HostImage(name=name).cache_key())
    for image_format in ImageFormat:
        for checksum in (SUM, "sha384:" + "0" * 96, "SHA512:" + "F" * 128):
            ref = FileImage(path=Path("x"), format=image_format, checksum=checksum)  # type: ignore[arg-type]
            keys.add(str(ref.cache_key()))
    assert len(keys) == 6 + 3 * len(ImageFormat)
    for key in keys:
        assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert len(key) <= 80


@pytest.mark.parametrize(
    "text", ["md5:" + "0" * 32, "sha1:" + "0" * 40, "sha256:xyz", "sha256", "", "0" * 64]
)
def test_bad_checksums(text: str) -> None:
    with pytest.raises(ValidationError):
        Checksum.model_validate(text)


@pytest.mark.parametrize(
    "change",
    [
        {"url": "ftp://a/b"},
        {"url": "file:///etc/passwd"},
        {"url": "https://user:hunter2@a/b"},
        {"url": "https://hunter2@a/b"},
        {"checksum": None},
        {"headers": {"X-Token": "hunter2\r\nHost: b"}},
        {"headers": {"X Token": "hunter2"}},
        {"headers": {"Range": "hunter2"}},
        {"headers": {"X-A": "hunter2", "x-a": "hunter2"}},
        {"ca_file": "/ca", "verify_tls": False},
        {"unknown": 1},
    ],
)
def test_bad_http_references(change: dict[str, object]) -> None:
    good = {"url": "https://a/b", "format": "raw", "checksum": SUM}
    HttpImage.model_validate(good)
    with pytest.raises(ValidationError) as caught:
        HttpImage.model_validate(good | change)
    assert "hunter2" not in str(caught.value)


def test_http_reference_shows_no_secrets() -> None:
    ref = HttpImage.model_validate(
        {
            "url": "https://a/b?signature=hunter2",
            "format": "raw",
            "checksum": SUM,
            "headers": {"Authorization": "Bearer hunter2"},
        }
    )
    assert "hunter2" not in f"{ref} {ref!r} {ref.display_url}"


def test_a_key_stands_for_the_whole_checksum() -> None:
    """A checksum whose second half is wrong must not find what the right one has cached."""
    right = "ab" * 64
    for algorithm, length in (("sha256", 64), ("sha384", 96), ("sha512", 128)):
        keys = set()
        for position in (None, *range(0, length, 7), length - 1):
            value = list(right[:length])
            if position is not None:
                value[position] = "0"
            checksum = Checksum(algorithm=algorithm, value="".join(value))
            keys.add(content_cache_key(ImageFormat.RAW, checksum))
        assert len(keys) == len({None, *range(0, length, 7), length - 1})
        assert all(len(key) <= 80 for key in keys)


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Another process' mapping: its page is dirty, so writes to it change no time stamp."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = memory[offset]
        yield memory


def _collect(image: LocalImage, way: str, sent: bytearray) -> None:
    if way == "segments":
        for segment in image.segments():
            sent += segment.data or bytes(segment.length)
    elif way == "chunks":
        for _, data in image.chunks(1000):
            sent += data
    elif way == "read":
        reader = image.reader()
        for offset in range(0, image.info.file_size_bytes, 300_000):
            sent += reader.read(offset, 300_000)
    else:
        image.verify_content()


@pytest.mark.parametrize("position", [0, 700_000, 1 << 20, -1])
@pytest.mark.parametrize("way", ["segments", "chunks", "read", "verify_content"])
def test_written_through_a_mapping(disk: Path, tmp_path: Path, position: int, way: str) -> None:
    """No byte goes out that was not inspected, though no time stamp has changed."""
    path = tmp_path / "image.raw"
    path.write_bytes(disk.read_bytes())
    original = path.read_bytes()
    with mapped(path) as memory, open_image(FileImage(path=path, format=ImageFormat.RAW)) as image:
        memory[position] ^= 0xFF
        image.verify_unchanged()  # which sees nothing of it
        sent = bytearray()
        with pytest.raises(ImageRejected, match="changed"):
            _collect(image, way, sent)
        assert original.startswith(bytes(sent))
        memory[position] ^= 0xFF
        image.verify_content()


def test_a_hole_that_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "sparse.raw"
    with path.open("wb") as file:
        file.write(b"x" * 5000)
        file.truncate(9 << 20)
    with open_image(FileImage(path=path, format=ImageFormat.RAW)) as image:
        segments = list(image.segments())
        assert sum(each.length for each in segments) == 9 << 20
        assert [each.data is None for each in segments] == [False, True]
        assert segments[0].data is not None
        assert segments[0].data.rstrip(b"\0") == b"x" * 5000
        with path.open("r+b") as file:
            file.seek(8 << 20)
            file.write(b"y")
        with pytest.raises(ImageRejected):
            image.verify_content()


@pytest.mark.parametrize("size", [1, 511, 1 << 20, (1 << 20) + 1, (3 << 20) - 1])
def test_segments_are_the_whole_image(tmp_path: Path, size: int) -> None:
    path = tmp_path / "image.raw"
    content = (b"\1" * 70_000 + bytes(200_000)) * (size // 270_000 + 1)
    path.write_bytes(content[:size])
    with open_image(FileImage(path=path, format=ImageFormat.RAW)) as image:
        whole = b"".join(each.data or bytes(each.length) for each in image.segments())
        assert whole == content[:size] == image.reader().read(0, size + 10)
        offsets = [each.offset for each in image.segments()]
        assert offsets == sorted(offsets)
