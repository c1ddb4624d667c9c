"""A userspace switch's vhost-user ports, as far as a machine needs them until its guest's driver
starts: QEMU connects and negotiates. Packets are not carried.

QEMU 7.2 ends with SIGSEGV under emulation when a guest's driver starts on such a port
(vhost_net_start() in msix_set_vector_notifiers()), so no test machine comes further.
https://www.qemu.org/docs/master/interop/vhost-user.html
"""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

_FEATURES = 1 << 32 | 1 << 30
"""VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES."""
_HEADER = struct.Struct("<III")
_REPLY = 0x5
_ANSWERS = {1: _FEATURES, 15: 0}
"""What is answered to GET_FEATURES and GET_PROTOCOL_FEATURES."""


class VhostUserPort:
    """One port. A context manager.

    Attributes:
        path: of its socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._machines: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._machines):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        self._listener.close()
        self.path.unlink()

    @property
    def connected(self) -> bool:
        """Whether a machine is at the port."""
        return bool(self._machines)

    def _run(self) -> None:
        while True:
            try:
                machine, _ = self._listener.accept()
            except OSError:
                return
            with machine:
                self._serve(machine)

    def _serve(self, machine: socket.socket) -> None:
        while True:
            head, passed, _, _ = machine.recvmsg(_HEADER.size, socket.CMSG_SPACE(64))
            if len(head) < _HEADER.size:
                break
            for _, _, data in passed:
                for descriptor in array.array("i", data):
                    os.close(descriptor)
            request, _, size = _HEADER.unpack(head)
            if size:
                machine.recv(size, socket.MSG_WAITALL)
            if request in _ANSWERS:
                self._machines.add(machine)
                answer = struct.pack("<Q", _ANSWERS[request])
                machine.sendall(_HEADER.pack(request, _REPLY, len(answer)) + answer)
        self._machines.discard(machine)
