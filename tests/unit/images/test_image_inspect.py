"""Every image here is a real one, made by qemu-img, then (where the test says so) tampered with."""

from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hvdrivers.contract.errors import ImageRejected
from hvdrivers.images import ImageInspector, InspectingStream, inspect_image
from hvdrivers.images._other_formats import _crc32c
from hvdrivers.models.image import Checksum, ImageFormat
from tests.peers.precondition import tool

Convert = Callable[..., Path]
F = ImageFormat


def patch(path: Path, offset: int, data: bytes) -> Path:
    """Overwrite bytes; a negative offset counts from the end."""
    with path.open("r+b") as file:
        file.seek(offset, 2 if offset < 0 else 0)
        file.write(data)
    return path


def refused(path: Path, declared: ImageFormat) -> str:
    with pytest.raises(ImageRejected) as caught:
        inspect_image(path, declared)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    ("declared", "qemu", "options", "subformat"),
    [
        (F.QCOW2, "qcow2", None, "compat=1.1"),
        (F.QCOW2, "qcow2", "compat=0.10", "compat=0.10"),
        (F.QCOW2, "qcow2", "lazy_refcounts=on", "compat=1.1"),
        (F.QCOW2, "qcow2", "compression_type=zstd", "compat=1.1"),
        (F.QCOW2, "qcow2", "cluster_size=512", "compat=1.1"),
        (F.QCOW2, "qcow2", "cluster_size=2M", "compat=1.1"),
        (F.VMDK, "vmdk", None, "monolithicSparse"),
        (F.VMDK, "vmdk", "subformat=streamOptimized", "streamOptimized"),
        (F.VHD, "vpc", "force_size=on", "dynamic"),
        (F.VHD, "vpc", "subformat=fixed,force_size=on", "fixed"),
        (F.VHDX, "vhdx", None, "dynamic"),
        (F.VHDX, "vhdx", "subformat=fixed", "fixed"),
        (F.VDI, "vdi", None, "dynamic"),
        (F.VDI, "vdi", "static=on", "static"),
        (F.RAW, "raw", None, None),
    ],
)
def test_accepts(
    convert: Convert,
    disk: Path,
    declared: ImageFormat,
    qemu: str,
    options: str | None,
    subformat: str | None,
) -> None:
    path = convert(qemu, options)
    info = inspect_image(path, declared)
    assert info.format is declared
    assert info.virtual_size_bytes == disk.stat().st_size
    assert info.file_size_bytes == path.stat().st_size
    assert info.subformat == subformat


def test_a_large_empty_disk_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "large.qcow2"
    tool("qemu-img", "create", "-f", "qcow2", path, "2T")
    assert inspect_image(path, F.QCOW2).virtual_size_bytes == 2 * 1024**4


def test_raw_with_a_partition_table(tmp_path: Path) -> None:
    path = tmp_path / "mbr.raw"
    entry = struct.pack("<B3sB3sII", 0x80, b"\0\2\0", 0x83, b"\0\0\0", 2048, 2048)
    path.write_bytes(bytes(446) + entry + bytes(48) + b"\x55\xaa" + bytes(1024 * 1024))
    assert inspect_image(path, F.RAW).virtual_size_bytes == path.stat().st_size


# ----------------------------------------------------------------- declared is not what it is


@pytest.mark.parametrize("declared", list(F))
@pytest.mark.parametrize(
    ("actual", "qemu", "options"),
    [
        (F.RAW, "raw", None),
        (F.QCOW2, "qcow2", None),
        (F.VMDK, "vmdk", None),
        (F.VHD, "vpc", None),
        (F.VHD, "vpc", "subformat=fixed"),
        (F.VHDX, "vhdx", None),
        (F.VDI, "vdi", None),
    ],
)
def test_declared_as_another_format(
    convert: Convert, actual: ImageFormat, qemu: str, options: str | None, declared: ImageFormat
) -> None:
    if declared is not actual:
        refused(convert(qemu, options), declared)


def test_luks_and_qed_are_refused(tmp_path: Path, convert: Convert) -> None:
    path = tmp_path / "disk.luks"
    # Not by qemu-img: its key derivation measures the CPU, and fails where that is busy.
    path.write_bytes(b"LUKS\xba\xbe\0\1aes".ljust(1024 * 1024, b"\0"))
    assert "luks" in refused(path, F.RAW)
    assert "qed" in refused(convert("qed"), F.RAW)


