"""Images on a host that is a dictionary: found, brought once, published by one of several."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import hvdrivers.images
from hvdrivers.contract import errors
from hvdrivers.driverkit import (
    Deadline,
    ImageStore,
    KnownKeys,
    ReplyLost,
    Taken,
    abandoned,
    partial_upload,
    refuse_alive,
    stage,
    staged_key,
    staging_name,
)
from hvdrivers.images import LocalImage
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.progress import ProgressCallback

LONG = 60.0
"""Seconds that no test waits for, unless it fails."""


class Host:
    """A cache, and the uploads under way."""

    def __init__(self) -> None:
        self.cache: dict[str, bytes] = {}
        self.staged: dict[str, bytes] = {}
        self.uploads = 0
        self.looks = 0
        self.fault: Exception | None = None
        self.gate: threading.Event | None = None
        self.began = threading.Semaphore(0)
        self.store = ImageStore(find=self.find, upload=self.upload)

    def find(self, key: str) -> str | None:
        self.looks += 1
        return key if key in self.cache else None

    def upload(self, opened: LocalImage, progress: ProgressCallback | None) -> str:
        self.uploads += 1
        return stage(
            opened.cache_key,
            fill=lambda name: self.fill(name, opened),
            publish=lambda name: self.publish(name, opened.cache_key),
            drop=self.drop,
            find=self.find,
        )

    def fill(self, name: str, opened: LocalImage) -> None:
        self.staged[name] = b""
        self.began.release()
        if self.gate is not None:
            assert self.gate.wait(LONG)
        if self.fault is not None:
            raise self.fault
        self.staged[name] = Path(f"/proc/self/fd/{opened.descriptor}").read_bytes()

    def publish(self, name: str, key: str) -> str:
        if key in self.cache:
            raise Taken
        self.cache[key] = self.staged.pop(name)
        return key

    def drop(self, name: str) -> None:
        self.staged.pop(name, None)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def image(tmp_path: Path) -> FileImage:
    path = tmp_path / "image.raw"
    path.write_bytes(b"content" * 1000)
    return FileImage(path=path, format=ImageFormat.RAW)


def test_an_image_is_brought_once(host: Host, image: FileImage) -> None:
    first = host.store.get(image)
    assert host.store.get(image) == first
    assert host.uploads == 1
    assert host.cache == {first: b"content" * 1000}
    assert host.staged == {}


def test_a_file_that_was_read_need_not_be_read_again(host: Host, image: FileImage) -> None:
    host.store.get(image)
    assert host.store.key(image) is not None
    looks = host.looks
    host.store.get(image)
    assert host.looks == looks + 1


def test_a_file_that_is_replaced_once_it_was_read_is_another(
    image: FileImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of what was read is not that of the file that stands there since."""
    real = hvdrivers.images.open_image

    @contextmanager
    def replaced(*args: Any, **named: Any) -> Iterator[LocalImage]:
        with real(*args, **named) as opened:
            new = Path(image.path).with_suffix(".new")
            new.write_bytes(b"another")
            new.replace(image.path)
            yield opened

    keys = KnownKeys()
    monkeypatch.setattr(hvdrivers.images, "open_image", replaced)
    with keys.open(image, progress=None, timeout=LONG) as first:
        pass
    monkeypatch.undo()
    assert keys.of(image) is None
    with keys.open(image, progress=None, timeout=LONG) as second:
        assert second.cache_key != first.cache_key
    assert keys.of(image) == second.cache_key


