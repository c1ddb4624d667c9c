"""Checks of qcow2 and VMDK that oslo.utils does not make.

oslo.utils 10 refuses in qcow2: version 1, a backing file, an external data file, unknown features.
In VMDK: every createType but monolithicSparse and streamOptimized, a ``/`` in an extent line, a
footer that contradicts the header. What it leaves open, as read in QEMU's block drivers, is here.
"""

from __future__ import annotations

import re
import struct

from hvdrivers.images._view import Found, View, reject

_FLATTEN = "make a self-contained copy: qemu-img convert -O {} IMAGE NEW"
_MIB = 1024**2

# ---------------------------------------------------------------------------------------- qcow2
# Offsets and limits: QEMU docs/interop/qcow2.txt and block/qcow2.h.
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_DATA_FILE_RAW = 1 << 1
"""Of the features that a writer may clear: what the other file is like."""
_MAX_L1_BYTES = 32 * _MIB
_MAX_REFTABLE_BYTES = 8 * _MIB
_MAX_SNAPSHOTS = 64  # QEMU allows 65536; nobody ships an image with more than a few
_SNAPSHOT_HEADER_BYTES = 40


def check_qcow2(view: View) -> Found:
    """Encryption, flags, and tables that do not fit the file or the size."""
    version, backing = view.unpack(">IQ", 4)
    (cluster_bits, size, crypt, l1_size, l1_offset, ref_offset, ref_clusters) = view.unpack(
        ">IQIIQQI", 20
    )
    snapshots, snapshots_offset = view.unpack(">IQ", 60)
    if version not in (2, 3):
        reject(f"qcow2 version {version} is not supported", _FLATTEN.format("qcow2"))
    if backing:
        # oslo.utils says so too; this is the check that matters most, so it does not depend on it.
        reject("the qcow2 image has a backing file", _FLATTEN.format("qcow2"))
    if crypt:
        reject("the qcow2 image is encrypted", "upload it decrypted; encrypt the volume instead")
    if not 9 <= cluster_bits <= 21:
        reject("the qcow2 header is corrupt: impossible cluster size")
    cluster = 1 << cluster_bits
    if version == 3:
        _qcow2_version_3(view, cluster)
    if l1_size * 8 > _MAX_L1_BYTES or ref_clusters * cluster > _MAX_REFTABLE_BYTES:
        reject("the qcow2 header is corrupt: a table is larger than QEMU allows")
    # One L1 entry stands for a whole L2 table: cluster/8 entries of a cluster each.
    if l1_size * (cluster // 8) * cluster < size:
        reject("the qcow2 header is corrupt: its L1 table is too small for the virtual size")
    if l1_offset % cluster or ref_offset % cluster or not ref_offset:
        reject("the qcow2 header is corrupt: a table is not aligned to a cluster")
    if snapshots > _MAX_SNAPSHOTS:
        reject(f"the qcow2 image says it has {snapshots} snapshots", _FLATTEN.format("qcow2"))
    view.inside("L1 table", l1_offset, l1_size * 8)
    view.inside("refcount table", ref_offset, ref_clusters * cluster)
    view.inside("snapshot table", snapshots_offset, snapshots * _SNAPSHOT_HEADER_BYTES)
    return Found(size, "compat=1.1" if version == 3 else "compat=0.10")


def _qcow2_version_3(view: View, cluster: int) -> None:
    features, _compatible, autoclear, refcount_order, header_length = view.unpack(">QQQII", 72)
    # QEMU opens no image of which only the second is said
    if features & _DATA_FILE or autoclear & _DATA_FILE_RAW:
        reject("the qcow2 image keeps its data in another file", _FLATTEN.format("qcow2"))
    if features & _CORRUPT:
        reject("the qcow2 image is marked as corrupt", "repair it: qemu-img check -r all IMAGE")
    if features & _DIRTY:
        # Its refcounts were never written back: what it holds is what a crash left.
        reject("the qcow2 image was not closed", "repair it: qemu-img check -r all IMAGE")
    if features & ~(_DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION):
        reject("the qcow2 image uses features not known here", _FLATTEN.format("qcow2"))
    if refcount_order > 6 or not 104 <= header_length <= cluster or header_length % 8:
        reject("the qcow2 header is corrupt")
    compression = view.read(104, 1)[0] if header_length > 104 else 0
    if compression > 1 or bool(compression) != bool(features & _COMPRESSION):
        reject("the qcow2 image has an unknown compression", _FLATTEN.format("qcow2"))


# ----------------------------------------------------------------------------------------- VMDK
# Layout: VMware "Virtual Disk Format 5.0"; what QEMU makes of it: block/vmdk.c.
_VMDK_HEADER = "<4sIIQQQQIQQQB4sH"
_VMDK_HEADER_BYTES = struct.calcsize(_VMDK_HEADER)
_QEMU_DESCRIPTOR, _QEMU_DESCRIPTOR_BYTES = 0x200, 20 * 512
"""Where QEMU looks for the parent, whatever the header says: ``desc_offset`` in vmdk_open() and
``DESC_SIZE`` in vmdk_parent_open() and vmdk_read_cid()."""
_GD_AT_END = 0xFFFF_FFFF_FFFF_FFFF
_EXTENT = re.compile(r'(?:rw|rdonly) (\d{1,19}) sparse "([^"/\\:]{1,255})"')
_HEADER_KEYS = frozenset(
    {
        "version",
        "encoding",
        "cid",
        "parentcid",
        "longcontentid",
        "isnativesnapshot",
        "createtype",
    }
)


def check_vmdk(view: View) -> Found:
    """Extents, parents and other files that a descriptor can name without a ``/``."""
    if view.read(0, 4) != b"KDMV":
        reject(
            "the VMDK is a descriptor, or a part, of an image kept in other files",
            "make one file of it: qemu-img convert -O vmdk -o subformat=streamOptimized IMAGE NEW",
        )
    header = view.unpack(_VMDK_HEADER, 0)
    _magic, _version, _flags, capacity, grain, desc_offset, desc_sectors = header[:7]
    if header[12] != b"\n \r\n":
        reject("the VMDK is corrupt: it was transferred as text")
    if not capacity:
        # QEMU opens such a file as a descriptor, with all the extents that it names, whatever the
        # createType says.
        reject("the VMDK header has no capacity")
    if not 8 <= grain <= 128 or grain & (grain - 1) or not 0 < header[7] <= 512:
        reject("the VMDK header is corrupt: impossible grain size")
    if desc_sectors * 512 > _MIB:
        reject("the VMDK descriptor is absurdly large")
    if desc_offset * 512 != _QEMU_DESCRIPTOR:
        reject("the VMDK descriptor is not where the tools of the format put it")
    text = view.read(_QEMU_DESCRIPTOR, desc_sectors * 512).split(b"\0", 1)[0]
    seen = bytes(view.head[_QEMU_DESCRIPTOR : _QEMU_DESCRIPTOR + _QEMU_DESCRIPTOR_BYTES])
    if seen.split(b"\0", 1)[0] != text:
        # A parentFileNameHint beyond the stated size is a backing file to QEMU.
        reject("the VMDK descriptor goes on beyond its stated size")
    subformat = _vmdk_descriptor(text, capacity, grain)
    if header[9] == _GD_AT_END:
        if view.complete:
            _vmdk_footer(view, capacity, grain)
    else:
        view.inside("grain directory", header[9] * 512, 4)
    return Found(capacity * 512, subformat)


def _vmdk_descriptor(raw: bytes, capacity: int, grain: int) -> str:
    hint = "make a plain copy: qemu-img convert -O vmdk -o subformat=streamOptimized IMAGE NEW"
    try:
        text = raw.decode("ascii").lower()
    except UnicodeDecodeError:
        reject("the VMDK descriptor is not ASCII", hint)
    if "parentfilenamehint" in text:
        # QEMU looks for this word anywhere in the descriptor and opens what follows as backing
        # file, even where parentCID says that there is no parent.
        reject("the VMDK has a parent", hint)
    extents = []
    types = []
    for line in (line.strip() for line in text.split("\n")):
        if not line or line.startswith(("#", "ddb.")):
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or " " in key:
            extents.append(line)
        elif key not in _HEADER_KEYS:
            # changeTrackPath, digestFilename, …: each names another file.
            reject("the VMDK descriptor has fields not known here", hint)
        elif key == "parentcid" and value != "ffffffff":
            reject("the VMDK has a parent", hint)
        elif key == "createtype":
            types.append(value.strip('"'))
    if len(types) != 1 or types[0] not in {"monolithicsparse", "streamoptimized"}:
        reject("the VMDK is not of createType monolithicSparse or streamOptimized", hint)
    match = _EXTENT.fullmatch(extents[0]) if len(extents) == 1 else None
    if match is None:
        reject("the VMDK must have exactly one sparse extent: itself", hint)
    if not capacity - grain < int(match[1]) <= capacity:
        reject("the VMDK is corrupt: extent and header disagree about the size", hint)
    return {"monolithicsparse": "monolithicSparse", "streamoptimized": "streamOptimized"}[types[0]]


def _vmdk_footer(view: View, capacity: int, grain: int) -> None:
    # With the grain directory "at the end", QEMU takes the capacity from the footer: a small size
    # for the check, a large one for the guest. oslo.utils compares only version and descriptor.
    footer = struct.unpack(_VMDK_HEADER, view.last(1024)[:_VMDK_HEADER_BYTES])
    if footer[0] != b"KDMV" or footer[3] != capacity or footer[4] != grain:
        reject("the VMDK is truncated, or its footer contradicts its header")
    view.inside("grain directory", footer[9] * 512, 4)