@pytest.mark.parametrize("magic", [b"COWD", b"WithoutFreeSpace", b"Bochs Virtual HD Image"])
def test_formats_only_qemu_knows_are_not_raw(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "disk"
    path.write_bytes(magic + bytes(65536))
    assert "content is" in refused(path, F.RAW)


# ----------------------------------------------------------------------------------- qcow2


@pytest.mark.parametrize("length", [8, 12, 100, 500, 511, 512, 600])
@pytest.mark.parametrize(
    ("declared", "magic"),
    [
        (F.QCOW2, b"QFI\xfb\0\0\0\3"),
        (F.VMDK, b"KDMV\1\0\0\0"),
        (F.VHD, b"conectix"),
        (F.VHDX, b"vhdxfile"),
        (
            F.VDI,
            b"<<< Oracle VM >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
        ),
        (None, b"QED\0\0\0\0\0"),
        (None, b"LUKS\xba\xbe\0\1"),
    ],
)
def test_short_files_with_the_magic_of_another_format(
    tmp_path: Path, declared: ImageFormat | None, magic: bytes, length: int
) -> None:
    """Shorter than any header, and nevertheless not raw: QEMU's probing goes by the magic."""
    path = tmp_path / "short"
    path.write_bytes(magic.ljust(length, b"\0"))
    for each in F:
        if each is not declared:
            assert "declared as" in refused(path, each)


def test_short_iso(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(0x8001) + b"CD001")
    refused(path, F.RAW)


def test_qcow2_backing_file(tmp_path: Path) -> None:
    path = tmp_path / "evil.qcow2"
    tool(
        *("qemu-img", "create", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw"),
        *(path, "1M"),
    )
    message = refused(path, F.QCOW2)
    assert "backing" in message
    assert "shadow" not in message


def test_qcow2_external_data_file(tmp_path: Path) -> None:
    path = tmp_path / "evil.qcow2"
    data = tmp_path / "data.raw"
    tool("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={data}", path, "1M")
    assert "another file" in refused(path, F.QCOW2)
    patch(path, 72, b"\x80")  # an unknown feature on top does not hide it
    refused(path, F.QCOW2)


def test_qcow2_that_only_says_what_its_data_file_is_like(tmp_path: Path) -> None:
    """QEMU opens none: a machine was made of it, and did not start."""
    path = tmp_path / "evil.qcow2"
    tool("qemu-img", "create", "-f", "qcow2", path, "1M")
    patch(path, 88, struct.pack(">Q", 2))
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(["qemu-img", "check", path], check=True, capture_output=True)
    assert "another file" in refused(path, F.QCOW2)
    patch(path, 88, struct.pack(">Q", 1 | 1 << 40))  # bitmaps, and what a writer may clear
    tool("qemu-img", "check", path)
    assert inspect_image(path, F.QCOW2).format is F.QCOW2


def test_qcow2_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "secret.qcow2"
    tool(
        *("qemu-img", "create", "-f", "qcow2", "--object", "secret,id=s,data=x"),
        *("-o", "encrypt.format=aes,encrypt.key-secret=s", path, "1M"),
    )
    assert "encrypted" in refused(path, F.QCOW2)


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (4, struct.pack(">I", 1)),  # version
        (4, struct.pack(">I", 4)),
        (20, struct.pack(">I", 5)),  # cluster bits
        (20, struct.pack(">I", 63)),
        (24, struct.pack(">Q", 0)),  # virtual size
        (24, struct.pack(">Q", 2**63)),
        (24, struct.pack(">Q", 2**64 - 512)),
        (32, struct.pack(">I", 2)),  # LUKS
        (36, struct.pack(">I", 0)),  # L1 entries
        (36, struct.pack(">I", 2**32 - 1)),
        (40, struct.pack(">Q", 2**63)),  # L1 offset
        (40, struct.pack(">Q", 12345)),
        (48, struct.pack(">Q", 2**62)),  # refcount table
        (56, struct.pack(">I", 2**31)),
        (60, struct.pack(">I", 2**32 - 1)),  # snapshots
        (60, struct.pack(">IQ", 3, 2**60)),
        (72, struct.pack(">Q", 1)),  # dirty
        (72, struct.pack(">Q", 2)),  # corrupt
        (72, struct.pack(">Q", 4)),  # data file
        (72, struct.pack(">Q", 1 << 40)),
        (96, struct.pack(">I", 7)),  # refcount order
        (100, struct.pack(">I", 8)),  # header length
        (104, b"\x09"),  # compression
    ],
)
def test_qcow2_tampered_header(convert: Convert, offset: int, data: bytes) -> None:
    refused(patch(convert("qcow2"), offset, data), F.QCOW2)