def test_a_link_that_leads_elsewhere_for_a_moment_gives_no_key_away(
    image: FileImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write the link alone could otherwise have another file's spawns get his content,
    and theirs be given out as his."""
    link, other = tmp_path / "link", tmp_path / "other"
    other.write_bytes(bytes(1024))
    link.symlink_to(image.path)
    real = hvdrivers.images.open_image

    @contextmanager
    def elsewhere(*args: Any, **named: Any) -> Iterator[LocalImage]:
        link.unlink()
        link.symlink_to(other)
        with real(*args, **named) as opened:
            link.unlink()
            link.symlink_to(image.path)
            yield opened

    keys = KnownKeys()
    monkeypatch.setattr(hvdrivers.images, "open_image", elsewhere)
    linked = FileImage(path=link, format=ImageFormat.RAW)
    with keys.open(linked, progress=None, timeout=LONG) as opened:
        pass
    assert keys.of(image) is None
    assert keys.of(linked) is None
    assert keys.of(FileImage(path=other, format=ImageFormat.RAW)) == opened.cache_key


def test_only_the_last_keys_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvdrivers.driverkit.images.REMEMBERED", 2)
    keys = KnownKeys()
    images = []
    for number in range(3):
        path = tmp_path / f"{number}.raw"
        path.write_bytes(bytes([number]) * 512)
        images.append(FileImage(path=path, format=ImageFormat.RAW))
        with keys.open(images[-1], progress=None, timeout=LONG):
            pass
    assert [keys.of(each) is not None for each in images] == [False, True, True]


def test_the_same_content_in_another_file_is_not_brought_again(
    host: Host, image: FileImage, tmp_path: Path
) -> None:
    first = host.store.get(image)
    copy = tmp_path / "copy.raw"
    copy.write_bytes(Path(image.path).read_bytes())
    assert host.store.get(FileImage(path=copy, format=ImageFormat.RAW)) == first
    assert host.uploads == 1


def test_to_read_a_file_may_take_as_long_as_the_deadline_is(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "large.raw"
    with path.open("wb") as file:
        file.truncate(32 << 20)  # no processor reads and hashes that in a millisecond
    large = FileImage(path=path, format=ImageFormat.RAW)
    assert host.store.get(large, deadline=Deadline(LONG)) in host.cache
    path.touch()
    with pytest.raises(errors.OperationTimeout):
        host.store.get(large, deadline=Deadline(0))


def test_a_file_that_was_changed_is_read_again(host: Host, image: FileImage) -> None:
    """Also by one who sets its time back: that changes its ctime."""
    first = host.store.get(image)
    status = os.stat(image.path)
    with open(image.path, "r+b") as file:
        file.write(b"CONTENT")
    os.utime(image.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert host.store.key(image) is None
    assert host.store.get(image) != first


def test_a_file_that_is_not_there(host: Host, image: FileImage) -> None:
    image.path.unlink()
    with pytest.raises(errors.InvalidRequest):
        host.store.get(image)


def test_an_image_with_a_checksum_is_found_without_its_file(host: Host, image: FileImage) -> None:
    key = host.store.get(image)
    known = image.model_copy(
        update={"path": Path("/nowhere"), "checksum": _checksum(image.path)}, deep=True
    )
    assert host.store.get(known) == key


def _checksum(path: Path) -> object:
    import hashlib

    from hvdrivers.models.image import Checksum

    return Checksum(algorithm="sha256", value=hashlib.sha256(path.read_bytes()).hexdigest())


# ---- several at the same time --------------------------------------------------------------------


def test_threads_that_need_the_same_image_bring_it_once(host: Host, image: FileImage) -> None:
    host.gate = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(host.store.get, image) for _ in range(8)]
        assert host.began.acquire(timeout=LONG)
        host.gate.set()
        assert len({each.result(LONG) for each in found}) == 1
    assert host.uploads == 1


def test_a_failed_upload_is_tried_by_the_next(host: Host, image: FileImage) -> None:
    host.fault = errors.InsufficientResources("no room")
    with pytest.raises(errors.InsufficientResources):
        host.store.get(image)
    host.fault = None
    assert host.store.get(image) in host.cache


def test_who_waits_for_another_thread_keeps_his_deadline(host: Host, image: FileImage) -> None:
    host.gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(host.store.get, image)
        assert host.began.acquire(timeout=LONG)
        with pytest.raises(errors.OperationTimeout, match="another thread"):
            host.store.get(image, deadline=Deadline(0.01))
        host.gate.set()
        assert first.result(LONG) in host.cache


def test_another_process_may_be_faster(host: Host, image: FileImage) -> None:
    host.gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(host.store.get, image)
        assert host.began.acquire(timeout=LONG)
        (name,) = host.staged
        host.cache[staged_key(name) or ""] = b"of the other process"
        host.gate.set()
        assert slow.result(LONG) == staged_key(name)
    assert host.staged == {}
    assert list(host.cache.values()) == [b"of the other process"]


# ---- staging -------------------------------------------------------------------------------------


def test_what_failed_is_dropped(host: Host, image: FileImage) -> None:
    host.fault = errors.ConnectionFailed("cut")
    with pytest.raises(errors.ConnectionFailed):
        host.store.get(image)
    assert host.staged == {}


def test_an_image_that_was_evicted_at_once() -> None:
    def publish(name: str) -> str:
        raise Taken

    with pytest.raises(errors.DeviceBusy, match="evicted"):
        stage("key", fill=str, publish=publish, drop=str, find=lambda _: None)


def test_a_lost_reply_to_publish_drops_only_what_was_not_published(
    host: Host, image: FileImage
) -> None:
    def publish(name: str) -> str:
        host.publish(name, "key")
        raise ReplyLost("no reply")

    dropped: list[str] = []
    with pytest.raises(errors.OutcomeUnknown):
        stage(
            "key",
            fill=lambda name: host.staged.update({name: b"x"}),
            publish=publish,
            drop=lambda name: (dropped.append(name), host.drop(name)),
            find=host.find,
        )
    assert dropped
    assert host.cache == {"key": b"x"}


def test_staging_names_are_unlike_and_tell_their_key() -> None:
    first, second = staging_name("sha256-ab"), staging_name("sha256-ab")
    assert first != second
    assert staged_key(first) == "sha256-ab"
    for other in ("sha256-ab", "sha256-ab.qcow2", ".0123456789abcdef", "a.0123456789abcdeX", ""):
        assert staged_key(other) is None


# ---- what dead processes leave -------------------------------------------------------------------


def test_what_was_not_written_for_long_is_abandoned_by_the_host_s_clock() -> None:
    """Whatever the client's clock says: the host here lives in 1970."""
    alive, dead = staging_name("a"), staging_name("b")
    staged = [(alive, 9_000.0), (dead, 1_000.0), ("an-image", 0.0)]
    assert abandoned(staged, host_now=9_500.0) == [dead]
    assert abandoned(staged, host_now=4_600.0) == []
    assert abandoned(staged, host_now=9_500.0, quiet=100.0) == [alive, dead]


def test_a_partial_upload_is_shown_by_its_staging_name_and_evicted_when_it_is_still() -> None:
    name = staging_name("qcow2-sha256-" + "0" * 64)
    shown = partial_upload(name, size_bytes=7, written=1_000.0)
    assert shown is not None
    assert (shown.key, shown.partial, shown.format, shown.size_bytes) == (name, True, "qcow2", 7)
    assert shown.last_written == datetime.fromtimestamp(1_000, UTC)
    for strange in ("qcow2-sha256-ab", "other-ab.0123456789abcdef", f"raw-{'a' * 90}.{'0' * 16}"):
        assert partial_upload(strange, size_bytes=7, written=None) is None
    refuse_alive(1_000.0, host_now=1_601.0)
    for now in (1_599.0, 900.0):  # a clock that was set back: it is not known to be still
        with pytest.raises(errors.DeviceBusy) as caught:
            refuse_alive(1_000.0, host_now=now)
        assert caught.value.retryable
    with pytest.raises(errors.DeviceBusy) as caught:
        refuse_alive(None, host_now=0.0)
    assert not caught.value.retryable
