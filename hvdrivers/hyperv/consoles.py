"""Consoles on Hyper-V: RDP, the pipe of the serial port, pictures of the screen; and what the guest
tells of its addresses."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, Final
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.consoles import InteractiveConsole, ScreenCapture
from hvdrivers.contract.guest import GuestAddresses
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.naming import shown_mac
from hvdrivers.models.console import ConsoleAccess, ConsoleKind, Screenshot
from hvdrivers.models.guest import AddressSource, GuestAddress

_SIZE: Final = (1024, 768)
"""Pixels of a picture. The host scales what is on the screen."""
_RED: Final = bytes((each >> 3) * 255 // 31 for each in range(256))
"""How bright a pixel is, by its second byte; and by its bits of green, and by its first byte."""
_GREEN: Final = bytes((each & 63) * 255 // 63 for each in range(256))
_BLUE: Final = bytes((each & 31) * 255 // 31 for each in range(256))


class HypervConsoles(Topic, InteractiveConsole, ScreenCapture, GuestAddresses):
    """Budget of each operation: 1 call."""

    @provides(Capability.CONSOLE_RDP, Capability.CONSOLE_SERIAL)
    def get_console(
        self, uuid: UUID, kind: ConsoleKind, *, timeout: float | None = None
    ) -> ConsoleAccess:
        r"""Budget: 1 call.

        RDP: ``path`` is the machine's Id, which a client sends before RDP begins (FreeRDP:
        ``/vmconnect:ID``); the host asks for an account that may connect to it
        (``Grant-VMConnectAccess``). SERIAL: ``path`` is the named pipe, as another computer opens
        it (``\\host\pipe\…``); only on the host itself may it be opened without file sharing.
        """
        if kind not in (ConsoleKind.RDP, ConsoleKind.SERIAL):
            raise errors.NotSupported(f"Hyper-V has no {kind} console", hint="use rdp or serial")
        found = self.session.change("get_console", "Console", uuid, {"kind": kind.value}, timeout)
        host = self.config.host
        if kind is ConsoleKind.RDP:
            return ConsoleAccess(kind=kind, host=host, port=found["port"], path=found["id"])
        pipe = str(found["pipe"])
        if not pipe:
            raise errors.NotSupported(
                "the machine's serial port leads nowhere",
                hint="an adopted machine has none: Set-VMComPort while it is off",
            )
        return ConsoleAccess(kind=kind, host=host, path=pipe.replace("\\\\.\\", f"\\\\{host}\\", 1))

    def screenshot(self, uuid: UUID, *, timeout: float | None = None) -> Screenshot:
        """Budget: 1 call."""
        width, height = _SIZE
        arguments = {"width": width, "height": height}
        found = self.session.change("screenshot", "Screen", uuid, arguments, timeout)
        data = base64.b64decode(found["data"])
        if len(data) != 2 * width * height:
            raise errors.HypervisorFault("the host gave a picture of another size")
        return Screenshot(data=png(data, width), media_type="image/png")

    def guest_addresses(
        self, uuid: UUID, *, timeout: float | None = None
    ) -> Sequence[GuestAddress]:
        """Budget: 1 call. The integration services of the guest tell them to the host."""
        found: list[Any] = self.session.change("guest_addresses", "Addresses", uuid, {}, timeout)
        return [
            GuestAddress(
                mac=mac,
                address=ip_address(each["address"].partition("%")[0]),
                source=AddressSource.AGENT,
            )
            for each in found
            if (mac := shown_mac(each["mac"])) is not None and each["address"]
        ]


def png(pixels: bytes, width: int) -> bytes:
    """A PNG of pixels of 16 bits: five of red, six of green, five of blue, little endian."""
    low, high = pixels[0::2], pixels[1::2]
    # green lies across both bytes: shifted as one number, and the six bits of each pixel taken
    six = int.from_bytes(b"\x3f\0" * len(low), "little")
    green = (int.from_bytes(pixels, "little") >> 5 & six).to_bytes(len(pixels), "little")
    bright = bytearray(3 * len(low))
    bright[0::3] = high.translate(_RED)
    bright[1::3] = green[0::2].translate(_GREEN)
    bright[2::3] = low.translate(_BLUE)
    step = 3 * width
    lines = [b"\0" + bright[at : at + step] for at in range(0, len(bright), step)]
    head = struct.pack(">IIBBBBB", width, len(lines), 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(lines), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