@pytest.mark.parametrize("keep", [1, 511, 4096, 200_000, 400_000, 1_500_000])
def test_qcow2_truncated(convert: Convert, keep: int) -> None:
    path = convert("qcow2")
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, F.QCOW2)


def test_qcow2_with_snapshots(convert: Convert) -> None:
    path = convert("qcow2")
    tool("qemu-img", "snapshot", "-c", "one", path)
    inspect_image(path, F.QCOW2)


# ------------------------------------------------------------------------------------ VMDK


@pytest.mark.parametrize(
    "extent",
    [
        'RW 63 FLAT "/dev/sda" 0',
        'RW 63 FLAT "passwd" 0',
        'RW 63 VMFS "other-flat.vmdk"',
        'RW 63 SPARSE "other.vmdk"',
    ],
)
@pytest.mark.parametrize("kind", ["monolithicFlat", "fullDevice", "vmfs", "monolithicSparse"])
def test_vmdk_descriptor_file(tmp_path: Path, extent: str, kind: str) -> None:
    path = tmp_path / "evil.vmdk"
    path.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="{kind}"\n\n# Extent description\n{extent}\n'
        + 'ddb.adapterType = "ide"\n'
        * 30
    )
    refused(path, F.VMDK)
    refused(path, F.RAW)


def test_vmdk_flat_by_qemu(convert: Convert, tmp_path: Path) -> None:
    path = convert("vmdk", "subformat=monolithicFlat")
    refused(path, F.VMDK)
    refused(path, F.RAW)


def descriptor(path: Path, change: Callable[[bytes], bytes]) -> Path:
    data = bytearray(path.read_bytes())
    start, sectors = struct.unpack_from("<QQ", data, 28)
    text = bytes(data[start * 512 : (start + sectors) * 512]).rstrip(b"\0")
    changed = change(text)
    assert changed != text
    data[start * 512 : (start + sectors) * 512] = changed.ljust(sectors * 512, b"\0")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace(b"SPARSE", b"FLAT"),
        lambda t: t.replace(b"monolithicSparse", b"monolithicFlat"),
        lambda t: t.replace(b"monolithicSparse", b"twoGbMaxExtentSparse"),
        lambda t: t.replace(b'createType="', b'createType="streamOptimized"\ncreateType="'),
        lambda t: t.replace(b"createType", b"noType"),
        lambda t: t.replace(b"parentCID=ffffffff", b"parentCID=12345678"),
        lambda t: t.replace(b"CID=", b'parentFileNameHint="base.vmdk"\nCID=', 1),
        lambda t: t.replace(b"# Extent", b'#parentFileNameHint="base.vmdk"\n# Extent'),
        lambda t: t.replace(b"CID=", b'changeTrackPath="x-ctk.vmdk"\nCID=', 1),
        lambda t: t.replace(b"RW ", b'RW 8 SPARSE "other.vmdk"\nRW ', 1),
        lambda t: t.replace(b'SPARSE "', b'SPARSE "nbd:'),
        lambda t: t.replace(b'SPARSE "', b'SPARSE "..\\'),
        lambda t: t.replace(b"RW 4", b"RW 9"),
        lambda t: t.replace(b"version=1", b"version=1\nanything at all"),
        lambda t: t.replace(b"version=1", b"version=1\n\xc3\xa9"),
        lambda t: b"",
    ],
)
def test_vmdk_tampered_descriptor(convert: Convert, change: Callable[[bytes], bytes]) -> None:
    refused(descriptor(convert("vmdk"), change), F.VMDK)


def test_vmdk_without_capacity_is_opened_as_a_descriptor_by_qemu(convert: Convert) -> None:
    assert "capacity" in refused(patch(convert("vmdk"), 12, bytes(8)), F.VMDK)


