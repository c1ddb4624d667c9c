"""The disk in an OVA: taken out, compared with the manifest, inspected."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvdrivers.conformance.engine import image_files
from hvdrivers.contract.errors import ImageRejected, InsufficientResources, OperationTimeout
from hvdrivers.images import _ova, convert, inspect_image, open_image
from hvdrivers.images.sparse import SparseWriter
from hvdrivers.models.image import Checksum, FileImage, HttpImage, ImageFormat
from tests.unit.images.conftest import Server

OVF = image_files._OVF


@pytest.fixture
def vmdk(convert: Callable[..., Path]) -> Path:
    return convert("vmdk", "subformat=streamOptimized")


@pytest.fixture
def ova(vmdk: Path, tmp_path: Path) -> Path:
    path = tmp_path / "machine.ova"
    image_files.ova(path, vmdk, 2 << 20)
    return path


def _image(path: Path, **fields: object) -> FileImage:
    return FileImage.model_validate({"path": path, "format": "ova", **fields})


def _refused(path: Path) -> str:
    with pytest.raises(ImageRejected) as caught, open_image(_image(path)):
        pass
    return str(caught.value)


def test_the_disk_is_the_image(ova: Path, vmdk: Path, disk: Path) -> None:
    digest = hashlib.sha256(ova.read_bytes()).hexdigest()
    with open_image(_image(ova)) as image:
        assert image.info == inspect_image(vmdk, ImageFormat.VMDK)
        assert image.info.subformat == "streamOptimized"
        assert image.cache_key == f"ova-sha256-{digest}"
        assert image.sha256 == digest
        sent = b"".join(
            bytes(each.length) if each.data is None else each.data for each in image.segments()
        )
        assert sent == vmdk.read_bytes()
        with convert.converted(image, ImageFormat.RAW) as made:
            assert made.read().startswith(disk.read_bytes())


def test_its_checksum_is_that_of_the_archive(ova: Path) -> None:
    digest = hashlib.sha512(ova.read_bytes()).hexdigest()
    image = _image(ova, checksum=f"sha512:{digest}")
    with open_image(image) as opened:
        assert opened.cache_key == image.cache_key()
    with pytest.raises(ImageRejected), open_image(_image(ova, checksum="sha512:" + "0" * 128)):
        pass


def test_the_name_of_the_file_says_the_format(ova: Path) -> None:
    assert FileImage(path=ova).format is ImageFormat.OVA


def test_from_a_url(web: Server, ova: Path, vmdk: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    content = ova.read_bytes()
    length = {"Content-Length": str(len(content))}
    web.replies = [lambda handler: handler.send(200, length, content)]
    checksum = Checksum(algorithm="sha256", value=hashlib.sha256(content).hexdigest())
    image = HttpImage(url=web.url, format=ImageFormat.OVA, checksum=checksum)
    with open_image(image, workdir=spool) as opened:
        assert list(spool.iterdir()) == []  # nothing that a killed process could leave
        assert opened.reader().read(0, vmdk.stat().st_size) == vmdk.read_bytes()


def test_the_deadline_and_the_room(ova: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OperationTimeout), open_image(_image(ova), timeout=1e-9):
        pass
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(SparseWriter, "write", Mock(side_effect=full))
    with pytest.raises(InsufficientResources), open_image(_image(ova)):
        pass
    with pytest.raises(ImageRejected), open_image(_image(ova), max_bytes=1 << 20):
        pass


def test_a_disk_that_is_unsafe_by_itself(tmp_path: Path) -> None:
    hostile = dict(image_files.hostile(tmp_path))
    disk = hostile["vmdk-hidden-parent"]
    assert isinstance(disk, FileImage)
    image_files.ova(tmp_path / "machine.ova", disk.path, 4 << 20)
    assert "descriptor" in _refused(tmp_path / "machine.ova")


def test_written_to_after_it_was_hashed(ova: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = _ova._Ova.text

    def text(self: _ova._Ova, suffix: str) -> str:
        with ova.open("r+b") as file:
            file.seek(-700_000, 2)
            file.write(b"other")
        return read(self, suffix)

    monkeypatch.setattr(_ova._Ova, "text", text)
    assert "was changed" in _refused(ova)


Members = list[tuple[tarfile.TarInfo, bytes]]


def _plain(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def _archive(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return path


def _described(disk: bytes, ovf: str, *more: tuple[str, bytes]) -> Members:
    return [_plain("m.ovf", ovf.encode()), _plain("m.vmdk", disk), *(_plain(*m) for m in more)]


_ONE = OVF.format(name="m.vmdk", bytes=1, size=1)
_SECOND = '<Disk ovf:diskId="two" ovf:capacity="1"/></DiskSection>'


@pytest.mark.parametrize(
    ("ovf", "more", "word"),
    [
        (_ONE.replace("</DiskSection>", _SECOND), (), "2 disks"),
        (_ONE.replace("<Disk ", "<Disc "), (), "0 disks"),
        (_ONE.replace('ovf:fileRef="file1"', ""), (), "no file"),
        (_ONE.replace('fileRef="file1"', 'fileRef="file2"'), (), "no file"),
        (_ONE.replace('href="m.vmdk"', 'href="../../etc/shadow"'), (), "does not have it"),
        (_ONE.replace('href="m.vmdk"', 'href="https://a/m.vmdk"'), (), "does not have it"),
        (_ONE.replace('href="m', 'compression="gzip" ovf:href="m'), (), "compressed"),
        (_ONE.replace('href="m', 'chunkSize="7" ovf:href="m'), (), "several files"),
        (_ONE.replace("?>", '?><!DOCTYPE a [<!ENTITY b "c">]>'), (), "document type"),
        (_ONE[:-20], (), "cannot be read"),
        ("\x00", (), "cannot be read"),
        (_ONE, (("other.ovf", b""),), "2 files"),
        (_ONE, (("m.mf", b"SHA256(m.ovf)= 00"),), "says nothing of its disk"),
        (_ONE, (("m.mf", b"SHA256(m.vmdk)= 00"),), "no digest"),
        (_ONE, (("m.mf", b"SHA256(m.vmdk)= " + b"0" * 64),), "checksum"),
        (_ONE, (("m.mf", b"SHA1(m.vmdk)= " + b"0" * 40),), "not what its manifest says"),
        (_ONE, (("m.mf", b"SHA1(m.vmdk)= 0\nSHA1(n)= 0"),), ""),
        (_ONE, (("m.mf", b"\xff\xfe"),), "UTF-8"),
        (_ONE, (("m.mf", bytes(5 << 20)),), "longer"),
        (_ONE, tuple((f"{n}.txt", b"") for n in range(70)), "too many files"),
        (_ONE, (("m.vmdk", b""),), "twice"),
    ],
)
def test_refused(
    vmdk: Path, tmp_path: Path, ovf: str, more: tuple[tuple[str, bytes], ...], word: str
) -> None:
    path = _archive(tmp_path / "a.ova", _described(vmdk.read_bytes(), ovf, *more))
    assert word in _refused(path)


def test_old_manifests_and_other_files_are_fine(vmdk: Path, tmp_path: Path) -> None:
    disk = vmdk.read_bytes()
    manifest = f"SHA1 (m.vmdk) = {hashlib.sha1(disk, usedforsecurity=False).hexdigest()}\n"
    more = ("m.mf", manifest.encode()), ("m.nvram", b"x"), ("disc.iso", b"y")
    old = _ONE.replace("dmtf.org/ovf/envelope/1", "vmware.com/ovf/1")
    for ovf in (_ONE, old):
        path = _archive(tmp_path / "a.ova", _described(disk, ovf, *more))
        with open_image(_image(path)) as image:
            assert image.info.format is ImageFormat.VMDK


@pytest.mark.parametrize(
    ("href", "name"),
    [
        ("my%20disk.vmdk", "my disk.vmdk"),  # a URL, by DSP0243
        ("100%25.vmdk", "100%.vmdk"),
        ("a%20b.vmdk", "a%20b.vmdk"),  # and as it is, by programs that do not know that
        ("m.vmdk", "./m.vmdk"),  # tar -cf m.ova ./m.ovf ./m.vmdk
        ("./m.vmdk", "m.vmdk"),
    ],
)
def test_names_of_the_disk(vmdk: Path, tmp_path: Path, href: str, name: str) -> None:
    disk = vmdk.read_bytes()
    digest = hashlib.sha256(disk).hexdigest()
    said = f"SHA256({name})= {digest}\n"
    members = [
        _plain("./m.ovf", _ONE.replace('href="m.vmdk"', f'href="{href}"').encode()),
        _plain(name, disk),
        _plain("./m.mf", said.encode()),
    ]
    with open_image(_image(_archive(tmp_path / "a.ova", members))) as image:
        assert image.info.subformat == "streamOptimized"
    members[-1] = _plain("m.mf", said.replace(digest, "0" * 64).encode())
    assert "checksum" in _refused(_archive(tmp_path / "b.ova", members))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(vmdk: Path, tmp_path: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("m.vmdk")
    link.type, link.linkname = kind, "/etc/shadow"
    members = [_plain("m.ovf", _ONE.encode()), (link, b"")]
    assert "no plain file" in _refused(_archive(tmp_path / "a.ova", members))


def _header(name: bytes, size: bytes, kind: bytes) -> bytes:
    head = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size)
    head += b"00000000000\0" + b" " * 8 + kind
    head = head.ljust(257, b"\0") + b"ustar\x0000"
    head = head.ljust(512, b"\0")
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


_HUGE = b"77777777777\0"
_NEGATIVE = b"\xff" + struct.pack(">q", -512).rjust(11, b"\xff")


@pytest.mark.parametrize("size", [_HUGE, _NEGATIVE, b"zzzzzzzzzzz\0"])
@pytest.mark.parametrize("kind", [b"0", b"L", b"K", b"x", b"g", b"S"])
def test_headers_that_lie(tmp_path: Path, size: bytes, kind: bytes) -> None:
    """A length that would be read into memory at once, or lead back to where the reader was."""
    path = tmp_path / "a.ova"
    path.write_bytes((_header(b"m.ovf", size, kind) + bytes(512)) * 3)
    _refused(path)


def test_headers_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.ova"
    long_name = _header(b"a", b"00000000010\0", b"L") + b"12345678".ljust(512, b"\0")
    path.write_bytes(long_name * 3000)
    _refused(path)


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(4096), b"PK\x03\x04" * 500])
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.ova"
    path.write_bytes(content)
    _refused(path)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject, vmdk: Path, tmp_path: Path) -> None:
    content = bytearray(
        _archive(tmp_path / "whole.ova", _described(vmdk.read_bytes(), _ONE)).read_bytes()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 4096))
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.ova"
    path.write_bytes(content)
    with contextlib.suppress(ImageRejected), open_image(_image(path)) as image:
        assert image.info.format is ImageFormat.VMDK


def test_texts_have_an_end(tmp_path: Path) -> None:
    """What is read of a description takes a hundred times its length; a name is not repeated whole
    in an error."""
    long = _ONE + "<!-- -->" * (1 << 17)
    assert "longer than" in _refused(_archive(tmp_path / "a", _described(b"x", long)))
    manifest = ("m.mf", b"#" * ((1 << 20) + 1))
    assert "longer than" in _refused(_archive(tmp_path / "b", _described(b"x", _ONE, manifest)))
    name = "n" * 30_000 + ".ovf"
    for number, members in enumerate(
        (
            [_plain(name, b"\xff"), _plain("m.vmdk", b"x")],
            [_plain(name, b"\xff" * ((1 << 20) + 1)), _plain("m.vmdk", b"x")],
            _described(b"x", OVF.format(name="n" * 30_000, bytes=1, size=1)),
            _described(b"x", _ONE, ("m.mf", f"SHA256({name})= {'0' * 64}\n".encode())),
        )
    ):
        assert len(_refused(_archive(tmp_path / str(number), members))) < 1000
