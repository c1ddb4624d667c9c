"""A real iSCSI server (tgt), which wants a CHAP password."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.janitor import Janitor
from tests.peers.place import Place
from tests.peers.precondition import PreconditionMissing
from tests.peers.waiting import wait_until

USER, PASSWORD = "hv-user", "hv-Secret-12345"


class IscsiServer:
    """One target with one disk, on a port of this machine; gone when the peer ends.

    Attributes:
        iqn: of the target.
        port: on the address.
        disk: the file behind LUN 1.

    Args:
        address: of this machine, as a URL has it: ``[::1]``.
    """

    def __init__(self, size: int = 16 << 20, *, address: str = "127.0.0.1") -> None:
        if os.geteuid() != 0:
            raise PreconditionMissing("root, to run an iSCSI server")
        for tool in ("tgtd", "tgtadm"):
            if shutil.which(tool) is None:
                raise PreconditionMissing(f"{tool} (package tgt)")
        if not any(Path("/usr/lib").glob("*/qemu/block-iscsi.so")):
            raise PreconditionMissing("QEMU's iSCSI initiator (package qemu-block-extra)")
        self.root = Path(tempfile.mkdtemp(prefix="hvt-", dir="/tmp"))
        self.root.chmod(0o755)
        self._janitor = Janitor(self.root)
        self.iqn = f"iqn.2026-11.org.example:{uuid.uuid4().hex[:8]}"
        self.disk = self.root / "disk"
        self.disk.write_bytes(bytes(size))
        self._socket = str(self.root / "control")
        self._place = Place("iscsi", 60)
        self.port = 32000 + self._place.number  # below those that the kernel hands out
        try:
            self._daemon = subprocess.Popen(
                ["tgtd", "-f", "--iscsi", f"portal={address}:{self.port}"],
                env={**os.environ, "TGT_IPC_SOCKET": self._socket},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_until(self._answers, timeout=30, what="tgtd answers")
            target = ("--mode", "target", "--tid", "1")
            self._admin("--op", "new", *target, "--targetname", self.iqn)
            self._admin(
                "--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1",
                "--backing-store", str(self.disk),
            )  # fmt: skip
            self._admin("--op", "bind", *target, "--initiator-address", "ALL")
            self._admin("--op", "new", "--mode", "account", "--user", USER, "--password", PASSWORD)
            self._admin("--op", "bind", "--mode", "account", "--tid", "1", "--user", USER)
        except BaseException:
            self.close()
            raise

    def _admin(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tgtadm", "--lld", "iscsi", *arguments],
            env={**os.environ, "TGT_IPC_SOCKET": self._socket},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"tgtadm: {done.stderr.strip()}")
        return done.stdout

    def _answers(self) -> bool:
        try:
            self._admin("--op", "show", "--mode", "target")
        except AssertionError:
            return False
        return True

    @contextmanager
    def silent(self) -> Iterator[Callable[[], None]]:
        """It takes connections and answers nothing in the block, until what this gives is
        called."""

        def go_on() -> None:
            self._daemon.send_signal(signal.SIGCONT)

        self._daemon.send_signal(signal.SIGSTOP)
        try:
            yield go_on
        finally:
            go_on()

    def sessions(self) -> str:
        """Who is logged in, as tgtadm says it."""
        return self._admin("--op", "show", "--mode", "target")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it. Idempotent."""
        self._janitor.finish()
        if hasattr(self, "_daemon"):
            self._daemon.wait()
        self._place.close()