def footered(path: Path) -> Path:
    """As VMware writes it, and QEMU does not: the grain directory is found through a footer."""
    data = bytearray(path.read_bytes())
    header = bytes(data[:512])
    data[56:64] = b"\xff" * 8
    data += bytes(-len(data) % 512)
    marker = struct.pack("<QII496x", 1, 0, 3)
    path.write_bytes(bytes(data) + marker + header + bytes(512))
    tool("qemu-img", "check", path)
    return path


def test_vmdk_with_a_footer(convert: Convert, disk: Path) -> None:
    path = footered(convert("vmdk", "subformat=streamOptimized"))
    assert inspect_image(path, F.VMDK).virtual_size_bytes == disk.stat().st_size


@pytest.mark.parametrize(
    "offset",
    [
        -1024,  # magic
        -1024 + 4,  # version
        -1024 + 12,  # capacity: what QEMU believes
        -1024 + 20,  # grain size
        -1024 + 28,  # descriptor
        -1024 + 58,  # grain directory
        -1536 + 12,  # marker
        -512 + 12,  # end of stream
    ],
)
def test_vmdk_footer_contradicts_header(convert: Convert, offset: int) -> None:
    path = footered(convert("vmdk", "subformat=streamOptimized"))
    refused(patch(path, offset, b"\x77\x77"), F.VMDK)


def test_vmdk_descriptor_goes_on_beyond_its_size(convert: Convert, disk: Path) -> None:
    """QEMU reads 10 KiB at 0x200, whatever size the header gives the descriptor."""
    path = convert("vmdk")
    with path.open("rb") as file:
        head = file.read(0x200 + 10240)
    text = head[0x200:].split(b"\0", 1)[0]
    secret = path.with_name("secret.raw")
    secret.write_bytes(disk.read_bytes())
    for sectors in (1, 2):
        stated = text + b"#" * (sectors * 512 - len(text) - 1) + b"\n"
        assert len(stated) == sectors * 512
        hidden = b'parentCID=fffffffe\nparentFileNameHint="' + bytes(secret) + b'"\n'
        patch(path, 0x200, (stated + hidden).ljust(10240, b"\0"))
        patch(path, 36, struct.pack("<Q", sectors))  # desc_size
        assert "beyond its stated size" in refused(path, F.VMDK)
    patch(path, 0x200, head[0x200:])
    patch(path, 28, struct.pack("<QQ", 2, 19))  # desc_offset: QEMU does not look there
    assert "not where" in refused(path, F.VMDK)


