"""A real SSH server on loopback, which leads to a libvirt host of the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.libvirtd import LibvirtPeer
from tests.peers.place import Place
from tests.peers.precondition import PreconditionMissing
from tests.peers.waiting import wait_until

_SETTINGS = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {root}/host
PidFile {root}/pid
AuthorizedKeysFile {root}/authorized
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
MaxStartups 200
# what root's shell reads at a login, and how long that takes, is no part of a test
SetEnv HOME={root}
"""


class SshServer:
    """It lets root in with one key. A login sees the files, and the sockets, of that host.

    Attributes:
        port: on 127.0.0.1.
        key: file of the private key.
    """

    def __init__(self, peer: LibvirtPeer) -> None:
        if os.geteuid() != 0:
            raise PreconditionMissing("root, to run an SSH server")
        self._sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        for tool, found in (
            ("sshd (package openssh-server)", self._sshd),
            ("ssh (package openssh-client)", shutil.which("ssh")),
            ("virt-ssh-helper (package libvirt-daemon)", shutil.which("virt-ssh-helper")),
        ):
            if found is None:
                raise PreconditionMissing(tool)
        self.root = Path(tempfile.mkdtemp(prefix="hvs-", dir="/tmp"))
        self._peer = peer
        self._place = Place("ssh", 60)
        self.port = 31900 + self._place.number
        self.key = self.root / "key"
        try:
            for name in ("host", "key", "stranger"):
                self._make_key(name)
            shutil.copy(self.root / "key.pub", self.root / "authorized")
            settings = _SETTINGS.format(port=self.port, root=self.root)
            (self.root / "config").write_text(settings)
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Begin to listen."""
        self._peer.inside(str(self._sshd), "-f", str(self.root / "config"))
        wait_until(lambda: self._pid() is not None, timeout=30, what="sshd has begun")

    def kill(self) -> None:
        """End it, with the logins that it has."""
        pid = self._pid()
        if pid is None:
            return
        for each in [*_children(pid), pid]:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        (self.root / "pid").unlink(missing_ok=True)

    def cut(self) -> None:
        """End the logins that it has, as a network does, and go on listening."""
        pid = self._pid()
        for each in _children(pid) if pid is not None else []:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)

    def change_key(self) -> None:
        """Have another key of its own, from the next start on."""
        (self.root / "host").unlink()
        self._make_key("host")

    def known(self) -> str:
        """Its line in a client's known_hosts."""
        return f"[127.0.0.1]:{self.port} {(self.root / 'host.pub').read_text()}"

    def _make_key(self, name: str) -> None:
        (self.root / f"{name}.pub").unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
        subprocess.run([*command, str(self.root / name)], check=True)

    def _pid(self) -> int | None:
        with suppress(OSError, ValueError):
            return int((self.root / "pid").read_text())
        return None

    def uri(self, *, key: str = "key", known: bool = True) -> str:
        """How a driver reaches the host.

        Args:
            key: ``key``, or ``stranger``, which the server does not know.
            known: whether the client knows the server's own key.
        """
        ssh = self.root / ("ssh" if known else "ssh-of-a-newcomer")
        if not ssh.exists():
            hosts = self.root / f"{ssh.name}.known"
            hosts.write_text(self.known() if known else "")
            ssh.write_text(f'#!/bin/sh\nexec ssh -F none -o UserKnownHostsFile={hosts} "$@"\n')
            ssh.chmod(0o755)
        return (
            f"qemu+ssh://root@127.0.0.1:{self.port}/system?no_tty=1"
            f"&keyfile={self.root / key}&command={ssh}"
        )

    def close(self) -> None:
        self.kill()
        self._place.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _children(pid: int) -> list[int]:
    """Processes below one, the lowest first."""
    found: list[int] = []
    with suppress(OSError):
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in map(int, below):
            found += [*_children(each), each]
    return found
