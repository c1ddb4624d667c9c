"""How the conformance suite talks to the guest of `hvdrivers.testing.guestimage`: on its serial
console, whatever the hypervisor."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.contract.driver import ComputeDriver

BOOT_SECONDS = 90.0
"""Within which an emulated guest has booted on a busy machine."""
_PATIENCE = 1.0
"""Seconds after which a guest that has not answered is asked again."""
_LAST = 300
"""Bytes that an error shows of what a guest has said."""
_FILE = "/disk/hvct"
"""On the guest's own disk, which has a file system."""
_TEXTS = "dd if={} bs=4096 count=1 2>/dev/null | tr -d '\\000'"
"""What write_disk() has written to a device, which has no file system."""


class SerialShell(ABC):
    """The part of a target that types commands into its guests' shell."""

    time_scale: float

    @abstractmethod
    def said(self, driver: ComputeDriver, uuid: UUID) -> bytes:
        """All that the guest has said."""

    @abstractmethod
    def type_line(self, uuid: UUID, line: str) -> None:
        """Type it, and the end of the line."""

    @abstractmethod
    def device(self, driver: ComputeDriver, uuid: UUID, disk: str) -> str:
        """The guest's own name for a disk that is not its root disk."""

    def is_ready(self, uuid: UUID, said: bytes) -> bool:
        """Whether the guest has said that it is ready, since it started."""
        del uuid
        # the whole line: who types before it has ended writes into it
        return b"hv-guest: ready\r\n" in said or b"hv-guest: tick " in said

    def wait_shell(self, driver: ComputeDriver, uuid: UUID) -> None:
        """The guest answers when it is spoken to."""
        before = self.said(driver, uuid).count(b"hv-guest: pong")
        asked = -_PATIENCE

        def answers() -> bool:
            nonlocal asked
            said = self.said(driver, uuid)
            if time.monotonic() - asked > _PATIENCE and self.is_ready(uuid, said):
                asked = time.monotonic()
                self.type_line(uuid, "ping")
            return said.count(b"hv-guest: pong") > before

        if not in_time(answers, BOOT_SECONDS * self.time_scale):
            last = self.said(driver, uuid)[-_LAST:]
            raise PreconditionMissing(f"the guest did not boot in time; it said last {last!r}")

    def shell(self, driver: ComputeDriver, uuid: UUID, command: str) -> str:
        """Run a command in the guest; what it printed."""
        self.wait_shell(driver, uuid)
        mark = uuid4().hex[:8]
        # in quotes, so that the echo of what is typed is not taken for the output
        begin, end = f'hvct-"begin"-{mark}', f'hvct-"end"-{mark}'
        first, last = (each.replace('"', "").encode() for each in (begin, end))
        self.type_line(uuid, f"echo {begin}; {command}; echo {end}")
        if not in_time(lambda: last in self.said(driver, uuid), BOOT_SECONDS * self.time_scale):
            raise PreconditionMissing("the guest does not answer on its console")
        between = self.said(driver, uuid).partition(first)[2].partition(last)[0]
        lines = between.decode(errors="replace").replace("\r", "").splitlines()
        # what the guest says by itself meanwhile is no output of the command
        return "\n".join(each for each in lines if not each.startswith("hv-guest: ")).strip()

    def write_disk(self, driver: ComputeDriver, uuid: UUID, text: str, disk: str = "root") -> None:
        if disk == "root":
            self.shell(driver, uuid, f"echo '{text}' >> {_FILE}; sync")
            return
        device = self.device(driver, uuid, disk)
        command = f"{{ {_TEXTS.format(device)}; echo '{text}'; }} >/run/hvct"
        write = f"dd if=/run/hvct of={device} bs=4096 conv=sync,notrunc,fsync 2>/dev/null"
        self.shell(driver, uuid, f"{command}; {write}")

    def written(self, driver: ComputeDriver, uuid: UUID, disk: str = "root") -> Sequence[str]:
        if disk == "root":
            return self.shell(driver, uuid, f"cat {_FILE} 2>/dev/null").splitlines()
        texts = _TEXTS.format(self.device(driver, uuid, disk))
        return self.shell(driver, uuid, texts).splitlines()


def in_time(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for it; whether it came."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.03)
    return True