@pytest.mark.parametrize("options", [None, "subformat=streamOptimized"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_vmdk_truncated(convert: Convert, options: str | None, keep: float) -> None:
    path = convert("vmdk", options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert "truncated" in refused(path, F.VMDK)


def test_vmdk_with_a_footer_truncated(convert: Convert) -> None:
    path = footered(convert("vmdk", "subformat=streamOptimized"))
    path.write_bytes(path.read_bytes()[:-512])
    refused(path, F.VMDK)


# ----------------------------------------------------------------------- VHD, VHDX, VDI, ISO


def vhd_sum(footer: bytearray) -> bytes:
    footer[64:68] = bytes(4)
    footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
    return bytes(footer)


def test_vhd_differencing(convert: Convert) -> None:
    path = convert("vpc")
    footer = bytearray(path.read_bytes()[-512:])
    footer[60:64] = struct.pack(">I", 4)
    end = vhd_sum(footer)
    patch(path, -512, end)
    assert "parent" in refused(path, F.VHD)  # at the end, where Hyper-V looks
    patch(path, 0, end)
    assert "parent" in refused(path, F.VHD)  # and at the front, where QEMU looks


def test_vhd_front_and_end_disagree(convert: Convert) -> None:
    path = convert("vpc")
    footer = bytearray(path.read_bytes()[-512:])
    footer[48:56] = struct.pack(">Q", 2**40)
    assert "differ" in refused(patch(path, -512, vhd_sum(footer)), F.VHD)


def test_vhd_of_two_disks(convert: Convert) -> None:
    """QEMU opens the dynamic disk of the front, others the fixed one of the end."""
    path = convert("vpc", "force_size=on")
    dynamic = path.read_bytes()
    footer = bytearray(dynamic[-512:])
    footer[60:64] = (2).to_bytes(4, "big")  # fixed
    footer[40:48] = footer[48:56] = len(dynamic).to_bytes(8, "big")
    vhd_sum(footer)
    path.write_bytes(dynamic + footer)
    assert "two disks" in refused(path, F.VHD)
    refused(path, F.RAW)
    # a fixed disk on which somebody wrote such a footer is the same to QEMU
    fixed = dynamic[:512] + bytes(len(dynamic) - 512)
    path.write_bytes(fixed + footer)
    assert "two disks" in refused(path, F.VHD)
    path.write_bytes(bytes(100) + dynamic)
    assert "512" in refused(path, F.VHD)


def test_vhd_names_a_parent(convert: Convert) -> None:
    assert "parent" in refused(patch(convert("vpc"), 512 + 40, b"\1" * 16), F.VHD)
    assert "parent" in refused(patch(convert("vpc"), 512 + 576, b"W2ku"), F.VHD)


@pytest.mark.parametrize("options", [None, "subformat=fixed"])
def test_vhd_truncated(convert: Convert, options: str | None) -> None:
    path = convert("vpc", options)
    path.write_bytes(path.read_bytes()[:-1024])
    refused(path, F.VHD)


def test_vhd_size_from_the_geometry(convert: Convert) -> None:
    path = convert("vpc", "subformat=fixed")
    footer = bytearray(path.read_bytes()[-512:])
    footer[56:60] = struct.pack(">HBB", 65535, 16, 254)
    assert "geometry" in refused(patch(path, -512, vhd_sum(footer)), F.VHD)


def vhdx_header(path: Path, **fields: bytes) -> Path:
    data = path.read_bytes()
    for offset in (65536, 131072):
        header = bytearray(data[offset : offset + 4096])
        header[48:64] = fields["log"]
        header[4:8] = bytes(4)
        header[4:8] = struct.pack("<I", _crc32c(bytes(header)))
        patch(path, offset, bytes(header))
    return path


def test_crc32c() -> None:
    assert _crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720


def test_vhdx_with_a_log_to_replay(convert: Convert) -> None:
    assert "log" in refused(vhdx_header(convert("vhdx"), log=b"\7" * 16), F.VHDX)


def test_vhdx_differencing(convert: Convert) -> None:
    path = convert("vhdx")
    data = path.read_bytes()
    base = data.index(b"metadata")
    parameters = base + struct.unpack_from("<I", data, base + 32 + 16)[0]
    assert "parent" in refused(patch(path, parameters + 4, struct.pack("<I", 2)), F.VHDX)


def test_vhdx_with_a_parent_locator(convert: Convert) -> None:
    path = convert("vhdx")
    data = path.read_bytes()
    base = data.index(b"metadata")
    (count,) = struct.unpack_from("<H", data, base + 10)
    locator = bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c")
    patch(path, base + 10, struct.pack("<H", count + 1))
    patch(path, base + 32 + 32 * count, locator + struct.pack("<IIII", 65536, 8, 4, 0))
    assert "parent" in refused(path, F.VHDX)


def test_vhdx_tables_and_headers(convert: Convert) -> None:
    assert "differ" in refused(patch(convert("vhdx"), 256 * 1024 + 40, b"\1"), F.VHDX)
    path = patch(convert("vhdx"), 65536 + 100, b"\1")
    inspect_image(path, F.VHDX)  # one valid header is enough
    assert "header" in refused(patch(path, 131072 + 100, b"\1"), F.VHDX)


def test_vhdx_truncated(convert: Convert) -> None:
    path = convert("vhdx")
    data = path.read_bytes()
    for keep in (3 * 1024 * 1024, len(data) - 1024 * 1024):
        path.write_bytes(data[:keep])
        assert "truncated" in refused(path, F.VHDX)


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0x4C, struct.pack("<I", 4)),  # differencing
        (0x4C, struct.pack("<I", 3)),  # undo
        (0x1A8, b"\1"),  # link
        (0x1B8, b"\1"),  # parent
        (0x44, struct.pack("<I", 2)),  # version
        (0x170, struct.pack("<Q", 2**64 - 1)),
        (0x170, struct.pack("<Q", 0)),
        (0x180, struct.pack("<I", 2**32 - 1)),
        (0x184, struct.pack("<I", 2**32 - 1)),
    ],
)
def test_vdi_tampered(convert: Convert, offset: int, data: bytes) -> None:
    refused(patch(convert("vdi"), offset, data), F.VDI)


