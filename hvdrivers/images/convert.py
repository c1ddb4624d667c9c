"""Another format for an image, on the caller's machine, for hypervisors that read only their own.

``qemu-img`` does it, as in Nova. It opens only what was inspected, under the format that was
declared, and it runs with bounds: on its memory, its processor time, the file it writes, and the
operation's deadline. It reads a copy that nobody else can write to: in the caller's file, another
process could name a backing file while ``qemu-img`` reads, and take that back afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from hvdrivers.contract import errors
from hvdrivers.driverkit import Deadline
from hvdrivers.images.sparse import SparseWriter, spool_errors
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

if TYPE_CHECKING:
    from hvdrivers.images.source import LocalImage

__all__ = ["converted", "converted_disk", "find_qemu_img"]

_NAMES = {
    ImageFormat.RAW: "raw",
    ImageFormat.QCOW2: "qcow2",
    ImageFormat.VMDK: "vmdk",
    ImageFormat.VHD: "vpc",
    ImageFormat.VHDX: "vhdx",
    ImageFormat.VDI: "vdi",
}
_KNOWN = f"formats that are converted: {', '.join(_NAMES)}"
_MEMORY = 1 << 30
"""Bytes of address space, as Nova allows. A crafted image makes a parser allocate more."""
_STACK = 2 << 20
"""Bytes of stack of each of qemu-img's threads. It starts up to 64, more on a slow disk, and
the usual 8 MiB for each are half of the address space."""
_CPU_SECONDS = 3600
_MARGIN = 64 << 20
"""Bytes that a file of another format may have beyond the disk that is in it."""
_PERCENT = re.compile(rb"\(\s*([0-9.]+)/100%\)")
_LIMITED = (
    "import os, resource, sys\n"
    "memory, stack, size, cpu = map(int, sys.argv[1:5])\n"
    "for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_STACK, stack),"
    " (resource.RLIMIT_FSIZE, size), (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_CORE, 0)):\n"
    "    resource.setrlimit(what, (most, most))\n"
    "os.execv(sys.argv[5], sys.argv[5:])\n"
)
"""Sets the limits of its own process and becomes qemu-img: code between fork and exec in this
process would not be safe beside its threads."""


def find_qemu_img() -> str:
    """The program.

    Raises:
        NotSupported: it is not installed.
    """
    found = shutil.which("qemu-img")
    if found is None:
        raise errors.NotSupported(
            "this image must be converted, and qemu-img is not on this machine",
            hint="install qemu-utils (Debian, Ubuntu) or qemu-img (Fedora, RHEL), or give the image"
            " in the hypervisor's own format",
        )
    return found


@contextlib.contextmanager
def converted(
    image: LocalImage,
    target: ImageFormat,
    *,
    options: str | None = None,
    deadline: Deadline | None = None,
    progress: ProgressCallback | None = None,
    workdir: Path | None = None,
) -> Iterator[IO[bytes]]:
    """The image in another format, in an unnamed temporary file that is open during the block.

    Args:
        image: an image that was inspected; see :func:`hvdrivers.images.open_image`.
        target: the format to make.
        options: qemu-img's ``-o`` for the target: ``subformat=streamOptimized``.
        deadline: bounds the conversion.
        progress: gets ``CONVERT`` reports, in percent.
        workdir: where the temporary files are made (the copy of a local image, and the result);
            None for the system's temporary directory.

    Raises:
        NotSupported: qemu-img is not installed, or does not know a format.
        ImageRejected: qemu-img cannot read the image, or took more than it may; another process
            has changed the file since it was inspected.
        InsufficientResources: there is no room in ``workdir``.
        OperationTimeout: the deadline passed.
    """
    if image.info.format not in _NAMES or target not in _NAMES:
        raise errors.NotSupported(
            f"an image in the format {image.info.format.value} cannot be converted to"
            f" {target.value}",
            hint=_KNOWN,
        )
    until = deadline or Deadline(None)
    command = ["-f", _NAMES[image.info.format], "-O", _NAMES[target]]
    command += ["-o", options] if options else []
    source = _private(image, until, workdir)
    size = image.info.virtual_size_bytes
    made = _made(command, source, size, deadline=until, progress=progress, workdir=workdir)
    with made as file:
        yield file


@contextlib.contextmanager
def converted_disk(
    descriptor: int,
    target: ImageFormat,
    *,
    deadline: Deadline,
    progress: ProgressCallback | None = None,
    workdir: Path | None = None,
) -> Iterator[IO[bytes]]:
    """The same for a raw disk in a file of this process's own, to which nobody else can write: it
    is read once, by ``qemu-img``.

    Args:
        descriptor: the file, open for reading.

    Raises:
        HypervisorError: as :func:`converted`.
    """
    if target not in _NAMES:
        raise errors.NotSupported(f"a disk cannot be converted to {target.value}", hint=_KNOWN)
    size = os.fstat(descriptor).st_size
    command = ["-f", _NAMES[ImageFormat.RAW], "-O", _NAMES[target]]
    source = contextlib.nullcontext(descriptor)
    made = _made(command, source, size, deadline=deadline, progress=progress, workdir=workdir)
    with made as file:
        yield file


@contextlib.contextmanager
def _made(
    options: list[str],
    source: contextlib.AbstractContextManager[int],
    size: int,
    *,
    deadline: Deadline,
    progress: ProgressCallback | None,
    workdir: Path | None,
) -> Iterator[IO[bytes]]:
    command = [find_qemu_img(), "convert", "-p", *options]
    with tempfile.TemporaryDirectory(prefix="hvdrivers-", dir=workdir) as folder:
        path = Path(folder) / "image"
        with source as descriptor:
            command += [f"/proc/self/fd/{descriptor}", str(path)]
            _run(command, descriptor, size + _MARGIN, deadline, progress)
        with path.open("rb") as file:
            path.unlink()  # nothing stays if this process is killed
            yield file


@contextlib.contextmanager
def _private(image: LocalImage, deadline: Deadline, workdir: Path | None) -> Iterator[int]:
    """The content that was inspected, in a file without a name."""
    if image.private:
        yield image.descriptor
        return
    with contextlib.ExitStack() as stack:
        with spool_errors():
            copy = stack.enter_context(tempfile.TemporaryFile(dir=workdir, buffering=0))
            writer = SparseWriter(copy.fileno())
            for _, length, data in image.segments():
                deadline.check("the image was copied to be converted")
                if data is None:
                    writer.skip(length)
                else:
                    writer.write(data)
            writer.finish()
        yield copy.fileno()


def _run(
    command: list[str],
    descriptor: int,
    most: int,
    deadline: Deadline,
    progress: ProgressCallback | None,
) -> None:
    limits = [str(_MEMORY), str(_STACK), str(most), str(_CPU_SECONDS)]
    with subprocess.Popen(  # noqa: S603 - the program was looked up, its arguments are ours
        [sys.executable, "-I", "-S", "-c", _LIMITED, *limits, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[descriptor],
        # one heap: glibc reserves 64 to 128 MiB of address space for the heap of each other thread
        env={"PATH": os.defpath, "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"},
    ) as process:
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        said = bytearray()
        errors_of = threading.Thread(target=_collect, args=(process.stderr, said), daemon=True)
        errors_of.start()
        timer = threading.Timer(deadline.left, end) if deadline.bounded else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            said_so_far = process.stdout.fileno()
            for chunk in iter(lambda: os.read(said_so_far, 4096), b""):
                found = _PERCENT.findall(chunk)
                if found and progress is not None:
                    done = min(100, int(float(found[-1])))
                    progress(Progress(phase=Phase.CONVERT, done=done, total=100, unit="percent"))
            status = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        errors_of.join()
        if late.is_set():
            raise errors.OperationTimeout("the deadline passed while the image was converted")
        _check(status, bytes(said))


def _collect(stream: IO[bytes] | None, said: bytearray) -> None:
    if stream is not None:
        for chunk in iter(lambda: stream.read(4096), b""):
            del said[:-8192]
            said += chunk


def _check(status: int, said: bytes) -> None:
    if status == 0:
        return
    if status in (-signal.SIGXFSZ, -signal.SIGXCPU):
        raise errors.ImageRejected(
            "the image takes more room or time to convert than an image of its size may",
            hint="convert it by hand (qemu-img convert), and give the result",
        )
    text = " ".join(said.decode(errors="replace").split())[-300:]
    if "No space left on device" in text:
        raise errors.InsufficientResources(
            "there is no room to convert the image on this machine",
            hint="TMPDIR names the folder for temporary files",
        )
    raise errors.ImageRejected(
        f"qemu-img could not convert the image: {text or status}",
        hint="look at the image with qemu-img check, or fetch it anew",
    )
