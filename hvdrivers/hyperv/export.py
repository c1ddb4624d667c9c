"""An image out of an instance.

The host makes one VHDX of the root disk with the chain below it, beside the machine. The copy is
read in pieces, converted here by ``qemu-img`` if it must be, and deleted. The disk of a machine
that is powered on is open: a checkpoint freezes it for as long as the copy takes.
"""

from __future__ import annotations

import base64
import os
import secrets
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Final
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.snapshots import SnapshotToImage
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.files import new_file
from hvdrivers.driverkit.undo import undoing
from hvdrivers.hyperv.base import Topic
from hvdrivers.models.image import FileImage, ImageFormat, ImageInfo
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

_FORMATS: Final = (ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.VMDK, ImageFormat.VHDX)
_PIECE: Final = 256 << 10
"""Bytes of the copy in one reply, before they are compressed."""
_DROP_LIMIT: Final = 10.0


class HypervExport(Topic, SnapshotToImage):
    """Snapshot to image."""

    def snapshot_to_image(
        self,
        uuid: UUID,
        target: Path,
        format: ImageFormat = ImageFormat.QCOW2,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """Budget: 2 calls, and 1 for each 256 KiB of the copy.

        A process that dies on the way may leave the copy, which the next one deletes ten minutes
        later, or destroy(), and a checkpoint ``hvdrivers.export-…``, which the next one deletes, or
        delete_snapshot().
        """
        if format not in _FORMATS:
            known = ", ".join(each.value for each in _FORMATS)
            raise errors.NotSupported(f"no image in the format {format.value}", hint=f"use {known}")
        deadline = Deadline(timeout)
        names = {"uuid": str(uuid), "nonce": secrets.token_hex(8)}
        with new_file(target) as file, undoing() as undo:
            undo.callback(self._drop_copy, names)
            found: dict[str, Any] = self.session.change(
                "snapshot_to_image", "Export", uuid, names, timeout
            )
            if format is ImageFormat.VHDX:
                self._read(names, int(found["length"]), file, deadline, progress)
                undo.close()
            else:
                with TemporaryDirectory(prefix=".hvdrivers-", dir=target.parent) as folder:
                    copy = Path(folder) / "copy.vhdx"
                    with copy.open("wb") as whole:
                        self._read(names, int(found["length"]), whole, deadline, progress)
                    undo.close()
                    _convert(copy, format, file, deadline, progress)
            size = file.seek(0, os.SEEK_END)
        return ImageInfo(
            format=format,
            virtual_size_bytes=int(found["size"]),
            file_size_bytes=size,
        )

    def _read(
        self,
        names: dict[str, str],
        length: int,
        file: IO[bytes],
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> None:
        for offset in range(0, length, _PIECE):
            deadline.check("the image was read from the host")
            count = min(_PIECE, length - offset)
            arguments = {**names, "offset": offset, "count": count}
            piece = self.session.call("ExportRead", arguments, deadline, counted=False)
            data = zlib.decompress(base64.b64decode(piece["data"]), wbits=-15)
            if len(data) != count:
                raise errors.HypervisorFault("the copy of the disk is shorter than the host said")
            file.write(data)
            if progress is not None:
                progress(Progress(phase=Phase.DOWNLOAD, done=offset + count, total=length))

    def _drop_copy(self, names: dict[str, str]) -> None:
        self.session.clean("ExportDrop", names, _DROP_LIMIT)


def _convert(
    copy: Path,
    format: ImageFormat,
    file: IO[bytes],
    deadline: Deadline,
    progress: ProgressCallback | None,
) -> None:
    from hvdrivers.images import iter_chunks, open_image
    from hvdrivers.images.convert import converted

    image = FileImage(path=copy, format=ImageFormat.VHDX)
    with (
        open_image(image, timeout=deadline.left) as opened,
        converted(
            opened, format, deadline=deadline, progress=progress, workdir=copy.parent
        ) as source,
    ):
        descriptor = source.fileno()
        for offset, data in iter_chunks(descriptor):
            deadline.check("the image was written")
            file.seek(offset)
            file.write(data)
        file.truncate(os.fstat(descriptor).st_size)