def test_vdi_truncated(convert: Convert) -> None:
    path = convert("vdi")
    path.write_bytes(path.read_bytes()[:-4096])
    refused(path, F.VDI)


@pytest.fixture
def iso(tmp_path: Path, disk: Path) -> Path:
    path = tmp_path / "disk.iso"
    tool("genisoimage", "-quiet", "-R", "-J", "-V", "test", "-o", path, disk)
    return path


def test_iso(iso: Path) -> None:
    assert inspect_image(iso, F.ISO).virtual_size_bytes == iso.stat().st_size
    assert "iso" in refused(iso, F.RAW)


def test_iso_hybrid(iso: Path) -> None:
    patch(iso, 446, struct.pack("<B3sB3sII", 0x80, b"\0\1\0", 0x17, b"\0\0\0", 0, 64))
    patch(iso, 510, b"\x55\xaa")
    inspect_image(iso, F.ISO)
    refused(iso, F.RAW)


def test_iso_polyglots(iso: Path, convert: Convert) -> None:
    qcow2 = convert("qcow2").read_bytes()[:512]
    patch(iso, 0, qcow2)
    for declared in (F.ISO, F.QCOW2, F.RAW):
        assert "qcow2" in refused(iso, declared)
    patch(iso, 0, b"# Disk DescriptorFile\nversion=1\n")
    refused(iso, F.ISO)


def test_iso_with_a_vhd_footer(iso: Path, convert: Convert) -> None:
    footer = convert("vpc", "subformat=fixed").read_bytes()[-512:]
    with iso.open("ab") as file:
        file.write(footer)
    assert "VHD" in refused(iso, F.ISO)


def test_iso_truncated(iso: Path) -> None:
    iso.write_bytes(iso.read_bytes()[:-409600])
    assert "truncated" in refused(iso, F.ISO)


# ------------------------------------------------------------------------- streams, in general


def test_a_bad_head_is_refused_before_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "evil.qcow2"
    tool("qemu-img", "create", "-u", "-f", "qcow2", "-b", "x", "-F", "raw", path, "1M")

    class Endless(io.RawIOBase):
        sent = 0

        def read(self, size: int = -1) -> bytes:
            if self.sent == 0:
                self.sent = path.stat().st_size
                return path.read_bytes()
            self.sent += size
            return bytes(size)

    source = Endless()
    with pytest.raises(ImageRejected, match="backing"):
        InspectingStream(source, F.QCOW2).finish()  # type: ignore[arg-type]
    assert source.sent < 20 * 1024 * 1024


def test_checksums(convert: Convert) -> None:
    path = convert("qcow2")
    for algorithm in ("sha256", "sha384", "sha512"):
        value = subprocess.check_output([f"{algorithm}sum", path], text=True).split()[0]
        checksum = Checksum.model_validate(f"{algorithm}:{value}")
        with path.open("rb") as file:
            InspectingStream(file, F.QCOW2, checksum=checksum).finish()
        inspector = ImageInspector(F.QCOW2, checksum=checksum)
        inspector.feed(path.read_bytes() + b"\0")
        with pytest.raises(ImageRejected, match=f"{algorithm} checksum"):
            inspector.finish()


def test_max_bytes_and_empty(tmp_path: Path) -> None:
    inspector = ImageInspector(F.RAW, max_bytes=10)
    inspector.feed(bytes(10))
    with pytest.raises(ImageRejected, match="larger"):
        inspector.feed(b"1")
    (tmp_path / "empty").touch()
    assert "empty" in refused(tmp_path / "empty", F.RAW)


def test_read_all_through_the_stream(disk: Path) -> None:
    with disk.open("rb") as file:
        stream = InspectingStream(file, F.RAW)
        data = b""
        while piece := stream.read(100_000):
            data += piece
        info = stream.finish()
    assert data == disk.read_bytes()
    assert info.file_size_bytes == len(data)
    assert len(stream.sha256) == 64


def test_only_regular_files(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        assert "regular file" in refused(path, F.RAW)
